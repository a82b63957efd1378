"""Random generators: restored after a forward has run, and watched for draws that no graph shows."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Iterator
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
def random_state_kept(listening: bool = True) -> Iterator[None]:
    """Puts back afterwards what a model draws that really runs, and of torch and numpy what other threads draw.

    `listening`: also what it draws from Python beside other threads, which takes longer.
    """
    before = states_of_torch()
    try:
        with draws_watched(torch_too=False, listening=listening):
            yield
    finally:
        if not same_states(before, states_of_torch()):
            _set_states_of_torch(before)


class Draws:
    """What is known of the random numbers that this thread has drawn from the generators of the process."""

    def __init__(self, torch_too: bool) -> None:
        self.torch_too = torch_too
        self._before = self._states()
        # Beside other threads a state that has changed tells nothing, and to restore it would repeat their numbers.
        self.alone = threading.active_count() == 1
        self.listened = False
        self.heard = False
        self._ended: bool | None = None

    def __call__(self) -> bool:
        """Whether numbers were drawn so far, or a generator was seeded: by this thread, or perhaps by another one."""
        if self.listened:
            return self.heard
        return self.heard or (self._changed() if self._ended is None else self._ended)

    @property
    def may_be_of_others(self) -> bool:
        """Whether other threads may have drawn what was drawn."""
        return not (self.alone or self.listened or self.heard)

    def end(self) -> None:
        """Puts back what this thread drew."""
        self._ended = self._changed()
        numpy = self._before[1]
        if not self._ended:
            return
        if self.alone or self.heard:
            self.put_back()
        elif numpy is not None and not self.torch_too:
            # A model that really runs may draw from numpy where nobody hears it, and has to draw the same again.
            sys.modules["numpy"].random.set_state(numpy)

    def put_back(self) -> None:
        """Sets all generators to what they were."""
        python, numpy, torchs = self._before
        random.setstate(python)
        if torchs:
            _set_states_of_torch(torchs)
        if numpy is not None:
            sys.modules["numpy"].random.set_state(numpy)

    def _changed(self) -> bool:
        python, numpy, torchs = self._states()
        if python != self._before[0] or (numpy is None) != (self._before[1] is None):
            return True
        if numpy is not None and (numpy[2:] != self._before[1][2:] or bool((numpy[1] != self._before[1][1]).any())):
            return True
        return not same_states(self._before[2], torchs)

    def _states(self) -> tuple[Any, Any, list[torch.Tensor]]:
        numpy = sys.modules.get("numpy")
        torchs = states_of_torch(gpus=False) if self.torch_too else []
        return random.getstate(), numpy.random.get_state() if numpy is not None else None, torchs


class _OfThisThread(threading.local):
    watching: tuple[Draws, ...] = ()


_of_this_thread = _OfThisThread()


def draws_from_numpy() -> None:
    """Tells those who watch in this thread that numpy's generator is used, whose functions cannot be listened to."""
    _note()


def _note(of_torch: bool = False) -> None:
    for draws in _of_this_thread.watching:
        draws.heard |= draws.torch_too or not of_torch


@contextlib.contextmanager
def draws_watched(torch_too: bool, listening: bool) -> Iterator[Draws]:
    """Watches what this thread draws from the generators of Python and numpy, and of torch if it runs no operations.

    By their states before and after; where other threads run, `listening` hears the calls of this one instead.
    """
    draws = Draws(torch_too)
    watching = _of_this_thread.watching
    _of_this_thread.watching = (*watching, draws)
    profile = sys.getprofile()
    draws.listened = listening and not draws.alone and profile in (None, _hear)  # a profiler of the user's stays
    try:
        if draws.listened:
            sys.setprofile(_hear)
        yield draws
    finally:
        if draws.listened:
            sys.setprofile(profile)
        _of_this_thread.watching = watching
        draws.end()


def python_draws_watched() -> contextlib.AbstractContextManager[Draws]:
    """The same while operations of torch run, whose numbers do not count."""
    return draws_watched(torch_too=False, listening=True)


def _hear(frame: Any, event: str, called: Any) -> None:
    if event == "c_call" and getattr(called, "__name__", "") not in _IGNORED:
        generator = id(getattr(called, "__self__", None))
        if generator == _PYTHONS:
            _note()
        elif generator == _TORCHS:
            _note(of_torch=True)


_PYTHONS, _TORCHS = id(random.random.__self__), id(torch.default_generator)  # type: ignore[attr-defined]
# Torch's own functions put back a state when they have drawn, and operations of torch are seen otherwise.
_IGNORED = frozenset(("getstate", "setstate", "get_state", "set_state", "initial_seed", "device", "clone_state"))


def same_states(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    # By their bytes: a mode of the caller, of fake tensors perhaps, would take part in an operation.
    return [bytes(state.numpy()) for state in before] == [bytes(state.numpy()) for state in after]
