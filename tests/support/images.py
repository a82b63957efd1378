"""Folders of small pictures, and the command line run on them in children of this process."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny  # noqa: F401  # here and not in each child, as is what the command imports when it needs it
import torchvision.models  # noqa: F401
from PIL import Image

from truncate._cli import models as _models
from truncate._cli.commands import main

with contextlib.suppress(ImportError):  # pyarrow refuses an old numpy, with which what is not about tables is tested
    import pyarrow.parquet

    from truncate._jobs import worker as _work  # noqa: F401

Image.init()


def make(folder: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    """Pictures of noise, a third of them in a folder below; those that are `broken` end too early."""
    (folder / "below").mkdir(parents=True)
    random = np.random.RandomState(0)
    for i in range(count):
        path = folder / ("below" if i % 3 == 0 else "") / f"{i:03}.{'png' if i % 2 else 'jpg'}"
        Image.fromarray(random.randint(0, 255, (20, 24, 3), np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:-200])
    return folder


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the transform of models that are not a library's small, and so fast."""
    usual = _models._imagenet
    monkeypatch.setattr(_models, "_imagenet", lambda size=16: usual(size))


def child(action: Callable[[], int]) -> int:
    """Starts a child of this process, which has imported everything, and returns its number."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        code = action()
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """The exit code of a child, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def quietly(*arguments: str) -> Callable[[], int]:
    """The command line with these arguments, which prints nothing."""

    def run() -> int:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        return main(list(arguments))

    return run


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG with what Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


ARGUMENTS = ["extract", "tiny:net", "images", "--upto", "conv", "--upto", "pool", "--pool", "avg", "--workers", "0"]


def command(*more: str, batch: int = 2, out: str = "features.parquet") -> list[str]:
    return [*ARGUMENTS, "--batch-size", str(batch), "--out", out, *more]


def run(*more: str, batch: int = 2, out: str = "features.parquet") -> int:
    return ended(child(quietly(*command(*more, batch=batch, out=out))))


def tables(out: str = "features.parquet") -> list[dict[str, list[Any]]]:
    """What came out, and what failed."""
    path = Path(out)
    parts = [path, path.with_name(f"{path.stem}.failures.parquet")]
    if not path.suffix:
        parts = [path / "shards", path / "failures.parquet"]
    return [pyarrow.parquet.read_table(part).to_pydict() for part in parts]
