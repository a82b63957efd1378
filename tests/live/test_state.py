"""What a forward keeps on itself is the cut's own, however it is held, and nothing refers to the model."""

from __future__ import annotations

import collections
import copy
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from against_hooks import Three, assert_as_hooked, inputs, made, run
from torch import Tensor, nn

from truncate import CannotFollowError, truncate

KINDS: dict[str, type[nn.Module]] = {}


def kind(cls: type[nn.Module]) -> type[nn.Module]:
    KINDS[cls.__name__] = cls
    return cls


class Slotted:
    __slots__ = ("__hidden", "count", "module")

    def __init__(self, module: Any) -> None:
        self.count, self.module = 0, module
        self.__hidden = [0]

    def step(self) -> int:
        self.count += 1
        self.__hidden[0] += 1
        return self.count + self.__hidden[0]


@kind
class KeepsAll(Three):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.log: list[int] = []
        self.sets = {"all": {1}}
        self.queue = collections.deque([0], maxlen=2)
        self.of_some_kind = types.SimpleNamespace(value=0)
        self.slotted = Slotted(None)
        self.cache: Tensor | None = None
        self.flag = False

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        self.log.append(len(self.log))
        self.sets["all"].add(len(self.log) + 5)
        self.queue.append(len(self.log))
        self.of_some_kind.value += 1
        self.flag = not self.flag
        scale = len(self.log) + len(self.sets["all"]) + sum(self.queue) + self.of_some_kind.value + self.slotted.step()
        self.cache = x * scale if self.cache is None or len(self.cache) != len(x) else self.cache.detach() + x
        return self.c(self.b(self.a(self.cache * self.seen + self.flag)))


@kind
class ReadsASlot(Three):
    __slots__ = ("scale",)

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1

    def forward(self, x: Tensor) -> Tensor:
        self.scale += 1
        return self.c(self.b(x * self.scale))


@kind
class HoldsABoundMethod(Three):
    def __init__(self) -> None:
        super().__init__()
        self.count, self.steps = 0, [self.step]

    def step(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.b(x) * self.count

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.steps[0](x))


@kind
class HoldsFunctions(Three):
    def __init__(self) -> None:
        super().__init__()
        b = self.b
        self.count = 0
        self.closure = lambda x: b(x) + self.count
        self.default = lambda x, module=self.c: module(x)
        self.partial = functools.partial(self.plus, more=self.c)

    def plus(self, x: Tensor, more: Any) -> Tensor:
        self.count += 1
        return more(x) + self.count

    def forward(self, x: Tensor) -> Tensor:
        return self.partial(self.default(self.closure(x)))


@kind
class BackReferences(Three):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.a.up = [self]
        self.c.up = weakref.ref(self)
        self.b.up = types.SimpleNamespace(model=self)
        self.a.register_forward_hook(self.counted)

    def counted(self, module: Any, args: Any, output: Tensor) -> Tensor:
        self.count += 1
        module.up[0].flag = self.count
        return output * self.c.up().flag

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)) * self.b.up.model.count)


@kind
class HoldsThemInASlot(Three):
    def __init__(self) -> None:
        super().__init__()
        self.slotted = Slotted(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.slotted.module(self.a(x) * self.slotted.step()))


@kind
class HoldsThemAsKeys(Three):
    def __init__(self) -> None:
        super().__init__()
        self.scales = {self.a: 2, self.b: 3}

    def forward(self, x: Tensor) -> Tensor:
        for module, scale in self.scales.items():
            x = module(x) * scale
        return self.c(x) * self.scales[self.b]


@kind
class PatchedForwards(Three):
    def __init__(self) -> None:
        super().__init__()
        for module in (self, self.b):
            module.plain = module.forward
            module.forward = functools.partial(lambda own, x: own.plain(x) * 2, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", KINDS)
def test_one_call_after_another(name: str, training: bool) -> None:
    assert_as_hooked(KINDS[name], "b", training)


def _state(model: nn.Module) -> Any:
    plain = (int, float, bool, list, dict, set, collections.deque, Tensor)
    found = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, plain) and not name.startswith("_"):
                found[path, name] = copy.copy(value)
        found.update({(path, name): value for name, value in module._buffers.items()})
    slotted = getattr(model, "slotted", None)
    return found, getattr(slotted, "count", 0), vars(getattr(model, "of_some_kind", types.SimpleNamespace())).copy()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("upto", ["b", {"features": "b", "output": ""}], ids=["left", "to the end"])
def test_the_model_is_untouched(name: str, upto: Any) -> None:
    model = made(KINDS[name], training=True)
    before = _state(model)
    cut = truncate(model, upto, live=True)
    for _ in range(2):
        run(cut, inputs(2))
    assert repr(_state(model)) == repr(before)
    assert all(module.training for module in model.modules())
    cut.eval()
    assert model.training
    assert model.b.training  # the target is the cut's own too


class InAGlobal(Three):
    def __init__(self) -> None:
        super().__init__()
        MODELS["it"] = self

    def forward(self, x: Tensor) -> Tensor:
        return MODELS["it"].b(self.c(self.b(x)))


MODELS: dict[str, Any] = {}


class InItsClass(Three):
    held: list[nn.Module] = []

    def __init__(self) -> None:
        super().__init__()
        type(self).held = [self.b]

    def forward(self, x: Tensor) -> Tensor:
        return self.held[0](self.c(self.b(x)))


def in_a_closure() -> nn.Module:
    model = Three()

    class Uses(Three):
        def forward(self, x: Tensor) -> Tensor:
            return model.b(self.c(self.b(x)))

    model.__class__ = Uses
    return model


@pytest.mark.parametrize("build", [InAGlobal, InItsClass, in_a_closure])
def test_what_no_attribute_holds_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(CannotFollowError, match="that holds a module of this model"):
        truncate(made(build), "b", live=True)


class Cached(Three):
    def __init__(self) -> None:
        super().__init__()
        self.again = functools.lru_cache(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.c(x))


def test_what_cannot_be_copied_and_leads_back_is_refused() -> None:
    with pytest.raises(CannotFollowError, match="refers to the model"):
        truncate(made(Cached), "b", live=True)
