"""``python -m truncate probe``: the table of a folder is that of its images, and every fault is told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import images
import numpy as np
import pytest
import tiny
import torch
from command_line import run
from folders import ROOT
from PIL import Image

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
