"""Random generators: restored after a forward has run, and watched for draws that no graph shows."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Torch holds the lock of a generator while it makes the tensor for its state, and Python may switch threads meanwhile:
# if the other thread asks for the state too, both wait for ever.
_one_at_a_time = threading.Lock()


def states_of_torch(gpus: bool = True) -> list[torch.Tensor]:
    """The states of torch's generators: of the CPU, and of each GPU if CUDA was initialized."""
    with _one_at_a_time:
        started = gpus and torch.cuda.is_initialized()
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if started else ())]


def _set_states_of_torch(states: list[torch.Tensor]) -> None:
    with _one_at_a_time:
        torch.set_rng_state(states[0])
        for gpu, state in enumerate(states[1:]):
            torch.cuda.set_rng_state(state, gpu)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Restores every generator afterwards."""
    before = states_of_torch()
    try:
        with python_draws_watched():
            yield
    finally:
        _set_states_of_torch(before)


@contextlib.contextmanager
def python_draws_watched() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether Python's or numpy's generator was used so far; both are restored."""
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
    """The same for torch's generator of the CPU too, which is not used while a forward is followed on proxies."""
    before = states_of_torch(gpus=False)
    changed: list[bool] = []
    with python_draws_watched() as drawn:
        try:
            yield lambda: drawn() or changed[0]
        finally:
            changed.append(not same_states(before, states_of_torch(gpus=False)))
            if changed[0]:
                _set_states_of_torch(before)


def same_states(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return len(before) == len(after) and all(map(torch.equal, before, after))


def _python_states() -> tuple[Any, Any]:
    numpy = sys.modules.get("numpy")
    return random.getstate(), numpy.random.get_state() if numpy is not None else None


def _same(before: tuple[Any, Any], after: tuple[Any, Any]) -> bool:
    if before[0] != after[0] or (before[1] is None) != (after[1] is None):
        return False
    return before[1] is None or (before[1][2] == after[1][2] and bool((before[1][1] == after[1][1]).all()))
