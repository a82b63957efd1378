"""The model and the cuts of a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from benchmarks.fuzz import models
from benchmarks.fuzz.author import PROBES, source_of
from benchmarks.fuzz.cuts import Cut, Run, draw
from benchmarks.fuzz.features import PRELUDE
from benchmarks.fuzz.oracle import observe


@dataclass
class Case:
    """A model and one cut of it."""

    source: str
    cut: Cut

    def make(self) -> nn.Module:
        return models.factory(self.source)()


def places(make: Callable[[], nn.Module]) -> tuple[list[tuple[str, int]], list[str]]:
    """The modules of a model that run in either mode, with how often, and the operations that may be targets."""
    paths = [path for path, _ in make().named_modules(remove_duplicate=False) if path]
    operations = [f"{path}.{name}".lstrip(".") for path in ["", *paths] for name in PROBES]
    counts: dict[str, int] = {}
    for mode in ("train", "eval"):
        seen = observe(make(), Run(mode), [*paths, *operations], False)
        if seen.error is not None:
            return [], []
        for path, calls in seen.watch.calls.items():
            counts[path] = max(counts.get(path, 0), len(calls))
    return [(p, counts[p]) for p in paths if counts[p]], [name for name in operations if counts[name]]


def cases_of(seed: int, cuts: int) -> Iterator[Case]:
    """The same for the same seed. A model that does not run by itself has none."""
    source = source_of(seed)
    make = models.factory(source)
    modules, operations = places(make)
    chance = random.Random(seed)
    for _ in range(cuts if modules else 0):
        yield Case(source, draw(chance, modules, operations, _has_gradients(source)))


def _has_gradients(source: str) -> bool:
    """Whether the model's own gradients can be relied on.

    What is written through `.data` is hidden from autograd, and a checkpoint that computes again in the backward finds
    other state than in the forward.
    """
    own = source.removeprefix(PRELUDE)
    return not re.search(r"\.data\b", own) and not ("checkpoint(" in own and re.search("spectral_norm|_buffer", own))
