"""`extract` from Python: what comes out is what the module returns, wherever it is put; nothing else has changed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extracted import INPUTS, LABELS, ROWS, Net, Pair, Returns, batches, expected
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from truncate import ExtractError, Features, TruncateError, extract, truncate
from truncate._extract import sinks as _sinks

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


# -- what is refused -------------------------------------------------------------------------------------------------

NET = Net()
GROWING = [INPUTS.reshape(-1, 2, 3), INPUTS.reshape(-1, 3, 2)]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((len, []), {}, "extract takes a torch.nn.Module, but got <built-in function len>"),
        ((NET, 3), {}, "batches must be a DataLoader or another iterable, but got a int"),
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
        ((NET, [INPUTS]), {"keys": 5}, "keys=5: keys are one string or number for each row, or the name of an entry"),
        (
            (NET, [INPUTS]),
            {"keys": [1, "a"] * 12},
            "'key' holds a list of int and str: only .*, and all rows must be of one kind",
        ),
        ((NET, [INPUTS]), {"keys": "id"}, "keys='id' names an entry of each batch, but batch 0 has none"),
        ((NET, [(INPUTS, LABELS[:3])]), {}, "'label' has 3 rows, where the batch has 23"),
        ((NET, [(INPUTS, object())]), {}, "'label' holds a object: only tensors, numbers and strings can be stored"),
        ((Returns(lambda x: x.sum()), [INPUTS]), {}, r"'features' has 0 rows, where the batch has 23 \(it is \(\)\)"),
        ((Returns(lambda x: x[1:]), [INPUTS]), {}, r"'features' has 22 rows, where the batch has 23 .it is \(22, 6\)"),
        ((Returns(lambda x: None), [INPUTS]), {}, "the module returned no tensor, but None"),
        ((Returns(lambda x: {"label": x}), [(INPUTS, LABELS)]), {}, "two columns would be called 'label'"),
        (
            (Returns(lambda x: x), GROWING),
            {},
            "the rows of 'features' were 2×3, and are now 3×2: a table needs rows of one shape. Resize the inputs to",
        ),
        (
            (Returns(lambda x: x), [INPUTS, INPUTS.double()]),
            {},
            "'features' was torch.float32, and is now torch.f",
        ),
        ((NET, [INPUTS, (INPUTS, LABELS)]), {}, "batch 1 gives features, label, but those before gave features"),
        ((NET, [INPUTS]), {"to": "x.csv"}, "cannot tell from 'x.csv' what to write: it has to end in .parquet, .npy"),
        ((NET, [INPUTS]), {"to": "no/x.npy"}, "no folder no to write x.npy to"),
        ((NET, [(INPUTS, LABELS)]), {"to": "x.npy"}, ".npy holds one array, but there are features, label: write"),
        ((NET, [INPUTS]), {"to": "x.safetensors", "keys": ["a"] * ROWS}, "'key' is text, and .safetensors holds only"),
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
