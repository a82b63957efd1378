"""Modules that a constructor call can make again, and what can be imported."""

from __future__ import annotations

import importlib
import inspect
import weakref
from typing import Any

import torch
from torch import nn

from truncate._build.assemble import Truncated
from truncate._graph import is_plain_name
from truncate._sandbox import random_state_kept


def is_container(module: nn.Module) -> bool:
    """Whether a module is one of torch's containers, or a kind of Sequential that adds nothing to it."""
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward and not module._parameters and not module._buffers
    return type(module) in (nn.ModuleList, nn.ModuleDict)


def constructor(module: nn.Module) -> list[tuple[str, Any]] | None:
    """The arguments with which its class makes a module like this one, if its attributes tell them; else None."""
    kind = type(module)
    if is_container(module) or isinstance(module, Truncated) or not is_importable(kind):
        return None
    arguments: list[tuple[str, Any]] = []
    for parameter in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(module, parameter.name, parameter.default)
        if isinstance(value, torch.Tensor) or (value is None and type(parameter.default) is bool):
            value = value is not None  # bias=True makes a parameter of that name
        if value is parameter.empty:
            return None
        if parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY:
            arguments.append(("", value))
        elif type(value) is not type(parameter.default) or value != parameter.default:
            arguments.append((parameter.name, value))
    if not all(_is_plain(value) for _, value in arguments):
        return None
    # Where (3, 3) means the same as 3, it is written as 3, which may be the default.
    defaults = {p.name: p.default for p in inspect.signature(kind.__init__).parameters.values()}
    short = [(name, _scalar(value)) for name, value in arguments]
    short = [(name, value) for name, value in short if not (name and _is_plain(value) and value == defaults[name])]
    return next((given for given in (short, arguments) if _makes(kind, given, module)), None)


def _scalar(value: Any) -> Any:
    return value[0] if type(value) is tuple and value and all(item == value[0] for item in value) else value


def _makes(kind: type[nn.Module], arguments: list[tuple[str, Any]], module: nn.Module) -> bool:
    """Whether a class makes a module like this one from some arguments."""
    try:
        with torch.device("meta"), random_state_kept():
            twin = kind(*[v for name, v in arguments if not name], **{name: v for name, v in arguments if name})
    except Exception:  # whatever a constructor may object to
        return False
    return _alike(module, twin)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules differ in nothing but the numbers in their state dicts."""
    ones, others = dict(vars(one)), dict(vars(other))
    for name in set(ones) - set(others):
        if name.startswith("_") and type(ones[name]) is bool:  # a flag that a library has left on the module
            del ones[name]
    if type(one) is not type(other) or set(ones) != set(others) or one._non_persistent_buffers_set:
        return False
    same = all(_shown(one, value) == _shown(other, others[name]) for name, value in ones.items() if name != "training")
    return same and all(map(_alike, one.children(), other.children()))


def _shown(module: nn.Module, value: Any) -> Any:
    """An attribute of a module in a form that can be compared: tensors by shape and name, modules by position."""
    if isinstance(value, weakref.ref):
        return _shown(module, value())
    if isinstance(value, torch.Tensor):
        names = [name for name, tensor in module.named_parameters(recurse=False) if tensor is value]
        return "tensor", tuple(value.shape), value.dtype, names
    if isinstance(value, nn.Module) and any(value is child for child in module.children()):
        return "module"
    if isinstance(value, dict):
        return [(key, _shown(module, item)) for key, item in value.items()]
    if isinstance(value, (tuple, list)):
        return [_shown(module, item) for item in value]
    return value if _is_plain(value) or type(value) is set else id(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list) and all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str, torch.dtype)


def is_importable(value: Any) -> bool:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not module or module == "__main__" or not all(map(is_plain_name, [*module.split("."), name])):
        return False
    try:
        return getattr(importlib.import_module(module), name, None) is value
    except ImportError:
        return False
