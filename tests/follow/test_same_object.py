"""Values that a forward compares by ``is`` or ``id``, objects that print alike, and torch's walks over containers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from truncate import CannotFollowError, WrongResultError, truncate


def same_object(net: Net, x: Tensor) -> Tensor:
    return net.b(x) if net.i(x) is x else net.c(x)


def other_side(net: Net, x: Tensor) -> Tensor:
    return net.b(x) if x is not net.i(x) else net.c(x)


def item_of_pair(net: Net, x: Tensor) -> Tensor:
    pair = [net.i(x), x]
    return net.b(x) if pair[0] is pair[1] else net.c(x)


def by_id(net: Net, x: Tensor) -> Tensor:
    return net.b(x) if id(net.i(x)) == id(x) else net.c(x)


class Net(nn.Module):
    """Takes a layer by whether an Identity, or a dropout, returns its argument itself."""

    def __init__(self, asking: Callable[[Net, Tensor], Tensor], middle: nn.Module) -> None:
        super().__init__()
        self.i, self.b, self.c, self.d = middle, nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.asking = asking

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.asking(self, x))


class Spelled(Net):
    """The same in the forward itself."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.i(x)
        z = self.b(x) if y is x else self.c(x)
        return self.d(z)


@pytest.mark.parametrize("asking", (same_object, other_side, item_of_pair, by_id, None))
@pytest.mark.parametrize("middle", (nn.Identity(), nn.Dropout(0.0), nn.Flatten()))
@pytest.mark.parametrize("with_example", (False, True))
def test_the_same_object(asking: Any, middle: nn.Module, with_example: bool) -> None:
    model = Net(asking, middle) if asking else Spelled(asking, middle)
    x = torch.randn(2, 4)
    example: dict[str, Any] = {"args": (x,)} if with_example else {}
    cut = truncate(model.eval(), "d", **example)
    for training in (False, True):
        torch.manual_seed(0)
        got = cut.train(training)(x)
        torch.manual_seed(0)
        assert torch.equal(got, copy.deepcopy(model).train(training)(x))
    with pytest.raises((CannotFollowError, WrongResultError)):  # of a function in an attribute, the check tells
        truncate(model, "d", live=False, **example)


class Option:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __repr__(self) -> str:
        return "Option()"


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, option: Option) -> Tensor:
        return self.b(self.a(x) * option.scale)


class Twice(nn.Module):
    """Calls a block twice, with objects that print alike."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.one, self.two, self.d = Scaled(), Option(1.0), Option(3.0), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.block(self.block(x, self.one), self.two))


@pytest.mark.parametrize("with_example", (False, True))
def test_objects_that_print_alike(with_example: bool) -> None:
    model, x, seen = Twice(), torch.randn(2, 4), list[Tensor]()
    cut = truncate(model, "block.b", args=(x,)) if with_example else truncate(model, "block.b")
    handle = model.block.b.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    model(x)
    handle.remove()
    assert torch.equal(cut(x), seen[-1])


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), x


class Mapped(nn.Module):
    """Hands what a child returned, of which only the child knows the form, to torch's walk over containers."""

    def __init__(self, walk: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.two, self.d, self.walk = Two(), nn.Linear(4, 4), walk

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.walk(self.two(x)))


@pytest.mark.parametrize("walk", (lambda v: tree_map(lambda t: t * 2, v)[0], lambda v: tree_flatten(v)[0][1]))
@pytest.mark.parametrize("with_example", (False, True))
def test_a_walk_over_containers(walk: Callable[[Any], Tensor], with_example: bool) -> None:
    model, x = Mapped(walk), torch.randn(2, 4)
    cut = truncate(model, "d", args=(x,)) if with_example else truncate(model, "d")
    assert torch.equal(cut(x), model(x))
