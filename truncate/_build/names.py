"""The names in a piece of source, and what they stand for."""

from __future__ import annotations

import builtins
import dataclasses
import itertools
import keyword
import math
import operator
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from truncate._follow import real_of
from truncate._graph import Kind, Node, called, is_made_for_child, is_plain_name, name_of

PROVIDED: dict[str, Any] = {"torch": torch, "torch_1": torch, "F": F, "F_1": F, "Tensor": Tensor}
# Names that mean something else in every piece of source, as a whole file of it too.
RESERVED = frozenset((*PROVIDED, "nn", "model", "self", *keyword.kwlist, *dir(builtins)))
_PRINTED = (type(None), bool, int, float, str, bytes, type(...))
_PRINTED_WITH_TORCH = (torch.dtype, torch.layout, torch.memory_format)
_LONGEST = 1000  # bits of an integer; Python refuses to print very long ones


def clone(value: Tensor) -> Tensor:
    """A copy of a tensor, or of every tensor in nested containers. TorchScript compiles it for tensors."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return value.clone()
    return clone_nested(value)


# Without anything of this library, since `source` writes it out.
def clone_nested(value: Any) -> Any:
    kind: Any = type(value)
    if hasattr(kind, "__torch_function__"):  # a proxy too, if a cut is cut again
        return value.clone()
    if issubclass(kind, dict):
        return kind({key: clone_nested(item) for key, item in value.items()})
    if issubclass(kind, (tuple, list)):
        items = [clone_nested(item) for item in value]
        return kind._make(items) if hasattr(kind, "_make") else kind(items)
    if hasattr(kind, "__dataclass_fields__"):
        return kind(**{f.name: clone_nested(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init})
    return value


class Names:
    """What the names in a piece of source stand for, beyond ``torch``, ``F`` and the builtins."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self.globals: dict[str, Any] = {}
        self._hiding = reserved = set(reserved)  # arguments of the forward, behind which nobody sees a builtin
        # How the source writes these modules: otherwise, if the forward has an argument of that name.
        self.torch = next(name for name in numbered("torch") if name not in reserved)
        self.functional = next(name for name in numbered("F") if name not in reserved)
        self._reserved = RESERVED | reserved
        self.variables: set[str] = set()

    def taken(self, name: str) -> bool:
        return name in self.globals or name in self._reserved

    def of(self, value: Any) -> str:
        """A name for an object that source cannot spell out."""
        for name, known in self.globals.items():
            if known is value:
                return name
        base = getattr(value, "__name__", type(value).__name__.lower())
        base = base if is_plain_name(base) else "constant"
        name = next(n for n in numbered(base) if not self.taken(n) and n not in self.variables)
        self.globals[name] = value
        return name

    # -- all that comes from a model or its inputs, and is no name of ours, is spelled here ---------------------------

    def constant(self, value: Any) -> str:
        """An expression for something that holds no other values: a literal that Python reads as just this, or a name.

        The class of a value decides, and never what it says of itself: an Enum that is a string is no string here.
        """
        value = real_of(value)
        kind = type(value)
        if kind is float and not math.isfinite(value):
            return f'{self.builtin(float)}("{value}")'
        if kind is complex:
            return f"{self.builtin(complex)}({self.constant(value.real)}, {self.constant(value.imag)})"
        if kind is int and value.bit_length() > _LONGEST:
            return self.of(value)
        if kind in _PRINTED:
            return "..." if value is ... else repr(value)
        if kind in _PRINTED_WITH_TORCH:
            return f"{self.torch}{repr(value).removeprefix('torch')}"
        if kind is torch.device:
            return f'{self.torch}.device("{value}")'
        if isinstance(value, type) and getattr(builtins, called(value), None) is value:
            return self.builtin(value)
        return self.of(value)

    def builtin(self, value: Any) -> str:
        """The name of a builtin, or another if the forward has an argument of that name."""
        return self.of(value) if value.__name__ in self._hiding else str(value.__name__)

    def attribute(self, holder: str, name: Any) -> str:
        if is_plain_name(name):
            return f"{holder}.{name}"
        return f"{self.builtin(getattr)}({holder}, {self.constant(name)})"

    def assigned(self, holder: str, name: Any, value: str) -> str:
        if is_plain_name(name):
            return f"{holder}.{name} = {value}"
        return f"{self.builtin(setattr)}({holder}, {self.constant(name)}, {value})"

    def argument(self, name: Any, value: str) -> str:
        """What is passed by keyword in a call."""
        return f"{name}={value}" if is_plain_name(name) else f"**{{{self.constant(name)}: {value}}}"


def numbered(base: str) -> Iterable[str]:
    yield base
    for i in itertools.count(1):
        yield f"{base}_{i}"


def text_of(name: str) -> str:
    """What a string says, and nothing else: an Enum that is a string is printed otherwise."""
    return "".join((name, ""))


def takes_apart(node: Node) -> bool:
    return node.target in (getattr, operator.getitem)


def base_name(node: Node) -> str:
    """What a person would call the value of a node."""
    if node.kind is Kind.CHILD:
        *holders, last = node.target.split(".")
        base = last if is_plain_name(last) else "_".join([*holders[-1:], last])
    elif node.target is getattr:
        base = node.args[1]
    elif node.target is operator.getitem and type(node.args[1]) is int and takes_apart(node.args[0]):
        base = f"{base_name(node.args[0])}_{node.args[1]}"
    elif node.target is operator.getitem:
        base = "item"
    elif is_made_for_child(node):
        base = "items"
    else:
        base = name_of(node).strip("_")
    return base if is_plain_name(base) else "x"
