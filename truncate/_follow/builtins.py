"""Copies of functions in which `isinstance`, `len`, `int` and the like give the right answer for a proxy.

Python's own would ask the proxy instead of the value, and the forward would silently take a wrong branch. A copy has
the code of the function and its own builtins; nothing outside it changes. The helper functions that it calls by name,
and the function inside a decorator, are copied too.
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
from truncate._follow.objects import PLAIN
from truncate._follow.proxy import Proxy, active, proxies_in
from truncate._follow.replaced import ASKING, OWN, computed, fixing
from truncate._python import (
    can_be_imported,
    closed_over,
    defaults_of,
    globals_of,
    is_theirs,
    names_in,
    reached,
    while_used,
)
from truncate._sandbox import draws_from_numpy

# Functions of torch that parse their arguments before a function mode sees the call, or that have none.
_SIZED = frozenset(
    """
    arange bartlett_window blackman_window empty empty_strided eye finfo full hamming_window hann_window iinfo
    kaiser_window linspace logspace ones rand randint randn randperm scalar_tensor tril_indices triu_indices zeros
    """.split()
)
_PARSING = frozenset(n for n, f in vars(nn.functional).items() if isinstance(f, types.BuiltinFunctionType))
_GLOBAL = frozenset(("is_grad_enabled", "manual_seed", "seed", "get_rng_state", "set_rng_state"))
_CHECKS = frozenset(n for n, f in vars(torch).items() if n.startswith("_check") and isinstance(f, types.FunctionType))
_INTERESTING = {"jit"} | ASKING | _SIZED | _GLOBAL | _PARSING | _CHECKS
# Functions of torch dispatch to proxies, and those of this package know them.
_LEFT_ALONE = frozenset(("torch", "truncate"))
CachedFunction: Any = type(functools.lru_cache(_LEFT_ALONE.union))
_copying = threading.RLock()  # another thread must not see an unfinished copy
_under_way: dict[types.FunctionType, list[types.CellType]] = {}  # unfinished copies, with the cells that wait for them


def with_own_builtins(function: Any) -> Any:
    """The copy of a function; anything else, and a function that needs no copy, is returned as it is.

    A function that `functools.lru_cache` caches runs again: its result of another pass is in no graph.
    """
    if isinstance(function, CachedFunction):
        function = function.__wrapped__
    if not isinstance(function, types.FunctionType) or (function.__module__ or "").partition(".")[0] in _LEFT_ALONE:
        return function
    with _copying:
        return _kept_copy(function) if _is_lasting(function, set()) else _copied(function)


def _is_lasting(function: types.FunctionType, seen: set[types.FunctionType]) -> bool:
    """Whether all that a function holds is kept alive by modules anyway: a cache may keep it too."""
    seen.add(function)
    if getattr(sys.modules.get(function.__module__), "__dict__", None) is not function.__globals__:
        return False
    held = [*defaults_of(function), *vars(function).values(), *closed_over(function)]
    return all(
        value in seen or _is_lasting(value, seen)
        if isinstance(value, types.FunctionType)
        else can_be_imported(value)
        if isinstance(value, type)
        else type(value) in (*PLAIN, types.ModuleType)
        for value in held
    )


@while_used
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


_kept_copy = functools.lru_cache(maxsize=4096)(_copied)


def _copy_cell(cell: types.CellType) -> types.CellType:
    try:
        inner = cell.cell_contents
    except ValueError:  # a cell that is still empty
        return cell
    if isinstance(inner, types.FunctionType) and inner in _under_way:  # functions that call each other
        _under_way[inner].append(types.CellType())
        return _under_way[inner][-1]
    copied = with_own_builtins(inner)
    return cell if copied is inner else types.CellType(copied)


def _asks(function: types.FunctionType) -> bool:
    """Whether a function uses one of these builtins, or reaches a function that does."""
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
    """The current globals of a function, with copies in place of helper functions."""

    def __init__(self, real: dict[str, Any]) -> None:
        # Python looks these up for `from . import`, without calling `__missing__`.
        own: dict[str, Any] = {name: real[name] for name in ("__name__", "__package__", "__spec__") if name in real}
        super().__init__(own, __builtins__=OWN)
        self._real = real

    def __missing__(self, name: str) -> Any:
        return _seen(self._real[name])


def _seen(value: Any) -> Any:
    """What followed code sees in place of a global."""
    if _draws_from_numpy(value):
        return functools.partial(_heard, value)
    if isinstance(value, types.BuiltinFunctionType):
        return builtin_seen(value)
    if isinstance(value, types.ModuleType):
        if value.__name__ in ("numpy", "numpy.random"):
            return _NUMPY if value.__name__ == "numpy" else _NUMPY_RANDOM
        return _MODULES.get(id(value)) or (_view_of(value) if is_theirs(value) else value)
    if isinstance(value, type) and issubclass(value, torch.autograd.Function):
        return _CustomFunction(value)
    if isinstance(value, CachedFunction):
        return _Uncached(value)
    return with_own_builtins(value)


class _Uncached:
    """What followed code sees in place of a cached function."""

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
    """What followed code sees in place of a module of the user: its functions are copies."""

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
    """What followed code sees in place of the module `torch`."""

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
    """What followed code sees in place of the module `torch.jit`."""

    def __getattr__(self, name: str) -> Any:
        return _jit_isinstance if name == "isinstance" else getattr(torch.jit, name)


def _jit_isinstance(value: Any, kind: Any) -> bool:
    for proxy in proxies_in(value):
        raise proxy._tracer.fail("asks for the type of a value with torch.jit.isinstance")
    return torch.jit.isinstance(value, kind)


class _NNView:
    """What followed code sees in place of the module `torch.nn`."""

    def __getattr__(self, name: str) -> Any:
        return _FUNCTIONAL if name == "functional" else getattr(nn, name)


class _FunctionalView:
    """What followed code sees in place of the module `torch.nn.functional`."""

    def __getattr__(self, name: str) -> Any:
        return builtin_seen(getattr(nn.functional, name))


@functools.lru_cache(maxsize=4096)
def _parsing(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.partial(_call_parsing, function)


def builtin_seen(value: Any) -> Any:
    """What followed code sees in place of a function written in C: always the same object."""
    if isinstance(value, types.BuiltinFunctionType) and getattr(nn.functional, value.__name__, None) is value:
        return _parsing(value)
    return _FUNCTIONS.get(id(value), value)


def _call_parsing(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function of torch that parses its arguments before a function mode sees the call."""
    proxy = next(proxies_in((args, kwargs)), None)
    if proxy is not None:
        return proxy._tracer.function(function, args, kwargs)
    if active.tracer is not None and any(type(value) is TracedBool for value in (*args, *kwargs.values())):
        return active.tracer.function(function, args, kwargs)
    return function(*args, **kwargs)


