"""What is printed, on narrow terminals too; JSON; what stays quiet."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import images
import pytest
from command_line import SHAPE, run

from truncate._cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("truncate._cli.verifying.times", lambda whole, part: (2.0, 1.0))
    images.small(monkeypatch)


def on_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What is printed on one of 40 columns, without its colours."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    assert main(list(arguments)) == 0
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("cut", "tiny:net", "--upto", "pool", SHAPE),
        ("layers", "vit_b_16", "--depth", "2"),
        ("layers", "tiny:net", "--table", "--shapes", SHAPE),
        ("probe", "tiny:net", "images", "--workers", "0", "--seed", "1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_nothing_is_cut_off_on_a_narrow_terminal(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images.make(Path("images"), 6)
    for path in sorted(Path("images/below").glob("*.*")):
        path.rename(Path("images", path.name))

    def timeless(text: str) -> str:
        return re.sub(r"( %) +[\d.]+(e-\d+)?", r"\1", text)

    with monkeypatch.context() as terminal:
        narrow = on_terminal(capsys, terminal, *arguments)
    assert timeless(narrow) == timeless(run(capsys, *arguments))
    assert max(map(len, narrow.splitlines())) > 40


def test_a_terminal_is_written_to_in_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["layers", "tiny:net"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[36mReLU" in out
    plain = re.sub(r"\x1b\[[\d;]*m", "", out)
    assert not any(line.endswith(" ") for line in plain.splitlines())  # which would wrap


def read(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(run(capsys, *arguments, "--json"))


def test_json_of_cut(capsys: pytest.CaptureFixture[str]) -> None:
    found = read(capsys, "cut", "tiny:net", "--upto", "act:0", "--upto", "", SHAPE, "--out", "x.safetensors")
    assert found == {
        "model": "tiny:net",
        "weights": "its own weights",
        "random": False,
        "upto": ["act:0", ""],
        "parameters": {"whole": 122, "cut": 122},
        "multiply_adds": {"whole": 64 * 27 * 4 + 8, "cut": 64 * 27 * 4 + 8},
        "milliseconds": {"whole": 2000.0, "cut": 1000.0},
        "checked_on": "random numbers (1×3×8×8)",
        "shapes": [[1, 4, 8, 8], [1, 2]],
        "assumptions": [],
        "out": "x.safetensors",
    }
    found = read(capsys, "cut", "tiny:Branching", "--before", "pool", SHAPE)
    assert found["before"] == ["pool"] and found["out"] is None
    assert "x.shape[2] > 4" in found["assumptions"][0]


def test_json_of_layers(capsys: pytest.CaptureFixture[str]) -> None:
    found = read(capsys, "layers", "tiny:net", "--shapes", SHAPE)
    assert (found["model"], found["type"], found["parameters"]) == ("tiny:net", "Net", 122)
    assert [row["path"] for row in found["layers"]] == ["conv", "sub", "act", "pool", "flatten", "head"]
    assert found["layers"][0]["shape"] == [1, 4, 8, 8]
    assert [row["path"] for row in read(capsys, "layers", "resnet18", "--depth", "1")["layers"]][-1] == "fc"
    assert read(capsys, "layers", "resnet18", "--depth", "1")["random"] is True


def test_json_of_extract(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 3, broken=(2,))
    Path("images/notes.txt").touch()
    given = ["extract", "tiny:net", "images", "--upto", "pool", "--out", "x.parquet", "--workers", "0", "--json"]
    assert main(given) == 1
    found = json.loads(capsys.readouterr().out)
    assert list(found.pop("failures")) == ["images/002.jpg"]
    expected = {"model": "tiny:net", "weights": "its own weights", "random": False, "upto": ["pool"]}
    assert found == {**expected, "out": "x.parquet", "rows": 2, "left_out": {".txt": 1}}


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """What is warned of comes all the same, and so does what --json prints."""
    images.make(Path("images"), 3)
    given = ("cut", "tiny:net", "--upto", "pool", SHAPE, "--quiet", "--out", "x.pt")
    assert run(capsys, *given) == ""
    assert Path("x.pt").exists()
    assert json.loads(run(capsys, *given, "--json"))["out"] == "x.pt"
    assert run(capsys, "extract", "tiny:net", "images", "--upto", "pool", "--out", "x.parquet", "--quiet") == ""
    assert main(["extract", "alexnet", "images", "--upto", "features.1", "--out", "y", "--quiet", "--random"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "warning: alexnet has random weights, and their features say little about an image (--weights DEFAULT "
        "downloads trained ones)\n"
    )


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"torch-truncate \d+\.\d+\.\d+\n", run(capsys, "--version"))
