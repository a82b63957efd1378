"""Exported programs on the command line: modules and operations of the trace are targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import SHAPE, run, tiny_net
from oracle import capture


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.chdir(tmp_path)
    model = tiny_net().eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    torch.export.save(torch.export.export(model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},)), "net.pt2")
    return model


@pytest.mark.parametrize("path", ["pool", "pool.adaptive_avg_pool2d"])
def test_cut_and_saved(program: torch.nn.Module, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Conv2d" in run(capsys, "layers", "net.pt2", SHAPE)
    out = run(capsys, "cut", "net.pt2", "--upto", path, SHAPE, "--out", "cut.pt2")
    assert "read back: equal" in out
    x = torch.randn(5, 3, 8, 8)
    (expected,) = capture(program, ["pool"], x)["pool"]
    assert torch.equal(torch.export.load("cut.pt2").module()(x), expected)
