"""The files that `extract` writes: what is in them, and that they are whole or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
import torch
from extracted import INPUTS, LABELS, ROWS, Net, Returns, batches
from folders import ROOT
from torch import Tensor

from truncate import ExtractError, extract
from truncate._extract import rows, sinks


def test_npy(tmp_path: Path) -> None:
    path = extract(Net(), INPUTS.split(5), to=tmp_path / "features.npy")
    assert isinstance(path, Path)
    torch.manual_seed(0)
    mapped = np.load(path, mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert mapped.shape == (ROWS, 3)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet", ""])
@pytest.mark.parametrize(
    "function", [lambda x: x * 2, lambda x: x.reshape(-1, 3, 2).mT, lambda x: x.sum(1), lambda x: (x * 9).short()]
)
def test_a_file_holds_what_memory_would(tmp_path: Path, suffix: str, function: Callable[..., Any]) -> None:
    module = Returns(function)
    wanted = extract(module, INPUTS.split(4)).features
    path = extract(module, INPUTS.split(4), to=str(tmp_path / f"features{suffix}"))
    got = read(path)["features"]
    assert got.dtype == wanted.dtype
    assert np.array_equal(got.reshape(wanted.shape), wanted)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"features{suffix}"]


def read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    if path.suffix == ".npy":
        return {"features": np.load(path)}
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    table = pyarrow.parquet.read_table(path if path.suffix else path / "shards")
    return {
        name: np.stack(table[name].to_numpy()) if pyarrow.types.is_fixed_size_list(table[name].type)
        else table[name].to_numpy()
        for name in table.column_names
    }  # fmt: skip


def test_columns_of_several_outputs_labels_and_keys(tmp_path: Path) -> None:
    module = Returns(lambda x: {"c3": x, "c5": [x[:, 0], x.double()]})
    keys = [f"é{i}" for i in range(ROWS)]
    path = extract(module, batches(), to=tmp_path / "features.parquet", keys=keys)
    got = read(path)
    assert list(got) == ["c3", "c5_0", "c5_1", "label", "key"]
    assert np.array_equal(got["c3"], INPUTS)
    assert np.array_equal(got["c5_0"], INPUTS[:, 0])
    assert got["c5_1"].dtype == np.float64
    assert np.array_equal(got["label"], LABELS)
    assert got["key"].tolist() == keys
    numbers = extract(module, batches(), to=tmp_path / "features.safetensors", keys=range(ROWS))
    again = read(numbers)
    assert all(np.array_equal(again[name], got[name]) for name in ["c3", "c5_0", "c5_1", "label"])
    assert again["key"].tolist() == list(range(ROWS))


def test_parquet_says_the_shape_and_is_read_by_others(tmp_path: Path) -> None:
    import pandas
    import polars

    path = extract(Returns(lambda x: x.reshape(-1, 3, 2)), batches(), to=tmp_path / "features.parquet")
    column = pyarrow.parquet.read_schema(path).field("features")
    assert column.type == pyarrow.list_(pyarrow.field("element", pyarrow.float32(), nullable=False), 6)
    assert json.loads(column.metadata[b"shape"]) == [3, 2]
    assert np.array_equal(np.stack(pandas.read_parquet(path)["features"]), INPUTS)
    frame = polars.read_parquet(path)
    assert frame["features"].dtype == polars.Array(polars.Float32, 6)
    assert np.array_equal(frame["features"].to_numpy(), INPUTS)


def test_parquet_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from truncate._extract import parquet as _parquet

    monkeypatch.setattr(_parquet, "_GROUP_BYTES", 7 * 32)  # a row is 24 bytes of features and 8 of label
    path = extract(Returns(lambda x: x), batches(), to=tmp_path / "features.parquet")
    file = pyarrow.parquet.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)] == [7, 7, 7, 2]
    assert np.array_equal(read(path)["features"], INPUTS)


def test_a_folder_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from truncate._extract import parquet as _parquet

    monkeypatch.setattr(_parquet, "_SHARD_BYTES", 300)
    path = extract(Returns(lambda x: x), batches(), to=tmp_path / "features", keys=map(str, range(ROWS)))
    manifest = json.loads((path / "manifest.json").read_text())
    rows = {shard["file"]: shard["rows"] for shard in manifest["shards"]}
    assert rows == {"shards/000000.parquet": 10, "shards/000001.parquet": 10, "shards/000002.parquet": 3}
    assert sorted(str(file.relative_to(path)) for file in path.rglob("*.*")) == ["manifest.json", *rows]
    assert np.array_equal(read(path)["features"], INPUTS)
    with pytest.raises(ExtractError, match="is there already: features go to a new folder"):
        extract(Net(), batches(), to=path)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_failed_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    from truncate._extract import parquet as _parquet

    monkeypatch.setattr(_parquet, "_SHARD_BYTES", 300)  # some are complete when it fails
    path = tmp_path / "features"
    if there:
        path.mkdir()
    with pytest.raises(ExtractError, match="the rows of 'features' were 6, and are now 5"):
        extract(Returns(lambda x: x), [*INPUTS.split(4), INPUTS[:, 1:]], to=path)
    assert list(tmp_path.rglob("*")) == [path] * there
    assert np.array_equal(read(extract(Returns(lambda x: x), INPUTS.split(4), to=path))["features"], INPUTS)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_complex_numbers(tmp_path: Path, name: str) -> None:
    """Those of half precision too, which numpy does not know."""
    for dtype in (torch.complex32, torch.complex64):
        numbers = torch.complex(INPUTS.half(), -INPUTS.half())
        module = Returns(lambda x, dtype=dtype: torch.complex(x.half(), -x.half()).to(dtype))
        wanted = numbers.to(torch.complex64).numpy()
        assert np.array_equal(extract(module, [INPUTS]).features, wanted)
        assert np.array_equal(read(extract(module, [INPUTS], to=tmp_path / name))["features"], wanted)


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    path.write_text("old")

    def source() -> Iterator[Tensor]:
        yield INPUTS[:3]
        assert path.read_text() == "old"
        yield INPUTS[:3]

    extract(Net(), source(), to=path)
    assert np.load(path).shape == (6, 3)


@pytest.mark.parametrize("name", ["features.npy", "features.safetensors", "features.parquet", "features"])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    """The disk is a real one of 64 kB, where that can be had; or else there is a limit to the size of files."""
    code = f"""
