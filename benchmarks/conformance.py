"""On how many models truncate is right, beside other extractors: ``python -m benchmarks.conformance timm``.

Each model is examined in a process of its own, which is given up when a step takes too long or the process dies; what
it did not come to is then examined in another one.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import Progress

from benchmarks import report
from benchmarks.checks import ASKING, CHECKS, DIFFERS, Outcome, Task, examine
from benchmarks.child import Child
from benchmarks.extractors import EXTRACTORS, ON_EXAMPLE, PLAIN
from benchmarks.models import LIBRARIES

PACKAGES = {"timm": ["timm"], "transformers": ["transformers"]}
REFUSES = ("unlike the example that this was cut on", "cut on an example with")
PEERS = ("surgeon-pytorch", "torchextractor")


@dataclass
class Record:
    """One extractor at one place of one model."""

    model: str
    place: str
    extractor: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        return all(outcome is True for outcome in self.outcomes.values())

    @property
    def asks(self) -> bool:
        """Whether an error said that an example is needed."""
        return any(str(outcome).startswith(ASKING) for outcome in self.outcomes.values())

    @property
    def wrong(self) -> bool:
        """Whether another value came back somewhere, and no error."""
        return DIFFERS in self.outcomes.values()


@dataclass
class Results:
    records: list[Record] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)  # models that do not run by themselves
    left_out: list[str] = field(default_factory=list)  # models that the time did not reach


def conduct(tasks: list[Task], limit: float, seconds: float, at_once: int) -> Results:
    """Examines `at_once` models at a time until `seconds` are over; a step may take `limit` of them."""
    library = tasks[0].library
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.checks", *PACKAGES.get(library, ["torchvision"])])
    results, end = Results(), time.monotonic() + seconds

    def examined(task: Task) -> list[Record] | None:
        return None if time.monotonic() > end else list(_examine(context, task, limit, results.unusable))

    with Progress() as progress, ThreadPoolExecutor(at_once) as threads:
        bar = progress.add_task(library, total=len(tasks))
        for task, records in zip(tasks, threads.map(examined, tasks), strict=True):
            progress.update(bar, description=f"{library} {task.name}", advance=1)
            if records is None:
                results.left_out.append(task.name)
            else:
                results.records += records
    return results


def _examine(context: Any, task: Task, limit: float, unusable: dict[str, str]) -> Iterator[Record]:
    done, alive = 0, True
    while alive:
        record, alive = None, False
        with Child(context, examine, task, done) as child:
            while child.messages.poll(limit):
                kind, *message = child.messages.recv()
                if kind == "begin":
                    done, record = message[0], Record(task.name, *message[1:])
                elif kind == "done":
                    record.outcomes = message[0]
                    yield record
                    record = None
                else:
                    unusable.update({task.name: message[0]} if kind == "failed" else {})
                    return
        reason = child.died or f"took longer than {limit:g} s"
        if record is None:
            unusable[task.name] = reason
        else:
            record.outcomes = {"built": reason}
            yield record
            alive = True


def summary(results: Results) -> str:
    """The table, and below it where truncate failed and what was left out."""
    places = {(record.model, record.place) for record in results.records}
    models = {record.model for record in results.records}
    shown = [check for check in CHECKS if any(check in record.outcomes for record in results.records)]
    rows = []
    for extractor in EXTRACTORS:
        own = [record for record in results.records if record.extractor == extractor.name]
        if own:
            counts = [_count(own, check) for check in shown]
            right, wrong = sum(record.right for record in own), sum(record.wrong for record in own)
            rows.append((extractor.name, len(own), *counts, f"**{right}**", f"**{wrong}**"))
    parts = [
        f"{len(models)} models, {len(places)} places.",
        report.table(("extractor", "places", *shown, "all", "wrong values"), rows),
        *_notes(results),
    ]
    return "\n\n".join(parts)


def _count(records: list[Record], check: str) -> str:
    """How many pass, of how many where that is not all: an extractor that is not made passes nothing."""
    applies = [r for r in records if check in r.outcomes or r.outcomes["built"] is not True]
    passed = sum(record.outcomes.get(check) is True for record in applies)
    return str(passed) if len(applies) == len(records) else f"{passed} of {len(applies)}" if applies else ""


def _notes(results: Results) -> Iterator[str]:
    failures = [
        f"- {record.model}, `{record.place}`: {check}: {' '.join(str(outcome).split())[:200]}"
        for record in results.records
        if record.extractor in (PLAIN.name, ON_EXAMPLE.name)
        for check, outcome in record.outcomes.items()
        if outcome is not True and not (record.extractor == PLAIN.name and record.asks) and not _refuses(outcome)
    ]
    if failures:
        yield "Where truncate failed:\n\n" + "\n".join(failures)
    refusing = [record for record in results.records if _refuses(record.outcomes.get("other size"))]
    if refusing:
        yield f"At {len(refusing)} places truncate refuses the other size, which would go another way than the example."
    if results.unusable:
        counted = Counter(reason.split("\n")[0][:120] for reason in results.unusable.values())
        yield (
            "Not examined, as the model itself did not run here: "
            + ", ".join(results.unusable)
            + f" ({'; '.join(counted)})."
        )
    if results.left_out:
        yield f"Not reached in the time given: {', '.join(results.left_out)}."


def _refuses(outcome: Outcome | None) -> bool:
    """Whether the result said that an input is not like the example that it was cut on."""
    return any(text in str(outcome) for text in REFUSES)


@click.command()
@click.argument("library", type=click.Choice([*LIBRARIES, "wild"]))
@click.option("--models", default="", help="Only the models whose name holds one of these words, parted by commas.")
@click.option("--extractors", default="", help="Likewise for the extractors, which are all of them otherwise.")
@click.option("--cuts", type=click.IntRange(1), default=3, show_default=True, help="Random places for each model.")
@click.option("--tools", is_flag=True, help="Also script, export and compile, where the whole model can be (slow).")
@click.option("--limit-seconds", type=float, default=120, show_default=True, help="What one step may take.")
@click.option("--minutes", type=float, default=60, show_default=True, help="Begin with no model after this time.")
@click.option("--at-once", type=click.IntRange(1), default=1, show_default=True, help="Models, a core each.")
@click.option("--live", is_flag=True, help="Of wild: cut with live=True.")
@click.option("--only", default="", help="Of wild: only these libraries, parted by commas.")
@click.option("--write", is_flag=True, help="Put the table into docs/benchmarks.md.")
@click.option("--json", "path", type=Path, help="Where to write each outcome as JSON.")
def main(
    library: str,
    models: str,
    extractors: str,
    cuts: int,
    tools: bool,
    limit_seconds: float,
    minutes: float,
    at_once: int,
    live: bool,
    only: str,
    write: bool,
    path: Path | None,
) -> None:
    """Cut the models of LIBRARY at random places with several extractors, and check what each returns.

    `wild` is many libraries beside these (see benchmarks/wild), cut at three places each without an example.
    """
    if library == "wild":
        from benchmarks.wild import driver  # here, as it needs the libraries of the extra `wild`

        driver.main(only, models, live, limit_seconds, minutes, write, path)
        return
    names = [name for name in LIBRARIES[library]() if any(word in name for word in models.split(","))]
    if not names:
        raise click.UsageError(f"no model of {library} has {models!r} in its name")
    torch.set_num_threads(1)
    facts = report.surroundings(*PACKAGES.get(library, []), *PEERS)
    wanted = tuple(extractors.split(","))
    tasks = [Task(library, name, cuts, tools, wanted) for name in names]
    results = conduct(tasks, limit_seconds, 60 * minutes, at_once)
    text = f"{report.sentence(facts)}\n\n{summary(results)}"
    click.echo(text)
    if write:
        report.write(f"conformance {library}{' tools' * tools}", text)
    if path is not None:
        report.save(path, facts, [vars(record) for record in results.records])


if __name__ == "__main__":
    main()
