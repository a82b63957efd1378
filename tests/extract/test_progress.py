"""The bar that shows how far `extract` is."""

from __future__ import annotations

import pytest
from extracted import ROWS, Net, batches

from truncate import extract


def test_quiet_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    extract(Net(), batches())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_on_a_terminal(
    progress: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    extract(Net(), batches(), progress=progress)
    err = capfd.readouterr().err
    assert (f"{ROWS}/25" in err and "rows/s" in err) is progress
    assert bool(err) is progress
