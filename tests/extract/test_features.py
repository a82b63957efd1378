"""`extract` from Python: what comes out is what the module returns, wherever it is put; nothing else has changed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
import torch
from folders import ROOT
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from truncate import ExtractError, Features, TruncateError, extract, truncate
from truncate._extract import compute as _compute
from truncate._extract import sinks as _sinks
from truncate._extract.batches import Batch

ROWS = 23
INPUTS = torch.arange(ROWS * 6, dtype=torch.float32).reshape(ROWS, 6) / 100
LABELS = torch.arange(ROWS) % 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 4)
        self.drop = nn.Dropout(0.5)
        self.two = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.drop(self.one(x)))


class Returns(nn.Module):
    """Returns what a function makes of its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def batches() -> list[tuple[Tensor, Tensor]]:
    # copies, since how a matrix product is rounded may depend on where in memory its tensors begin
    return [(x.clone(), y) for x, y in zip(INPUTS.split(5), LABELS.split(5))]


def expected(module: nn.Module) -> np.ndarray[Any, Any]:
    """What the module returns batch by batch: matrix products of other sizes may round differently."""
    with torch.no_grad():
        return torch.cat([module.eval()(x) for x, _ in batches()]).numpy()


# -- in memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader(workers: int) -> None:
    net = Net().eval()
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=5, num_workers=workers)
    got = extract(net, loader)
    assert isinstance(got, Features)
    features, labels, keys = got
    assert np.array_equal(features, expected(net))
    assert features.dtype == np.float32
    assert np.array_equal(labels, LABELS)
    assert keys is None


def test_what_truncate_returns() -> None:
    model = Net().eval()
    pair = truncate(model, {"one": "one", "all": ""})
    features = extract(pair, batches()).features
    assert list(features) == ["one", "all"]
    assert np.array_equal(features["all"], expected(model))
    assert np.array_equal(features["one"], expected(model.one))


def test_an_iterable_of_unknown_length() -> None:
    net = Net().eval()
    assert np.array_equal(extract(net, (x for x, _ in batches())).features, expected(net))


def test_batches_of_tensors_lists_and_dicts() -> None:
    net, x = Net().eval(), INPUTS[:5]
    wanted = net(x).detach().numpy()
    for batch in (x, (x,), [x], {"x": x}, {"x": x, "label": LABELS[:5]}):
        assert np.array_equal(extract(net, [batch]).features, wanted)


def test_labels_keep_their_shape() -> None:
    net, x = Net(), INPUTS[:2]
    assert extract(net, [x]).labels is None
    assert extract(net, [(x, LABELS[:2])]).labels.tolist() == [0, 1]
    one, two = extract(net, [(x, LABELS[:2], ["a", "b"]), (x, LABELS[:2], ["c", "dd"])]).labels
    assert one.tolist() == [0, 1, 0, 1]
    assert two.tolist() == ["a", "b", "c", "dd"]
    assert extract(net, [{"x": x, "labels": [3, 4]}]).labels.tolist() == [3, 4]
    several = extract(net, [{"x": x, "age": [3, 4], "name": ("a", "b")}]).labels
    assert several["age"].tolist() == [3, 4]
    assert several["name"].tolist() == ["a", "b"]


def test_labels_are_not_given_to_a_module_that_takes_them() -> None:
    class Loss(nn.Module):
        def forward(self, x: Tensor, mask: Tensor, labels: Tensor | None = None) -> Tensor:
            assert labels is None
            return x * mask

    got = extract(Loss(), [{"x": INPUTS, "mask": INPUTS, "labels": LABELS, "unknown": LABELS + 1}])
    assert np.array_equal(got.features, INPUTS * INPUTS)
    assert np.array_equal(got.labels["labels"], LABELS)
    assert np.array_equal(got.labels["unknown"], LABELS + 1)


def test_any_names_for_a_module_that_takes_any() -> None:
    class Any_(nn.Module):
        def forward(self, **inputs: Tensor) -> Tensor:
            return torch.stack(list(inputs.values())).sum(0)

    assert np.array_equal(extract(Any_(), [{"a": INPUTS, "b": INPUTS, "label": LABELS}]).features, 2 * INPUTS)


def test_keys() -> None:
    net, names = Net(), [f"image {i}" for i in range(ROWS)]
    assert extract(net, batches(), keys=names).keys.tolist() == names
    assert extract(net, batches(), keys=iter(range(ROWS))).keys.tolist() == list(range(ROWS))
    got = extract(net, [{"x": INPUTS, "id": names}], keys="id")
    assert got.keys.tolist() == names
    assert got.labels is None


