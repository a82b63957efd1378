"""What ``python -m truncate extract`` does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truncate._cli import models, printing
from truncate._cli.inputs import images_of
from truncate._errors import Broken, NotUsable, Stopped, explained, is_passing, printable
from truncate._extract import Bar, parquet_room
from truncate._jobs import Found, code_hash, fatal, joined, path_text, versions, weights_hash
from truncate._target import Target

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def extract(
    model: str,
    images: str,
    stop: dict[str, tuple[str, ...]],
    out: Path,
    weights: str | None,
    trust: bool,
    random: bool,
    limit: int | None,
    pool: str | None,
    batch_size: int,
    workers: int | None,
    device: str | None,
    dtype: str,
    engine: str | None,
    strict: bool,
    as_json: bool,
    quiet: bool,
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
            found = images_of(images, limit)
            if strict and found.failures:
                path, reason = next(iter(found.failures.items()))
                raise Stopped(f"{path_text(path)}: {reason}")
        built = models.build(model, weights, trust=trust)
        transform = built.for_images()
        targets = built.targets(stop)
        part, at = _prepared(built, targets, pool, device)
        warning = built.insist_on_trained(model, part, random)
        if ranks.rank == 0:
            printing.warn(warning)
        asked = {kind: list(stop.get(kind, ())) for kind in ("upto", "before")}
        made = made_of(built, part, model=model, dtype=dtype, device=at.type, **asked, pool=pool)
        output: shards.Output | None = None

        def begin() -> tuple[shards.Outcome | None, list[int], dict[int, str]]:
            nonlocal output
            output = shards.Output(out, made, found.paths, batch_size)
            outcome = stack.enter_context(output.held())
            if outcome is not None:
                return outcome, [], {}
            return None, output.missing(), fatal(output.reading, found.paths, transform)

        outcome, missing, deadly = ranks.share(begin)
        if outcome is None:
            paths = found.paths
            if output is None:
                paths = shards.inputs_of(out)
                output = shards.Output(out, made, paths, batch_size)
                output.agree()
            mine = missing[ranks.rank :: ranks.size]
            readers = default_readers(workers, at, ranks.size)
            worker = Worker(part, transform, at, AUTOCAST[dtype], batch_size, readers, strict, deadly)
            total = sum(len(output.inputs(number)) for number in mine)
            with resumable(), Bar(total, shown=ranks.rank == 0 and not quiet) as bar:
                if engine == "ray":
                    from truncate._jobs import on_ray  # which needs Ray

                    on_ray.fill(worker, output, paths, mine, bar.advance)
                else:
                    worker.fill(output, paths, mine, bar.advance)
            if ranks.rank == 0:
                ranks.wait(output)
                outcome = output.complete(found.failures)
    if outcome is None or ranks.rank != 0:
        return 0
    if as_json:
        left_out = {printable(suffix): count for suffix, count in found.others.items()}
        told = {"out": str(outcome.table), "rows": outcome.rows, "failures": outcome.failures, "left_out": left_out}
        about = {"model": model, "weights": built.about, "random": bool(built.untrained)}
        printing.show_json(**about, **dict.fromkeys(stop, list(targets)), **told)
    elif not quiet:
        _report(outcome, found)
    return 1 if outcome.failures else 0


def made_of(built: models.Built, part: nn.Module, **settings: Any) -> dict[str, Any]:
    """What makes the features; all of it must be the same for two runs to go on with one output."""
    return {
        **settings,
        "weights": built.weights,
        "weights_sha256": weights_hash(part),
        "code_sha256": code_hash(part, built.transform),
        "transform": " ".join(str(built.transform).split()),
        "versions": _versions(built.model),
    }


def _versions(model: nn.Module) -> dict[str, str]:
    return versions(model, "torch", "torchvision", "pillow", "numpy", "torch-truncate")


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Turns what the machine lacked into one line that says how to go on."""
    try:
        yield
    except Exception as error:
        if not is_passing(error):
            raise
        what = str(error).strip().splitlines()[-1:] or ["out of memory"]  # of an error in another process
        raise Broken(f"{what[0]}. Nothing is lost: the same command continues from here") from error


def _prepared(
    built: models.Built, targets: dict[str, Target], pool: str | None, device: str | None
) -> tuple[nn.Module, torch.device]:
    """The module that gives the features, on its device."""
    named = {name or "output": target for name, target in targets.items()}
    options = {"pool": pool, "flatten": True} if pool else {}
    part = built.stopped(named if len(named) > 1 else next(iter(named.values())), **options)
    name = device or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    try:
        at = torch.device(name)
    except RuntimeError as error:  # it names all devices that torch was ever built for
        raise NotUsable(f"cannot compute on {name!r}: a device is cpu, cuda, cuda:1, mps, ...") from error
    with explained(f"cannot compute on {name!r}"):
        return part.eval().to(at), at


def default_readers(asked: int | None, device: torch.device, ranks: int) -> int:
    """How many processes read images: on a CPU, the other half of the cores computes."""
    if asked is not None:
        return asked
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    cores = len(os.sched_getaffinity(0)) // here
    return max(1, min(16, cores if device.type == "cuda" else cores // 2))


def _report(outcome: Any, found: Found) -> None:
    """Says what was written, and last what was not."""
    if found.others:
        kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in found.others.most_common(5))
        print(f"skipped, since their names are not those of images: {printable(kinds)}")
    print(f"{outcome.table}: {outcome.rows:,} rows")
    if not outcome.failures:
        return
    path, reason = next(iter(outcome.failures.items()))
    files = "1 file" if len(outcome.failures) == 1 else f"{len(outcome.failures):,} files"
    print(printable(f"{files} could not be read (see {outcome.failed}), the first of them {path}: {reason}"))
