"""Copies of functions in which `isinstance`, `len`, `int` and the like do not guess about a value that stands in.

Python's own would ask the stand-in and not the value, and the forward would silently take a wrong branch. A copy has
the code of the function and its own builtins; nothing outside it changes. The helper functions that it calls by name,
and the function inside a decorator, are copied likewise.
"""

from __future__ import annotations

import builtins
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch

from truncate._standin import StandIn, running, standins_in
from truncate._traced import Traced

_ASKING = frozenset(("isinstance", "hasattr", "type", "len", "int", "float", "range"))
# Functions of torch that parse their arguments before anyone sees the call, or take none.
_SIZED = frozenset(("zeros", "ones", "empty", "full", "rand", "randn", "randint", "eye", "finfo", "iinfo"))
_GLOBAL = frozenset(("is_grad_enabled", "manual_seed", "seed"))
# Torch dispatches by itself, and what we write into a cut knows stand-ins.
_LEFT_ALONE = frozenset(("torch", "truncate"))
_copies: weakref.WeakKeyDictionary[types.FunctionType, types.FunctionType] = weakref.WeakKeyDictionary()


def with_own_builtins(function: Any) -> Any:
    """The copy of a function, made once; anything else, and a function that asks nothing, is returned as it is."""
    if not isinstance(function, types.FunctionType) or (function.__module__ or "").partition(".")[0] in _LEFT_ALONE:
        return function
    if function not in _copies:
        _copies[function] = function  # meanwhile: it may call itself
        cells = tuple(_copy_cell(cell) for cell in function.__closure__ or ())
        if cells != (function.__closure__ or ()) or _asks(function):
            copy = types.FunctionType(
                function.__code__,
                _Globals(function.__globals__),
                function.__name__,
                function.__defaults__,
                cells or None,
            )
            copy.__kwdefaults__ = function.__kwdefaults__
            copy.__annotations__ = function.__annotations__
            copy.__dict__.update(function.__dict__)
            _copies[function] = copy
    return _copies[function]


def _asks(function: types.FunctionType) -> bool:
    """Whether a function, or one that it calls by name, uses one of these builtins."""
    names = function.__code__.co_names
    if not (_ASKING | _SIZED | _GLOBAL).isdisjoint(names):
        return True
    used = [function.__globals__.get(name) for name in names]
    return any(value is not torch and _seen(value) is not value for value in used)


def _copy_cell(cell: types.CellType) -> types.CellType:
    try:
        inner = cell.cell_contents
    except ValueError:  # not filled yet
        return cell
    copied = with_own_builtins(inner)
    return cell if copied is inner else types.CellType(copied)


class _Globals(dict):  # type: ignore[type-arg]
    """The globals of a function as they are at each moment, with copies in place of helper functions."""

    def __init__(self, real: dict[str, Any]) -> None:
        super().__init__(__builtins__=_OWN)
        self._real = real

    def __missing__(self, name: str) -> Any:
        return _seen(self._real[name])


def _seen(value: Any) -> Any:
    """What followed code sees in place of a global."""
    if value is torch:
        return _TORCH
    if isinstance(value, type) and issubclass(value, torch.autograd.Function):
        return _CustomFunction(value)
    return with_own_builtins(value)


class _TorchView:
    """The module `torch` as followed code sees it."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(torch, name)
        if name in _SIZED:
            return lambda *args, **kwargs: _call_sized(real, args, kwargs)
        if name in _GLOBAL and running.now is not None:
            return lambda *args: running.now.global_state(real, *args)
        return real


_TORCH = _TorchView()


def _call_sized(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    standin = next(standins_in((args, kwargs)), None)
    return function(*args, **kwargs) if standin is None else standin._recording.function(function, args, kwargs)


class _CustomFunction:
    """A user's ``autograd.Function``: its ``apply`` is one operation, with its own backward."""

    def __init__(self, real: type[torch.autograd.Function]) -> None:
        self._real = real

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        if running.now is None:
            return self._real.apply(*args, **kwargs)
        return running.now.function(self._real.apply, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _isinstance(value: Any, classes: Any) -> bool:
    if issubclass(type(value), StandIn):
        return value._recording.is_instance(value, classes)
    return isinstance(value, classes)


def _hasattr(value: Any, name: str) -> bool:
    if not issubclass(type(value), StandIn):
        return hasattr(value, name)
    if value._recording.is_instance(value, torch.Tensor):
        return hasattr(torch.Tensor, name)
    raise value._recording.fail(f"asks whether a value has {name!r}")


def _len(value: Any) -> int:
    return value.shape[0] if isinstance(value, torch.Tensor) else len(value)


class _Replaced(type):
    """A builtin class that may be called in its own way, and for the rest passes for the real one."""

    real: type
    make: Callable[..., Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.make(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return _isinstance(value, cls.real)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.real)


def _type(*args: Any, **kwargs: Any) -> Any:
    if len(args) == 1 and issubclass(type(args[0]), StandIn):
        if args[0]._recording.is_instance(args[0], torch.Tensor):
            return torch.Tensor
        raise args[0]._recording.fail("asks for the type of a value")
    if len(args) == 1 and issubclass(type(args[0]), Traced):
        return type(args[0].real_value)
    return type(*args, **kwargs)


def _number(kind: type) -> Callable[..., Any]:
    def convert(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], torch.Tensor):
            args = (args[0].item(),)
        return (
            args[0].converted(kind) if len(args) == 1 and issubclass(type(args[0]), Traced) else kind(*args, **kwargs)
        )

    return convert


def _range(*bounds: Any) -> range:
    return range(*(bound.fixed() if issubclass(type(bound), Traced) else bound for bound in bounds))


def _replaced(real: type, make: Callable[..., Any]) -> type:
    return _Replaced(real.__name__, (), {"real": real, "make": staticmethod(make)})


_OWN = {
    **vars(builtins),
    "isinstance": _isinstance,
    "hasattr": _hasattr,
    "len": _len,
    "type": _replaced(type, _type),
    "int": _replaced(int, _number(int)),
    "float": _replaced(float, _number(float)),
    "range": _replaced(range, _range),
    "_answers_isinstance": True,
}
