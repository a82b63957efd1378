"""What a forward keeps from call to call: attributes that it reads and then sets, and what its objects hold.

A rebuilt forward sets no attribute and fills no list, so it would read in each call what was there at the time of the
cut. Such a forward is not followed; it keeps its own Python.
"""

from __future__ import annotations

import collections
import functools
import io
import itertools
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from truncate._follow.classes import attributes_set, names_in_forward
from truncate._follow.objects import PLAIN, is_opaque
from truncate._follow.proxy import Proxy
from truncate._follow.replaced import POSITION
from truncate._python import closed_over, defaults_of, has_bytes, is_filled, is_library, is_set, slots_of, while_there

_SEARCHED = 10_000  # places of one attribute, so that a large one costs no more


class OwnState:
    """What a forward does with the attributes of its module, and with what they hold."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.read: set[str] = set()  # attributes that it read before setting them, or asked for in vain
        self.set: set[str] = set()
        self.hangs_hooks = False
        self._before: list[tuple[str, Any, list[Any]]] = []
        self._iterators: set[str] = set()
        self._watched: set[int] = set()

    def watch(self, attributes: Iterable[tuple[str, Any]]) -> None:
        """Remembers what is held by all that these attributes lead to and that may change: lists, objects, closures."""
        for name, value in attributes:
            for place, items in itertools.islice(_places_in(value, self._watched), _SEARCHED):
                if items is None:
                    self._iterators.add(name)
                else:
                    self._before.append((name, place, items))

    @property
    def drawn_from(self) -> str | None:
        """An attribute that leads to an iterator, if the forward names it: drawing from one changes it unseen."""
        kind: Any = type(self._module)
        return min(self._iterators & names_in_forward(kind), default=None)

    def put_back(self) -> str | None:
        """The first attribute in which something has changed, if any. All then hold again what they held before."""
        changed = None
        for name, place, before in self._before:
            now = _items(place)
            if len(now) != len(before) or not all(map(_is_same, now, before)):
                changed = changed or name
                _refill(place, before)
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
def held_by_class(kind: Any) -> tuple[str, ...]:
    """The names of what a class holds for all its instances: lists, dicts and sets, also as defaults of its methods."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    return tuple(name for base in bases for name, value in vars(base).items() if _holds(name, value))


def _holds(name: str, value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        return any(_kind_of(default) is not None for default in defaults_of(value))
    return _kind_of(value) is not None and not (name.startswith("__") and name.endswith("__"))


def _kind_of(value: Any) -> Any:
    """Which kind of container a value is; a proxy would say of itself that it is another."""
    return next((kind for kind in (list, dict, set, collections.deque) if issubclass(type(value), kind)), None)


def _places_in(value: Any, seen: set[int]) -> Iterator[tuple[Any, list[Any] | None]]:
    """All that a value leads to, without passing through a module, and in which something may change.

    Each comes with what it holds; with None, if that cannot be known without changing it: an iterator.
    """
    pending = [value]
    while pending:
        value = pending.pop()
        kind = type(value)
        if kind in PLAIN or issubclass(kind, (torch.Tensor, nn.Module, Proxy)) or id(value) in seen:
            continue
        seen.add(id(value))
        places: list[Any] = []
        if kind is types.FunctionType:
            if not is_library(value.__code__.co_filename):  # on its own functions torch makes notes
                places += [*(value.__closure__ or ()), vars(value)]
            pending += [*closed_over(value), *defaults_of(value)]
        elif kind is types.MethodType:
            pending.append(value.__self__)
        elif kind is functools.partial:
            pending += [value.func, *value.args, *value.keywords.values()]
        elif issubclass(kind, tuple):
            pending += tuple.__iter__(value)
        elif _kind_of(value) is not None or has_bytes(value) or slots_of(kind):
            places.append(value)
        elif hasattr(kind, "__next__") and not issubclass(kind, io.IOBase):
            yield value, None
        if is_opaque(value):
            places.append(vars(value))
        for place in places:
            items = _items(place)
            yield place, items
            pending += items


_NOTHING = object()


def _items(place: Any) -> list[Any]:
    """All that a place holds, in its order; of a dict first the keys. Whatever its class makes of that."""
    kind = _kind_of(place)
    if kind is dict:
        return [*dict.__iter__(place), *dict.values(place)]
    if kind is not None:
        return [*kind.__iter__(place)]
    if type(place) is types.CellType:
        return [place.cell_contents] if is_filled(place) else []
    if has_bytes(place):
        return [bytes(place)]
    return [slot.__get__(place) if is_set(slot, place) else _NOTHING for slot in slots_of(type(place))]


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is bytes is type(other) and one == other)


def _refill(place: Any, items: list[Any]) -> None:
    kind = _kind_of(place)
    if kind is dict:
        dict.clear(place)
        dict.update(place, zip(items[: len(items) // 2], items[len(items) // 2 :]))
    elif kind is not None:
        kind.clear(place)
        (set.update if kind is set else kind.extend)(place, items)
    elif type(place) is types.CellType:
        place.cell_contents = items[0] if items else None
    elif has_bytes(place):
        memoryview(place).cast("B")[:] = items[0]
    else:
        for slot, item in zip(slots_of(type(place)), items):
            if item is not _NOTHING:
                slot.__set__(place, item)
            elif is_set(slot, place):
                slot.__delete__(place)
