"""Python objects that a forward passes on and that are no tensors, containers or constants: caches and such."""

from __future__ import annotations

import enum
import types
from typing import Any

import torch
from torch import nn

from truncate._traced import Traced

# What holds no values of a run, so that there is nothing to look for inside, and may be shared by all runs.
NOT_OPENED = (
    type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, enum.Enum, torch.layout,
    torch.memory_format, torch.dtype, torch.device, range, frozenset, torch.Generator, nn.Module, Traced,
)  # fmt: skip


def is_opaque(value: Any) -> bool:
    """Whether a value is an object with a state of its own, which a child may change."""
    return hasattr(value, "__dict__") and not isinstance(value, (torch.Tensor, *NOT_OPENED))


def revive(kind: type, state: dict[str, Any]) -> Any:
    """An object of that class with these attributes: what a forward made, made again."""
    made: Any = object.__new__(kind)
    made.__dict__.update(state)
    return made
