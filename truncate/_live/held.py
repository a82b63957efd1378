"""What modules and other objects hold, beside parameters, buffers and children."""

from __future__ import annotations

import collections
import functools
import types
import weakref
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from truncate._python import closed_over, defaults_of, is_set, slots_of

_MODULE_STATE = frozenset((*vars(nn.Module()), "_compiled_call_impl"))  # of the last, copies have none
HOOKS = tuple(name for name in _MODULE_STATE if "hooks" in name)
FORWARD_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
PLAIN = frozenset(
    (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size, types.ModuleType)
)


_COLLECTIONS: tuple[Any, ...] = (list, tuple, set, frozenset, collections.deque)


def leads_to(value: Any, goals: Collection[int], seen: set[int] | None = None, clean: Collection[int] = ()) -> bool:
    """Whether a value that a module holds leads to one of some modules without passing through another module.

    Args:
        value: What is held.
        goals: The ids of these modules.
        seen: Gets the ids of all values on the way.
        clean: The ids of values of which it is known that they do not.
    """
    if type(value) in PLAIN or id(value) in clean:
        return False
    if id(value) in goals:
        return True
    if isinstance(value, (torch.Tensor, nn.Module)):
        return False
    seen = set() if seen is None else seen
    if id(value) in seen:
        return False
    seen.add(id(value))
    return any(leads_to(part, goals, seen, clean) for part in parts_of(value))


def named_extras(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module holds beside parameters, buffers, children, numbers and plain containers of numbers."""
    state = vars(module)
    for name in state.keys() - _MODULE_STATE:
        value = state[name]
        kind = type(value)
        if kind not in PLAIN and not (kind in (tuple, list) and PLAIN.issuperset(map(type, value))):
            yield name, value
    if any(map(state.get, HOOKS)):
        yield from ((name, state[name]) for name in HOOKS if state.get(name))
    for slot in _slots(module):
        if is_set(slot, module):
            yield slot.__name__, slot.__get__(module)


def extras(module: nn.Module) -> Iterator[Any]:
    return (value for _, value in named_extras(module))


def parts_of(value: Any) -> Iterable[Any]:
    """What a value that is no module leads to."""
    if isinstance(value, torch.fx.Graph):  # from which the forward of its module was written, which asks it no more
        return ()
    if isinstance(value, dict):
        return [*dict.values(value), *(key for key in dict.__iter__(value) if isinstance(key, nn.Module))]
    for kind in _COLLECTIONS:
        if isinstance(value, kind):
            return [*kind.__iter__(value)]  # a class of its own may count or iterate in another way
    if isinstance(value, types.MethodType):
        return (value.__self__,)
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, weakref.ref):
        return (value(),)
    if isinstance(value, types.FunctionType):
        return (*closed_over(value), *defaults_of(value), *vars(value).values())
    in_slots = [slot.__get__(value) for slot in _slots(value) if is_set(slot, value)]
    return [*vars(value).values(), *in_slots] if hasattr(value, "__dict__") else in_slots


def _slots(value: Any) -> list[Any]:
    kind: Any = type(value)
    return slots_of(kind)
