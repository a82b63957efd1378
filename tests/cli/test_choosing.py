"""``python -m truncate probe``: the table of a folder is that of its images, and every fault is told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import images
import numpy as np
import pytest
import tiny
import torch
from command_line import run
from folders import ROOT
from PIL import Image
from pyarrow import dataset

from truncate import probe
from truncate._cli import models as _models
from truncate._cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of dark and bright images, twelve of each."""
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    random = np.random.RandomState(0)
    for kind, most in (("bright", 255), ("dark", 90)):
        Path("images", kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(random.randint(0, most, (20, 24, 3), np.uint8)).save(f"images/{kind}/{i:02}.png")
    return tmp_path


def arguments(*more: str) -> list[str]:
    return ["probe", "tiny:net", "images", "--workers", "0", "--folds", "3", *more]


def refuse(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    assert main(arguments(*given)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip()


def test_the_table_is_that_of_the_images(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, *arguments("--batch-size", "5")).splitlines()
    torch.manual_seed(0)
    model, transform = tiny.net().eval(), _models.imagenet()
    paths = sorted(Path("images").rglob("*.png"))
    inputs = torch.stack([transform(Image.open(path)) for path in paths])
    expected = probe(model, inputs.split(5), [path.parent.name for path in paths], folds=3)
    assert printed[0] == "tiny:net with its own weights"

    def timeless(lines: list[str]) -> list[str]:
        return [re.sub(r"( %) +[\d.]+(e-\d+)?", r"\1", line) for line in lines]

    assert timeless(printed[1:]) == timeless(str(expected).splitlines())
    assert "2 classes: accuracy in 3 folds" in printed[1]


def test_json_and_the_curve(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, *arguments("--json", "--out", "curve.svg", "--at", "*o*", "--estimator", "knn")))
    assert [row["layer"] for row in found["rows"]] == ["conv", "pool"]
    assert found["classes"] == ["bright", "dark"] and found["failures"] == {} == found["left_out"]
    assert len(found["rows"][found["best"]]["scores"]) == 3 and found["cheapest"] in (0, 1)
    assert Path("curve.svg").read_text().startswith("<svg")


def test_a_table_of_labels(capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted(str(path.relative_to("images")) for path in Path("images").rglob("*.png"))
    table = Path("labels.csv")
    table.write_text("label,path\n" + "".join(f"{'odd' if i % 2 else 'even'},./{p}\n" for i, p in enumerate(paths)))
    assert '"classes": [\n    "even",\n    "odd"' in run(capsys, *arguments("--json", "--labels", "labels.csv"))
    table.write_text("path,label\n" + "".join(f"{p},{i / 8}\n" for i, p in enumerate(paths)))
    assert "24 examples, numbers: r2 in 3 folds" in run(capsys, *arguments("--labels", "labels.csv"))
    table.write_text("path,label\n" + "".join(f"{p},1\n" for p in paths[2:]))
    assert (
        refuse(capsys, "--labels", "labels.csv")
        == "labels.csv has no label for bright/00.png and 1 more images of images"
    )
    table.write_text("file,label\n")
    assert refuse(capsys, "--labels", "labels.csv") == "labels.csv has no column 'path': it has file, label"
    assert refuse(capsys, "--labels", "none.csv").startswith("cannot read none.csv: ")


def test_images_without_labels(capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path("images", "dark").glob("*.png"):
        path.rename(Path("images", f"dark-{path.name}"))
    assert refuse(capsys).startswith(
        "images/dark-00.png and 11 more images are in no folder below images, but others are"
    )
    for path in Path("images", "bright").glob("*.png"):
        path.rename(Path("images", f"bright-{path.name}"))
    assert "Net on 24 examples, without labels" in run(capsys, *arguments())
    assert "best" not in json.loads(run(capsys, *arguments("--json")))


def test_what_cannot_be_read_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("images/bright/03.png").write_bytes(b"")
    assert main(arguments()) == 1
    out, err = capsys.readouterr()
    assert "Net on 23 examples" in out and err == ""
    assert out.endswith("1 file could not be read, the first of them images/bright/03.png: the file is empty\n")
    for path in Path("images").rglob("*.png"):
        path.write_bytes(b"")
    assert refuse(capsys) == "none of the 24 images can be read: the file is empty"


def test_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(capsys, "--out", "curve.png") == (
        "cannot write 'curve.png': the curve is written to a file that ends in .svg"
    )
    assert refuse(capsys, "--at", "konv1").startswith("no target 'konv1'")
    assert refuse(capsys, "--folds", "13").startswith("the class 'bright' has 12 of 24 examples, and folds=13 needs 13")
    assert refuse(capsys, "--device", "nowhere").startswith("cannot compute on 'nowhere'")


def test_as_a_user_runs_it() -> None:
    code = [sys.executable, "-W", "error", "-m", "truncate", *arguments(), "--workers", "1", "--at", "pool"]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests/support", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(code, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pool" in done.stdout


@pytest.mark.parametrize("vectors", ["vectors.parquet", "vectors"])
def test_vectors_are_kept_and_the_command_goes_on(capsys: pytest.CaptureFixture[str], vectors: str) -> None:
    Path("images/dark/05.png").write_bytes(b"")
    given = arguments("--batch-size", "5", "--vectors", vectors)
    assert main([*given, "--json"]) == 1
    first = json.loads(capsys.readouterr().out)
    table = dataset.dataset(vectors, ignore_prefixes=["failures", "manifest", "inputs", "_", "."]).to_table()
    paths = [path for path in sorted(map(str, Path("images").rglob("*.png"))) if "dark/05" not in path]
    assert sorted(table["path"].to_pylist()) == paths
    columns = [name for name in table.column_names if name != "path"]
    assert [table.schema.field(name).type.list_size for name in columns] == [r["dimension"] for r in first["rows"]]
    for path in Path("images").rglob("*.png"):  # none of them is read again, but those of the first batch
        if path.parent.name == "dark":
            path.write_bytes(b"")
    assert main([*given, "--json"]) == 1
    again = json.loads(capsys.readouterr().out)
    assert all(row.pop("milliseconds") is not None for row in first["rows"])
    assert all(row.pop("milliseconds") is None for row in again["rows"])
    assert again == first
    assert refuse(capsys, *given[7:], "--at", "conv").startswith(f"{vectors} was made with other settings (at: [] then")


def test_a_pass_that_was_interrupted_goes_on_where_it_was() -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/support", "OMP_NUM_THREADS": "1"}
    images.make(Path("images/many"), 400)
    command = [sys.executable, "-m", "truncate", *arguments("--batch-size", "1", "--vectors", "vectors.parquet")]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(Path().glob("vectors.parquet.parts/shards/*.parquet")):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    assert "the same command goes on where it was" in running.communicate(timeout=60)[1]
    made = {path: path.stat().st_mtime_ns for path in Path("vectors.parquet.parts/shards").glob("*.parquet")}
    assert 0 < len(made) < 7
    held = {path: os.open(path, os.O_RDONLY) for path in made}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and "424 examples, 3 classes" in done.stdout
    for path, file in held.items():
        assert os.fstat(file).st_mtime_ns == made[path]  # written once
        os.close(file)
    assert dataset.dataset("vectors.parquet").count_rows() == 424
