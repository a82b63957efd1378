"""The command line in this process, and what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from truncate._cli.commands import main

SHAPE = "--shape=1,3,8,8"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr, of what is refused."""
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert code == 2, out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(Path().iterdir())
    return err.removeprefix("error: ").rstrip()


def tiny_net() -> tiny.Net:
    """As the command line builds it."""
    torch.manual_seed(0)
    return tiny.Net().eval()
