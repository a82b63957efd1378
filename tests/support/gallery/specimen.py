"""What a model of the gallery is, and how each is listed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from oracle import on_device, randomize
from torch import nn

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Specimen:
    kind: type[nn.Module]
    example: Callable[[int], Arguments]  # batch size -> arguments
    refuses: tuple[str, ...]  # places that may be refused, but not be wrong
    exact: bool  # whether autograd finds all that a cut has to hold

    def make(self) -> nn.Module:
        torch.manual_seed(0)
        return on_device(randomize(self.kind()))

    def inputs(self, batch: int = 2) -> Arguments:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch)
            return on_device(self.example(batch))


GALLERY: dict[str, Specimen] = {}


def vectors(batch: int) -> Arguments:
    return (torch.randn(batch, 4),), {}


def two_vectors(batch: int) -> Arguments:
    return (torch.randn(batch, 4), torch.randn(batch, 4)), {}


def images(batch: int) -> Arguments:
    return (torch.randn(batch, 3, 6, 6),), {}


def specimen(
    example: Callable[[int], Arguments] = vectors, refuses: tuple[str, ...] = (), exact: bool = True
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def add(kind: type[nn.Module]) -> type[nn.Module]:
        GALLERY[kind.__name__] = Specimen(kind, example, refuses, exact)
        return kind

    return add


def linear() -> nn.Linear:
    return nn.Linear(4, 4)
