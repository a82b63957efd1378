"""Makes a failing case small: leaves out parts of the cut and of the model while the same failure comes of it."""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.fuzz.cuts import Cut, Run
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
            return attempt(case.cut, case.make)
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
        outcome = outcome_of(other)
        return outcome is not None and (outcome.kind, outcome.cause) == (first.kind, first.cause)

    size = None
    while size != (size := (len(case.source), len(str(case.cut)) + len(case.cut.runs))):
        for smaller in (_smaller_cuts, _smaller_sources):
            found = True
            while found:
                found = False
                for other in smaller(case):
                    if fails(other):
                        case, found = other, True
                        tell(f"{len(case.source.splitlines())} lines, {case.cut}")
                        break
    outcome = outcome_of(case)
    assert outcome is not None
    return case, outcome


def _smaller_cuts(case: Case) -> Iterator[Case]:
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


def _smaller_sources(case: Case) -> Iterator[Case]:
    """Each with one edit; those that take most away come first."""
    tree = ast.parse(case.source)
    edits = sorted(_edits(tree), key=lambda edit: -edit[0])
    for _, number, change in edits:
        twin = copy.deepcopy(tree)
        change(list(ast.walk(twin))[number])
        with contextlib.suppress(Exception):
            source = ast.unparse(ast.fix_missing_locations(twin)) + "\n"
            if len(source) < len(case.source):
                yield Case(source, case.cut)


Edit = tuple[int, int, Callable[[Any], None]]  # what it takes away, the number of a node, and what is done to that


def _edits(tree: ast.Module) -> Iterator[Edit]:
    for number, node in enumerate(ast.walk(tree)):
        for name in ("body", "orelse", "handlers"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield from _in_block(number, name, block, isinstance(node, ast.Module) or name != "body")
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr) and not isinstance(value, (ast.Name, ast.Constant)):
                yield from _in_expression(number, name, None, value)
            elif isinstance(value, list) and name not in ("targets", "decorator_list"):
                yield from _in_list(number, name, value)


def _in_block(number: int, name: str, block: list[Any], may_be_empty: bool) -> Iterator[Edit]:
    for size in (len(block) // 2, len(block) // 4, 1):
        for start in range(0, len(block), size) if size else ():
            weight = sum(len(ast.unparse(each)) for each in block[start : start + size])

            def leave_out(node: Any, start: int = start, size: int = size) -> None:
                rest = getattr(node, name)
                del rest[start : start + size]
                if not rest and not may_be_empty:
                    rest.append(ast.Pass())

            if not all(isinstance(each, ast.Pass) for each in block):
                yield weight, number, leave_out
    for position, each in enumerate(block):
        for inner in ("body", "orelse"):
            if isinstance(each, (ast.If, ast.For, ast.While, ast.With, ast.Try)) and getattr(each, inner, []):

                def flatten(node: Any, position: int = position, inner: str = inner) -> None:
                    rest = getattr(node, name)
                    rest[position : position + 1] = getattr(rest[position], inner)

                yield 20, number, flatten


def _in_list(number: int, name: str, values: list[Any]) -> Iterator[Edit]:
    """Items, arguments and keywords, which are left out or made simpler."""
    for position, value in enumerate(values):
        if not isinstance(value, (ast.expr, ast.keyword)):
            continue

        def leave_out(node: Any, position: int = position) -> None:
            del getattr(node, name)[position]
            if isinstance(node, ast.Dict):
                del node.keys[position]

        if name != "keys":
            yield len(ast.unparse(value)), number, leave_out
        if isinstance(value, ast.expr) and not isinstance(value, (ast.Name, ast.Constant)):
            yield from _in_expression(number, name, position, value)


def _in_expression(number: int, name: str, position: int | None, value: ast.expr) -> Iterator[Edit]:
    """A part of an expression, or a simple module, in the place of the whole."""
    parts: list[ast.expr] = [part for part in ast.walk(value) if isinstance(part, ast.expr) and part is not value]
    if isinstance(value, ast.Call):
        parts.append(ast.parse("nn.Identity()", mode="eval").body)
    whole = len(ast.unparse(value))
    for part in parts:
        if isinstance(part, ast.Constant) or not isinstance(getattr(part, "ctx", None), (ast.Load, type(None))):
            continue

        def replace(node: Any, part: ast.expr = part) -> None:
            if position is None:
                setattr(node, name, copy.deepcopy(part))
            else:
                getattr(node, name)[position] = copy.deepcopy(part)

        if (saved := whole - len(ast.unparse(part))) > 0:
            yield saved, number, replace


def describe(cut: Cut) -> str:
    """The cut, and all that is not in how a user writes it."""
    flags = "in evaluation" if cut.flags is None else "in training" if cut.flags == 0 else f"flags of seed {cut.flags}"
    runs = "\n".join(f"  {run}" for run in cut.runs)
    return f"{cut}, cut {flags}{', then through ' * bool(cut.through)}{cut.through}\n{runs}"