def _check(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Writes ``torch._check`` and the like, which accept only a real bool, into the graph as an assertion."""
    condition, tracer = next((arg for arg in args if _is_value(arg)), None), active.tracer
    if condition is None or tracer is None:
        return function(*args, **kwargs)
    with torch._C.DisableTorchFunction():  # what it does inside is not part of the forward
        every = tracer.function(torch.all, (condition,), {}) if "tensor_all" in function.__name__ else condition
        return tracer.function(torch._assert, (every, f"torch.{function.__name__}"), {})


def _is_value(value: Any) -> bool:
    """Whether something is a value of the forward: a proxy, a traced number or a tensor."""
    return issubclass(type(value), (Proxy, Traced)) or isinstance(value, torch.Tensor)


_TORCH, _NN, _FUNCTIONAL, _JIT = _TorchView(), _NNView(), _FunctionalView(), _JitView()
_TORCH_MODULES = (torch, nn, nn.functional, torch.jit)
_MODULES: dict[int, Any] = {id(torch): _TORCH, id(nn): _NN, id(nn.functional): _FUNCTIONAL, id(torch.jit): _JIT}


class _MathView:
    """What followed code sees in place of the module `math`: its functions keep traced numbers traced."""

    def __getattr__(self, name: str) -> Any:
        return _seen(getattr(math, name))


_MODULES[id(math)] = _MathView()
_FUNCTIONS: dict[int, Any] = {
    id(function): functools.partial(computed, function)
    for function in vars(math).values()
    if isinstance(function, types.BuiltinFunctionType)
}
# Those of torch too that are imported by name.
_FUNCTIONS.update((id(real), _parsing(real)) for name in _SIZED if not isinstance(real := getattr(torch, name), type))


class _NumpyView:
    """What followed code sees in place of the module `numpy`: sizes passed to its functions are fixed."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(sys.modules["numpy"], name)
        if name == "random":
            return _NUMPY_RANDOM
        if isinstance(real, (type, types.ModuleType)) or not callable(real):
            return real
        return functools.partial(fixing, real)


class _NumpyRandomView:
    """What followed code sees in place of the module `numpy.random`: it is heard who draws."""

    def __getattr__(self, name: str) -> Any:
        return _seen(getattr(sys.modules["numpy"].random, name))


def _draws_from_numpy(value: Any) -> bool:
    """Whether a function uses the generator of the process: ``numpy.random.rand``, or ``seed``."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    if isinstance(value, (types.MethodType, types.BuiltinMethodType)):  # of numpy before 2, the latter
        return value.__self__ is numpy.random.mtrand._rand
    return any(value is function for function in (numpy.random.seed, numpy.random.sample, numpy.random.ranf))


def _heard(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    draws_from_numpy()
    return fixing(function, *args, **kwargs)


_NUMPY, _NUMPY_RANDOM = _NumpyView(), _NumpyRandomView()


class _CustomFunction:
    """What followed code sees in place of an ``autograd.Function``: its ``apply`` is one operation of the graph."""

    def __init__(self, real: type[torch.autograd.Function]) -> None:
        self._real = real

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        if active.tracer is None:
            return self._real.apply(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # what it computes inside is not part of the graph
            return active.tracer.function(self._real.apply, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
