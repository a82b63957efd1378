"""Modules that attributes of a module hold out of sight: in closures, defaults, partials, containers and objects."""

from __future__ import annotations

import contextlib
import functools
import operator
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from truncate._follow.classes import has_state_or_mode
from truncate._follow.objects import PLAIN, is_opaque
from truncate._follow.proxy import Proxy, Tracer
from truncate._follow.replaced import POSITION
from truncate._graph import items_of
from truncate._python import closed_over, defaults_of


def holds_module(value: Any) -> bool:
    """Whether a value is a module, or a container of one."""
    return isinstance(value, nn.Module) or any(map(holds_module, items_of(value)))


def leads_to_module(value: Any, tracer: Tracer, above: tuple[Any, ...] = ()) -> bool:
    """Whether functions, containers or the attributes of an object lead to a module that is no proxy.

    Not counted is one that is nowhere in the model and has neither state nor mode: it is like a function.
    """
    kind = type(value)
    if kind in PLAIN or issubclass(kind, (Proxy, torch.Tensor)) or any(value is other for other in above):
        return False
    if isinstance(value, nn.Module):
        if POSITION in value.__dict__:  # a proxy module
            return False
        return tracer.is_of_model(value) or any(map(has_state_or_mode, value.modules()))
    if kind is types.MethodType:
        return leads_to_module(value.__self__, tracer, above)
    inside: list[Any] = []
    if kind is types.FunctionType:
        inside = [*closed_over(value), *defaults_of(value)]
    elif kind is functools.partial:
        inside = [value.func, *value.args, *value.keywords.values()]
    elif is_opaque(value):
        inside = [item for item in vars(value).values() if isinstance(item, nn.Module)]
    return any(leads_to_module(item, tracer, (*above, value)) for item in (*inside, *items_of(value)))


def rebound(function: types.FunctionType, translate: Callable[[Any], Any]) -> types.FunctionType:
    """A function made inside another one, with proxies in place of the modules that it uses from there."""
    own = function.__closure__ or ()
    cells = []
    for cell in own:
        with contextlib.suppress(ValueError):  # nothing was put there yet
            used = cell.cell_contents
            is_list_of_modules = type(used) in (list, dict) and holds_module(used)
            if is_list_of_modules or isinstance(used, (nn.Module, types.MethodType)):
                cell = types.CellType(translate(used))
        cells.append(cell)
    if all(map(operator.is_, cells, own)):
        return function
    code, names, defaults = function.__code__, function.__globals__, function.__defaults__
    made = types.FunctionType(code, names, function.__name__, defaults, tuple(cells))
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made
