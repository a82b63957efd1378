"""Ray Data makes the table that one process makes, on a local cluster that nothing outside can reach."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images
import numpy as np
import pandas
import pyarrow.parquet
import pytest
import torch
from folders import ROOT, SUPPORT
from torch import nn

from truncate import ExtractError, Extractor, extract, truncate
from truncate._cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- the class -------------------------------------------------------------------------------------------------------


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))


def rows(count: int) -> dict[str, Any]:
    image = np.random.RandomState(0).rand(count, 3, 8, 8).astype(np.float32)
    image.setflags(write=False)
    return {"name": np.array([f"{i}.jpg" for i in range(count)], dtype=object), "image": image}


def test_it_maps_batches_of_columns() -> None:
    module, batch = net().train(), rows(6)
    before = copy.deepcopy(module.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = Extractor(module, device="cpu")(batch)
    assert table.column_names == ["name", "features"]
    assert table["name"].to_pylist() == batch["name"].tolist()
    wanted = extract(module, [torch.tensor(batch["image"])]).features
    assert np.array_equal(np.stack(table["features"].to_numpy()), wanted)
    assert table.schema.field("features").type.list_size == 5
    assert all(part.training for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_several_outputs_and_another_column() -> None:
    module = truncate(net().eval(), {"maps": "0", "vector": "3"})
    batch = rows(3)
    table = Extractor(module, "image", device="cpu")({"image": batch["image"]})
    assert table.column_names == ["maps", "vector"]
    assert table.schema.field("maps").metadata == {b"shape": b"[4, 6, 6]"}


def test_what_it_refuses() -> None:
    with pytest.raises(ExtractError, match="the batch has no column 'image': it has 'a', 'b'"):
        Extractor(net())({"a": np.zeros(1), "b": np.zeros(1)})
    for ragged in (np.array([np.zeros(3), np.zeros(2)], dtype=object), np.array(["a", "b"])):
        with pytest.raises(
            ExtractError, match="the column 'image' is not an array of numbers with a row for each input: "
        ):
            Extractor(net(), device="cpu")({"image": ragged})
    with pytest.raises(ExtractError, match="Extractor takes a torch.nn.Module, but got <class 'torch.nn.modules.lin"):
        Extractor(nn.Linear)  # type: ignore[arg-type]
    with pytest.raises(ExtractError, match="'features' has 1 rows, where the batch has 3"):
        Extractor(Sums(), device="cpu")(rows(3))


class Sums(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum().reshape(1)


# -- the engine ------------------------------------------------------------------------------------------------------


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the workers need to find the models of the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(SUPPORT)]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    import ray

    assert not ray.is_initialized()


def arguments(out: str, *more: str) -> list[str]:
    return ["extract", "tiny:net", "images", "--upto", "conv", "--upto", "pool", "--pool", "avg", "--batch-size", "4",
            "--workers", "0", "--out", out, *more]  # fmt: skip


@pytest.mark.timeout(240)
def test_the_table_of_ray_is_that_of_one_process(
    local: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    images.make(Path("images"), 30, broken=(1, 4, 6, 7))
    assert main(arguments("one.parquet")) == 1
    started: list[dict[str, Any]] = []
    real = ray.init
    monkeypatch.setattr(ray, "init", lambda **options: (started.append(options), real(num_cpus=2, **options))[1])
    capfd.readouterr()
    assert main(arguments("two.parquet", "--engine", "ray")) == 1
    assert capfd.readouterr().out.startswith("two.parquet: 26 rows\n4 files could not be read")
    assert started[0]["_node_ip_address"] == "127.0.0.1"
    for one, two in [("one.parquet", "two.parquet"), ("one.failures.parquet", "two.failures.parquet")]:
        first, second = pyarrow.parquet.read_table(one), pyarrow.parquet.read_table(two)
        assert first.equals(second)
        assert first.schema.equals(second.schema, check_metadata=False)
    assert not Path("two.parquet.parts").exists()
    assert len(pandas.read_parquet("two.parquet")) == 26

    assert main(arguments("three.parquet", "--engine", "ray", "--strict")) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "error: images/001.png: image file is truncated"


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
def test_the_class_on_ray_data(local: None) -> None:
    import ray

    options = {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False, "num_cpus": 2}
    ray.init(**options, logging_level="error", log_to_driver=False)
    try:
        items = [{"name": name, "image": image} for name, image in zip(*rows(10).values())]
        data = ray.data.from_items(items, override_num_blocks=1)
        strategy = ray.data.ActorPoolStrategy(size=1)
        got = data.map_batches(Extractor, fn_constructor_args=(net().eval(),), batch_size=10, compute=strategy)
        got.write_parquet(str(Path("features").absolute()))
    finally:
        ray.shutdown()
    frame = pandas.read_parquet("features").sort_values("name")
    wanted = extract(net(), [torch.tensor(rows(10)["image"])]).features
    assert frame["name"].tolist() == rows(10)["name"].tolist()
    assert np.array_equal(np.stack(frame["features"]), wanted)


def test_without_ray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    images.make(Path("images"), 1)
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(arguments("out.parquet", "--engine", "ray")) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --engine ray needs ray")
    assert err.endswith(", which is missing: pip install 'torch-truncate[ray]'\n")
