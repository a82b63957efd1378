"""Plain data of a model, such as its configuration, which a cut carries over for whoever reads it there."""

from __future__ import annotations

import contextlib
import copy
import enum
import types
from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from truncate._build.assemble import Truncated
from truncate._build.constructor import is_importable
from truncate._target import names_of

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, types.EllipsisType),
    *(torch.dtype, torch.device, torch.Size),
)
_CONTAINERS = (list, tuple, set, frozenset, dict, OrderedDict, defaultdict)


def carry_data(original: nn.Module, made: nn.Module) -> None:
    """Gives a rebuilt root the public attributes of the model that are plain data, where it has nothing of that name.

    They are copies, as they are now: a list that a later run of the model fills is not the cut's. What a forward reads
    is there already, and stays. A `dtype` or `device` by itself is left out, since it would be wrong once the cut is
    moved, as the ``dtype`` of a model after ``.half()`` is. So are properties, which are code of the model's class.

    Args:
        original: The model.
        made: What is left of it.
    """
    if not isinstance(made, Truncated):
        return  # a module of the model's own class, with all that it has
    found = {
        name: value
        for name, value in vars(original).items()
        if not name.startswith("_")
        and name not in names_of(original)
        and not isinstance(value, (torch.dtype, torch.device))
        if not hasattr(made, name) and is_data(value, set())
    }
    memo: dict[int, Any] = {}  # of all together: two names of one dict name one dict in the cut too
    for name, value in found.items():
        with contextlib.suppress(Exception):  # of any kind, from a class that has a copy of its own
            made.__dict__[name] = copy.deepcopy(value, memo)


def is_data(value: Any, above: set[int]) -> bool:
    """Whether a value is made of numbers and text alone: it leads to no tensor, no module and nothing to call."""
    kind = type(value)
    if kind in _ATOMS or id(value) in above:
        return True
    if isinstance(value, enum.Enum):
        return is_importable(kind)
    if isinstance(value, (Tensor, nn.Module)) or callable(value) or not _is_known(kind):
        return False
    if isinstance(value, defaultdict) and not isinstance(value.default_factory, type | None):
        return False
    above.add(id(value))
    held = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, dict):
        held += [*dict.keys(value), *dict.values(value)]
    elif isinstance(value, _CONTAINERS):
        held.extend(item for item in value)  # without asking for a length, which a class may refuse
    return all(is_data(item, above) for item in held)


def _is_known(kind: type) -> bool:
    """Whether the values of a class are all in its items and its `__dict__`, and others can load a pickle of them."""
    if kind in _CONTAINERS:
        return True
    plainest = next(base for base in kind.__mro__ if base is object or base in _CONTAINERS)
    written = [vars(base) for base in kind.__mro__ if base is not object and base not in _CONTAINERS]
    if any(space.get("__slots__") for space in written) or kind.__basicsize__ > plainest.__basicsize__ + _POINTERS:
        return False
    return (plainest is not object or any("__dict__" in space for space in written)) and is_importable(kind)


_POINTERS = 16  # bytes of an object that lead to its `__dict__` and to weak references; more is what C keeps in it
