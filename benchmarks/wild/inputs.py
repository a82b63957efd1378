"""Inputs that several libraries share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.wild.made import Make, entry

Arguments = Callable[[], tuple[torch.Tensor, ...]]


def images(*shape: int, batch: int = 2) -> Callable[[], tuple[torch.Tensor]]:
    return lambda: (torch.rand(batch, *shape),)


def pictures(model: Callable[[], nn.Module], side: int = 64, channels: int = 3, other: int | None = 0) -> Make:
    """An entry that takes pictures; `other` is a second side, where a model takes several."""
    calls = [images(channels, side, side), images(channels, other or side, other or side, batch=3)]
    return entry(model, *calls)


def vectors(*shape: int, batch: int = 2) -> Arguments:
    return lambda: (torch.randn(batch, *shape),)


def tokens(length: int, batch: int = 2, most: int = 50) -> Arguments:
    return lambda: (torch.randint(1, most, (batch, length)),)
