"""Modules and batches to extract features with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

ROWS = 23
INPUTS = torch.arange(ROWS * 6, dtype=torch.float32).reshape(ROWS, 6) / 100
LABELS = torch.arange(ROWS) % 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 4)
        self.drop = nn.Dropout(0.5)
        self.two = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.drop(self.one(x)))


class Returns(nn.Module):
    """Returns what a function makes of its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def batches() -> list[tuple[Tensor, Tensor]]:
    # copies, since how a matrix product is rounded may depend on where in memory its tensors begin
    return [(x.clone(), y) for x, y in zip(INPUTS.split(5), LABELS.split(5))]


def expected(module: nn.Module) -> np.ndarray[Any, Any]:
    """What the module returns batch by batch: matrix products of other sizes may round differently."""
    with torch.no_grad():
        return torch.cat([module.eval()(x) for x, _ in batches()]).numpy()


def mixed() -> Net:
    net = Net()
    net.two.eval()
    return net
