"""Whether a cut returns what the untouched model has at the same target, and how much time it saves.

This looks at the model from outside, with hooks, and shares nothing with the code that made the cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from truncate._build import same
from truncate._graph import tensors_in
from truncate._sandbox import cloned, random_state_kept
from truncate._target import Target, item_of


def differing(
    model: nn.Module, targets: Mapping[str, Target], outputs: Mapping[str, Any], args: tuple[Any, ...]
) -> list[str]:
    """Runs the untouched model, and says at which targets it has something else than the output of a cut."""
    watches = {name: _watch(target, outputs[name]) for name, target in targets.items()}
    with contextlib.ExitStack() as stack, same_random_numbers(), torch.no_grad():
        for watch in watches.values():
            stack.enter_context(watch.watching())
        model(*args)
    return [name or "the model itself" for name, watch in watches.items() if not watch.agrees()]


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """The same random numbers for whatever runs inside, and none taken from the caller's generators."""
    with random_state_kept():
        torch.manual_seed(0)
        yield


@dataclasses.dataclass
class _OnModule:
    """Sees what each call of a module returns."""

    target: Target
    expected: Any
    seen: list[Any] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        def see(module: nn.Module, args: Any, output: Any) -> None:
            self.seen.append(cloned(output))

        hook = self.target.module.register_forward_hook(see)
        try:
            yield
        finally:
            hook.remove()

    def agrees(self) -> bool:
        return bool(self.seen) and same(item_of(self.seen[self.target.call], self.target.items), self.expected)


@dataclasses.dataclass
class _BeforeModule(_OnModule):
    """Sees what each call of a module is given."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        def see(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.seen.append(cloned(list(tensors_in((args, kwargs)))))

        hook = self.target.module.register_forward_pre_hook(see, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def agrees(self) -> bool:
        """Of what it is given, a cut returns what holds values of the pass."""
        given = self.seen[self.target.call] if self.seen else []
        expected = list(tensors_in(self.expected))
        return bool(expected) and all(any(same(one, tensor) for tensor in given) for one in expected)


class _OnOperation(TorchDispatchMode):
    """Sees what operations return, or are given, where no hook reaches.

    Their names are our own, so this only asks whether operations had exactly the expected values. It looks below
    autograd, since some modules run other code while their functions are watched from above.
    """

    def __init__(self, before: bool, expected: Any) -> None:
        super().__init__()
        self._before = before
        self._missing = list(tensors_in(expected))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._strike(self._before and (args, kwargs))
        output = func(*args, **(kwargs or {}))
        self._strike(not self._before and output)
        return output

    def _strike(self, values: Any) -> None:
        for tensor in tensors_in(values):
            self._missing = [expected for expected in self._missing if not same(expected, tensor)]

    def agrees(self) -> bool:
        return not self._missing


def _watch(target: Target, expected: Any) -> _OnModule | _OnOperation:
    if not target.is_module:
        return _OnOperation(target.before, expected)
    return _BeforeModule(target, expected) if target.before else _OnModule(target, expected)


def times(whole: Callable[[], Any], part: Callable[[], Any], seconds: float = 2.0) -> tuple[float, float]:
    """The median time of each, taken in turns, so that whatever else the machine does meets both alike."""
    taken: tuple[list[float], list[float]] = ([], [])
    whole(), part()  # the first run of anything takes longer
    end = time.perf_counter() + seconds
    while len(taken[0]) < 3 or (time.perf_counter() < end and len(taken[0]) < 100):
        for run, into in ((whole, taken[0]), (part, taken[1])):
            start = time.perf_counter()
            run()
            into.append(time.perf_counter() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])
