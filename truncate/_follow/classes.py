"""What the forward of a class does, and what runs when it is called: found out once for each class."""

from __future__ import annotations

import inspect
import types
from typing import Any

from torch import nn

from truncate._python import (
    asks_of_values,
    attributes_stored,
    compares_two,
    compares_with_bool,
    may_fill,
    names_in,
    reached,
    while_there,
)


def _functions_of(cls: Any) -> tuple[types.FunctionType, ...]:
    """The forward of a class, and each method that it names."""
    functions = []
    reached = {"forward"}
    pending = ["forward"]
    while pending:
        method = pending.pop()
        for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
            value = vars(base).get(method)
            function = inspect.unwrap(value) if callable(value) else None
            if isinstance(function, types.FunctionType):
                functions.append(function)
                called = names_in(function.__code__) - reached
                reached |= called
                pending += called
    return tuple(functions)


@while_there
def names_in_forward(cls: Any) -> frozenset[str]:
    """The names that the forward of a class, or a method that it names, uses."""
    return frozenset().union(*(names_in(function.__code__) for function in _functions_of(cls)))


@while_there
def attributes_set(cls: Any) -> frozenset[str]:
    """The attributes that the forward of a class sets, or a method that it names."""
    return frozenset().union(*(attributes_stored(function.__code__) for function in _functions_of(cls)))


@while_there
def compares_bools(cls: Any) -> bool:
    """Whether the forward of a class, or a function that it reaches by name, compares by ``is`` with True or False."""
    return any(compares_with_bool(function.__code__) for function in reached(_functions_of(cls)))


@while_there
def compares_values(cls: Any) -> bool:
    """Whether the forward of a class, or a function that it reaches, compares two values by ``is``."""
    return any(compares_two(function.__code__) for function in reached([inspect.unwrap(cls.forward)]))


@while_there
def asks_for_none(cls: Any) -> bool:
    """Whether the forward of a class, or a function that it reaches, asks if a value that it computes is None."""
    forward = inspect.unwrap(cls.forward)
    others = reached(_functions_of(cls)) - {forward}
    return asks_of_values(forward.__code__, arguments=False) or any(asks_of_values(one.__code__) for one in others)


def has_state_or_mode(module: nn.Module) -> bool:
    """Whether what a module does depends on more than its parameters and what it is given, or changes the module."""
    kind: Any = type(module)
    return bool(module._buffers) or bool(attributes_set(kind)) or _reads_mode(kind) or may_fill(module)


@while_there
def _reads_mode(cls: Any) -> bool:
    return any("training" in names_in(function.__code__) for function in reached(_functions_of(cls)))


@while_there
def answers_operators(cls: Any) -> bool:
    """Whether a class defines special methods, which Python looks up on the class, such as ``__len__``."""
    bases = cls.__mro__[: cls.__mro__.index(nn.Module)]
    return any(
        name.startswith("__") and name not in _ASKED_BY_NAME and callable(value)
        for base in bases
        for name, value in vars(base).items()
    )


_ASKED_BY_NAME = frozenset(
    "__init__ __repr__ __setstate__ __getstate__ __reduce_ex__ __deepcopy__ __init_subclass__ __dir__".split()
)


def has_own_call(module: nn.Module) -> bool:
    """Whether the class of a module overrides ``__call__``, which no hook sees; classes of torch do not count."""
    return not type(module).__call__.__module__.startswith("torch.")


def is_chain(module: nn.Module) -> bool:
    """Whether a module does just what `nn.Sequential` does: call its children in turn."""
    own = "forward" in vars(module) or has_own_call(module)
    return type(module).forward is nn.Sequential.forward and not own
