"""A copy of a value has the gradient of the value, also where it is made while gradients are off."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from oracle import randomize, tensors_in
from torch import Tensor, nn

from truncate import truncate


class Inside(nn.Module):
    """A layer that returns what it is given, in a block without gradients, where that is overwritten afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.same, self.last = nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        with torch.no_grad():
            h = self.same(h)
            h.mul_(2)
        return self.last(h)


class Several(nn.Module):
    """A layer that is given two values of a block and of what is outside of it."""

    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    def __init__(self) -> None:
        super().__init__()
        self.first, self.same, self.last = nn.Linear(4, 4), self.Sum(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        with torch.set_grad_enabled(False):
            k = self.same(h, h * 2)
            h.add_(k)
        return self.last(h)


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class Whole(nn.Module):
    """A child that is called in a block, and holds the layer and what overwrites its value."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.act = nn.Identity(), Doubles()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.same(x))

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 4), self.Block(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        with torch.no_grad():
            self.block(h)
        return self.last(h)


class Deeper(nn.Module):
    """Two levels below a block; one of the calls is outside of every block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.part, self.last = nn.Linear(4, 4), nn.Sequential(Whole.Block()), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.part(self.first(x))
        with torch.no_grad():
            h = self.part(h)
        return self.last(h)


class Decorated(nn.Module):
    """A method without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.same, self.last = nn.Linear(4, 4), nn.Flatten(), nn.Linear(4, 4)

    @torch.no_grad()
    def double(self, h: Tensor) -> Tensor:
        return self.same(h).mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        self.double(h)
        return self.last(h)


MODELS: dict[type[nn.Module], str] = {
    Inside: "same", Several: "same", Whole: "block.same", Deeper: "part.0.same", Decorated: "same"
}  # fmt: skip
WAYS: tuple[dict[str, Any], ...] = ({}, {"args": (torch.ones(3, 4),), "live": False}, {"live": True})


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("way", WAYS, ids=("followed", "recorded", "live"))
@pytest.mark.parametrize("where", ("upto", "before"))
@pytest.mark.parametrize("training", (False, True), ids=("eval", "train"))
def test_it_is_that_of_the_model(kind: type[nn.Module], way: Any, where: str, training: bool) -> None:
    model, x = randomize(kind()).train(training), torch.randn(3, 4)
    whole = copy.deepcopy(model)
    expected = _hooked(whole, [MODELS[kind], "last"], where, x)
    for paths in ([MODELS[kind]], [MODELS[kind], "last"]):  # with `last`, what overwrites the value runs too
        values = truncate(model, **{where: paths}, **way)(x)
        for one, other in zip(tensors_in(values), tensors_in(expected)):
            assert torch.equal(one, other)
            assert one.requires_grad == other.requires_grad
            if other.requires_grad:
                assert torch.equal(_gradient(one, model), _gradient(other, whole))


def _hooked(model: nn.Module, paths: list[str], where: str, x: Tensor) -> list[Any]:
    """What these layers return, or are given, in their last calls."""
    seen: dict[str, Any] = {}

    @torch.enable_grad()  # a value from outside of a block has a gradient inside of it
    def keep(module: nn.Module, args: Any, output: Any = None, *, path: str) -> None:
        seen[path] = [tensor.clone() for tensor in tensors_in(args if where == "before" else output)]

    for path in paths:
        module, hook = model.get_submodule(path), functools.partial(keep, path=path)
        (module.register_forward_pre_hook if where == "before" else module.register_forward_hook)(hook)
    model(x)
    return [seen[path] for path in paths]


def _gradient(value: Tensor, model: nn.Module) -> Tensor:
    return torch.autograd.grad(value.sum(), model.get_parameter("first.weight"), retain_graph=True)[0]