@pytest.mark.parametrize(
    ("function", "check"),
    [
        (lambda x: [x, x + 1], lambda f: type(f) is list and np.array_equal(f[1], INPUTS + 1)),
        (lambda x: (x, x + 1), lambda f: type(f) is tuple and np.array_equal(f[1], INPUTS + 1)),
        (lambda x: (x, None), lambda f: f[1] is None and np.array_equal(f[0], INPUTS)),
        (lambda x: Pair(x, x + 1), lambda f: np.array_equal(f.second, INPUTS + 1)),
        (lambda x: {"a": x, "b": [x, x + 1]}, lambda f: np.array_equal(f["b"][1], INPUTS + 1)),
        (lambda x: x.sum(1), lambda f: f.shape == (ROWS,)),
        (lambda x: x > 0.5, lambda f: f.dtype == bool and np.array_equal(f, INPUTS > 0.5)),
        (lambda x: x.reshape(-1, 2, 3).mT, lambda f: np.array_equal(f, INPUTS.reshape(-1, 2, 3).mT)),
        (lambda x: x.bfloat16(), lambda f: f.dtype == np.float32 and np.array_equal(f, INPUTS.bfloat16().float())),
        (lambda x: x.half(), lambda f: f.dtype == np.float16 and np.array_equal(f, INPUTS.half())),
        (lambda x: x.double(), lambda f: f.dtype == np.float64),
    ],
)
def test_what_a_module_may_return(function: Callable[..., Any], check: Callable[..., bool]) -> None:
    assert check(extract(Returns(function), INPUTS.split(5)).features)
    assert check(extract(Returns(function), iter(INPUTS.split(5))).features)


def test_rows_are_copied_out_of_what_the_module_writes_again() -> None:
    """A module may return the same tensor each time."""

    class Reuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("out", torch.zeros(1, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.out.copy_(x)

    assert np.array_equal(extract(Reuses(), INPUTS.split(1)).features, INPUTS)


# -- what it leaves as it was ----------------------------------------------------------------------------------------


def mixed() -> Net:
    net = Net()
    net.two.eval()
    return net


def test_modes_are_restored() -> None:
    net = mixed()
    assert np.array_equal(extract(net, batches()).features, expected(mixed_like(net)))
    assert [net.training, net.one.training, net.drop.training, net.two.training] == [True, True, True, False]


def mixed_like(net: Net) -> Net:
    other = Net()
    other.load_state_dict(net.state_dict())
    return other


def fail(x: Tensor) -> Tensor:
    torch.rand(1)
    raise ValueError("no")


def test_everything_is_restored_after_an_error(tmp_path: Path) -> None:
    net = mixed()
    net.two = Returns(fail)  # type: ignore[assignment]
    net.two.eval()
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(ValueError, match="no") as caught:
        extract(net, batches(), to=tmp_path / "features.parquet")
    assert caught.value.__notes__ == ["This was batch 0 of `extract`, counted from 0."]
    assert [net.training, net.one.training, net.two.training] == [True, True, False]
    assert torch.equal(before[0], torch.get_rng_state())
    assert not list(tmp_path.iterdir())
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_the_random_state_is_kept() -> None:
    before = torch.get_rng_state(), random.getstate()
    extract(Returns(torch.rand_like), DataLoader(TensorDataset(INPUTS), batch_size=4, shuffle=True))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_the_batches_are_made_outside_of_inference_mode() -> None:
    seen = []

    def source() -> Iterator[Tensor]:
        for batch in INPUTS.split(5):
            seen.append(torch.is_inference_mode_enabled() or not torch.is_grad_enabled())
            yield batch

    extract(Net(), source())
    assert seen == [False] * 5


def test_the_forward_runs_without_gradients() -> None:
    seen = []
    extract(Returns(lambda x: seen.append(torch.is_inference_mode_enabled()) or x), [INPUTS])
    assert seen == [True]


def test_autocast() -> None:
    net = Net().eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wanted = net(INPUTS)
    assert wanted.dtype is torch.bfloat16
    got = extract(net, [INPUTS], dtype=torch.bfloat16).features
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted.float())
    assert np.array_equal(extract(net, [INPUTS], dtype=torch.float32).features, extract(net, [INPUTS]).features)


def test_pictures_are_channels_last_where_there_are_convolutions() -> None:
    class Sees(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.layer(x)

    seen: list[bool] = []
    pictures = torch.rand(4, 3, 5, 5)
    conv = nn.Conv2d(3, 2, 3)
    got = extract(Sees(conv), [pictures]).features
    assert np.allclose(got, conv(pictures).detach(), atol=1e-6)
    assert got.flags.c_contiguous
    extract(Sees(nn.Identity()), [pictures])
    assert seen == [True, False]


def test_a_forward_that_needs_the_usual_layout_gets_it() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).view(len(x), -1)

    net, pictures = Views(), torch.rand(6, 3, 5, 5)
    with torch.no_grad():
        assert np.array_equal(extract(net, pictures.split(3)).features, torch.cat([net(x) for x in pictures.split(3)]))


def test_another_device_gets_a_copy() -> None:
    net = Net()
    with pytest.raises(ExtractError, match=r"device='cuda(:7)?'|device='nowhere'"):
        extract(net, batches(), device="nowhere")
    meta, at = _compute_placed(net, "meta")
    assert at.type == "meta"
    assert meta is not net
    assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}


