"""The float constants in the code of a forward, made to work with traced numbers: ``1.0 / n``."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from truncate._follow.numbers import Traced
from truncate._graph import BINARY, COMPARISONS


class Constant(float):
    """A float that leaves an operation to a traced number on its right: a plain float would compute it in C."""

    __slots__ = ()


def _deferring(name: str) -> Callable[..., Any]:
    compute = getattr(float, name)

    def method(self: Constant, *others: Any) -> Any:
        return NotImplemented if any(issubclass(type(other), Traced) for other in others) else compute(self, *others)

    return method


for _name in {*BINARY, *COMPARISONS}:
    if hasattr(float, f"__{_name}__"):
        setattr(Constant, f"__{_name}__", _deferring(f"__{_name}__"))
Constant.__hash__ = float.__hash__  # type: ignore[method-assign]


def with_own_constants(code: types.CodeType) -> types.CodeType:
    """The same code, with a `Constant` in place of each float."""
    return code.replace(co_consts=tuple(map(_own_constant, code.co_consts)))


def has_floats(constant: Any) -> bool:
    """Whether a constant is a float, or a tuple or code object that contains one."""
    inside = constant.co_consts if isinstance(constant, types.CodeType) else constant
    return type(constant) is float or (isinstance(inside, tuple) and any(map(has_floats, inside)))


def _own_constant(constant: Any) -> Any:
    if type(constant) is tuple:
        return tuple(map(_own_constant, constant))
    if isinstance(constant, types.CodeType):
        return with_own_constants(constant)
    return Constant(constant) if type(constant) is float else constant
