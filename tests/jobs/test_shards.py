"""Nothing is lost: whenever a run is killed, the next one goes on, and the table is that of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import images
import pyarrow.parquet
import pytest
from folders import ROOT, SUPPORT

from truncate import ExtractError
from truncate._cli.commands import main
from truncate._files import atomic as _whole
from truncate._jobs import shards as _shards
from truncate._jobs.shards import Output
from truncate._jobs.worker import Worker

ARGUMENTS = ["extract", "tiny:net", "images", "--upto", "conv", "--upto", "pool", "--pool", "avg", "--workers", "0"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    return tmp_path


def command(*more: str, batch: int = 2, out: str = "features.parquet") -> list[str]:
    return [*ARGUMENTS, "--batch-size", str(batch), "--out", out, *more]


def run(*more: str, batch: int = 2, out: str = "features.parquet") -> int:
    return images.ended(images.child(images.quietly(*command(*more, batch=batch, out=out))))


def tables(out: str = "features.parquet") -> list[dict[str, list[Any]]]:
    """What came out, and what failed."""
    path = Path(out)
    parts = [path, path.with_name(f"{path.stem}.failures.parquet")]
    if not path.suffix:
        parts = [path / "shards", path / "failures.parquet"]
    return [pyarrow.parquet.read_table(part).to_pydict() for part in parts]


def test_an_undisturbed_run() -> None:
    images.make(Path("images"), 9, broken=(1, 2))
    assert run() == 1
    good, bad = tables()
    paths = sorted(str(path) for path in Path("images").rglob("*.*"))
    assert good["path"] == [path for path in paths if not path.endswith(("001.png", "002.jpg"))]
    assert [len(row) for row in good["conv"]] == [4] * 7
    assert [len(row) for row in good["pool"]] == [4] * 7
    assert bad["path"] == ["images/001.png", "images/002.jpg"]
    assert sorted(entry.name for entry in Path().iterdir()) == [
        "features.failures.parquet",
        "features.parquet",
        "images",
    ]


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


# -- what is there already -------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip()


def test_a_complete_output_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    images.make(Path("images"), 4, broken=(1,))
    assert run() == 1
    before = Path("features.parquet").stat().st_mtime_ns
    monkeypatch.setattr(Output, "writing", None)
    assert main(command()) == 1
    assert Path("features.parquet").stat().st_mtime_ns == before
    assert not Path("features.parquet.parts").exists()


@pytest.mark.parametrize("out", ["features.parquet", "features"])
@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused(
    complete: bool, out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images.make(Path("images"), 6)
    if complete:
        assert main(command(out=out)) == 0
    else:
        with monkeypatch.context() as patch:
            patch.setattr(Output, "complete", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                main(command(out=out))
    message = refused(capsys, *command(out=out, batch=3))
    there = out if complete or out == "features" else f"{out}.parts"
    assert message == (
        f"{out} was made with other settings (batch_size: 2 then, 3 now): take those, or write elsewhere, or remove "
        f"{there}"
    )
    assert 'dtype: "float32" then, "bfloat16" now' in refused(capsys, *command("--dtype", "bfloat16", out=out))
    assert 'made with other settings (model: "tiny:net" then' in refused(
        capsys, *[part.replace("tiny:net", "tiny:Noisy") for part in command(out=out)]
    )
    (Path("images") / "000.jpg").write_bytes((Path("images") / "001.png").read_bytes())
    assert 'inputs: {"count": 6, "sha256": ' in refused(capsys, *command(out=out))
    (Path("images") / "000.jpg").unlink()
    assert main(command(out=out)) == 0


def test_other_weights_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    import tiny
    import torch

    images.make(Path("images"), 2)
    for name in ("one.pt", "two.pt"):
        torch.save(tiny.Net().state_dict(), name)
    assert main(command("--weights", "one.pt")) == 0
    Path("two.pt").rename("one.pt")
    assert 'made with other settings (weights_sha256: "' in refused(capsys, *command("--weights", "one.pt"))


def test_all_that_a_module_holds_is_compared() -> None:
    import torch
    from torch import nn

    from truncate._cli.extracting import _hash

    class Holding(nn.Module):
        def __init__(self, saved: float = 1.0, unsaved: float = 2.0, extra: Any = 3) -> None:
            super().__init__()
            self.saved = nn.Parameter(torch.full((2,), saved))
            self.register_buffer("unsaved", torch.full((2,), unsaved), persistent=False)
            self.extra = extra

        def get_extra_state(self) -> Any:
            return {"value": self.extra}

    first = _hash(Holding())
    assert _hash(Holding()) == first
    assert len({first, _hash(Holding(saved=9.0)), _hash(Holding(unsaved=9.0)), _hash(Holding(extra=9))}) == 4


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    assert main(command()) == 0
    monkeypatch.setattr("truncate._cli.extracting._versions", lambda model: {"torch": "9.9"})
    assert 'made with other settings (versions: {"torch": "2.' in refused(capsys, *command())


def test_what_was_not_made_here_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    Path("features.parquet").write_text("mine")
    assert refused(capsys, *command()).startswith("features.parquet is there, and was not made by this command")
    Path("features.parquet").unlink()
    Path("features.failures.parquet").write_text("mine")
    assert refused(capsys, *command()).startswith("features.failures.parquet is there, and was not made by")
    Path("folder").mkdir()
    (Path("folder") / "mine").touch()
    assert refused(capsys, *command(out="folder")).startswith("folder holds 'mine', which this command has not made")
    assert [entry.name for entry in Path("folder").iterdir()] == ["mine"]
    (Path("folder") / "mine").unlink()
    for content in (b"{mine", b'["mine"]', b"\xff", b'{"format": 1}', None):
        manifest = Path("folder") / "manifest.json"
        if content is None:
            manifest.unlink()
            manifest.mkdir()
        else:
            manifest.write_bytes(content)
        text = refused(capsys, *command(out="folder"))
        assert text == "folder holds 'manifest.json', which this command has not made: write elsewhere"
        assert content is None or manifest.read_bytes() == content
    assert Path("features.failures.parquet").read_text() == "mine"
    Path("features.failures.parquet").unlink()
    Path("features.failures.parquet").mkdir()
    assert refused(capsys, *command()).startswith("features.failures.parquet is there, and was not made by")
    assert Path("features.failures.parquet").is_dir()
    assert not list(Path().glob("*.parts"))


def test_a_table_that_cannot_be_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: those who run tests as root may read anything."""
    images.make(Path("images"), 2)
    Path("features.parquet").write_text("mine")
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("pyarrow.parquet.read_metadata", mock.Mock(side_effect=denied))
    assert refused(capsys, *command()) == "cannot read features.parquet: Permission denied"


