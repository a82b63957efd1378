"""Pieces of a model keep the checks that a recording relies on, wherever what is checked is known.

Each forward reads the number of rows of what both a piece and the one before it are given, after the model is divided.
For another number the pieces, run in turn, raise: they never return what the example's number would give.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import TruncateError, split


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.c(self.a(x))


class Middle(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.stage, self.layer, self.how = Inner(), nn.Linear(4, 4), how

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        y = self.stage(z, x) + self.layer(z)
        if self.how == "rows":
            for row in z:
                y = y + row
        elif self.how == "last row":
            *_, last = z
            y = y + last
        elif self.how == "unbind":
            y = y + sum(z.unbind(0))
        elif self.how == "chunks":
            for part in z.split(1):
                y = y + part
        elif self.how == "range":
            for i in range(z.shape[0]):
                y = y + z[i]
        elif self.how == "branch" and z.shape[0] > 3:
            y = y * 2
        return y


class Model(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.block = Middle(how)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, x)


@pytest.mark.parametrize("how", ["rows", "last row", "unbind", "chunks", "range", "branch"])
@pytest.mark.parametrize(
    "at",
    ["block.stage.a", "block.stage", "block.layer", ["block.stage.a", "block.layer"], ["block.stage", "block.layer"]],
    ids=str,
)
def test_another_number_of_rows_is_an_error(how: str, at: Any) -> None:
    model, x = Model(how).eval(), torch.randn(3, 4)
    pieces = split(model, at, args=(x,), crossing="pass")
    assert torch.equal(run(pieces, x), model(x))
    with pytest.raises((AssertionError, TruncateError), match="example"):
        run(pieces, torch.randn(5, 4))


def run(pieces: tuple[nn.Module, ...], x: Any) -> Any:
    for piece in pieces:
        x = piece(x)
    return x
