"""What ends the processes that read images: told in one line, found by the next run, and blamed on nobody else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import images
import pandas
import pytest
from folders import ROOT, SUPPORT
from images import command, tables

from truncate._cli.commands import main
from truncate._jobs import images as _photos
from truncate._jobs import reading as _reading


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    images.make(Path("images"), 10)
    return tmp_path


BAD = "images/004.jpg"


def spoil(patch: pytest.MonkeyPatch, act: Callable[[], Any], bad: str = BAD) -> None:
    """Makes reading one image do something else."""
    real = _photos.decode

    def decode(path: str) -> Any:
        return act() if path == bad else real(path)

    patch.setattr(_photos, "decode", decode)


def fail(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


def run(workers: str) -> tuple[int, str]:
    """The exit code and the last line of a run, in a process of its own, since an image may end it."""
    process = images.child(lambda: told(workers))
    return images.ended(process), (Path("told").read_text() if Path("told").exists() else "")


def told(workers: str) -> int:
    handle = os.open("told", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    code = main(command("--workers", workers))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


ENDINGS: dict[str, Callable[[], Any]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "SIGABRT": os.abort,
    "exit code 3": lambda: os._exit(3),
}


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_image_that_ends_its_process_is_found(ending: str, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, ENDINGS[ending])
    code, text = run(workers)
    if workers == "2":
        assert code == 3
        *torch_says, text = text.splitlines()
        assert text.lstrip("\0").startswith("error: DataLoader worker (pid")
        assert text.endswith("Nothing is lost: the same command continues from here")
        assert not torch_says or ending == "SIGSEGV"
    code, text = run(workers)
    assert code == 1
    good, bad = tables()
    assert len(good["path"]) == 9
    assert bad == {"path": [BAD], "reason": [f"it crashes the process that reads it ({ending})"]}
    assert sorted(entry.name for entry in Path().iterdir()) == [
        "features.failures.parquet",
        "features.parquet",
        "images",
        "told",
    ]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_was_being_read_by_chance_is_not_blamed(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends while it reads an image, once."""

    def once() -> Any:
        Path("once").touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        spoil(patch, once)
        assert run(workers)[0] in (3, -signal.SIGKILL)
    assert list(Path("features.parquet.parts/reading").iterdir())
    assert run(workers)[0] == 0
    assert len(pandas.read_parquet("features.parquet")) == 10


def test_a_kill_for_want_of_memory_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux counts those: the image is named, and not recorded."""
    spoil(monkeypatch, ENDINGS["SIGKILL"])
    assert run("0")[0] == -signal.SIGKILL
    counts = iter(range(100))
    monkeypatch.setattr(_reading, "_killed_for_memory", lambda: str(next(counts)))
    code, text = run("0")
    assert code == 3
    assert f"{BAD}: the process that reads it alone was ended by SIGKILL; is there enough memory?" in text


PASSING = {
    "memory": MemoryError(),
    "of torch": RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    "of Pillow": OSError("out of memory when reading image file"),
    "no memory": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "files": OSError(errno.EMFILE, "Too many open files"),
    "all files": OSError(errno.ENFILE, "Too many open files in system"),
}


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_never_the_fault_of_an_image(name: str, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        spoil(patch, fail(PASSING[name]))
        code, text = run(workers)
        assert code == 3
        assert text.startswith(f"error: {BAD}: ")
        assert text.endswith("Nothing is lost: the same command continues from here\n")
        assert text.count("\n") == 1
    code, text = run(workers)
    assert (code, text) == (0, "features.parquet: 10 rows\n")


PARTS = {
    "transform": "torchvision.transforms._presets.F.resize",
    "collate": "truncate._jobs.images.default_collate",
    "model": "torch.nn.modules.conv.F.conv2d",
    "write": "truncate._jobs.shards.Shard.append",
}


@pytest.mark.parametrize("where", PARTS)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_want_of_memory_elsewhere(where: str, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PARTS[where], lambda *_, **__: fail(MemoryError("no memory"))())
        code, text = run(workers)
        assert code == 3
        assert text.count("\n") == 1
        assert text.startswith("error: ")
    assert run(workers)[0] == 0


def test_a_fault_that_nobody_expected_has_a_code_of_its_own(tmp_path: Path) -> None:
    code = "from truncate._cli import commands as c; c.cli.main = lambda *a, **k: 1 / 0; raise SystemExit(c.run())"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr
