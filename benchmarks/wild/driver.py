"""Examines the collection, a child process for some models of one library at a time, and counts what came out."""

from __future__ import annotations

import multiprocessing
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from benchmarks import report
from benchmarks.child import Child
from benchmarks.wild.checks import APART, CRASHED, REFUSED, RIGHT, WRONG, Task, examine
from benchmarks.wild.libraries import DISTRIBUTIONS, LEFT_OUT, LIBRARIES

AT_ONCE = 12  # models that one process examines: what a library patches or keeps does not reach the next ones
PRELOADED = ["transformers.modeling_utils", "transformers.generation"]  # which most models of transformers import
WORST_FIRST = (WRONG, CRASHED, REFUSED, RIGHT, APART)


@dataclass
class Row:
    """One place of a model, or a model that was not examined."""

    library: str
    model: str
    place: str = ""
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)  # of each check: its kind and the reason
    apart: str = ""  # why the model was not examined

    @property
    def first(self) -> str:
        """Of the cut and its first call in evaluation, as users meet it."""
        return self._worst("built", "eval")

    @property
    def all(self) -> str:
        return self._worst(*self.outcomes)

    def _worst(self, *checks: str) -> str:
        kinds = {self.outcomes[check]["kind"] for check in checks if check in self.outcomes}
        kinds = {APART} if self.apart else kinds - {APART} or kinds
        return next(kind for kind in WORST_FIRST if kind in kinds)


