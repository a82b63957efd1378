"""A part to load into, and a way to write its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import FORMATS, Net, State, meta
from torch import nn

from truncate import truncate


@pytest.fixture(params=["meta", "cpu"])
def part(request: pytest.FixtureRequest) -> nn.Module:
    return truncate(meta(Net) if request.param == "meta" else Net(), "body.0")


@pytest.fixture(params=["safetensors", "pth"])
def style(request: pytest.FixtureRequest) -> Callable[[State, Path], Path]:
    return FORMATS[request.param]
