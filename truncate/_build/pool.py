"""What may be put after a cut: pooling, chosen by name or given as a module, and flattening."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from truncate._errors import TruncateError


def pooling(pool: Any, flatten: bool) -> dict[str, nn.Module]:
    """The modules that pool and flatten one tensor, by the names "pool" and "flatten", in the order they are applied.

    Args:
        pool: One of the names in `POOLS`, any module, which is used as it is, or None for no pooling.
        flatten: Whether all dimensions after the batch become one.
    """
    modules: dict[str, nn.Module] = {}
    if isinstance(pool, nn.Module):
        modules["pool"] = pool
    elif isinstance(pool, str) and pool in POOLS:
        modules["pool"] = POOLS[pool]()
    elif pool is not None:
        known = "\n".join(f"    {name!r}: {_summary(kind)}" for name, kind in POOLS.items())
        remedy = f" Make an object of this class: pool={pool.__name__}(...)." if isinstance(pool, type) else ""
        raise TruncateError(f"pool={pool!r} is not a pooling.{remedy} pool is any torch.nn.Module, or one of\n{known}")
    if not isinstance(flatten, bool):
        raise TruncateError(
            f"flatten is True or False, not {flatten!r}. To flatten in another way, put the result and your own "
            f"module into an nn.Sequential"
        )
    if flatten:
        modules["flatten"] = nn.Flatten(1)
    return modules


def _summary(kind: type[nn.Module]) -> str:
    return (kind.__doc__ or "").partition("\n")[0].removesuffix(".")


def _dimensions(value: Tensor, pool: str) -> int:
    if not isinstance(value, Tensor):
        raise TruncateError(
            f"pool='{pool}' takes one tensor, but the target returns a {type(value).__name__}. "
            f"Stop at a layer that returns a tensor"
        )
    return value.dim()


class AveragePool(nn.Module):
    """The average over all positions of a map, channels first: (N, C, H, W) to (N, C, 1, 1); 1d and 3d alike."""

    def forward(self, x: Tensor) -> Tensor:
        dimensions = _dimensions(x, "avg")
        if dimensions == 3:
            return F.adaptive_avg_pool1d(x, 1)
        if dimensions == 4:
            return F.adaptive_avg_pool2d(x, 1)
        if dimensions == 5:
            return F.adaptive_avg_pool3d(x, 1)
        raise TruncateError(
            f"pool='avg' takes maps with channels first, (N, C, L), (N, C, H, W) or (N, C, D, H, W), but got "
            f"shape {list(x.shape)}. A tensor without positions needs no pooling"
        )


class MaxPool(nn.Module):
    """The maximum over all positions of a map, channels first: (N, C, H, W) to (N, C, 1, 1); 1d and 3d alike."""

    def forward(self, x: Tensor) -> Tensor:
        dimensions = _dimensions(x, "max")
        if dimensions == 3:
            return F.adaptive_max_pool1d(x, 1)
        if dimensions == 4:
            return F.adaptive_max_pool2d(x, 1)
        if dimensions == 5:
            return F.adaptive_max_pool3d(x, 1)
        raise TruncateError(
            f"pool='max' takes maps with channels first, (N, C, L), (N, C, H, W) or (N, C, D, H, W), but got "
            f"shape {list(x.shape)}. A tensor without positions needs no pooling"
        )


class Mean(nn.Module):
    """The average over all tokens, (N, L, C) to (N, C), or over a map with channels last, (N, H, W, C) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        dimensions = _dimensions(x, "mean")
        if dimensions == 3:
            return x.mean(1)
        if dimensions == 4:
            return x.mean([1, 2])
        if dimensions == 5:
            return x.mean([1, 2, 3])
        raise TruncateError(
            f"pool='mean' takes tokens (N, L, C), or maps with channels last, (N, H, W, C) or (N, D, H, W, C), but got "
            f"shape {list(x.shape)}. A tensor without positions needs no pooling"
        )


class FirstToken(nn.Module):
    """The first token, which many transformers keep for the whole (the class token): (N, L, C) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        if _dimensions(x, "cls") == 3:
            return x[:, 0]
        raise TruncateError(f"pool='cls' takes tokens (N, L, C), but got shape {list(x.shape)}")


POOLS: dict[str, type[nn.Module]] = {"avg": AveragePool, "max": MaxPool, "mean": Mean, "cls": FirstToken}
