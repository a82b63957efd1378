"""What ``python -m truncate extract`` does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truncate._cli import models
from truncate._errors import Broken, NotUsable, Stopped, explained, is_passing, printable
from truncate._extract import Bar, parquet_room
from truncate._jobs import Found, code_hash, fatal, find, joined, path_text, versions, weights_hash

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def extract(
    model: str,
    folder: str,
    upto: tuple[str, ...],
    out: Path,
    weights: str | None,
    trust: bool,
    pool: str | None,
    batch_size: int,
    workers: int | None,
    device: str | None,
    dtype: str,
    engine: str | None,
    strict: bool,
) -> int:
    """Finds the images, divides the work and does it, or what is left of it. Returns the exit code."""
    parquet_room()
    from truncate._jobs import shards  # which needs pyarrow, as the next one does
    from truncate._jobs.worker import Worker

    shards.check(out)
    with joined() as ranks, contextlib.ExitStack() as stack:
        if engine and ranks.size > 1:
            raise NotUsable(f"--engine {engine} divides the work itself: run it without torchrun")
        found = Found()
        if ranks.rank == 0:
            found = find(folder)
            if strict and found.failures:
                path, reason = next(iter(found.failures.items()))
                raise Stopped(f"{path_text(path)}: {reason}")
        built = models.build(model, weights, trust=trust)
        part, at = _prepared(built, upto, pool, device)
        made = {
            "model": model,
            "upto": list(upto),
            "pool": pool,
            "weights": built.weights,
            "weights_sha256": weights_hash(part),
            "code_sha256": code_hash(part, built.transform),
            "transform": " ".join(str(built.transform).split()),
            "dtype": dtype,
            "device": at.type,
            "versions": _versions(built.model),
        }

        output: shards.Output | None = None

        def begin() -> tuple[shards.Outcome | None, list[int], dict[int, str]]:
            nonlocal output
            output = shards.Output(out, made, found.paths, batch_size)
            outcome = stack.enter_context(output.held())
            if outcome is not None:
                return outcome, [], {}
            return None, output.missing(), fatal(output.reading, found.paths, built.transform)

        outcome, missing, deadly = ranks.share(begin)
        if outcome is None:
            paths = found.paths
            if output is None:
                paths = shards.inputs_of(out)
                output = shards.Output(out, made, paths, batch_size)
                output.agree()
            mine = missing[ranks.rank :: ranks.size]
            readers = default_readers(workers, at, ranks.size)
            worker = Worker(part, built.transform, at, AUTOCAST[dtype], batch_size, readers, strict, deadly)
            total = sum(len(output.inputs(number)) for number in mine)
            with _told(), Bar(total, shown=ranks.rank == 0) as bar:
                if engine == "ray":
                    from truncate._jobs import on_ray  # which needs Ray

                    on_ray.fill(worker, output, paths, mine, bar.advance)
                else:
                    worker.fill(output, paths, mine, bar.advance)
            if ranks.rank == 0:
                ranks.wait(output)
                outcome = output.complete(found.failures)
    return _report(outcome, found) if outcome is not None and ranks.rank == 0 else 0


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns what the machine lacked into one line that says how to go on."""
    try:
        yield
    except Exception as error:
        if not is_passing(error):
            raise
        what = str(error).strip().splitlines()[-1:] or ["out of memory"]  # of an error in another process
        raise Broken(f"{what[0]}. Nothing is lost: the same command goes on from here") from error


def _prepared(
    built: models.Built, upto: tuple[str, ...], pool: str | None, device: str | None
) -> tuple[nn.Module, torch.device]:
    """The module that gives the features, on its device."""
    targets = upto[0] if len(upto) == 1 else {target or "output": target for target in upto}
    options = {"pool": pool, "flatten": True} if pool else {}
    part = built.stopped(targets, **options)
    name = device or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    with explained(f"cannot compute on {name!r}"):
        at = torch.device(name)
        return part.eval().to(at), at


def default_readers(asked: int | None, device: torch.device, ranks: int) -> int:
    """How many processes read images: on a CPU, the other half of the cores computes."""
    if asked is not None:
        return asked
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    cores = len(os.sched_getaffinity(0)) // here
    return max(1, min(16, cores if device.type == "cuda" else cores // 2))


def _versions(model: nn.Module) -> dict[str, str]:
    return versions(model, "torch", "torchvision", "pillow", "numpy", "torch-truncate")


def _report(outcome: Any, found: Found) -> int:
    """Says what was written, and last what was not. Returns the exit code."""
    if found.others:
        kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in found.others.most_common(5))
        print(f"left out, as their names are not those of images: {printable(kinds)}")
    print(f"{outcome.table}: {outcome.rows:,} rows")
    if not outcome.failures:
        return 0
    path, reason = next(iter(outcome.failures.items()))
    files = "1 file" if len(outcome.failures) == 1 else f"{len(outcome.failures):,} files"
    print(printable(f"{files} could not be read (see {outcome.failed}), the first of them {path}: {reason}"))
    return 1
