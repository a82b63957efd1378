"""Random generators: kept as they are while a forward runs for us, and watched where they are beyond our sight."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch


def states_of_torch() -> list[torch.Tensor]:
    """The states of torch's generators, of the CPU and of each GPU that was started."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """What runs inside draws random numbers and leaves every generator as it was."""
    # Asking a GPU for its state would start it, and one that was not started has drawn nothing.
    gpus = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    with torch.random.fork_rng(devices=list(range(gpus))), python_draws_watched():
        yield


@contextlib.contextmanager
def python_draws_watched() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether Python's or numpy's generator was used so far; both are put back."""
    before = _python_states()
    changed: list[bool] = []
    try:
        yield lambda: changed[0] if changed else not _same(before, _python_states())
    finally:
        changed.append(not _same(before, _python_states()))
        if changed[0]:
            random.setstate(before[0])
            if before[1] is not None:
                sys.modules["numpy"].random.set_state(before[1])


@contextlib.contextmanager
def random_state_watched() -> Iterator[Callable[[], bool]]:
    """Likewise for torch's generator of the CPU too, which following a forward on stand-ins does not use."""
    before = torch.get_rng_state()
    changed: list[bool] = []
    with python_draws_watched() as drawn:
        try:
            yield lambda: drawn() or changed[0]
        finally:
            changed.append(not torch.equal(before, torch.get_rng_state()))
            if changed[0]:
                torch.set_rng_state(before)


def _python_states() -> tuple[Any, Any]:
    numpy = sys.modules.get("numpy")
    return random.getstate(), numpy.random.get_state() if numpy is not None else None


def _same(before: tuple[Any, Any], after: tuple[Any, Any]) -> bool:
    if before[0] != after[0] or (before[1] is None) != (after[1] is None):
        return False
    return before[1] is None or (before[1][2] == after[1][2] and bool((before[1][1] == after[1][1]).all()))
