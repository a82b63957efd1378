"""A module in several places has one state: what a cut holds of it runs in all of them, as in the model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from oracle import capture, equal, randomize
from torch import Tensor, nn

from truncate import split, truncate


class Watched(nn.Module):
    """Counts statistics that nothing else reads."""

    def __init__(self, watch: nn.Module) -> None:
        super().__init__()
        self.a, self.watch, self.b = nn.Linear(4, 4), watch, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.watch(x)
        return self.b(x)


class Mean(nn.Module):
    """Changes a buffer of its own in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return x - self.mean


class Row(nn.Module):
    """Runs a block, and a row that begins with that very block."""

    def __init__(self, watch: nn.Module) -> None:
        super().__init__()
        self.block = Watched(watch)
        self.row = nn.Sequential(self.block, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.row(self.block(x))


class Two(nn.Module):
    """Two blocks that hold one norm; only of the first its value is read."""

    class First(nn.Module):
        def __init__(self, watch: nn.Module) -> None:
            super().__init__()
            self.a, self.watch = nn.Linear(4, 4), watch

        def forward(self, x: Tensor) -> Tensor:
            return self.watch(self.a(x))

    def __init__(self, watch: nn.Module) -> None:
        super().__init__()
        self.first, self.second = self.First(watch), Watched(watch)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Deeper(nn.Module):
    """The row of such blocks is a part of another one, and the norm a part of what the block holds."""

    def __init__(self, watch: nn.Module) -> None:
        super().__init__()
        self.inner = Row(nn.Sequential(nn.ReLU(), watch))
        self.outer = nn.Sequential(self.inner, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))


CASES: tuple[tuple[type[Any], list[str]], ...] = (
    (Row, ["row.0.a", "row"]), (Two, ["second.b", "first"]), (Two, ["second.a", ""]), (Deeper, ["outer.0.row.0.a", ""]),
    (Deeper, ["outer.0.row.0.a", "outer.1"]),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "targets"), CASES)
@pytest.mark.parametrize("watch", [nn.BatchNorm1d(4), Mean(), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))])
@pytest.mark.parametrize("example", [False, True], ids=["no example", "example"])
def test_it_is_that_of_the_model(kind: type[Any], targets: list[str], watch: nn.Module, example: bool) -> None:
    model = randomize(kind(copy.deepcopy(watch)))
    args = (torch.randn(3, 4),) if example else None
    cut = truncate(copy.deepcopy(model), targets, args=args, live=False)
    held = dict(cut.named_buffers(remove_duplicate=False))
    assert any("watch" in name for name in held)
    for mode in (True, True, False, True):
        cut.train(mode)
        model.train(mode)
        x = torch.randn(3, 4)
        seen = capture(model, [target for target in targets if target], x)
        for target, value in zip(targets, cut(x)):
            if target:
                assert equal(value, seen[target][-1])
        buffers = dict(model.named_buffers(remove_duplicate=False))
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in held.items())


def test_nothing_more_is_held_for_it() -> None:
    model = Row(nn.BatchNorm1d(4))
    cut = truncate(model, "block.a:0")
    assert not any("watch" in name for name, _ in cut.named_modules())


@pytest.mark.parametrize("watch", [nn.BatchNorm1d(4), Mean()])
@pytest.mark.parametrize("at", ["row.0.a", "row.0.b"])
def test_pieces_share_it(watch: nn.Module, at: str) -> None:
    model = randomize(Row(copy.deepcopy(watch)))
    divided, x = copy.deepcopy(model), torch.randn(3, 4)
    front, back = split(divided, at, crossing="pass")
    assert torch.equal(back(front(x)), model(x))
    assert equal(list(divided.buffers()), list(model.buffers()))
