"""A run that is killed, or whose disk fails, goes on when it is started again, and makes the same table."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import images
import pyarrow.parquet
import pytest
from folders import ROOT, SUPPORT
from images import command, run, tables

from truncate._cli.commands import main
from truncate._jobs.shards import Output


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    return tmp_path


def test_killed_at_20_random_moments() -> None:
    """Runs are killed at moments of their own between beginning and end, and started again, until 20 were killed."""
    images.make(Path("images"), 24, broken=(5,))
    assert run(out="undisturbed.parquet") == 1
    expected = tables("undisturbed.parquet")
    began = time.monotonic()
    assert run(out="timed.parquet") == 1
    length = time.monotonic() - began
    moments = random.Random(0)
    killed, unfinished = 0, 0
    for number in range(100):
        out = f"{number}.parquet"
        process = images.child(images.quietly(*command(out=out)))
        time.sleep(moments.random() * length)
        os.kill(process, signal.SIGKILL)
        if images.ended(process) == -signal.SIGKILL:
            killed += 1
        else:  # it had ended before its moment: the machine is faster now than when it was timed
            length *= 0.9
        unfinished += Path(f"{out}.parts").exists()
        if Path(out).exists():
            assert tables(out) == expected
        assert run(out=out) == 1
        assert tables(out) == expected
        if killed >= 20 and unfinished >= 5:
            break
    assert killed >= 20
    assert unfinished >= 5  # some find the parts of the run before
    assert not list(Path().glob("*.parts"))


def killing(step: int) -> Callable[[], int]:
    """The command, in a process that kills itself before its step number `step` on the disk."""
    real = {name: getattr(os, name) for name in ("fsync", "replace", "mkdir", "unlink", "rmdir", "open")}
    done = 0

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*arguments, **options)

        return call

    def action() -> int:
        for name in real:
            setattr(os, name, counted(name))
        return images.quietly(*command(out=f"{step}.parquet"))()

    return action


def test_killed_before_each_step_on_the_disk() -> None:
    """Not at random: before each call that opens, syncs, renames or removes a file, until a run needs no more calls."""
    images.make(Path("images"), 4, broken=(3,))
    assert run(out="undisturbed.parquet") == 1
    expected = tables("undisturbed.parquet")
    for step in range(1, 1000):
        out = f"{step}.parquet"
        code = images.ended(images.child(killing(step)))
        if Path(out).exists():
            assert tables(out) == expected
        assert run(out=out) == 1
        assert tables(out) == expected
        assert not Path(f"{out}.parts").exists()
        if code == 1:  # it came to its end
            break
    assert step > 30


def test_it_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    images.make(Path("images"), 10)
    first = made_before_it_stops(monkeypatch, 3)
    assert first == ["000000.parquet", "000001.parquet", "000002.parquet"]
    shards = Path("features.parquet.parts/shards")
    before = {path.name: path.stat().st_mtime_ns for path in shards.glob("0*")}
    assert sorted(before) == first
    second = made_before_it_stops(monkeypatch, 99)
    assert second == ["000003.parquet", "000004.parquet"]


def made_before_it_stops(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """The shards that a run makes, which is stopped after so many."""
    made: list[str] = []
    real = Output.writing

    def watched(self: Output, number: int) -> Any:
        if len(made) == count:
            raise KeyboardInterrupt
        made.append(self.shard(number).name)
        return real(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "writing", watched)
        main(command())
    return made


def test_the_command_line_killed_and_started_again() -> None:
    """In processes of its own, with others that read; a picture that is a pipe of nothing makes it wait."""
    images.make(Path("images"), 12)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
    arguments = command("--workers", "1", batch=4)
    process = subprocess.Popen([sys.executable, "-m", "truncate", *arguments], env=environment)
    parts = Path("features.parquet.parts/shards")
    until(lambda: parts.exists() and any(parts.glob("0*.parquet")) or process.poll() is not None)
    process.kill()
    process.wait()
    again = subprocess.run(
        [sys.executable, "-m", "truncate", *arguments], env=environment, capture_output=True, text=True
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == "features.parquet: 12 rows\n"


def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to pass")


def test_a_full_disk_and_then_room(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a small real disk, where one can be had."""
    images.make(Path("images"), 40)
    Path("disk").mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
    script = """
mount -t tmpfs -o size=40k none disk
"$@"; echo "code $?"
mount -o remount,size=4m disk
"$@"; echo "code $?"
ls -A disk; cp disk/* .
"""
    arguments = command(out="disk/features.parquet")
    run = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-m", "truncate", *arguments]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    if "code 2" not in done.stdout:
        pytest.skip(f"cannot mount a disk here: {done.stderr}")
    assert done.stderr.startswith("error: cannot write disk/features.parquet.parts/shards/0")
    assert done.stderr.endswith(".parquet: No space left on device\n")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "code 2\ndisk/features.parquet: 40 rows\ncode 0\nfeatures.parquet\n"
    assert len(pyarrow.parquet.read_table("features.parquet")) == 40


@pytest.mark.parametrize(("number", "reason"), [(28, "No space left on device"), (30, "Read-only file system")])
def test_a_disk_that_fails_at_each_step(
    number: int, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simulated, to fail at every step: after it the run goes on, and what comes out is whole."""
    images.make(Path("images"), 4, broken=(3,))
    assert main(command(out="undisturbed.parquet")) == 1
    expected = tables("undisturbed.parquet")
    real = os.fsync
    for step in range(1, 100):
        left = step

        def sync(handle: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise OSError(number, os.strerror(number))
            real(handle)

        out = f"{step}.parquet"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", sync)
            capsys.readouterr()
            code = main(command(out=out))
        if code == 1:
            break
        assert code == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: cannot write {step}.")
        assert err.endswith(f": {reason}\n")
        assert err.count("\n") == 1
        assert main(command(out=out)) == 1
        assert tables(out) == expected
    assert step > 10
