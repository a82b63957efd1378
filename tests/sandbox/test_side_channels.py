"""What modules hand to each other besides arguments and results: by hooks, in lists and dicts that several hold."""

from __future__ import annotations

import collections
import copy
from typing import Any

import pytest
import torch
from oracle import capture
from rebuilt import truncate
from torch import Tensor, nn

from truncate import CannotFollowError

SEEN: dict[str, Tensor] = {}


class Hooked(nn.Module):
    """A hook keeps what `a` returns where the forward of the whole finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.c = nn.Linear(4, 4)
        self.seen: Any = {}
        self.hook()

    def hook(self) -> None:
        raise NotImplementedError

    def found(self) -> Tensor:
        return self.seen["a"]

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)) + self.found())


class ByMethod(Hooked):
    def hook(self) -> None:
        self.a.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen["a"] = output


class ByClosure(Hooked):
    def hook(self) -> None:
        kept = self.seen

        def keep(module: nn.Module, args: Any, output: Tensor, *, name: str = "a") -> None:
            kept[name] = output

        self.a.register_forward_hook(keep)


class InGlobal(Hooked):
    def hook(self) -> None:
        self.a.register_forward_hook(lambda module, args, output: SEEN.update(a=output))

    def found(self) -> Tensor:
        return SEEN["a"]


class InAttribute(Hooked):
    def hook(self) -> None:
        self.seen = None
        self.a.register_forward_hook(lambda module, args, output: setattr(self, "seen", output))

    def found(self) -> Tensor:
        return self.seen


class Writer(nn.Module):
    def __init__(self, shared: dict[str, Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.shared["x"] = x
        return x * 2


class Reader(Writer):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.shared["x"]


class SharedDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared: dict[str, Tensor] = {}
        self.a, self.b, self.c = Writer(shared), Reader(shared), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        return self.c(x)


def made(kind: type[nn.Module], ran: bool) -> nn.Module:
    """A model, which has run on another input or never."""
    SEEN.clear()
    model = kind().eval()
    if ran:
        with torch.no_grad():
            model(torch.randn(2, 4))
    return model


def check(model: nn.Module, upto: Any, **example: Any) -> None:
    """Equal on inputs of two sizes to hooks on a copy of the model."""
    places = upto if isinstance(upto, list) else [upto]
    cut = truncate(model, upto, **example, live=None)  # a hook that refers to the model keeps it live
    for batch in (2, 3):
        x = torch.randn(batch, 4)
        # Hooks of the copy would write into what the model holds, but for its weights they are alike.
        whole = type(model)().eval()
        whole.load_state_dict(model.state_dict())
        expected = capture(whole, places, x)
        result = cut(x)
        for place, value in zip(places, result if isinstance(upto, list) else [result]):
            assert torch.equal(value, expected[place][-1])


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("upto", ["b", "c", ["b.0", "c"]], ids=str)
@pytest.mark.parametrize("kind", [ByMethod, ByClosure, InGlobal])
def test_what_hooks_keep_is_found_on_an_example(kind: type[nn.Module], upto: Any, ran: bool) -> None:
    check(made(kind, ran), upto, args=(torch.randn(2, 4),))


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("kind", [ByMethod, ByClosure])
def test_a_pass_of_the_example_leaves_what_hooks_keep_as_it_was(kind: type[Hooked], ran: bool) -> None:
    model = made(kind, ran)
    before = copy.copy(model.seen)
    truncate(model, "c", (torch.randn(2, 4),), check=False, live=None)
    assert list(model.seen) == list(before) and all(model.seen[key] is value for key, value in before.items())


@pytest.mark.parametrize("kind", [ByMethod, ByClosure, InGlobal])
def test_what_hooks_keep_is_not_read_on_stand_ins(kind: type[nn.Module]) -> None:
    with pytest.raises(CannotFollowError, match=r"reads a tensor from a list, dict or global that a hook or another m"):
        truncate(made(kind, ran=True), "c")


def test_an_attribute_that_a_hook_sets() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(CannotFollowError, match=r"unsupported operand type\(s\) for \+: 'Proxy' and 'NoneType'"):
        truncate(made(InAttribute, ran=False), "c")
    with pytest.raises(CannotFollowError, match="reads the tensor 'seen', which hooks on the modules that it calls ma"):
        truncate(made(InAttribute, ran=True), "c")
    with pytest.raises(CannotFollowError, match="something else sets its attribute 'seen': a hook, perhaps"):
        truncate(made(InAttribute, ran=True), "c", (x,))


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("upto", ["a", "a.fc", "b", "c"])
def test_what_modules_share_stays_shared(upto: str, ran: bool) -> None:
    check(made(SharedDict, ran), upto, args=(torch.randn(2, 4),))


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("example", [{}, {"args": (torch.ones(2, 4),)}], ids=["", "example"])
def test_what_one_module_writes_for_another_is_not_left_out(example: dict[str, Any], ran: bool) -> None:
    with pytest.raises(CannotFollowError, match="'a' .Writer.: it keeps something in its attribute 'shared' from"):
        truncate(made(SharedDict, ran), ["a.fc", "b"], **example)


def test_what_the_model_itself_writes_for_a_module_is_not_left_out() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared: dict[str, Tensor] = {}
            self.a, self.b, self.c = nn.Linear(4, 4), Reader(self.shared), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.shared["x"] = self.a(x)
            return self.c(self.b(x))

    with pytest.raises(
        CannotFollowError,
        match=r"the model itself .Root.: it keeps something in its attribute 'shared' from call to call",
    ):
        truncate(Root(), ["a", "b"])


def test_what_another_module_wrote_is_not_read() -> None:
    with pytest.raises(CannotFollowError, match=r"'b' \(Reader\): it reads a tensor from a list, dict or global"):
        truncate(made(SharedDict, ran=True), ["b.fc", "b"])
    with pytest.raises(CannotFollowError, match=r"'b' \(Reader\): it computes with a tensor that was made out of sig"):
        truncate(made(SharedDict, ran=True), ["b.fc", "b"], (torch.randn(2, 4),))


@pytest.mark.parametrize("kind", [collections.OrderedDict, collections.defaultdict, dict])
def test_a_dict_of_the_model_is_not_filled_while_it_is_cut(kind: type[dict[str, Tensor]]) -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.kept = nn.Linear(4, 4), nn.Linear(4, 4), kind()

        def forward(self, x: Tensor) -> Tensor:
            self.kept["a"] = self.a(x)
            return self.b(self.kept["a"])

    model = Keeps()
    for example in ({}, {"args": (torch.randn(2, 4),)}):
        cut = truncate(model, "b", **example, live=None)
        assert not model.kept and type(model.kept) is kind
        x = torch.randn(3, 4)
        assert torch.equal(cut(x), model.b(model.a(x)))
