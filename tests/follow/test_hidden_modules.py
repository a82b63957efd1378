"""Modules that attributes hold out of sight: in closures, defaults, partials, containers and objects.

Each child is called by such a way, and counts its calls in a buffer that it assigns anew. Cutting leaves the model as
it was, and the cut counts like the model: it never calls, asks or changes a module of the original by the back door.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import CannotFollowError, NotReachedError, truncate


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("c", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.c = self.c * 0.5
        return x * self.c if self.training else x * self.c + 1

    def step(self, x: Tensor) -> Tensor:
        return self(x)


class Object:
    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner

    def __call__(self, x: Tensor) -> Any:
        return self.inner(x)


def calls_itself(owner: Any) -> Any:
    def run(x: Tensor, again: bool = True) -> Any:
        return run(x, False) if again else owner.inner(x)

    return run


WAYS: dict[str, Callable[[Any], Any]] = {
    "a closure": lambda owner: lambda x: owner.inner(x),
    "a default": lambda owner: lambda x, m=owner.inner: m(x),
    "a keyword": lambda owner: lambda x, *, m=owner.inner: m(x),
    "a partial": lambda owner: functools.partial(lambda m, x: m(x), owner.inner),
    "a method": lambda owner: owner.inner.step,
    "a partial of a method": lambda owner: functools.partial(owner.inner.step),
    "a list": lambda owner: [owner.inner.step],
    "a tuple of functions": lambda owner: (lambda x: owner.inner(x),),
    "a closure of a closure": lambda owner: (lambda f: lambda x: f(x))(lambda x: owner.inner(x)),
    "a method in a closure": lambda owner: (lambda f: lambda x: f(x))(owner.inner.step),
    "a function that calls itself": calls_itself,
    "an object": lambda owner: Object(owner.inner),
}


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        run = self.run[0] if isinstance(self.run, (list, tuple)) else self.run
        return self.a(run(x))


class Own(nn.Module):
    """The child that is called is the holder's own."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.child = Child()
        self.child.inner = Counts()
        self.child.run = WAYS[way](self.child)

    def forward(self, x: Tensor) -> Any:
        return self.child(x)


class Parents(nn.Module):
    """The child that is called is registered above the holder."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.child, self.inner = Child(), Counts()
        self.child.run = WAYS[way](self)

    def forward(self, x: Tensor) -> Any:
        return self.child(x)


@pytest.mark.parametrize("example", [False, True], ids=["no example", "example"])
@pytest.mark.parametrize("kind", [Own, Parents])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_back_to_the_model(way: str, kind: Callable[[str], nn.Module], example: bool) -> None:
    model, x = kind(way).eval(), torch.randn(3, 4)
    before = copy.deepcopy(model.state_dict())
    cut = truncate(model, "child.a", args=(x,) if example else None, copy=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    results = [cut(x), cut(x), cut.train()(x)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(map(torch.equal, results, [model(x), model(x), model.train()(x)]))


class Optional(nn.Module):
    """The class has an attribute of that name, too."""

    callback: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a, norm = nn.Linear(4, 4), Counts()
        self.callback = lambda x: norm(x)

    def forward(self, x: Tensor) -> Any:
        return self.a(x if self.callback is None else self.callback(x))


def filled_later(norm: nn.Module, fill: bool = False) -> Any:
    if fill:
        scale = 2.0
    return lambda x: norm(x) * scale if fill else norm(x)


class PartlyFilled(nn.Module):
    """Of the variables of its function, one has no value yet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.run = nn.Linear(4, 4), filled_later(Counts())

    def forward(self, x: Tensor) -> Any:
        return self.a(self.run(x))


class Collects(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x


class HoldsAList(nn.Module):
    """A module that is nowhere registered fills a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.hidden = nn.Linear(4, 4), [Collects()]

    def forward(self, x: Tensor) -> Any:
        return self.a(self.hidden[0](x))


@pytest.mark.parametrize("kind", [Optional, PartlyFilled, HoldsAList])
def test_what_cannot_be_told_apart_keeps_its_python(kind: Callable[[], nn.Module]) -> None:
    model, whole = kind().eval(), kind().eval()  # a function of a deep copy leads to the original
    whole.load_state_dict(model.state_dict())
    with pytest.raises(CannotFollowError, match="out of sight"):
        truncate(model, "a", live=False)
    assert all(not one.seen for one in getattr(model, "hidden", ()))
    x = torch.randn(3, 4)
    assert torch.equal(truncate(model, "a")(x), whole(x))


@pytest.mark.parametrize("kind", [Own, Parents])
@pytest.mark.parametrize("way", WAYS)
def test_a_target_that_runs_out_of_sight(way: str, kind: Callable[[str], nn.Module]) -> None:
    path = "child.inner" if kind is Own else "inner"
    model, whole, x = kind(way).eval(), kind(way).eval(), torch.randn(3, 4)
    whole.load_state_dict(model.state_dict())
    returned: list[Tensor] = []
    whole.get_submodule(path).register_forward_hook(lambda module, args, output: returned.append(output.clone()))
    cut = truncate(model, path, args=(x,))
    for mode in (False, True, False):
        whole.train(mode)(x)
        assert torch.equal(cut.train(mode)(x), returned[-1])


def test_a_target_that_does_not_run_at_all() -> None:
    model = Own("a list")
    model.unused = nn.Linear(4, 4)
    with pytest.raises(NotReachedError, match="'unused' is never run"):
        truncate(model, "unused", args=(torch.randn(3, 4),))
