"""The functions that a function reaches by name: as a global, or as an attribute of a module that is one."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Iterator
from typing import Any

from truncate._bytecode import is_library


def is_theirs(module: types.ModuleType) -> bool:
    """Whether a module is neither torch's nor Python's own."""
    file = getattr(module, "__file__", None)
    return file is not None and not is_library(file)


def globals_of(function: types.FunctionType) -> Iterator[Any]:
    """The globals that a function names, and in modules of the user what it may name there."""
    names = function.__code__.co_names
    for value in [function.__globals__[name] for name in names if name in function.__globals__]:
        yield value
        if isinstance(value, types.ModuleType) and is_theirs(value):
            yield from (vars(value)[name] for name in names if name in vars(value))


def reached(functions: Iterable[types.FunctionType]) -> set[types.FunctionType]:
    """Some functions, and all that they reach, but for those of torch and of Python itself."""
    found = set(functions)
    pending = list(found)
    while pending:
        for value in globals_of(pending.pop()):
            if isinstance(value, types.FunctionType) and not is_library(value.__code__.co_filename):
                new = {value, inspect.unwrap(value)} - found
                found |= new
                pending += [function for function in new if isinstance(function, types.FunctionType)]
    return {function for function in found if isinstance(function, types.FunctionType)}
