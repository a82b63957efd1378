"""Lists and dicts that a forward gets as arguments and changes.

A cut passes each child a new container. So the parent cannot read what the child has put into it, but it can read what
was there before the call.
"""

from __future__ import annotations

import collections
import copy
import itertools
from collections.abc import Callable
from typing import Any

from torch import nn

from truncate._graph import containers_in, pairs

ADDED = object()  # in a `Change`: the item was not there before the call
Change = dict[Any, Any]  # each key or position after a call -> where that item was before it


class Given:
    """The lists, dicts and dataclasses among some arguments."""

    def __init__(self, arguments: Any) -> None:
        self.containers = list(containers_in(arguments))
        self.before = [copy.copy(container) for container in self.containers]

    @property
    def changes(self) -> list[Change | None]:
        """What has changed in each of them; None where nothing has."""
        return list(map(_change, self.before, self.containers))


def held_by_several(model: nn.Module) -> frozenset[int]:
    """The ids of the lists and dicts that several modules hold, through which they may pass values."""
    holders = []
    for module in model.modules():
        attributes = list(vars(module).values())  # listed first: another thread may run the model meanwhile
        holders.append({id(value) for value in attributes if type(value) in (list, dict)})
    counts = collections.Counter(itertools.chain.from_iterable(holders))
    return frozenset(held for held, count in counts.items() if count > 1)


def _change(before: list[Any] | dict[Any, Any], after: list[Any] | dict[Any, Any]) -> Change | None:
    was, now = dict(pairs(before)), dict(pairs(after))
    if list(was) == list(now) and all(was[key] is now[key] for key in was):
        return None
    return {key: _origin_of(item, was, key) for key, item in now.items()}


def _origin_of(item: Any, was: dict[Any, Any], key: Any) -> Any:
    if key in was and was[key] is item:
        return key
    return next((origin for origin, other in was.items() if other is item), ADDED)


def added_by(change: Change | None, after: Any) -> list[Any]:
    """The items that a change added."""
    return [item for key, item in pairs(after) if change is not None and change[key] is ADDED]


def apply(how: Change, container: list[Any] | dict[Any, Any], added: Callable[[Any], Any]) -> None:
    """Applies a change to another container; `added` gives the new item for a key."""
    items = {key: added(key) if origin is ADDED else container[origin] for key, origin in how.items()}
    if isinstance(container, dict):
        container.clear()
        container.update(items)
    else:
        container[:] = items.values()
