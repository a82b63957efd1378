"""The files that `--out` writes: right, and whole or not there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import images
import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from command_line import SHAPE, run, tiny_net
from oracle import equal

from truncate import truncate
from truncate._cli import models as _models
from truncate._cli import saving as _save
from truncate._cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx", ".safetensors"])
def test_formats(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(f"net{suffix}")
    path.write_text("what was there before")
    out = run(capsys, "cut", "tiny:net", "--upto", "act:0", "--upto", "pool", SHAPE, "--out", str(path))
    assert f"saved net{suffix}: " in out
    assert [p.name for p in Path().iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644
    cut = truncate(tiny_net(), ["act:0", "pool"])
    x = torch.randn(3, 3, 8, 8)  # another batch size
    with torch.no_grad():
        expected = cut(x)
        if suffix == ".pt":
            assert equal(torch.jit.load(str(path))(x), expected)
        elif suffix == ".pt2":
            assert "for any batch size" in out
            assert equal(torch.export.load(path).module()(x), expected)
        elif suffix == ".onnx":
            assert "for any batch size" in out
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for got, wanted in zip(session.run(None, {session.get_inputs()[0].name: x.numpy()}), expected, strict=True):
                np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)
        else:
            state = safetensors.torch.load_file(path)
            assert state.keys() == cut.state_dict().keys() == {"conv.weight", "conv.bias"}
            assert all(torch.equal(state[name], tensor) for name, tensor in cut.state_dict().items())


def test_what_cannot_be_scripted_leaves_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("kept.pt").write_text("as before")
    arguments = ["cut", "tiny:Unscriptable", "--upto", "pool", SHAPE, "--out", "kept.pt"]
    assert main(arguments) == 2
    assert (
        "error: cannot write kept.pt as scripted module (an exported program, .pt2, takes more models): "
        in capsys.readouterr().err
    )
    assert Path("kept.pt").read_text() == "as before"
    assert [path.name for path in Path().iterdir()] == ["kept.pt"]


def test_a_file_that_comes_back_wrong_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer writes another module than it was given."""
    kind, write, read, needs = _save._FORMATS[".pt"]
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
    monkeypatch.setitem(_save._FORMATS, ".pt", (kind, lambda m, path, args: write(other, path, args), read, needs))
    with pytest.raises(_models.NotUsable, match="it returns something else"):
        _save.save(tiny_net().conv, Path("x.pt"), (torch.zeros(1, 3, 8, 8),))
    assert not list(Path().iterdir())


def test_an_interrupted_write_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.pt").write_text("as before")

    def interrupt(*arguments: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setitem(_save._FORMATS, ".pt", ("", interrupt, interrupt, ()))
    with pytest.raises(KeyboardInterrupt):
        _save.save(tiny_net(), Path("x.pt"), ())
    assert [(path.name, path.read_text()) for path in Path().iterdir()] == [("x.pt", "as before")]


def test_what_a_killed_save_leaves_is_gone_after_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.pt").write_text("as before")
    Path("x.pt").chmod(0o600)

    def write(module: object, path: Path, args: object) -> str:
        path.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    def die() -> int:
        _save._FORMATS[".pt"] = ("", write, write, ())
        _save.save(tiny_net(), Path("x.pt"), ())
        return 0

    assert images.ended(images.child(die)) == -signal.SIGKILL
    assert Path("x.pt").read_text() == "as before"
    _save.save(tiny_net(), Path("x.pt"), (torch.zeros(1, 3, 8, 8),))
    assert [path.name for path in Path().iterdir()] == ["x.pt"]
    assert Path("x.pt").stat().st_mode & 0o777 == 0o600


def test_a_module_for_one_batch_size_is_exported_for_that_one(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "cut", "tiny:ByBatch", "--upto", "pool", SHAPE, "--out", "x.pt2")
    assert "for the batch size of the example alone" in out
