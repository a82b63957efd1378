"""Python objects that a forward passes on and that are no tensors, containers or constants, such as caches."""

from __future__ import annotations

import collections
import contextlib
import enum
import gc
import operator
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from truncate._follow.numbers import Traced, plain
from truncate._graph import Shape, is_container, items_of
from truncate._python import closed_over

PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(...)))
# Types whose objects hold no values of a forward: they are not searched, and all calls may share them.
NOT_OPENED = (
    type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, enum.Enum, torch.layout,
    torch.memory_format, torch.dtype, torch.device, range, frozenset, torch.Generator, nn.Module, Traced,
)  # fmt: skip


def is_opaque(value: Any) -> bool:
    """Whether a value is an object with attributes of its own, which a child may change."""
    return hasattr(value, "__dict__") and not isinstance(value, (torch.Tensor, *NOT_OPENED))


def is_changeable(value: Any) -> bool:
    """Whether a value that is no tensor and no container may change: an object with attributes or slots, a set."""
    return is_opaque(value) or type(value).__hash__ is None or _has_slots(value)


def _has_slots(value: Any) -> bool:
    return not isinstance(value, NOT_OPENED) and any(vars(base).get("__slots__") for base in type(value).__mro__)


def shares_with_copies(value: Any) -> bool:
    """Whether a deep copy of an object still changes what the object itself has: in the closure of a function."""

    def is_kept(item: Any) -> bool:
        if isinstance(item, types.BuiltinFunctionType):  # ``found.append``
            return not isinstance(item.__self__, types.ModuleType | None)
        if not isinstance(item, types.FunctionType):
            return False
        return any(is_container(inside) or is_changeable(inside) for inside in closed_over(item))

    return hides(value, is_kept)


def hides(value: Any, sought: Callable[[Any], bool], depth: int = 4) -> bool:
    """Whether an object that is no container holds what is sought: in a closure, a deque, an iterator."""
    if sought(value):
        return True
    if not depth or type(value) in PLAIN or isinstance(value, (torch.Tensor, nn.Module, type, types.ModuleType)):
        return False
    if isinstance(value, types.FunctionType):  # its closure, not its globals
        inside: Any = value.__closure__ or ()
    else:
        inside = gc.get_referents(value)
    return any(hides(item, sought, depth - 1) for item in inside)


def objects_in(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Every object with attributes of its own inside nested values, and inside such objects."""
    seen = set() if seen is None else seen
    if type(value) in PLAIN or isinstance(value, torch.Tensor) or id(value) in seen:
        return
    seen.add(id(value))
    inside: Any = items_of(value)
    if is_opaque(value):
        yield value
        inside = (*inside, *vars(value).values())
    for item in inside:
        yield from objects_in(item, seen)


class Lent:
    """The objects that are passed to a call, with their state before it."""

    def __init__(self, given: Any) -> None:
        self.before = [(value, dict(vars(value))) for value in objects_in(given)]
        self._contents = [_contents(value) for value, _ in self.before]

    @property
    def changed(self) -> set[int]:
        """The ids of the objects that hold something else than before: in attributes, and in what is nested there."""
        compared = zip(self.before, self._contents)
        return {id(value) for (value, _), contents in compared if not _are_alike(_contents(value), contents)}

    def holders(self, pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
        """The second of each pair whose first is, or holds, an object that has changed."""
        changed = self.changed
        return [other for value, other in pairs if changed and not changed.isdisjoint(map(id, objects_in(value)))]


def _contents(value: Any) -> list[tuple[Any, int]]:
    """All that an object holds in containers, however deep, each with the number of changes in place if a tensor."""
    found: list[tuple[Any, int]] = []
    pending: list[Any] = [vars(value)]
    while pending and len(found) < _SEARCHED:
        container = pending.pop()
        if isinstance(container, dict):
            found += [(key, 0) for key in container]
        inside = tuple(container) if isinstance(container, _UNORDERED) else items_of(container)
        found += [(item, _changes(item)) for item in inside]
        pending += [item for item in inside if type(item) not in PLAIN and not isinstance(item, torch.Tensor)]
    return found


def _changes(value: Any) -> int:
    with torch._C.DisableTorchFunction():  # a recording would write the question down
        return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


_UNORDERED = (set, collections.deque)  # hold items, but are no containers in which a cut looks for values
_SEARCHED = 10_000  # parts of one object, so that a large one costs no more


def _are_alike(now: list[tuple[Any, int]], before: list[tuple[Any, int]]) -> bool:
    return len(now) == len(before) and all(
        one is other and changes == earlier for (one, changes), (other, earlier) in zip(now, before)
    )


def revive(kind: type, state: dict[str, Any]) -> Any:
    """A new object of a class with these attributes, like one that a forward made."""
    try:
        made: Any = object.__new__(kind)
    except TypeError:  # a class that is not written in Python
        made = kind.__new__(kind)  # type: ignore[call-overload]
    made.__dict__.update(state)
    return made


@contextlib.contextmanager
def plain_inside(values: Any) -> Iterator[None]:
    """Within this context, objects hold plain numbers in place of traced ones, which C code would misread."""
    replaced = made_plain(values)
    try:
        yield
    finally:
        for items, key, own, other in reversed(replaced):
            with contextlib.suppress(LookupError):  # the object may have been changed meanwhile
                if _are_same(items[key], other):
                    items[key] = own


def made_plain(values: Any) -> list[tuple[Any, Any, Any, Any]]:
    """Replaces traced numbers inside objects; returns for each the container, the key, the old and the new item."""
    replaced: list[tuple[Any, Any, Any, Any]] = []
    _plain(values, replaced, set())
    return replaced


def _plain(value: Any, replaced: list[tuple[Any, Any, Any, Any]], seen: set[int]) -> Any:
    kind = type(value)
    if kind in PLAIN or isinstance(value, torch.Tensor):
        return value
    if issubclass(kind, Traced):
        return plain(value)
    if issubclass(kind, tuple):
        items = [_plain(item, replaced, seen) for item in tuple.__iter__(value)]
        if all(map(operator.is_, items, tuple.__iter__(value))):
            return value
        return torch.Size(items) if kind in (torch.Size, Shape) else tuple.__new__(kind, items)
    if id(value) in seen:
        return value
    seen.add(id(value))
    if issubclass(kind, list):
        _plain_items(value, list.__setitem__, list(enumerate(list.__iter__(value))), replaced, seen)
    elif issubclass(kind, dict):
        _plain_items(value, dict.__setitem__, list(dict.items(value)), replaced, seen)
    if is_opaque(value):
        _plain_items(vars(value), dict.__setitem__, list(vars(value).items()), replaced, seen)
    return value


def _plain_items(
    container: Any, set_item: Callable[..., None], items: list[tuple[Any, Any]], replaced: Any, seen: set[int]
) -> None:
    for key, item in items:
        other = _plain(item, replaced, seen)
        if other is not item:
            set_item(container, key, other)
            replaced.append((container, key, item, other))


def _are_same(one: Any, other: Any) -> bool:
    if issubclass(type(one), tuple) and issubclass(type(other), tuple):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return one is other or (type(one) is type(other) and isinstance(one, (int, float)) and one == other)
