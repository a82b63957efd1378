"""Python objects that a forward passes on and that are no tensors, containers or constants: caches and such."""

from __future__ import annotations

import enum
import gc
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from truncate._traced import Traced

PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(...)))
# What holds no values of a run, so that there is nothing to look for inside, and may be shared by all runs.
NOT_OPENED = (
    type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, enum.Enum, torch.layout,
    torch.memory_format, torch.dtype, torch.device, range, frozenset, torch.Generator, nn.Module, Traced,
)  # fmt: skip


def is_opaque(value: Any) -> bool:
    """Whether a value is an object with a state of its own, which a child may change."""
    return hasattr(value, "__dict__") and not isinstance(value, (torch.Tensor, *NOT_OPENED))


def hides(value: Any, sought: Callable[[Any], bool], depth: int = 4) -> bool:
    """Whether what is sought lies inside an object that is no container: in a closure, a deque, an iterator."""
    if sought(value):
        return True
    if not depth or type(value) in PLAIN or isinstance(value, (torch.Tensor, nn.Module, type, types.ModuleType)):
        return False
    if isinstance(value, types.FunctionType):  # and not its globals
        inside: Any = value.__closure__ or ()
    else:
        inside = gc.get_referents(value)
    return any(hides(item, sought, depth - 1) for item in inside)


def revive(kind: type, state: dict[str, Any]) -> Any:
    """An object of that class with these attributes: what a forward made, made again."""
    try:
        made: Any = object.__new__(kind)
    except TypeError:  # a class that is not written in Python
        made = kind.__new__(kind)  # type: ignore[call-overload]
    made.__dict__.update(state)
    return made
