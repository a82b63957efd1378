"""Copies of functions in which `isinstance`, `len`, `int` and the like do not guess about a value that stands in.

Python's own would ask the proxy and not the value, and the forward would silently take a wrong branch. A copy has
the code of the function and its own builtins; nothing outside it changes. The helper functions that it calls by name,
and the function inside a decorator, are copied likewise.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from truncate._follow.constants import has_floats, with_own_constants
from truncate._follow.numbers import Traced, TracedBool
from truncate._follow.proxy import Proxy, active, proxies_in
from truncate._follow.replaced import ASKING, OWN, computed, fixing
from truncate._python import globals_of, is_theirs, names_in, reached

# Functions of torch that parse their arguments before anyone sees the call, or take none.
_SIZED = frozenset(("zeros", "ones", "empty", "full", "rand", "randn", "randint", "eye", "finfo", "iinfo"))
_PARSING = frozenset(n for n, f in vars(nn.functional).items() if isinstance(f, types.BuiltinFunctionType))
_GLOBAL = frozenset(("is_grad_enabled", "manual_seed", "seed", "get_rng_state", "set_rng_state"))
_CHECKS = frozenset(n for n, f in vars(torch).items() if n.startswith("_check") and isinstance(f, types.FunctionType))
_INTERESTING = {"jit"} | ASKING | _SIZED | _GLOBAL | _PARSING | _CHECKS
# Torch dispatches by itself, and what we write into a cut knows proxies.
_LEFT_ALONE = frozenset(("torch", "truncate"))
CachedFunction: Any = type(functools.lru_cache(_LEFT_ALONE.union))
_copying = threading.RLock()  # another thread must not see a copy that is under way
_under_way: dict[types.FunctionType, list[types.CellType]] = {}  # with the cells that wait for it


def with_own_builtins(function: Any) -> Any:
    """The copy of a function, made once; anything else, and a function that asks nothing, is returned as it is.

    One that `functools.lru_cache` caches runs anew: what it returned in another pass, no graph knows.
    """
    if isinstance(function, CachedFunction):
        function = function.__wrapped__
    if not isinstance(function, types.FunctionType) or (function.__module__ or "").partition(".")[0] in _LEFT_ALONE:
        return function
    with _copying:
        return _copied(function)


@functools.lru_cache(maxsize=4096)
def _copied(function: types.FunctionType) -> types.FunctionType:
    _under_way[function] = []
    copy = function
    try:
        cells = tuple(map(_copy_cell, function.__closure__ or ()))
        if cells != (function.__closure__ or ()) or _asks(function):
            copy = types.FunctionType(
                with_own_constants(function.__code__),
                _Globals(function.__globals__),
                function.__name__,
                function.__defaults__,
                cells or None,
            )
            copy.__kwdefaults__ = function.__kwdefaults__
            copy.__annotations__ = function.__annotations__
            copy.__dict__.update(function.__dict__)
    finally:
        for cell in _under_way.pop(function):
            cell.cell_contents = copy
    return copy


def _copy_cell(cell: types.CellType) -> types.CellType:
    try:
        inner = cell.cell_contents
    except ValueError:  # not filled yet
        return cell
    if isinstance(inner, types.FunctionType) and inner in _under_way:  # functions that call each other
        _under_way[inner].append(types.CellType())
        return _under_way[inner][-1]
    copied = with_own_builtins(inner)
    return cell if copied is inner else types.CellType(copied)


def _asks(function: types.FunctionType) -> bool:
    """Whether a function uses one of these builtins, or reaches one that may."""
    return any(
        not _INTERESTING.isdisjoint(names_in(one.__code__))
        or has_floats(one.__code__)
        or (one is not function and one.__closure__)
        or any(not isinstance(value, types.FunctionType) and _seen_anew(value) for value in globals_of(one))
        for one in reached([function])
    )


def _seen_anew(value: Any) -> bool:
    return not any(value is module for module in _TORCH_MODULES) and _seen(value) is not value


class _Globals(dict):  # type: ignore[type-arg]
    """The globals of a function as they are at each moment, with copies in place of helper functions."""

    def __init__(self, real: dict[str, Any]) -> None:
        # Python itself looks the first ones up, without asking for what is missing: for `from . import`.
        own: dict[str, Any] = {name: real[name] for name in ("__name__", "__package__", "__spec__") if name in real}
        super().__init__(own, __builtins__=OWN)
        self._real = real

    def __missing__(self, name: str) -> Any:
        return _seen(self._real[name])


def _seen(value: Any) -> Any:
    """What followed code sees in place of a global."""
    if isinstance(value, types.BuiltinFunctionType):
        return builtin_seen(value)
    if isinstance(value, types.ModuleType):
        if value.__name__ == "numpy":
            return _NUMPY
        return _MODULES.get(id(value)) or (_view_of(value) if is_theirs(value) else value)
    if isinstance(value, type) and issubclass(value, torch.autograd.Function):
        return _CustomFunction(value)
    if isinstance(value, CachedFunction):
        return _Uncached(value)
    return with_own_builtins(value)


class _Uncached:
    """A cached function as followed code sees it."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return with_own_builtins(self._real)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@functools.lru_cache(maxsize=4096)
