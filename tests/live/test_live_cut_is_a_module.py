"""A live cut is an ordinary module: it can be copied, pickled, hooked, compiled, exported and cut again."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from against_hooks import Listed, Three, assert_as_hooked, calls, inputs, made, run
from oracle import equal
from torch import Tensor, nn

from truncate import TruncateError, truncate


class Block(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)).relu())


class Net(Listed):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.block(x).relu()


class Again(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.block(super().forward(x))


class OwnCall(Net):
    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x)


class OwnState(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __getstate__(self) -> Any:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().forward(x)


class MadeAnew(Net):
    def __getstate__(self) -> Any:
        return {"children": self._modules, "training": self.training}

    def __setstate__(self, state: Any) -> None:
        nn.Module.__init__(self)
        self._modules.update(state["children"])
        self.training = state["training"]


class ArgumentsForSubclasses(Net):
    def __init_subclass__(cls, *, needed: int, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)


class Registry(type):
    known: dict[str, type] = {}

    def __new__(cls, name: str, bases: Any, space: Any, *, needed: int) -> Any:
        made = super().__new__(cls, name, bases, space)
        assert name not in cls.known
        cls.known[name] = made
        return made

    def __init__(cls, name: str, bases: Any, space: Any, *, needed: int) -> None:
        super().__init__(name, bases, space)


class Registered(Net, metaclass=Registry, needed=1):
    pass


class RefusesAttributes(Net):
    def __setattr__(self, name: str, value: Any) -> None:
        if "truncate" in name:
            raise AttributeError(name)
        super().__setattr__(name, value)


KINDS = [Net, Again, OwnCall, OwnState, MadeAnew, ArgumentsForSubclasses, Registered, RefusesAttributes]


def through_a_file(cut: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(cut, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def replica_of(module: Any) -> Any:
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        replica._modules[name] = replica_of(child)
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter)
    return replica


def cut_again(cut: nn.Module) -> nn.Module:
    return truncate(cut, "", live=True)


CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as it is": lambda cut: cut,
    "deepcopy": copy.deepcopy,
    "pickle": through_a_file,
    "twice": lambda cut: through_a_file(copy.deepcopy(cut)),
    "to": lambda cut: cut.to(torch.float64).to(torch.float32),
    "cut again": cut_again,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_copies_do_what_it_does(kind: type[nn.Module], change: str) -> None:
    assert_as_hooked(kind, "block.b", True, CHANGES[change])


def test_the_metaclass_of_a_model_sees_no_class_of_ours() -> None:
    truncate(made(Registered), "block", live=True)
    assert Registry.known == {"Registered": Registered}


class RebuiltWhole(Net):
    def __deepcopy__(self, memo: Any) -> Any:
        return RebuiltWhole()


def test_a_copy_that_would_be_the_whole_model_is_refused() -> None:
    with pytest.raises(TruncateError, match="did not keep where the cut ends"):
        copy.deepcopy(truncate(made(RebuiltWhole), "block", live=True))


def test_what_is_dropped_is_not_saved() -> None:
    def size(module: nn.Module) -> int:
        file = io.BytesIO()
        torch.save(module, file)
        return file.tell()

    class Wide(Listed):
        def __init__(self) -> None:
            super().__init__()
            self.layers.append(nn.Linear(4, 50_000))

    Wide.__qualname__ = Listed.__qualname__  # found by pickle, which only its size is asked of
    Wide.__name__, Wide.__module__, Wide.forward = Listed.__name__, Listed.__module__, _in_turn
    cut = truncate(Wide(), "layers.0", live=True)
    memo: dict[int, Any] = {}
    copy.deepcopy(cut, memo)
    assert max(value.numel() for value in memo.values() if isinstance(value, Tensor)) == 16


def _in_turn(self: Any, x: Tensor) -> Tensor:
    for layer in self.layers:
        x = layer(x)
    return x


NESTED = [("block", "block.b"), ("block.b", "block.a"), ({"one": "block.b", "end": ""}, "block.b"), ("block.b",) * 2]


@pytest.mark.parametrize(("outer", "inner"), NESTED)
def test_a_cut_of_a_cut(outer: Any, inner: str) -> None:
    cut = truncate(truncate(made(Again), outer, live=True), inner, live=True)
    seen = calls(made(Again), inner, inputs(3))
    number = -2 if isinstance(outer, dict) else 0
    once = truncate(made(Again), f"{inner}:{number}" if outer == "block" and number else inner, live=True)
    assert torch.equal(run(cut, inputs(3)), run(once, inputs(3)))
    assert torch.equal(run(cut, inputs(3)), seen[-2])


def test_a_cut_inside_of_a_model_and_hooks_on_it() -> None:
    cut = truncate(made(Net), "block.b", live=True)
    seen: list[Any] = []
    handle = cut.register_forward_hook(lambda module, args, output: seen.append(output))
    value = run(cut, inputs(2))
    assert len(seen) == 1
    assert seen[0] is value
    handle.remove()
    cut.register_forward_hook(lambda module, args, kwargs, output: output + 1, with_kwargs=True)
    assert torch.equal(run(cut, inputs(2)), value + 1)
    whole = nn.Sequential(cut, nn.Linear(4, 4))
    assert torch.equal(run(truncate(whole, "0", live=True), inputs(2)), value + 1)
    assert torch.equal(run(truncate(whole, "0.block.a", live=True), inputs(2)), calls(cut, "block.a", inputs(2))[0])
    with pytest.raises(TruncateError, match="backward hooks"):
        cut.register_full_backward_hook(print)


def test_hooks_added_to_a_target_change_what_is_handed_out() -> None:
    cut = truncate(made(Net), "block.b", live=True)
    value = run(cut, inputs(2))
    cut.block.b.register_forward_hook(lambda module, args, output: output * 2)
    assert torch.equal(run(cut, inputs(2)), value * 2)
    assert not made(Net).block.b._forward_hooks


def test_the_hooks_of_the_model_see_its_own_output() -> None:
    model = made(Net)
    model.register_forward_hook(lambda module, args, output: output + 1)
    found = run(truncate(model, {"features": "block.b", "output": ""}, live=True), inputs(2))
    *_, features, own = calls(model, "block.b", inputs(2))
    assert equal([found["features"], found["output"]], [features, own])


def test_threads_and_replicas() -> None:
    cut = truncate(made(Net), ["block.b", "layers.1"], live=True).eval()
    expected = [cut(inputs(batch)) for batch in range(1, 9)]
    found: dict[int, Any] = {}

    def work(batch: int, module: Any) -> None:
        found[batch] = [module(inputs(batch)) for _ in range(20)][-1]

    threads = [threading.Thread(target=work, args=(n, replica_of(cut) if n % 2 else cut)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal([found[n] for n in range(1, 9)], expected)


WAYS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "eager": lambda cut, x: torch.compile(cut, fullgraph=True, backend="eager"),
    "in parts": lambda cut, x: torch.compile(cut, backend="eager"),
    "aot_eager": lambda cut, x: torch.compile(cut, fullgraph=True, backend="aot_eager"),
    "export": lambda cut, x: torch.export.export(cut, (x,), strict=False).module(),
    "strict": lambda cut, x: torch.export.export(cut, (x,), strict=True).module(),
    "trace": lambda cut, x: torch.jit.trace(cut, (x,)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore")
def test_what_compiles_and_exports_models_does_so_with_cuts(way: str) -> None:
    torch._dynamo.reset()
    x = inputs(3).detach()
    for upto in ("layers.1", "block.b", ["block.b", "layers.0"], "block.a:-1"):
        for kind in (Net, Again):
            cut = truncate(made(kind), upto, live=True).eval()
            assert equal(WAYS[way](cut, x)(x), cut(x)), upto


@pytest.mark.filterwarnings("ignore")
def test_scripting_says_what_to_do() -> None:
    with pytest.raises(TruncateError, match="live=False"):
        torch.jit.script(truncate(made(Net), "block", live=True))