def _compute_placed(net: nn.Module, device: str) -> tuple[nn.Module, torch.device]:
    from truncate._extract.features import _placed

    return _placed(net, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ExtractError, match="cannot compute on device='cuda'"):
        extract(Net(), batches(), device="cuda")


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_the_pipeline_for_an_accelerator_hands_out_every_batch_in_order(count: int) -> None:
    """On the CPU, where streams do nothing: this checks the order of things, and not that they overlap."""
    given = [Batch((torch.full((2, 2), float(i)),), {}, 2, i, None) for i in range(count)]
    forward = _compute.Forward(Returns(lambda x: [x + 1, x * 2]), torch.device("cpu"), None)
    got = list(_compute.overlapped(forward, iter(given), torch.device("cpu")))
    assert [batch.labels for batch, _ in got] == list(range(count))
    assert [int(one[0, 0]) for _, (one, _) in got] == [i + 1 for i in range(count)]
    assert [int(two[0, 0]) for _, (_, two) in got] == [i * 2 for i in range(count)]


def test_the_pipeline_reads_one_batch_ahead() -> None:
    """While a batch is computed the next is read, and no more: memory does not grow with the source."""
    events: list[str] = []

    def source() -> Iterator[Batch]:
        for i in range(4):
            events.append(f"read {i}")
            yield Batch((torch.zeros(1),), {}, 1, None, None)

    def forward(batch: Batch) -> Tensor:
        events.append(f"compute {sum(event.startswith('compute') for event in events)}")
        return batch.args[0]

    for i, _ in enumerate(_compute.overlapped(forward, source(), torch.device("cpu"))):
        events.append(f"out {i}")
    assert events == [
        *["read 0", "compute 0", "read 1", "compute 1", "read 2", "out 0", "compute 2", "read 3", "out 1"],
        *["compute 3", "out 2", "out 3"],
    ]


# -- files -----------------------------------------------------------------------------------------------------------


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


# -- what is refused -------------------------------------------------------------------------------------------------

