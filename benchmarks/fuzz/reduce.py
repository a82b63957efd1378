"""Makes a failing case small: leaves out parts of the cut and of the model while the same failure comes of it."""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from benchmarks.fuzz.cuts import Cut, Run
from benchmarks.fuzz.edits import edits_of
from benchmarks.fuzz.seeds import Case
from benchmarks.fuzz.trial import Outcome, attempt


class Late(BaseException):
    """What is left of a model may loop for ever."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(case: Case) -> Outcome | None:
    """None if it cannot be tried."""
    modules = set(sys.modules)
    try:
        with within(20):
            return attempt(case)
    except (Exception, Late):
        return None
    finally:
        for name in set(sys.modules) - modules:
            if name.startswith("fuzz_"):
                del sys.modules[name]


def reduced(case: Case, tell: Callable[[str], None] = lambda text: None) -> tuple[Case, Outcome]:
    """The smallest case found that fails in the same way, and how."""
    first = outcome_of(case)
    assert first is not None

    def fails(other: Case) -> bool:
        if (len(other.source), other.cut) == (len(case.source), case.cut):
            return False
        outcome = outcome_of(other)
        return outcome is not None and (outcome.kind, outcome.cause) == (first.kind, first.cause)

    size = None
    while size != (size := (len(case.source), str(case.cut), case.cut.runs)):
        for smaller in (_smaller_cuts, _smaller_sources):
            place, found = 0, False
            while True:
                # What has failed to fail before the place where an edit was made is tried again in the next round.
                for number, other in enumerate(smaller(case, place), place):
                    if fails(other):
                        case, place, found = other, number, True
                        tell(f"{len(case.source.splitlines())} lines, {case.cut}")
                        break
                else:
                    if not found:
                        break
                    place, found = 0, False
    outcome = outcome_of(case)
    assert outcome is not None
    return case, outcome


def _smaller_cuts(case: Case, start: int) -> Iterator[Case]:
    """Each with one option left out."""
    yield from islice(_changed_cuts(case), start, None)


def _changed_cuts(case: Case) -> Iterator[Case]:
    cut = case.cut

    def changed(**fields: Any) -> Case:
        return Case(case.source, dataclasses.replace(cut, **fields))

    simplest: dict[str, Any] = {"example": None, "live": None, "copy": False, "flags": None, "through": ""}
    for name, value in simplest.items():
        if getattr(cut, name) != value:
            yield changed(**{name: value})
    if cut.flags:
        yield changed(flags=0)
    for number in range(len(cut.runs) if len(cut.runs) > 1 else 0):
        yield changed(runs=cut.runs[:number] + cut.runs[number + 1 :])
    if len(cut.targets) > 1:
        for number in range(len(cut.targets)):
            yield changed(targets=cut.targets[:number] + cut.targets[number + 1 :])
    elif cut.form != "one":
        yield changed(form="one")
    for number, run in enumerate(cut.runs):
        for field in dataclasses.fields(Run):
            if getattr(run, field.name) != field.default:
                simpler = dataclasses.replace(run, **{field.name: field.default})
                yield changed(runs=(*cut.runs[:number], simpler, *cut.runs[number + 1 :]))
    if any(run.optional for run in cut.runs):
        yield _without_optional(case)


def _without_optional(case: Case) -> Case:
    runs = tuple(dataclasses.replace(run, optional=False) for run in case.cut.runs)
    example = case.cut.example and dataclasses.replace(case.cut.example, optional=False)
    return Case(case.source, dataclasses.replace(case.cut, runs=runs, example=example))


def _smaller_sources(case: Case, start: int) -> Iterator[Case]:
    """Each with one edit; those that take most away come first."""
    tree = ast.parse(case.source)
    edits = sorted(edits_of(tree), key=lambda edit: -edit[0])
    for _, number, change in edits[start:]:
        twin = copy.deepcopy(tree)
        change(list(ast.walk(twin))[number])
        try:
            source = ast.unparse(ast.fix_missing_locations(twin)) + "\n"
        except Exception:  # an edit that leaves nothing where Python wants something
            source = case.source
        yield Case(source, case.cut)


def describe(cut: Cut) -> str:
    """The cut, and all that is not in how a user writes it."""
    flags = "in evaluation" if cut.flags is None else "in training" if cut.flags == 0 else f"flags of seed {cut.flags}"
    runs = "\n".join(f"  {run}" for run in cut.runs)
    return f"{cut}, cut {flags}{', then through ' * bool(cut.through)}{cut.through}\n{runs}"
