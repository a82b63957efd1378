"""Functions of a module of the user's, which forwards reach as ``helpers.name``."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor


def doubled_if_tensor(x: Any) -> Any:
    return x * 2 if type(x) is torch.Tensor and hasattr(x, "shape") and not hasattr(x, "scale") else x


def over_root_of_width(x: Tensor, width: int) -> Tensor:
    return x / math.sqrt(width / 1)


def even(x: Tensor, n: int) -> Tensor:
    return x if n == 0 else odd(x * math.sqrt(x.shape[0] / 1), n - 1)


def odd(x: Tensor, n: int) -> Tensor:
    return x if n == 0 else even(x, n - 1)


@functools.lru_cache
def positions(count: int) -> Tensor:
    return torch.arange(count).float()


@torch.no_grad()
def doubled_without_gradients(x: Any) -> Any:
    return x * 2 if isinstance(x, torch.Tensor) and type(x) is torch.Tensor else x


TABLE = {"root": math.sqrt, "over": over_root_of_width}