def _view_of(module: types.ModuleType) -> _ModuleView:
    return _ModuleView(module)


class _ModuleView:
    """A module of the user as followed code sees it: with copies in place of its functions."""

    def __init__(self, real: types.ModuleType) -> None:
        object.__setattr__(self, "_real", real)

    def __getattribute__(self, name: str) -> Any:
        return _seen(getattr(object.__getattribute__(self, "_real"), name))

    def __setattr__(self, name: str, value: Any) -> None:
        if active.tracer is not None:
            raise active.tracer.fail(f"sets {name!r} of a Python module")

    def __dir__(self) -> list[str]:
        return dir(object.__getattribute__(self, "_real"))

    def __eq__(self, other: object) -> bool:
        return other is self or other is object.__getattribute__(self, "_real")

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_real"))


class _TorchView:
    """The module `torch` as followed code sees it."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(torch, name)
        if name in _SIZED:
            return functools.partial(_call_parsing, real)
        if name in _CHECKS:
            return functools.partial(_check, real)
        if name == "set_grad_enabled":
            return lambda mode: real(bool(mode))
        if name in _GLOBAL and active.tracer is not None:
            return lambda *args: active.tracer.global_state(real, *args)
        return {"nn": _NN, "jit": _JIT}.get(name, real)


class _JitView:
    """The module `torch.jit` as followed code sees it."""

    def __getattr__(self, name: str) -> Any:
        return _jit_isinstance if name == "isinstance" else getattr(torch.jit, name)


def _jit_isinstance(value: Any, kind: Any) -> bool:
    for proxy in proxies_in(value):
        raise proxy._tracer.fail("asks for the type of a value with torch.jit.isinstance")
    return torch.jit.isinstance(value, kind)


class _NNView:
    """The module `torch.nn` as followed code sees it."""

    def __getattr__(self, name: str) -> Any:
        return _FUNCTIONAL if name == "functional" else getattr(nn, name)


class _FunctionalView:
    """The module `torch.nn.functional` as followed code sees it."""

    def __getattr__(self, name: str) -> Any:
        return builtin_seen(getattr(nn.functional, name))


@functools.lru_cache(maxsize=4096)
def _parsing(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.partial(_call_parsing, function)


def builtin_seen(value: Any) -> Any:
    """What followed code sees in place of a function written in C: one and the same, wherever it finds it."""
    if isinstance(value, types.BuiltinFunctionType) and getattr(nn.functional, value.__name__, None) is value:
        return _parsing(value)
    return _FUNCTIONS.get(id(value), value)


def _call_parsing(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function of torch that parses its arguments before anyone sees the call, and takes plain ones only."""
    proxy = next(proxies_in((args, kwargs)), None)
    if proxy is not None:
        return proxy._tracer.function(function, args, kwargs)
    if active.tracer is not None and any(type(value) is TracedBool for value in (*args, *kwargs.values())):
        return active.tracer.function(function, args, kwargs)
    return function(*args, **kwargs)


def _check(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``torch._check`` and its kin, which take no other than a real bool: an assertion in the graph."""
    condition, tracer = next((arg for arg in args if _is_value(arg)), None), active.tracer
    if condition is None or tracer is None:
        return function(*args, **kwargs)
    with torch._C.DisableTorchFunction():  # what it asks inside is no question of the forward
        every = tracer.function(torch.all, (condition,), {}) if "tensor_all" in function.__name__ else condition
        return tracer.function(torch._assert, (every, f"torch.{function.__name__}"), {})


def _is_value(value: Any) -> bool:
    """Whether something is computed by the forward."""
    return issubclass(type(value), (Proxy, Traced)) or isinstance(value, torch.Tensor)


_TORCH, _NN, _FUNCTIONAL, _JIT = _TorchView(), _NNView(), _FunctionalView(), _JitView()
_TORCH_MODULES = (torch, nn, nn.functional, torch.jit)
_MODULES: dict[int, Any] = {id(torch): _TORCH, id(nn): _NN, id(nn.functional): _FUNCTIONAL, id(torch.jit): _JIT}


class _MathView:
    """The module `math` as followed code sees it: what its functions compute of a size follows the size."""

    def __getattr__(self, name: str) -> Any:
        return _seen(getattr(math, name))


_MODULES[id(math)] = _MathView()
_FUNCTIONS: dict[int, Any] = {
    id(function): functools.partial(computed, function)
    for function in vars(math).values()
    if isinstance(function, types.BuiltinFunctionType)
}


class _NumpyView:
    """The module `numpy` as followed code sees it: a size that it computes with is fixed."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(sys.modules["numpy"], name)
        if isinstance(real, (type, types.ModuleType)) or not callable(real):
            return real
        return functools.partial(fixing, real)


_NUMPY = _NumpyView()


class _CustomFunction:
    """A user's ``autograd.Function``: its ``apply`` is one operation, with its own backward."""

    def __init__(self, real: type[torch.autograd.Function]) -> None:
        self._real = real

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        if active.tracer is None:
            return self._real.apply(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # what it computes inside is no operation of the forward
            return active.tracer.function(self._real.apply, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
