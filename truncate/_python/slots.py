"""What objects hold outside of their `__dict__`: in slots, in memory of their own, in variables around a function."""

from __future__ import annotations

import types
from typing import Any

from truncate._python.remembered import while_there


def is_set(slot: Any, value: Any) -> bool:
    try:
        slot.__get__(value)
    except AttributeError:
        return False
    return True


def is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def slots_of(kind: Any) -> list[Any]:
    """The descriptors of what instances of a class hold in slots."""
    return [vars(kind.__mro__[position])[name] for position, name in _slot_names(kind)]


@while_there
def _slot_names(kind: Any) -> list[tuple[int, str]]:
    """With the position of the class that has each: a descriptor would keep its class alive."""
    with_slots = [(position, vars(base)) for position, base in enumerate(kind.__mro__) if "__slots__" in vars(base)]
    return [
        (position, name)
        for position, held in with_slots
        for name, each in held.items()
        if isinstance(each, types.MemberDescriptorType)
    ]


_LARGEST = 1 << 24  # bytes of an array; a larger one, perhaps a mapped file, is taken to be a table that stays as it is


def has_bytes(value: Any) -> bool:
    """Whether a value is an array, whose memory may be changed."""
    try:
        with memoryview(value) as view:
            return view.c_contiguous and not view.readonly and "O" not in view.format and view.nbytes <= _LARGEST
    except (TypeError, ValueError, BufferError):
        return False
