"""What follows --upto, --before and --at is read as `truncate` reads it, and the results say what they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import images
import numpy as np
import onnx
import onnxruntime
import polars
import pytest
import tiny
import torch
from command_line import SHAPE, run
from oracle import equal

from truncate import truncate
from truncate._cli import models, verifying
from truncate._cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    monkeypatch.setattr(verifying, "times", lambda whole, part: (1.0, 1.0))  # which takes seconds
    return tmp_path


def reader() -> tiny.Reader:
    """As the command line builds it."""
    torch.manual_seed(0)
    return tiny.Reader().eval()


def cut(capsys: pytest.CaptureFixture[str], *stop: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, "cut", "tiny:Reader", *stop, SHAPE, "--json", "--out", "x.pt"))
    return found


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("lstm[0]", "lstm[0]"),
        ("lstm[1][-1]:0", "lstm[1][-1]:0"),
        ("head[0]", "head.0"),
        ("head.-1", "head.1"),
        ("last", "head.1"),
        ("before last", "before head.1"),
        ("relu:-2", "relu:-2"),
        ("flatten", "flatten"),
    ],
)
def test_one_target(written: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cut(capsys, "--upto", written)["upto"] == [name]
    x = torch.randn(2, 3, 8, 8)
    assert equal(torch.jit.load("x.pt")(x), truncate(reader(), written)(x))


def test_a_pattern_names_several_and_each_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = cut(capsys, "--upto", "head.0", "--upto", "head.*", "--upto", "c?nv")
    assert found["upto"] == ["head.0", "head.1", "conv"]
    assert found["shapes"] == [[1, 16], [1, 2], [1, 8, 8, 8]]
    x = torch.randn(2, 3, 8, 8)
    assert equal(torch.jit.load("x.pt")(x), truncate(reader(), ["head.0", "head.1", "conv"])(x))
    assert cut(capsys, "--before", "head.*")["before"] == ["head.0", "head.1"]
    assert equal(torch.jit.load("x.pt")(x), truncate(reader(), before="head.*")(x))
    assert "\nhead.0: 1×16, " in run(capsys, "cut", "tiny:Reader", "--upto", "head.*", SHAPE)


def test_last_where_a_forward_cannot_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\nhead: 1×2, " in run(capsys, "cut", "tiny:Branching", "--upto", "last", SHAPE)


def test_another_item_is_not_saved(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    other = truncate(reader(), "lstm[1][1]")
    monkeypatch.setattr(models, "truncate", lambda model, **options: other)
    assert main(["cut", "tiny:Reader", "--upto", "lstm[1][0]", SHAPE, "--out", "x.pt"]) == 1
    assert "returns other values than the model at lstm[1][0]; nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "lay*",
            "no layer of this Reader has a path like 'lay*'. * stands for any text; layers(model) lists every path",
        ),
        ("conv[0]", "the cut at conv[0] does not run on random numbers (1×3×8×8): [0] selects an item of a layer that"),
    ],
)
def test_one_clear_line(written: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cut", "tiny:Reader", "--upto", written, SHAPE]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {said}") and err.count("\n") == 1


def test_outputs_in_onnx_have_the_names_of_their_targets(capsys: pytest.CaptureFixture[str]) -> None:
    """Where torch calls other values so, as it does the first of two calls of a layer, these give way."""
    stop = ["--upto", "relu", "--upto", "conv", "--upto", "lstm", "--upto", "x"]
    run(capsys, "cut", "tiny:Reader", *stop, SHAPE, "--out", "x.onnx")
    names = [output.name for output in onnx.load("x.onnx").graph.output]
    assert names[:5] == ["relu", "conv", "lstm_0", "lstm_1", "lstm_2"]
    assert names[5] != "x"  # as the input is called
    session = onnxruntime.InferenceSession("x.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = truncate(reader(), "relu")(x)
    np.testing.assert_allclose(session.run(["relu"], {"x": x.numpy()})[0], expected.numpy(), atol=1e-5)
    run(capsys, "cut", "tiny:Reader", "--upto", "", SHAPE, "--out", "x.onnx")
    assert [output.name for output in onnx.load("x.onnx").graph.output] == ["output"]


def test_columns_have_the_names_of_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    command = ["extract", "tiny:Reader", "images", "--workers", "0", "--out", "x.parquet", "--json"]
    found = json.loads(run(capsys, *command, "--upto", "head.*", "--upto", "lstm[0]"))
    assert found["upto"] == ["head.0", "head.1", "lstm[0]"]
    assert polars.read_parquet("x.parquet").columns == ["path", "head.0", "head.1", "lstm[0]"]


def test_what_is_probed(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("one", "other"):
        images.make(Path("images", kind), 6)
    at = ["--at", "lstm[1][1]", "--at", "before head.*", "--at", "last", "--at", "r?lu:0"]
    found = json.loads(run(capsys, "probe", "tiny:Reader", "images", "--workers", "0", "--json", *at))
    names = ["before head.0", "before head.1", "last", "relu:0"]
    assert [row["layer"] for row in found["rows"]] == names
    assert list(found["left_out"]) == ["lstm[1][1]"]
