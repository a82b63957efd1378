"""The names in a piece of source, and what they stand for."""

from __future__ import annotations

import builtins
import itertools
import keyword
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from truncate._follow import Proxy
from truncate._graph import map_nested

PROVIDED: dict[str, Any] = {"torch": torch, "torch_1": torch, "F": F, "F_1": F, "Tensor": Tensor}


def clone(value: Tensor) -> Tensor:
    """A copy of a tensor, or of every tensor in nested containers. TorchScript compiles it for tensors."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return value.clone()
    return _clone_nested(value)


def _clone_nested(value: Any) -> Any:
    is_value = (torch.Tensor, Proxy)  # a proxy, if a cut is cut again
    return map_nested(value, lambda item: item.clone() if issubclass(type(item), is_value) else item)


class Names:
    """What the names in a piece of source stand for, beyond ``torch``, ``F`` and the builtins."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self.globals: dict[str, Any] = {}
        reserved = set(reserved)
        # How the source writes these modules: otherwise, if the forward has an argument of that name.
        self.torch = next(name for name in numbered("torch") if name not in reserved)
        self.functional = next(name for name in numbered("F") if name not in reserved)
        self._reserved = {*reserved, *PROVIDED, *keyword.kwlist, *dir(builtins), "self"}
        self.variables: set[str] = set()

    def taken(self, name: str) -> bool:
        return name in self.globals or name in self._reserved

    def of(self, value: Any) -> str:
        """A name for an object that source cannot spell out."""
        for name, known in self.globals.items():
            if known is value:
                return name
        base = getattr(value, "__name__", type(value).__name__.lower())
        base = base if base.isidentifier() else "constant"
        name = next(n for n in numbered(base) if not self.taken(n) and n not in self.variables)
        self.globals[name] = value
        return name


def numbered(base: str) -> Iterable[str]:
    yield base
    for i in itertools.count(1):
        yield f"{base}_{i}"
