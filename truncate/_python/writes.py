"""Whether the code of a module may change in place what it is given, as far as its text can tell."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from truncate._python.bytecode import attributes_stored, changes_parameter, names_in
from truncate._python.frames import is_library
from truncate._python.reach import reached
from truncate._python.remembered import while_there


def may_write(module: nn.Module) -> bool:
    """Whether a module, or one below it, has code that may change a tensor in place.

    What such code did in one pass is not what it does in each: it may depend on the mode, or on what it is given.
    """
    return any(vars(each).get("inplace") for each in module.modules()) or any(map(_writes, _code_of(module)))


def may_fill(module: nn.Module) -> bool:
    """Whether a module, or one below it, has code that may change a list or dict that it is given."""
    return any(map(_fills, _code_of(module)))


def changes_given(module: nn.Module) -> bool:
    """Whether the forward of a module, without its children, has code that may change an object that it is given."""
    kind: Any = type(module)
    patched = vars(module).get("forward")
    codes = _code_of_forward(kind) if patched is None else {function.__code__ for function in reached([patched])}
    return any(changes_parameter(code, _FILLING) for code in codes)


def asks_for_mode(module: nn.Module) -> bool:
    """Whether a module, or one below it, has code that may do something else in the other mode, a library's too."""
    forwards = (getattr(type(each).forward, "__code__", None) for each in module.modules())
    return any("training" in names_in(code) for code in (*_code_of(module), *forwards) if code is not None)


def _code_of(module: nn.Module) -> Iterator[CodeType]:
    """The code that runs when a module is called, as far as it is not a library's."""
    for each in module.modules():
        patched = reached([value for value in vars(each).values() if isinstance(value, FunctionType)])
        yield from (function.__code__ for function in patched)
        kind: Any = type(each)
        yield from _code_of_forward(kind)


@while_there
def _code_of_forward(kind: Any) -> frozenset[CodeType]:
    """The code of the forward of a class, and of the methods and functions that it names."""
    found: set[FunctionType] = set()
    names = frozenset(("forward",))
    while new := {method for name in names if (method := _method(kind, name))} - found:
        found |= reached(new)
        names = frozenset().union(*(names_in(function.__code__) for function in found))
    return frozenset(function.__code__ for function in found)


@functools.lru_cache(maxsize=4096)
def _mentions(code: CodeType, name: str) -> tuple[int, bool]:
    """How often code names an attribute, and whether it has a loop."""
    instructions = list(dis.get_instructions(code))
    named = sum(one.opname in ("LOAD_ATTR", "LOAD_METHOD") and one.argval == name for one in instructions)
    return named, any("JUMP_BACKWARD" in one.opname or one.opname.startswith("FOR_ITER") for one in instructions)


def may_call_again(kind: Any, name: str) -> bool:
    """Whether the forward of a class, and the methods that it names, name a child twice, in a loop, or in a helper.

    What names it once in a forward without loops runs it at most once in a call.
    """
    forward = _method(kind, "forward")
    if forward is None or forward.__closure__:
        return True
    here, loops = _mentions(forward.__code__, name)
    elsewhere = sum(_mentions(code, name)[0] for code in _code_of_forward(kind) if code is not forward.__code__)
    return loops or here != 1 or elsewhere > 0


def _method(kind: type, name: str) -> FunctionType | None:
    method = inspect.getattr_static(kind, name, None)
    function = inspect.unwrap(getattr(method, "__func__", method)) if method is not None else None
    is_theirs = isinstance(function, FunctionType) and not is_library(function.__code__.co_filename)
    return function if is_theirs else None


@functools.lru_cache(maxsize=4096)
def _writes(code: CodeType) -> bool:
    """Whether code has ``x += 1``, ``x[0] = 1``, ``x.data = y``, ``x.relu_()``, ``out=x``, ``inplace=`` or the like.

    A hook on a tensor counts too: it changes the gradient.
    """
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    keywords = {word for constant in code.co_consts if type(constant) is tuple for word in constant}
    names = names_in(code)
    return (
        any(map(_stores, dis.get_instructions(code)))
        or any(name.endswith("_") and not name.endswith("__") for name in names)
        or not keywords.isdisjoint(("inplace", "out"))
        or not names.isdisjoint(("register_hook", "register_post_accumulate_grad_hook", "retain_grad"))
        or "data" in attributes_stored(code)
        or (not _with_inplace().isdisjoint(names) and ("inplace" in names or any(c is True for c in code.co_consts)))
        or any(map(_writes, inner))
    )


@functools.lru_cache(maxsize=4096)
def _fills(code: CodeType) -> bool:
    """Whether code has ``items.append(x)``, ``items[0] = x``, ``items += [x]`` or the like."""
    return (
        any(map(_stores, dis.get_instructions(code)))
        or not _FILLING.isdisjoint(names_in(code))
        or any(_fills(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    )


_FILLING = frozenset((*dir(list), *dir(dict))) - {*dir(tuple), "copy", "fromkeys", "get", "items", "keys", "values"}


def _stores(instruction: dis.Instruction) -> bool:
    name = instruction.opname
    return name in ("STORE_SUBSCR", "STORE_SLICE", "DELETE_SUBSCR") or (
        name == "BINARY_OP" and instruction.argrepr.endswith("=")
    )


@functools.lru_cache(maxsize=1)
def _with_inplace() -> frozenset[str]:
    """The functions that may be told by position to work in place: ``F.relu(x, True)``."""
    functions = {name: value for name, value in vars(torch.nn.functional).items() if isinstance(value, FunctionType)}
    return frozenset(name for name, value in functions.items() if "inplace" in inspect.signature(value).parameters)