def test_shards_with_rows_of_other_shapes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of a model that returns what it likes; within one run the shapes are compared at once."""
    import torch

    images.make(Path("images"), 6)
    lengths = iter([3, 3, 4])

    def columns(worker: Worker, value: Any, batch: Any, like: Any) -> Any:
        return {"features": torch.zeros(batch.rows, next(lengths))}

    monkeypatch.setattr(Worker, "_columns", columns)
    assert refused(capsys, *command()) == (
        "the rows were path (string), features of 3 numbers, and from 000002.parquet on path (string), features of 4 "
        "numbers: a table needs rows of one shape. Does the model return other shapes for some inputs? Then pool what "
        "comes out"
    )
    assert not Path("features.parquet").exists()


def test_a_folder() -> None:
    images.make(Path("images"), 9, broken=(1,))
    assert run(out="features.parquet") == 1
    assert run(out="features") == 1
    assert tables("features") == tables("features.parquet")
    found = sorted(str(path.relative_to("features")) for path in Path("features").rglob("*.*"))
    shards = [f"shards/{i:06}.parquet" for i in range(5)]
    assert found == ["failures.parquet", "inputs.parquet", "manifest.json", *shards]
    manifest = json.loads(Path("features/manifest.json").read_text())
    assert (manifest["rows"], manifest["failures"], manifest["model"]) == (8, 1, "tiny:net")
    assert [shard["file"] for shard in manifest["shards"]] == shards
    paths = pyarrow.parquet.read_table("features/inputs.parquet")["path"].to_pylist()
    assert len(paths) == 9
    for shard in manifest["shards"]:
        rows = pyarrow.parquet.read_table(Path("features") / shard["file"])["path"].to_pylist()
        assert rows == [path for path in paths[shard["first"] : shard["stop"]] if not path.endswith("001.png")]


def test_what_made_a_file_is_in_it() -> None:
    import tiny
    import torch

    images.make(Path("images"), 3)
    assert run() == 0
    note = json.loads(pyarrow.parquet.read_metadata("features.parquet").metadata[b"truncate"])
    assert note["model"] == "tiny:net"
    assert note["upto"] == ["conv", "pool"]
    assert note["pool"] == "avg"
    assert note["dtype"] == "float32"
    assert note["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert note["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert note["transform"].startswith("ImageClassification( crop_size=[16]")
    assert len(note["weights_sha256"]) == 64
    assert note["inputs"]["count"] == 3
    torch.manual_seed(0)
    assert tiny.Net is not None


# -- two at a time ---------------------------------------------------------------------------------------------------


def test_two_processes_on_one_output(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 4)
    reads, writes = os.pipe()

    def hold() -> int:
        def wait(*_: Any) -> None:
            os.write(writes, b"x")
            time.sleep(60)

        Output.complete = wait  # type: ignore[method-assign]
        return images.quietly(*command())()

    process = images.child(hold)
    try:
        os.read(reads, 1)
        busy = "features.parquet is being written by another process: wait for it, or write elsewhere"
        assert refused(capsys, *command()) == busy
    finally:
        os.kill(process, signal.SIGKILL)
        images.ended(process)
        os.close(reads)
        os.close(writes)
    assert main(command()) == 0


def test_a_child_that_outlives_its_parent_holds_no_lock(tmp_path: Path) -> None:
    """As the readers of a DataLoader may."""
    reads, writes = os.pipe()

    def parent() -> int:
        with _whole.locked(tmp_path / "lock"):
            grandchild = images.child(lambda: time.sleep(60) or 0)
            os.write(writes, str(grandchild).encode())
            return 0

    assert images.ended(images.child(parent)) == 0
    grandchild = int(os.read(reads, 20))
    try:
        with _whole.locked(tmp_path / "lock"):
            pass
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(reads)
        os.close(writes)


# -- the disk --------------------------------------------------------------------------------------------------------


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


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError), _whole.whole(path) as file:
        file.write(b"x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_file_is_synced_then_named_then_its_name_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = tmp_path / "file", []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    def fsync(handle: int) -> None:
        size = os.fstat(handle).st_size if stat.S_ISREG(os.fstat(handle).st_mode) else "folder"
        steps.append((size, path.exists()))
        real["fsync"](handle)

    def replace(one: Path, other: Path) -> None:
        steps.append((one.name, other.exists()))
        real["replace"](one, other)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with _whole.whole(path) as file:
        file.write(b"12345")
    assert steps == [(5, False), (".file.partial", False), ("folder", True)]
    assert path.read_bytes() == b"12345"


# -- how inputs are divided ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("count", [1, 5, 64, 1000, 65_536, 10_000_000])
def test_shards_hold_all_inputs_once_and_whole_batches(count: int, batch: int) -> None:
    parts = _shards.divided(count, batch)
    assert parts[0].start == 0
    assert parts[-1].stop == count
    assert all(one.stop == other.start for one, other in zip(parts, parts[1:]))
    assert all(len(part) % batch == 0 for part in parts[:-1])
    assert len(parts) <= max(4097, count / 1024 + 1)


def test_a_billion_inputs_are_no_more_than_4096_shards() -> None:
    assert len(_shards.divided(1_000_000_000, 32)) <= 4097


def test_the_output_names() -> None:
    for name, message in [
        ("features.csv", "cannot write 'features.csv': the output is a file that ends in .parquet, or a new folder"),
        ("no/features.parquet", "no folder no to write features.parquet to"),
    ]:
        with pytest.raises(ExtractError, match=message):
            _shards.check(Path(name))
    Path("folder.parquet").mkdir()
    with pytest.raises(ExtractError, match="folder.parquet is a folder"):
        _shards.check(Path("folder.parquet"))
    Path("file").touch()
    with pytest.raises(ExtractError, match="file is a file"):
        _shards.check(Path("file"))
