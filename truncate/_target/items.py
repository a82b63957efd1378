"""One item of what a layer returns: `"lstm[0]"`, `"backbone['out']"`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from truncate._errors import TruncateError

Keys = tuple[int | str, ...]


class Numbered(int):
    """The number of a target, in its place among the outputs asked for, with the item of its value that goes there."""

    keys: Keys = ()

    @classmethod
    def of(cls, number: int, keys: Keys) -> int:
        made = cls(number)
        made.keys = keys
        return made if keys else number


def keys_of(number: int) -> Keys:
    """The item that is asked for of the value of a target."""
    return number.keys if isinstance(number, Numbered) else ()


def item_of(value: Any, keys: Keys) -> Any:
    """The item of a value of several.

    Raises:
        TruncateError: It is a tensor, of which brackets would take a row.
    """
    for key in keys:
        if isinstance(value, Tensor):
            raise TruncateError(not_several(keys))
        try:
            value = value[key]
        except (LookupError, TypeError) as error:
            kind = type(value).__name__
            raise TruncateError(f"the output of the layer has no item {key!r}: it is a {kind}") from error
    return value


def not_several(keys: Keys) -> str:
    """What is said where an item is asked for of a single tensor."""
    written = "".join(f"[{key!r}]" for key in keys)
    return f"{written} selects an item of a layer that returns several, but this one returns a tensor. Leave it out"