import resource, signal, sys, torch
from truncate import extract
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if sys.argv[1:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    extract(torch.nn.Identity(), torch.rand(400, 1000).split(10), to="disk/{name}")
except Exception as error:
    print(type(error).__name__, error)
"""
    (tmp_path / "disk").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-W", "error", "-c", code]
    mount = 'mount -t tmpfs -o size=64k none disk && exec "$@"'
    with_disk = ["unshare", "-rm", "sh", "-c", mount, "sh", *run]
    options: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True, "env": environment}
    try:
        done = subprocess.run(with_disk, check=True, **options)
        reason = "No space left on device"
    except (OSError, subprocess.CalledProcessError):  # not allowed here
        done = subprocess.run([*run, "limit"], check=True, **options)
        reason = "File too large"
    assert done.stderr == ""
    assert done.stdout.startswith("ExtractError cannot write "), done.stdout
    assert done.stdout.endswith(f"{reason}\n"), done.stdout
    if name != "features":
        assert not list((tmp_path / "disk").iterdir())


def test_two_processes_on_one_file(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    code = "from truncate import extract; import torch; "
    code += f"extract(torch.nn.Identity(), [torch.ones(2, 2)], to={str(path)!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def source() -> Iterator[Tensor]:
        yield INPUTS[:3]
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert other.returncode == 1
        assert f"ExtractError: {path} is being written by another process: wait for it" in other.stderr
        with pytest.raises(ExtractError, match="is being written by another process"):
            extract(Net(), batches(), to=path)

    extract(Net(), source(), to=path)
    assert len(read(path)["features"]) == 3


def test_what_a_killed_process_leaves_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    child = os.fork()
    if not child:

        def source() -> Iterator[Tensor]:
            yield INPUTS
            os.kill(os.getpid(), signal.SIGKILL)

        extract(Returns(lambda x: x), source(), to=path)
    os.waitpid(child, 0)
    assert [entry.name for entry in tmp_path.iterdir()] == [".features.npy.partial"]
    extract(Returns(lambda x: x), INPUTS.split(4), to=path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["features.npy"]
    assert np.array_equal(np.load(path), INPUTS)


def left_by_a_killed_process(path: Path, monkeypatch: pytest.MonkeyPatch, step: int | None = None) -> bool:
    """What `extract` leaves in a folder when it is killed, in its third batch or before that step on the disk."""
    child = os.fork()
    if not child:
        from truncate._extract import parquet as _parquet

        _parquet._SHARD_BYTES = 90
        done = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal done
                done += 1
                if done == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in ("fsync", "replace", "mkdir", "unlink", "rmdir", "open"):
            setattr(os, name, counted(getattr(os, name)))

        def source() -> Iterator[Tensor]:
            for number, batch in enumerate(INPUTS.split(4)):
                if step is None and number == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        extract(Returns(lambda x: x), source(), to=path)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_folder_of_a_killed_process_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it was killed: before each call that makes, syncs, renames or removes something."""
    path = tmp_path / "features"
    assert left_by_a_killed_process(path, monkeypatch)
    assert (path / ".manifest.json.partial").exists()
    assert list((path / "shards").glob("0*"))
    for step in range(1, 200):
        complete = (path / "manifest.json").exists()
        if not complete:
            assert np.array_equal(read(extract(Returns(lambda x: x), INPUTS.split(5), to=path))["features"], INPUTS)
        assert np.array_equal(read(path)["features"], INPUTS)
        assert sorted(entry.name for entry in path.iterdir() if entry.name[0] != ".") == ["manifest.json", "shards"]
        path = tmp_path / str(step)
        if not left_by_a_killed_process(path, monkeypatch, step):
            break
    assert step > 20


def test_a_folder_that_somebody_else_filled_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(["mine", "shards/mine", "inputs.parquet", "manifest.json"]):
        path = tmp_path / str(number)
        assert left_by_a_killed_process(path, monkeypatch)
        (path / name).touch()
        before = sorted(path.rglob("*"))
        with pytest.raises(ExtractError, match="is there already: features go to a new folder"):
            extract(Net(), batches(), to=path)
        assert sorted(path.rglob("*")) == before
    (tmp_path / "own" / "shards").mkdir(parents=True)
    (tmp_path / "own" / "shards" / "000000.parquet").touch()  # without a manifest it may be anybody's
    with pytest.raises(ExtractError, match="is there already"):
        extract(Net(), batches(), to=tmp_path / "own")


def test_a_folder_that_another_process_fills_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "features"

    def source() -> Iterator[Tensor]:
        yield INPUTS[:3]
        with pytest.raises(ExtractError, match="is being written by another process"):
            extract(Net(), batches(), to=path)
        yield INPUTS[3:]

    assert np.array_equal(read(extract(Returns(lambda x: x), source(), to=path))["features"], INPUTS)


@pytest.mark.parametrize("known", [True, False])
def test_large_arrays_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Whose blocks are there from the start, so that a disk that fills up later ends nothing."""
    monkeypatch.setattr(rows, "_LARGE", 64 * 3 * 4)
    memory = sinks.Memory(80 if known else 0, mapped=True)
    values = torch.randn(80, 3)
    for part in values.split(20):
        memory.append({"large": part, "small": part[:, 0]})
    assert isinstance(memory["large"], np.memmap) and not isinstance(memory["small"], np.memmap)
    assert np.array_equal(memory["large"], values) and np.array_equal(memory["small"], values[:, 0])
    memory["large"][0] = 5  # it is an array as any other
    assert memory["large"][0].tolist() == [5, 5, 5]


def test_large_arrays_where_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_LARGE", 1)

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    memory = sinks.Memory(2, mapped=True)
    memory.append({"large": torch.ones(2, 3)})
    assert not isinstance(memory["large"], np.memmap) and memory["large"].sum() == 6
