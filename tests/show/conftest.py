"""A model whose blocks repeat."""

from __future__ import annotations

import pytest
import torchvision
from torch import nn


@pytest.fixture(scope="module")
def deep() -> nn.Module:
    return torchvision.models.resnet152().eval()