NET = Net()
GROWING = [INPUTS.reshape(-1, 2, 3), INPUTS.reshape(-1, 3, 2)]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((len, []), {}, "extract takes a torch.nn.Module, but got <built-in function len>"),
        ((NET, 3), {}, "batches are a DataLoader or another iterable, but got a int"),
        ((NET, INPUTS), {}, r"batches is one tensor: pass \[tensor\], or tensor.split\(64\)"),
        ((NET, []), {}, "there are no batches .a generator that has already been used up is empty."),
        ((NET, [INPUTS]), {"dtype": torch.int8}, "dtype=torch.int8: autocast computes in torch.bfloat16 or"),
        (
            (NET, ["image.jpg"]),
            {},
            r"batch 0 is a str: a batch is a tensor, a tuple \(tensor, labels, ...\), or",
        ),
        ((NET, [[["a"], INPUTS]]), {}, "batch 0 is a list of list and Tensor: a batch is"),
        ((NET, [INPUTS, None]), {}, "batch 1 is a NoneType: a batch is"),
        ((NET, [{"images": INPUTS}]), {}, "batch 0 holds no tensor that the module takes: 'images'"),
        ((NET, [torch.tensor(1.0)]), {}, "batch 0 holds no tensor that the module takes: it has no rows"),
        ((NET, [INPUTS]), {"keys": ["a"]}, "there are fewer keys than rows: they end in batch 0"),
        ((NET, [INPUTS]), {"keys": ["a"] * 99}, "there are more keys than rows; keys are one for each row"),
        ((NET, [INPUTS]), {"keys": 5}, "keys=5: they are one string or number for each row, or the name of an entry"),
        ((NET, [INPUTS]), {"keys": [1, "a"] * 12}, "'key' holds a list of int and str: only .* of one kind in all"),
        ((NET, [INPUTS]), {"keys": "id"}, "keys='id' names an entry of each batch, but batch 0 has none"),
        ((NET, [(INPUTS, LABELS[:3])]), {}, "'label' has 3 rows, where the batch has 23"),
        ((NET, [(INPUTS, object())]), {}, "'label' holds a object: only tensors, numbers and strings can be kept"),
        ((Returns(lambda x: x.sum()), [INPUTS]), {}, r"'features' has 0 rows, where the batch has 23 \(it is \(\)\)"),
        ((Returns(lambda x: x[1:]), [INPUTS]), {}, r"'features' has 22 rows, where the batch has 23 .it is \(22, 6\)"),
        ((Returns(lambda x: None), [INPUTS]), {}, "the module returned no tensor, but None"),
        ((Returns(lambda x: {"label": x}), [(INPUTS, LABELS)]), {}, "two columns would be called 'label'"),
        (
            (Returns(lambda x: x), GROWING),
            {},
            "the rows of 'features' were 2×3, and are now 3×2: a table needs rows of one shape. Bring the inputs to",
        ),
        (
            (Returns(lambda x: x), [INPUTS, INPUTS.double()]),
            {},
            "'features' was torch.float32, and is now torch.f",
        ),
        ((NET, [INPUTS, (INPUTS, LABELS)]), {}, "batch 1 gives features, label, and those before features"),
        ((NET, [INPUTS]), {"to": "x.csv"}, "cannot tell from 'x.csv' what to write: it has to end in .parquet, .npy"),
        ((NET, [INPUTS]), {"to": "no/x.npy"}, "no folder no to write x.npy to"),
        ((NET, [(INPUTS, LABELS)]), {"to": "x.npy"}, ".npy holds one array, but there are features, label: write"),
        ((NET, [INPUTS]), {"to": "x.safetensors", "keys": ["a"] * ROWS}, "'key' is text, and .safetensors holds num"),
        (
            (Returns(lambda x: x.to(torch.complex64)), [INPUTS]),
            {"to": "x.parquet"},
            "'features' is torch.complex64, which Parquet does not know: write .npy",
        ),
        (
            (Returns(lambda x: x.to(torch.complex128)), [INPUTS]),
            {"to": "x.safetensors"},
            "'features' is torch.complex128, which .safetensors does not know: write .npy",
        ),
    ],
)
def test_refused(
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TruncateError, match=message) as caught:
        extract(*arguments, **options)
    assert isinstance(caught.value, ExtractError)
    assert not list(tmp_path.iterdir())


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "truncate._extract.parquet", raising=False)
    with pytest.raises(ExtractError, match=r"Parquet needs pyarrow, which is missing: pip install 'torch-truncate\[ex"):
        extract(Net(), batches(), to=tmp_path / "x.parquet")


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: those who run tests as root may write anywhere."""

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("truncate._files.atomic.os.open", refuse)
    with pytest.raises(ExtractError, match=r"cannot write .*x.npy: Read-only file system"):
        extract(Net(), [INPUTS], to=tmp_path / "x.npy")


# -- the bar ---------------------------------------------------------------------------------------------------------


def test_quiet_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    extract(Net(), batches())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_on_a_terminal(
    progress: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    extract(Net(), batches(), progress=progress)
    err = capfd.readouterr().err
    assert (f"{ROWS}/25" in err and "rows/s" in err) is progress
    assert bool(err) is progress


def test_memory_is_allocated_once_for_batches_that_have_a_length() -> None:
    memory = _sinks.Memory(100)
    memory.append({"features": INPUTS})
    base = memory["features"].base
    memory.append({"features": INPUTS})
    assert memory["features"].base is base
    assert len(memory["features"]) == 2 * ROWS


def test_no_warning_is_left_behind() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(extract(Net(), batches()).features) == ROWS
