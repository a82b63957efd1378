"""Nothing is lost: whenever a run is killed, the next one goes on, and the table is that of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest import mock

import images
import pyarrow.parquet
import pytest
from images import command, run, tables

from truncate import ExtractError
from truncate._cli.commands import main
from truncate._jobs import shards as _shards
from truncate._jobs.shards import Output
from truncate._jobs.worker import Worker


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    return tmp_path


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
        f"{out} was made with other settings (batch_size: 2 then, 3 now): use those, or write elsewhere, or remove "
        f"{there}"
    )
    assert 'dtype: "float32" then, "bfloat16" now' in refused(capsys, *command("--dtype", "bfloat16", out=out))
    assert 'made with other settings (model: "tiny:net" then' in refused(
        capsys, *[part.replace("tiny:net", "tiny:Noisy") for part in command(out=out)]
    )
    (Path("images") / "000.jpg").write_bytes((Path("images") / "001.png").read_bytes())
    assert "(inputs: 6 images then, 7 now)" in refused(capsys, *command(out=out))
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


def test_other_code_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same weights, in a run that goes on, and for a table that is complete."""
    import tiny

    images.make(Path("images"), 4)
    plain, edited = tiny.Net.forward, lambda self, x: plain(self, 2 * x)
    with monkeypatch.context() as patch:
        patch.setattr(Output, "complete", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(command())
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(tiny.Net, "forward", edited)
            assert 'made with other settings (code_sha256: "' in refused(capsys, *command())
        assert main(command()) == 0


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    assert main(command()) == 0
    monkeypatch.setattr("truncate._cli.extracting._versions", lambda model: {"torch": "9.9"})
    assert 'made with other settings (versions: {"python": "3.' in refused(capsys, *command())


def test_what_was_not_made_here_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    Path("features.parquet").write_text("mine")
    assert refused(capsys, *command()).startswith("features.parquet exists, and was not made by this command")
    Path("features.parquet").unlink()
    Path("features.failures.parquet").write_text("mine")
    assert refused(capsys, *command()).startswith("features.failures.parquet exists, and was not made by")
    Path("folder").mkdir()
    (Path("folder") / "mine").touch()
    assert refused(capsys, *command(out="folder")).startswith("folder holds 'mine', which this command did not make")
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
        assert text == "folder holds 'manifest.json', which this command did not make: write elsewhere"
        assert content is None or manifest.read_bytes() == content
    assert Path("features.failures.parquet").read_text() == "mine"
    Path("features.failures.parquet").unlink()
    Path("features.failures.parquet").mkdir()
    assert refused(capsys, *command()).startswith("features.failures.parquet exists, and was not made by")
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
        "numbers: a table needs rows of one shape. Does the model return other shapes for some inputs? Then pool its "
        "output"
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
    assert note["weights"] == "its own weights"
    assert len(note["weights_sha256"]) == len(note["code_sha256"]) == 64
    assert note["versions"]["torch-truncate"]
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
