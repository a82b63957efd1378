"""A cut is sharded by FSDP2 as any module is: same values, and one step of an optimizer ends in the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from oracle import capture
from processes import in_two_processes
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from truncate import truncate


class Halving(nn.Module):
    """Branches on a value in each block: recorded on an example, or live."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x).tanh()
            if x.shape[-1] > 4 and x.abs().max() < 2:
                x = x * 2
        return x


class Straight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU()) for _ in range(3)))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


@dataclass(frozen=True)
class Case:
    kind: Callable[[], nn.Module]
    options: dict[str, Any]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.kind()

    def cut(self, model: nn.Module) -> nn.Module:
        return truncate(model, "blocks.1", copy=True, **self.options)


CASES = {
    "followed": Case(Straight, {}),
    "recorded": Case(Halving, {"args": (torch.ones(2, 6),), "live": False}),
    "live": Case(Halving, {"live": True}),
}


def inputs(rank: int) -> Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(rank))


def step(module: nn.Module, loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss().backward()
    optimizer.step()


def _check(case: Case, rank: int, mesh: DeviceMesh) -> None:
    model, x = case.model(), inputs(rank)
    whole, cut = case.cut(model), case.cut(model)
    for block in cut.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(cut, mesh=mesh)
    assert isinstance(cut, FSDPModule)
    assert all(isinstance(parameter, DTensor) for parameter in cut.parameters())
    held = sum(parameter.to_local().numel() for parameter in cut.parameters())
    assert held == sum(parameter.numel() for parameter in whole.parameters()) / 2

    assert torch.equal(cut(x), capture(model, ["blocks.1"], x)["blocks.1"][-1])
    cut.reshard()  # the outermost module keeps what it gathered until the backward pass

    step(cut, lambda: cut(x).square().mean())
    step(whole, lambda: sum(whole(inputs(each)).square().mean() for each in range(2)) / 2)
    before, expected = case.cut(model).state_dict(), whole.state_dict()
    state = {key: tensor.full_tensor() for key, tensor in cut.state_dict().items()}
    assert state.keys() == expected.keys()
    for key, tensor in state.items():
        assert torch.allclose(tensor, expected[key], atol=1e-6), key
        assert not torch.allclose(tensor, before[key], atol=1e-6), f"{key} was not trained"


def _in_parallel(rank: int) -> None:
    """One of two processes, each of which holds a half of every parameter and has a batch of its own."""
    mesh = init_device_mesh("cpu", (2,))
    for case in CASES.values():
        _check(case, rank, mesh)


def test_fully_shard() -> None:
    in_two_processes(_in_parallel)
