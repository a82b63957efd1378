"""What a child returns in the other mode is of another kind: a tensor of as many rows, a list, a dict."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import equal
from rebuilt import truncate
from torch import Tensor, nn


class Head(nn.Module):
    def __init__(self, other: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(4, 4), other

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return self.other(y) if self.training else (y * 3, y)


class Net(nn.Module):
    def __init__(self, other: Callable[[Tensor], Any], use: Callable[[Any], Any]) -> None:
        super().__init__()
        self.a, self.head, self.use = nn.Linear(4, 4), Head(other), use

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        if x.shape[0] > 1:  # has to be recorded
            x = x * 2
        return self.use(self.head(x))


USES: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda out: out,
    "its first item": lambda out: out[0] + 1,
    "all items": lambda out: [item * 2 for item in out],
    "in a dict": lambda out: {"out": out},
}
OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda y: y,
    "a dict": lambda y: {0: y, 1: y * 2},
    "a list": lambda y: [y, y * 2],
}


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("use", USES)
def test_another_kind_in_training_is_an_error(use: str, other: str, rows: int) -> None:
    model, x = Net(OTHERS[other], USES[use]).eval(), torch.randn(rows, 4)
    cut = truncate(copy.deepcopy(model), ["a", ""], args=(x,))
    assert equal(cut(x)[1], model(x))
    with pytest.raises(AssertionError, match=r"cut on an example with a tuple in head\(...\)"):
        cut.train()(x)


def test_three_items_for_two() -> None:
    model, x = Net(lambda y: (y, y, y), USES["its first item"]).eval(), torch.randn(2, 4)
    cut = truncate(copy.deepcopy(model), ["a", ""], args=(x,))
    with pytest.raises(AssertionError, match=r"len\(head\(...\)\) == 2"):
        cut.train()(x)
