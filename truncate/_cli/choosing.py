"""What ``python -m truncate probe`` does."""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truncate._cli import models, printing
from truncate._cli.extracting import default_readers, made_of, resumable
from truncate._cli.inputs import base_of, images_of
from truncate._errors import NotUsable, explained, printable
from truncate._extract import Bar, Batch, Memory, evaluating, parquet_room
from truncate._jobs import Reading, fatal, load, path_text
from truncate._probe import Probes, Probing, trial
from truncate._sandbox import random_state_kept


def choose(
    model: str,
    images: str,
    at: tuple[str, ...],
    labels: Path | None,
    weights: str | None,
    trust: bool,
    random: bool,
    limit: int | None,
    pool: str | None,
    estimator: str,
    folds: int,
    seed: int,
    batch_size: int,
    workers: int | None,
    device: str | None,
    vectors: Path | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Reads the images, probes the layers and prints the table. Returns the exit code."""
    if out is not None and out.suffix != ".svg":
        raise NotUsable(f"cannot write {str(out)!r}: the curve is written to a file that ends in .svg")
    found = images_of(images)
    paths = found.paths
    labelled = _from_table(labels, images, paths) if labels else _from_folders(base_of(images, paths), paths)
    chosen = _some(labelled or [None] * len(paths), limit)
    paths, labelled = [paths[i] for i in chosen], labelled and [labelled[i] for i in chosen]
    built = models.build(model, weights, trust=trust)
    printing.warn(built.insist_on_trained(model, built.model, random))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with explained(f"cannot compute on {name!r}"):
        where = torch.device(name)
        net: nn.Module = built.model.to(where)
    with tempfile.TemporaryDirectory() as folder, random_state_kept(), evaluating(net):
        table = vectors or Path(folder, "vectors.parquet")
        with resumable() if vectors else contextlib.nullcontext():
            probing, features, kept, unread = _pass(
                built, net, where, table, paths, batch_size, default_readers(workers, where, 1), quiet,
                model=model, at=at, pool=pool,
            )  # fmt: skip
        known = dict(zip(map(path_text, paths), labelled or ()))
        judge = trial([known[path] for path in kept], None, estimator, None, folds, seed) if known else None
        result = probing.result(features, judge, seed, progress=not quiet)
    if out is not None:
        result.draw(to=out)
    failures = {**{path_text(path): reason for path, reason in found.failures.items()}, **unread}
    if as_json:
        _print_json(result, model, built, failures)
    elif not quiet:
        _print(result, f"{model} with {built.about}", failures)
    return 1 if failures else 0


def _some(labels: list[Any], limit: int | None) -> list[int]:
    """The numbers of the first examples of each class, taken in turn until there are enough; in their order."""
    met: collections.Counter[Any] = collections.Counter()
    turns = []
    for number, label in enumerate(labels):
        turns.append((met[label], number))
        met[label] += 1
    return sorted(number for _, number in sorted(turns)[:limit])


def _pass(
    built: models.Built,
    net: nn.Module,
    where: torch.device,
    table: Path,
    paths: list[str],
    size: int,
    workers: int,
    quiet: bool,
    *,
    model: str,
    at: tuple[str, ...],
    pool: str | None,
) -> tuple[Probing, list[Any], list[str], dict[str, str]]:
    """Runs the model over the images, or over what is left of them: what a table holds is not run again.

    Returns:
        What is probed; the vectors of each of its layers; the images that they are of; and why others could not be
        read.
    """
    transform = built.for_images()
    parquet = parquet_room()
    from truncate._jobs import shards  # which needs pyarrow, as the next one does
    from truncate._jobs.worker import Worker

    settings = {"at": list(at), "pool": pool, "device": where.type}
    output = shards.Output(table, made_of(built, net, model=model, **settings), paths, size)
    with output.held() as outcome:
        deadly = {} if outcome else fatal(output.reading, paths, transform)
        images = _first_batch(paths, transform, size, output.reading, deadly).to(where)
        first = Batch((images,), {}, len(images), None, None)
        probing = Probing(net, list(at) or None, pool or "auto", first)
        probing.passed.begin(first)
        if outcome is None:
            missing = output.missing()
            total = sum(len(output.inputs(number)) for number in missing)
            with probing.passed.tapped() as module, Bar(total, shown=not quiet) as bar:
                worker = Worker(module, transform, where, None, size, workers, strict=False, fatal=deadly)
                worker.fill(output, paths, missing, bar.advance)
            outcome = output.complete({})
    memory = Memory(outcome.rows, mapped=True)
    kept: list[str] = []
    for columns in itertools.chain(*map(parquet.groups_in, outcome.tables)):
        kept += columns.pop("path")
        memory.append(columns)
    return probing, list(memory), kept, outcome.failures


def _first_batch(
    paths: list[str], transform: Callable[[Any], torch.Tensor], size: int, notes: Path, deadly: dict[int, str]
) -> torch.Tensor:
    """The first images that can be read."""
    reasons: list[str] = []
    batches = [range(start, min(start + size, len(paths))) for start in range(0, len(paths), size)]
    with tempfile.TemporaryDirectory() as elsewhere:
        for loaded in load(paths, transform, batches, 0, Reading(notes if notes.is_dir() else Path(elsewhere), deadly)):
            if loaded.images is not None:
                return loaded.images
            reasons += loaded.failures.values()
    raise NotUsable(f"none of the {len(paths)} images can be read: {reasons[0]}")


def _from_folders(folder: str, paths: list[str]) -> list[Any] | None:
    """The label of each image: the folder that it lies in, below the given one. None if all lie in that one."""
    parts = [Path(os.path.relpath(path, folder)).parts for path in paths]
    loose = [path for path, inside in zip(paths, parts) if len(inside) == 1]
    if not loose:
        return [path_text(inside[0]) for inside in parts]
    if len(loose) < len(paths):
        raise NotUsable(
            f"{path_text(loose[0])} and {len(loose) - 1} more images are in no folder below {folder}, but others "
            "are: give each class its own folder, or name a table of the labels with --labels"
        )
    return None


def _from_table(table: Path, images: str, paths: list[str]) -> list[Any]:
    """The label of each image, from a table with the columns `path` (in a folder, from there on) and `label`."""
    with explained(f"cannot read {table}"), table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if missing := [name for name in ("path", "label") if name not in (reader.fieldnames or [])]:
        raise NotUsable(f"{table} has no column {missing[0]!r}: it has {', '.join(reader.fieldnames or ['none'])}")
    known = {os.path.normpath(row["path"]): row["label"] for row in rows}
    names = [os.path.normpath(os.path.relpath(path, images) if os.path.isdir(images) else path) for path in paths]
    if without := [name for name in names if name not in known]:
        raise NotUsable(
            f"{table} has no label for {path_text(without[0])} and {len(without) - 1} more images of {images}"
        )
    labels = [known[name] for name in names]
    try:
        numbers = list(map(float, labels))
    except ValueError:
        return labels
    return labels if all(number.is_integer() for number in numbers) else numbers


def _print_json(result: Probes, model: str, built: models.Built, failures: dict[str, str]) -> None:
    marked = {} if result.folds == 0 else {"best": result.index(result.best), "cheapest": result.index(result.cheapest)}
    rows = [dataclasses.asdict(row) for row in result]
    about = {"model": model, "weights": built.about, "random": bool(built.untrained)}
    found = {"title": result.title, "classes": result.classes, "rows": rows}
    printing.show_json(**about, **found, **marked, left_out=result.left_out, failures=failures)


def _print(result: Probes, what: str, failures: dict[str, str]) -> None:
    print(what)
    printing.show(result)
    if failures:
        path, reason = next(iter(failures.items()))
        files = "1 file" if len(failures) == 1 else f"{len(failures):,} files"
        print(printable(f"{files} could not be read, the first of them {path}: {reason}"))
