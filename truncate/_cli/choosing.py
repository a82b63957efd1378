"""What ``python -m truncate probe`` does."""

from __future__ import annotations

import collections
import csv
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truncate._cli import models, printing
from truncate._cli.extracting import default_readers
from truncate._cli.inputs import base_of, images_of
from truncate._errors import NotUsable, explained, printable
from truncate._jobs import Reading, load, path_text
from truncate._probe import Probes, probe


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
    transform = built.for_images()
    printing.warn(built.insist_on_trained(model, built.model, random))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with explained(f"cannot compute on {name!r}"):
        where = torch.device(name)
        net: nn.Module = built.model.to(where)
    with tempfile.TemporaryDirectory() as notes:
        batches = _Images(paths, labelled, transform, batch_size, default_readers(workers, where, 1), Path(notes))
        options: dict[str, Any] = {"pool": pool or "auto", "estimator": estimator, "folds": folds, "seed": seed}
        result = probe(net, batches, at=list(at) or None, progress=not quiet, **options)
    if out is not None:
        result.draw(to=out)
    failures = {**{path_text(path): reason for path, reason in found.failures.items()}, **batches.failures}
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


class _Images:
    """Batches of the images that can be read, with their labels if there are any."""

    def __init__(
        self,
        paths: list[str],
        labels: list[Any] | None,
        transform: Callable[[Any], torch.Tensor],
        size: int,
        workers: int,
        notes: Path,
    ) -> None:
        self._paths, self._labels, self._transform, self._workers, self._notes = (
            paths,
            labels,
            transform,
            workers,
            notes,
        )
        self._batches = [range(start, min(start + size, len(paths))) for start in range(0, len(paths), size)]
        self.failures: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for loaded in load(self._paths, self._transform, self._batches, self._workers, Reading(self._notes, {})):
            self.failures.update({path_text(self._paths[i]): reason for i, reason in loaded.failures.items()})
            if loaded.images is not None:
                labels = self._labels and [self._labels[i] for i in loaded.kept]
                yield (loaded.images, labels) if labels else loaded.images
        if len(self.failures) == len(self._paths):
            raise NotUsable(f"none of the {len(self._paths)} images can be read: {next(iter(self.failures.values()))}")


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
