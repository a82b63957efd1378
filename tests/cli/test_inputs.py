"""Which images are taken: a folder, one file, the paths on stdin; the first of them. And an interrupt."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import images
import numpy as np
import pandas
import pytest
from command_line import run
from folders import ROOT, SUPPORT

from truncate._cli.choosing import _some
from truncate._cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    images.make(Path("images"), 6)


def extract(source: str, *more: str, out: str = "out.parquet", upto: str = "pool") -> list[str]:
    return ["extract", "tiny:net", source, "--upto", upto, "--out", out, "--workers", "0", *more]


def lines(monkeypatch: pytest.MonkeyPatch, *paths: str | bytes) -> None:
    """Puts them on stdin."""
    content = b"".join(os.fsencode(path) + b"\n" for path in paths)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def table(name: str = "out.parquet") -> pandas.DataFrame:
    return pandas.read_parquet(name)


def test_the_first_images(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *extract("images"))
    assert run(capsys, *extract("images", "--limit", "2", out="two.parquet")) == "two.parquet: 2 rows\n"
    assert table("two.parquet")["path"].tolist() == table()["path"].tolist()[:2]
    assert main(extract("images", "--limit", "3", out="two.parquet")) == 2
    assert "other settings (inputs: 2 images then, 3 now): use those" in capsys.readouterr().err
    assert run(capsys, *extract("images", "--limit", "99", out="all.parquet")) == "all.parquet: 6 rows\n"


def test_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *extract("images"))
    run(capsys, *extract("images/001.png", out="one.parquet"))
    one, all_of_them = table("one.parquet"), table()
    assert one["path"].tolist() == ["images/001.png"]
    row = all_of_them[all_of_them["path"] == "images/001.png"]["features"].iloc[0]
    np.testing.assert_allclose(one["features"][0], row, rtol=1e-5)
    Path("list.txt").touch()
    assert main(extract("list.txt", out="no.parquet")) == 2
    assert "If it lists paths, pass them on stdin: - < list.txt" in capsys.readouterr().err


def test_paths_on_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, with other names than those of images too."""
    Path("images/001.png").rename("images/unnamed")
    os.mkfifo("pipe")
    lines(monkeypatch, "images/unnamed", "", "none.jpg", "images", "images/below/000.jpg", "pipe")
    assert main(extract("-")) == 1
    assert "3 files could not be read" in capsys.readouterr().out
    assert table()["path"].tolist() == ["images/unnamed", "images/below/000.jpg"]
    failed = table("out.failures.parquet")
    assert dict(zip(failed["path"], failed["reason"])) == {
        "none.jpg": "no such file",
        "images": "a folder, not an image",
        "pipe": "not a regular file",
    }


def test_nothing_on_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for paths, told in [((), "no images on stdin, which is empty."), (("x",), "no images on stdin: x: no such file.")]:
        lines(monkeypatch, *paths)
        assert main(extract("-")) == 2
        told += " With - as input, each line of stdin is the path of an image"
        assert capsys.readouterr().err == f"error: {told}\n"


def probe(source: str, *more: str) -> list[str]:
    return ["probe", "tiny:net", source, "--folds", "2", "--workers", "0", "--at", "pool", *more]


def classes() -> list[str]:
    """Two folders with three images each."""
    for path in sorted(Path("images").glob("*.*"))[:-1]:
        (Path("images") / "other").mkdir(exist_ok=True)
        path.rename(Path("images/other", path.name))
    for path in Path("images").glob("*.*"):
        path.rename(Path("images/below", path.name))
    return sorted(str(path) for path in Path("images").rglob("*.*"))


def test_probed_on_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes are the folders in which the paths differ; and a table names the paths as they are given."""
    paths = classes()
    expected = run(capsys, *probe("images")).splitlines()[:2]
    assert "6 examples, 2 classes" in expected[1]
    lines(monkeypatch, *paths)
    assert run(capsys, *probe("-")).splitlines()[:2] == expected
    Path("labels.csv").write_text("path,label\n" + "".join(f"./{path},{i % 2}\n" for i, path in enumerate(paths)))
    lines(monkeypatch, *paths)
    assert "6 examples, 2 classes" in run(capsys, *probe("-", "--labels", "labels.csv"))


def test_some_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    classes()
    assert "4 examples, 2 classes" in run(capsys, *probe("images", "--limit", "4"))
    assert _some([*"aaaabb"], 4) == [0, 1, 4, 5]
    assert _some([*"aaaabb"], 5) == [0, 1, 2, 4, 5]
    assert _some([None] * 3, 2) == [0, 1]
    assert _some([*"ab"], None) == [0, 1]


def test_an_interrupt_says_that_the_same_command_goes_on() -> None:
    """In a process of its own, as somebody at a terminal interrupts it."""
    images.make(Path("many"), 400)
    command = [sys.executable, "-m", "truncate", *extract("many", "--batch-size", "1")]
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}:{ROOT}", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(Path().glob("out.parquet.parts/shards/*.parquet")):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate()
    assert (running.returncode, out) == (130, "")
    assert err.strip() == "interrupted. Nothing is lost: the same command continues where it stopped"
    assert list(Path("out.parquet.parts/shards").glob("*.parquet"))
    assert not Path("out.parquet").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out.parquet: 400 rows\n", "")
    assert table()["path"].is_unique
