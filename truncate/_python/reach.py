"""The functions that a function can reach by name: as a global, or as an attribute of an imported module."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Iterable, Iterator
from typing import Any

from truncate._python.bytecode import names_in
from truncate._python.frames import OWN, is_library


def is_theirs(module: types.ModuleType) -> bool:
    """Whether a module is neither torch's nor Python's own."""
    file = getattr(module, "__file__", None)
    return file is not None and not is_library(file)


def globals_of(function: types.FunctionType) -> Iterator[Any]:
    """The globals that a function names, what it may name in modules of the user, and what its closure holds."""
    names = names_in(function.__code__)
    for value in [function.__globals__[name] for name in names if name in function.__globals__]:
        yield value
        if isinstance(value, types.ModuleType) and is_theirs(value):
            yield from (vars(value)[name] for name in names if name in vars(value))
    yield from closed_over(function)


def closed_over(function: types.FunctionType) -> Iterator[Any]:
    """What a function made inside another one uses from there, as far as it has a value yet."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell that is still empty
            yield cell.cell_contents


def defaults_of(function: types.FunctionType) -> list[Any]:
    """What a function takes for arguments that are left out."""
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def reached(functions: Iterable[types.FunctionType]) -> set[types.FunctionType]:
    """These functions and all that they reach, except those of torch, of Python itself and of this package."""
    found = set(functions)
    pending = list(found)
    while pending:
        for value in globals_of(pending.pop()):
            if callable(value) and not isinstance(value, type):
                new = {function for function in (value, inspect.unwrap(value)) if _is_of_the_user(function)} - found
                found |= new
                pending += new
    return found


def _is_of_the_user(function: Any) -> bool:
    if not isinstance(function, types.FunctionType):
        return False
    file = function.__code__.co_filename  # `split` may be ours here, in a module that defines and divides a model
    return not (is_library(file) or file.startswith(OWN))
