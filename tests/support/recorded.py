"""What all models have in common that are recorded on an example, and how they are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import capture
from torch import Tensor, nn

Forward = Callable[..., Any]
content_may_decide = pytest.mark.filterwarnings("ignore::truncate.ContentWarning")


class Layers(nn.Module):
    """What all models here hold. `grew` is never true; it is a question that only an example can answer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.rows = nn.Parameter(torch.rand(30, 4))
        self.table = [float(i) for i in range(30)]
        self.register_buffer("count", torch.zeros(4))


def model_of(forward: Forward) -> Layers:
    torch.manual_seed(0)
    return type("Model", (Layers,), {"forward": forward})().eval()


def grew(x: Tensor) -> bool:
    return x.shape[0] > 1000


def drawn(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EXAMPLE = drawn(2, 4)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or what it raises."""
    torch.manual_seed(3)
    try:
        return call()
    except Exception as error:
        return error


def hooked(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return outcome(lambda: capture(model, ["b"], *args, **kwargs)["b"][-1])
