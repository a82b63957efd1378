"""What a forward keeps from call to call: attributes that it reads and then sets, and what its objects hold.

A rebuilt forward sets no attribute and fills no list, so it would read in each call what was there at the time of the
cut. Such a forward is not followed; it keeps its own Python.
"""

from __future__ import annotations

import collections
import functools
import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from truncate._follow.classes import attributes_set
from truncate._follow.objects import PLAIN, is_opaque
from truncate._follow.proxy import Proxy
from truncate._follow.replaced import POSITION
from truncate._python import while_there

_SEARCHED = 10_000  # containers of one module, so that a large one costs no more


class OwnState:
    """What a forward does with the attributes of its module, and with what they hold."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.read: set[str] = set()  # attributes that it read before setting them, or asked for in vain
        self.set: set[str] = set()
        self.hangs_hooks = False
        self._before: list[tuple[str, Any, list[Any]]] = []
        self._watched: set[int] = set()

    def watch(self, attributes: Iterable[tuple[str, Any]]) -> None:
        """Remembers what lists, dicts, sets and objects hold which these attributes lead to."""
        for name, value in attributes:
            for container in itertools.islice(_containers_in(value, self._watched), _SEARCHED):
                self._before.append((name, container, _items(container)))

    def put_back(self) -> str | None:
        """The first attribute in which something has changed, if any. All then hold again what they held before."""
        changed = None
        for name, container, before in self._before:
            now = _items(container)
            if len(now) != len(before) or not all(map(operator.is_, now, before)):
                changed = changed or name
                _refill(container, before)
        return changed

    def may_set(self, name: str, value: Any) -> bool:
        """Whether the forward may set an attribute: it has not read it, so a later call does not read it either."""
        kind: Any = type(self._module)
        was_there = name in vars(self._module)
        if was_there and name not in attributes_set(kind):
            return False  # it may have been read unheard
        if type(value) is bool and self.hangs_hooks and not was_there:
            self.read.discard(name)  # a flag, so that it hangs its hooks only once
        self.set.add(name)
        return name not in self.read

    def set_unheard(self, before: dict[str, Any], now: dict[str, Any]) -> str | None:
        """An attribute that was deleted, or set otherwise than by ``self.name = ...``, where it may have been read."""
        for name in sorted((before.keys() | now.keys()) - self.set):
            cached = isinstance(getattr(type(self._module), name, None), functools.cached_property)
            first_read = name not in before and name in vars(self._module)
            if now.get(name, self) is before.get(name, self) or cached or first_read:
                continue
            if name in before or name in self.read:
                return name
            self.set.add(name)
        return None


class Default:
    """What a class holds under the name of an attribute that its forward sets: what its first call reads there."""

    def __init__(self, name: str, value: Any) -> None:
        self._name = name
        self._value = value

    def __get__(self, module: Any, kind: Any = None) -> Any:
        proxies, path = (None, "") if module is None else vars(module).get(POSITION, (None, ""))
        if proxies is not None and not path:
            proxies.state.read.add(self._name)
        return self._value


@while_there
def containers_of_class(kind: Any) -> tuple[str, ...]:
    """The names of lists, dicts and sets that a class holds for all its instances."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    return tuple(name for base in bases for name, value in vars(base).items() if _is_own_container(name, value))


def _is_own_container(name: str, value: Any) -> bool:
    return _kind_of(value) is not None and not (name.startswith("__") and name.endswith("__"))


def _kind_of(value: Any) -> Any:
    """Which kind of container a value is; a proxy would say of itself that it is another."""
    return next((kind for kind in (list, dict, set, collections.deque) if issubclass(type(value), kind)), None)


def _containers_in(value: Any, seen: set[int]) -> Iterator[Any]:
    pending = [value]
    while pending:
        value = pending.pop()
        kind = type(value)
        if kind in PLAIN or issubclass(kind, (torch.Tensor, nn.Module, Proxy)) or id(value) in seen:
            continue
        seen.add(id(value))
        if _kind_of(value) is not None:
            yield value
            pending += _items(value)
        elif issubclass(kind, tuple):
            pending += tuple.__iter__(value)
        if is_opaque(value):
            yield vars(value)
            pending += vars(value).values()


def _items(container: Any) -> list[Any]:
    """All that a container holds, in its order; of a dict first the keys. Whatever its class makes of that."""
    kind = _kind_of(container)
    if kind is dict:
        return [*dict.__iter__(container), *dict.values(container)]
    return [*kind.__iter__(container)]


def _refill(container: Any, items: list[Any]) -> None:
    kind = _kind_of(container)
    kind.clear(container)
    if kind is dict:
        half = len(items) // 2
        dict.update(container, zip(items[:half], items[half:]))
    elif kind is set:
        set.update(container, items)
    else:
        kind.extend(container, items)
