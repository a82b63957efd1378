"""Several processes, as torchrun starts them: each makes shards of its own, and the table is that of one process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import images
import pyarrow.parquet
import pytest
from folders import ROOT, SUPPORT

from truncate._cli.commands import main
from truncate._errors import NotUsable
from truncate._jobs import ranks as _ranks
from truncate._jobs.shards import Output


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(out: str) -> list[str]:
    common = ["extract", "tiny:net", "images", "--upto", "conv", "--pool", "avg", "--workers", "0", "--batch-size", "2"]
    return [*common, "--out", out]


def torchrun(*given: str) -> subprocess.Popen[str]:
    """Two ranks on the loopback interface alone."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")},
        "PYTHONPATH": f"{ROOT}:{SUPPORT}",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *launcher, "-m", "truncate", *given]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def rows(out: str) -> dict[str, list[object]]:
    return pyarrow.parquet.read_table(out).to_pydict()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(number) for number in listed.stdout.split()]


@pytest.mark.timeout(180)
def test_two_ranks_one_of_them_killed_and_started_again() -> None:
    images.make(Path("images"), 60, broken=(7,))
    shards = Path("two.parquet.parts/shards")
    assert main(arguments("one.parquet")) == 1

    process = torchrun(*arguments("two.parquet"))
    while process.poll() is None and len(list(shards.glob("0*"))) < 3:
        time.sleep(0.001)
    killed = workers_of(process)[-1:]
    for number in killed:
        os.kill(number, signal.SIGKILL)
    process.communicate(timeout=90)
    assert killed
    assert process.returncode != 0
    assert 3 <= len(list(shards.glob("0*"))) < 30
    assert not Path("two.parquet").exists()

    process = torchrun(*arguments("two.parquet"))
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 1  # since one file is broken
    assert out.startswith("two.parquet: 59 rows\n1 file could not be read (see two.failures.parquet)")
    assert rows("two.parquet") == rows("one.parquet")
    assert rows("two.failures.parquet") == rows("one.failures.parquet")
    assert not Path("two.parquet.parts").exists()


@pytest.mark.timeout(180)
def test_what_rank_0_refuses_ends_both() -> None:
    Path("images").mkdir()
    process = torchrun(*arguments("two.parquet"))
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1  # torchrun's own
    assert "error: no images in images, it is empty" in err


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    images.make(Path("images"), 4)
    paths = sorted(map(str, Path("images").rglob("*.*")))
    monkeypatch.setattr(_ranks, "_PATIENCE", 0.3)
    output = Output(Path("out.parquet"), {}, paths, 2)
    with output.held(), pytest.raises(NotUsable, match="other ranks have written nothing for 0 minutes, and 2 shards"):
        _ranks.Ranks(0, 2).wait(output)


def test_two_ways_to_divide_the_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 1)
    monkeypatch.setattr("truncate._cli.extracting.joined", lambda: contextlib.nullcontext(_ranks.Ranks(0, 2)))
    assert main([*arguments("out.parquet"), "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "error: --engine ray divides the work itself: run it without torchrun\n"
