"""What is checked of `truncate` at three places of one model. This runs in a child process."""

from __future__ import annotations

import copy
import functools
import io
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from oracle import capture, cloned, equal, tensors_in
from torch import nn
from zoo import without_dropout

from benchmarks.wild.made import Call, Made
from truncate import TruncateError, truncate

RIGHT, WRONG, REFUSED, CRASHED, APART = "right", "wrong", "refused", "crashed", "not comparable"


@dataclass
class Outcome:
    kind: str
    reason: str = ""


@dataclass
class Task:
    """The models of one library that one process examines in turn."""

    library: str
    names: list[str]
    live: bool


def run(model: Callable[..., Any], call: Call, seed: int = 1) -> Any:
    args, kwargs = cloned(list(call[0])), cloned(call[1])
    torch.manual_seed(seed)
    return model(*args, **kwargs)


def captured(model: nn.Module, path: str, calls: list[Call]) -> list[Any]:
    """What a hook at `path` captures in each call in turn, the last time that it runs; an exception where that fails.

    The calls are of one copy, and so are those of a cut: a model may carry state from one to the next.
    """
    model = copy.deepcopy(model)
    values: list[Any] = []
    for call in calls:
        try:
            values.append(run(functools.partial(capture, model, [path]), call)[path][-1])
        except Exception as error:
            values.append(error)
    return values


def places(model: nn.Module, call: Call) -> list[str]:
    """An early, a middle and a late module of those that run, in the order in which they return for the last time."""
    model = copy.deepcopy(model)
    last: dict[str, int] = {}
    inside: dict[str, nn.Module] = {path: module for path, module in model.named_modules() if path}
    clock = iter(range(10**9))
    handles = [
        module.register_forward_hook(
            lambda m, args, out, path=path: last.update({path: next(clock)}) if tensors_in(out) else None
        )
        for path, module in inside.items()
    ]
    run(model, call)
    for handle in handles:
        handle.remove()
    order = sorted(last, key=last.__getitem__)
    leaves = [path for path in order if not any(True for _ in inside[path].children())] or order
    if not leaves:
        return []
    norms = [path for path in leaves if "norm" in type(inside[path]).__name__.lower()]
    middle = sorted(leaves, key=lambda path: abs(leaves.index(path) - len(leaves) // 2))
    deep = [path for path in middle if path.count(".") >= 2 and len(leaves) > 3]
    return list(dict.fromkeys([leaves[0], (deep or middle)[0], norms[-1] if norms[1:] else leaves[-1]]))


def _judged(check: Callable[[], bool]) -> Outcome:
    try:
        return Outcome(RIGHT) if check() else Outcome(WRONG, "returns another value")
    except (TruncateError, AssertionError) as error:
        return Outcome(REFUSED, _said(error))
    except Exception as error:
        return Outcome(CRASHED, _said(error))


def _said(error: BaseException) -> str:
    lines = str(error).strip().split("\n")
    return f"{type(error).__name__}: {lines[0]}"[:400]


class Examination:
    def __init__(self, made: Made, live: bool) -> None:
        self.model, self.calls = made.model, [(made.args, made.kwargs), *made.others]
        self.options = {"live": True} if live else {}
        with torch.no_grad():
            once, again = (run(copy.deepcopy(self.model), self.calls[0]) for _ in range(2))
            if not equal(once, again):
                raise ValueError("two runs from one seed differ")
            self.places = places(self.model, self.calls[0])
        if not self.places:
            raise ValueError("no module inside returns a tensor")
        self.pickles = _judged(lambda: pickle.loads(pickle.dumps(self.model)) is not None).kind == RIGHT

    def outcomes(self, path: str) -> dict[str, Outcome]:
        """Of the cut in evaluation, of its copies, and of one in training; no more where there is no cut."""
        cuts: list[nn.Module] = []
        model = copy.deepcopy(self.model)
        made = _judged(lambda: cuts.append(truncate(model, path, **self.options)) is None)
        if made.kind != RIGHT:
            return {"built": made}
        with torch.no_grad():
            expected = captured(self.model, path, self.calls)
        twins: dict[str, Any] = {}
        for name, twin in {"deepcopy": copy.deepcopy, "pickle": lambda cut: pickle.loads(pickle.dumps(cut))}.items():
            if name == "deepcopy" or self.pickles:
                try:
                    twins[name] = twin(cuts[0])
                except Exception as error:
                    twins[name] = error
        outcomes = {"built": made}
        for number, (call, value) in enumerate(zip(self.calls, expected)):
            outcomes["eval" if number == 0 else f"other call {number}"] = self._agrees(cuts[0], call, value)
        if outcomes["eval"].kind == RIGHT:
            for name, twin in twins.items():
                failed = isinstance(twin, Exception)
                outcomes[name] = (
                    Outcome(CRASHED, _said(twin)) if failed else self._agrees(twin, self.calls[0], expected[0])
                )
        outcomes["train"] = self._trained(copy.deepcopy(self.model), path)
        if outcomes["train"].kind == WRONG:  # what a cut leaves out may have drawn random numbers before the place
            outcomes["train"] = self._trained(without_dropout(self.model), path)
            if outcomes["train"].kind == WRONG and self._draws(path):
                outcomes["train"] = Outcome(APART, "random numbers are drawn that are no dropout's")
        return outcomes

    @torch.no_grad()
    def _draws(self, path: str) -> bool:
        """Whether the value at `path` hangs on the seed in training, even without dropout."""
        model = without_dropout(self.model).train()
        one, other = (
            run(functools.partial(capture, copy.deepcopy(model), [path]), self.calls[0], seed)[path] for seed in (1, 2)
        )
        return not equal(one, other)

    @torch.no_grad()
    def _agrees(self, cut: nn.Module, call: Call, expected: Any) -> Outcome:
        if isinstance(expected, Exception):
            return Outcome(APART, _said(expected))
        return _judged(lambda: equal(run(cut, call), expected))

    def _trained(self, model: nn.Module, path: str) -> Outcome:
        model.train()
        try:
            with torch.no_grad():
                one, other = (captured(model, path, self.calls[:1])[0] for _ in range(2))
        except Exception as error:  # such as a model that does not copy any more
            return Outcome(APART, _said(error))
        if isinstance(one, Exception):
            return Outcome(APART, _said(one))
        if not equal(one, other):
            return Outcome(APART, "random in training")
        cuts: list[nn.Module] = []
        made = _judged(lambda: cuts.append(truncate(model, path, **self.options)) is None)
        return self._agrees(cuts[0], self.calls[0], one) if cuts else made


def examine(task: Task, pipe: Connection) -> None:
    """Sends ``("model", name)``, ``("place", path)`` and ``("done", outcomes)``, or ``("failed", reason)``."""
    from benchmarks.wild.libraries import LIBRARIES

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    entries = LIBRARIES[task.library]()
    for name in task.names:
        pipe.send(("model", name))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            for message in _messages(entries[name], task.live):
                pipe.send(message)
    pipe.send(("end",))


def _messages(make: Callable[[], Made], live: bool) -> Iterator[tuple[Any, ...]]:
    try:
        examination = Examination(make(), live)
    except Exception as error:
        yield "failed", _said(error)
        return
    for path in examination.places:
        yield "place", path
        try:
            outcomes = examination.outcomes(path)
        except Exception as error:  # outside of the cut, as in copying the model
            outcomes = {"built": Outcome(APART, _said(error))}
        yield "done", {name: vars(outcome) for name, outcome in outcomes.items()}
