"""A forward is followed where a cut needs it, since following takes most of the time of building."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from truncate import truncate

FOLLOWED: list[int] = []


class Block(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        FOLLOWED.append(self.number)
        x = x + self.norm(self.a(x))
        return x if y is None else x * y


class OneTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*map(Block, range(8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class TwoTensors(OneTensor):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, y)
        return x


class Net(nn.Module):
    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage, self.last = stage, nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.stage(x) if type(self.stage) is OneTensor else self.stage(x, y))


@pytest.mark.parametrize("stage", [OneTensor, TwoTensors])
def test_blocks_after_the_target_are_not(stage: type[OneTensor]) -> None:
    net, x, y = Net(stage()).eval(), torch.randn(3, 4), torch.randn(3, 4)
    seen: list[Tensor] = []
    hooked = net.get_submodule("stage.blocks.1").register_forward_hook(
        lambda _, __, output: seen.append(output.clone())
    )
    net(x, y)
    hooked.remove()
    FOLLOWED.clear()
    cut = truncate(net, "stage.blocks.1")
    assert set(FOLLOWED) <= {0, 1}
    assert torch.equal(cut(x, y), seen[0])