def rows_of(
    library: str, names: list[str], live: bool, limit: float, end: float, tick: Callable[[str], None]
) -> Iterator[list[Row]]:
    """The rows of these models, some at a time; a step may take `limit` seconds, and no process begins after `end`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.wild.libraries", "benchmarks.wild.checks", *PRELOADED])
    rest = list(names)
    while rest and time.monotonic() < end:
        rows: list[Row] = []
        chunk, rest = rest[:AT_ONCE], rest[AT_ONCE:]
        done = list(_chunk(context, Task(library, chunk, live), limit, rows, tick))
        rest = [name for name in chunk if name not in done] + rest
        yield rows
    yield [Row(library, name, apart="not reached in the time given") for name in rest]


def _chunk(context: Any, task: Task, limit: float, rows: list[Row], tick: Callable[[str], None]) -> Iterator[str]:
    """Adds to `rows`, and yields the names of the models that were examined or given up."""
    model = place = ""
    with Child(context, examine, task) as child:
        while child.messages.poll(limit):
            kind, *message = child.messages.recv()
            if kind == "end":
                return
            if kind == "model":
                model, place = message[0], ""
                tick(model)
                yield model
            elif kind == "place":
                place = message[0]
            elif kind == "done":
                rows.append(Row(task.library, model, place, message[0]))
                place = ""
            else:
                rows.append(Row(task.library, model, apart=message[0]))
    reason = child.died or f"took longer than {limit:g} s"
    if place:
        rows.append(Row(task.library, model, place, {"built": {"kind": CRASHED, "reason": reason}}))
    elif model:
        rows.append(Row(task.library, model, apart=reason))
    else:
        rows += [Row(task.library, name, apart=f"the library does not start: {reason}") for name in task.names]
        yield from task.names


def conduct(
    libraries: str, words: str, live: bool, limit: float, minutes: float, keep: Callable[[list[Row]], None]
) -> list[Row]:
    """All rows, which are also handed to `keep` each time that a process ends."""
    end = time.monotonic() + 60 * minutes
    rows: list[Row] = []
    with Progress() as progress:
        for library, entries in LIBRARIES.items():
            if libraries and library not in libraries.split(","):
                continue
            try:
                names = [name for name in entries() if any(word in name for word in words.split(","))]
            except Exception as error:
                rows.append(Row(library, "all", apart=f"{type(error).__name__}: {error}"[:300]))
                continue
            random.Random(0).shuffle(names)  # so that what the time reaches of many models is a fair sample
            bar = progress.add_task(library, total=len(names))

            def tick(name: str, bar: Any = bar, library: str = library) -> None:
                progress.update(bar, description=f"{library} {name}", advance=1)

            for some in rows_of(library, names, live, limit, end, tick):
                rows += some
                keep(rows)
    return rows


def summary(rows: list[Row]) -> str:
    by_library: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_library[row.library].append(row)
    shown = [_line(library, own) for library, own in by_library.items()]
    columns = (
        "library",
        "models",
        "run",
        "places",
        "right",
        "wrong",
        "refused",
        "crashed",
        "not comparable",
        "all right",
    )
    parts = [report.table(columns, [*shown, _line("**all**", rows)])]
    if any(row.outcomes for row in rows):
        parts.append(report.table(("check", *WORST_FIRST), _by_check(rows)))
    for kind in (WRONG, CRASHED):
        where = [
            f"- {row.library} {row.model}, `{row.place}`: {check}: {outcome['reason'][:160]}"
            for row in rows
            for check, outcome in row.outcomes.items()
            if outcome["kind"] == kind
        ]
        parts += [f"Where it is {kind}:\n\n" + "\n".join(where)] if where else []
    causes = Counter(
        cause(outcome["reason"])
        for row in rows
        for check, outcome in row.outcomes.items()
        if outcome["kind"] == REFUSED and check != "train"
    )
    parts += [_listed("Refusals, by cause", causes)] if causes else []
    apart = Counter(cause(row.apart) for row in rows if row.apart)
    parts += [_listed("Models that were not examined, by cause", apart)] if apart else []
    return "\n\n".join(parts)


def _line(library: str, rows: list[Row]) -> tuple[Any, ...]:
    models, run = {(r.library, r.model) for r in rows}, {(r.library, r.model) for r in rows if not r.apart}
    places = [row for row in rows if row.outcomes]
    kinds = Counter(row.first for row in places)
    every = sum(row.all == RIGHT for row in places)
    counts = [kinds[kind] for kind in (RIGHT, WRONG, REFUSED, CRASHED, APART)]
    return library, len(models), len(run), len(places), *counts, every


def _by_check(rows: list[Row]) -> Iterator[tuple[Any, ...]]:
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for check, outcome in row.outcomes.items():
            kinds[re.sub(r" \d+$", "s", check)][outcome["kind"]] += 1
    for check, counts in kinds.items():
        yield check, *(counts[kind] for kind in WORST_FIRST)


def cause(reason: str) -> str:
    """A reason without names and numbers, so that like ones count together."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "…", reason)
    text = re.sub(r"\b[\w.]*(\.\w+)+\b(?=[ :,(])", "…", text)
    text = re.sub(r"-?\d[\d.,]*", "N", text)
    return text if len(text) <= 140 else f"{text[:140].rpartition(' ')[0]} …"


def _listed(title: str, counts: Counter[str]) -> str:
    return f"{title}:\n\n" + "\n".join(f"- {count} × {text}" for text, count in counts.most_common(60))


def main(libraries: str, models: str, live: bool, limit: float, minutes: float, write: bool, path: Path | None) -> None:
    """Examines, and prints the summary; `write` puts it into docs/benchmarks.md; each row goes as JSON to a `path`."""
    begin = time.monotonic()
    facts = report.surroundings(*(name for names in DISTRIBUTIONS.values() for name in names))

    def keep(rows: list[Row]) -> None:
        if path is not None:
            report.save(path, facts, [asdict(row) for row in rows])

    rows = conduct(libraries, models, live, limit, minutes, keep)
    took = f"It took {(time.monotonic() - begin) / 60:.0f} minutes."
    left = "\n".join(f"- {name}: {reason}" for name, reason in LEFT_OUT.items())
    text = f"{report.sentence(facts)} {took}\n\n{summary(rows)}\n\nLibraries that are left out:\n\n{left}"
    click.echo(text)
    if write:
        report.write("conformance wild", text)
