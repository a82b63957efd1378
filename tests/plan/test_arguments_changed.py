"""What a cut does to the tensors that it is given: what the model has done by the time the target is there."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import split, truncate


class Inner(nn.Module):
    """Changes its arguments, before and between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.a, self.c = nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.act(y)
        h = self.a(x)
        y.add_(1)
        return self.c(h) + self.a(y)


class Net(nn.Module):
    """Changes its own input, in a way that not all targets need."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.act, self.inner, self.a, self.b = nn.ReLU(inplace=True), Inner(), nn.Linear(4, 4), nn.Linear(4, 4)
        self.how = how

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.how == "an operation":
            y.mul_(2)
        elif self.how == "through a view":
            y.view(-1)[::2] = 3
        elif self.how == "a child":
            self.a(self.act(y))
        elif self.how == "after the target":
            h = self.b(x)
            x.mul_(2)
            return self.a(x) + h
        elif self.how == "inside a child":
            return self.b(self.inner(x, y))
        return self.b(x) + self.a(y)


class Stop(Exception):
    """Raised where the target is there."""


def _given_at(model: nn.Module, path: str, *given: Tensor) -> list[Tensor]:
    """What the arguments are once the first call of a module has ended."""
    whole, twins = copy.deepcopy(model), [tensor.clone() for tensor in given]

    def stop(*_: Any) -> None:
        raise Stop

    whole.get_submodule(path).register_forward_hook(stop)
    with pytest.raises(Stop):
        whole(*twins)
    return twins


OUTSIDE = itertools.product(("an operation", "through a view", "a child", "after the target"), ("a:0", "b:0"))
INSIDE = itertools.product(("inside a child",), ("b:0", "inner.a:0", "inner.c:0", "inner.act:0"))


@pytest.mark.parametrize(("how", "target"), [*OUTSIDE, *INSIDE])
@pytest.mark.parametrize("options", ({}, {"args": ()}, {"live": True}), ids=("followed", "with an example", "live"))
def test_they_change_as_in_the_model(how: str, target: str, options: dict[str, Any]) -> None:
    model, x, y = Net(how), torch.randn(2, 4), torch.randn(2, 4)
    expected = _given_at(model, target.partition(":")[0], x, y)
    if "args" in options:
        options = {"args": (x.clone(), y.clone())}
    given = [x.clone(), y.clone()]
    truncate(model, target, **options)(*given)
    assert all(map(torch.equal, given, expected))


@pytest.mark.parametrize("middle", (nn.Identity(), nn.Dropout(0.5), nn.Flatten(), None))
@pytest.mark.parametrize("last", (nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)))
@pytest.mark.parametrize("training", (False, True))
@pytest.mark.parametrize("with_example", (False, True))
def test_a_piece_leaves_what_it_is_given(middle: Any, last: nn.Module, training: bool, with_example: bool) -> None:
    layers = [nn.Linear(4, 4), *([middle] if middle is not None else []), last]
    model, x = nn.Sequential(*layers).train(training), torch.randn(3, 4)
    front, back = split(model, "0", args=(x,) if with_example else None)
    crossing = front(x)
    before = crossing.clone()
    torch.manual_seed(0)
    result = back(crossing)
    torch.manual_seed(0)
    assert torch.equal(result, model(x))
    assert torch.equal(crossing, before)
