"""What a batch holds: what the module is called with, and the labels and keys of its rows."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from truncate._errors import ExtractError

_LABELS = ("label", "labels")  # never given to a module, even if it takes them: it would compute a loss


@dataclasses.dataclass
class Batch:
    """One call of the module, and what belongs to its rows."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: int
    labels: Any  # a tensor or list of one a row, or a tuple or dict of these, or None
    keys: Any  # one a row, or None


class Reader:
    """Separates in each batch what the module is called with from labels and keys."""

    def __init__(self, module: nn.Module, keys: Iterable[Any] | str | None) -> None:
        if keys is not None and not isinstance(keys, Iterable):
            raise ExtractError(
                f"keys={keys!r}: keys are one string or number for each row, or the name of an entry of the batches"
            )
        self._entry = keys if isinstance(keys, str) else None
        self._keys = iter(keys) if keys is not None and not isinstance(keys, str) else None
        self._accepts = _accepts(module)

    def read(self, given: Any, number: int) -> Batch:
        """Reads the batch of that number."""
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(given, Tensor):
            args, labels = (given,), None
        elif isinstance(given, list | tuple) and given and isinstance(given[0], Tensor):
            args = (given[0],)
            labels = None if len(given) == 1 else given[1] if len(given) == 2 else tuple(given[1:])
        elif isinstance(given, Mapping):
            kwargs = {key: value for key, value in given.items() if self._takes(key)}
            rest = {key: value for key, value in given.items() if key not in kwargs and key != self._entry}
            labels = None if not rest else next(iter(rest.values())) if len(rest) == 1 else rest
        else:
            raise ExtractError(
                f"batch {number} is a {_described(given)}: a batch is a tensor, a tuple (tensor, labels, ...), or a "
                "dict of tensors whose keys are names of arguments"
            )
        sizes = [value.shape[0] for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim]
        if not sizes:
            entries = f"{', '.join(map(repr, given))}" if isinstance(given, Mapping) else ""
            raise ExtractError(f"batch {number} holds no tensor that the module takes: {entries or 'it has no rows'}")
        return Batch(args, kwargs, sizes[0], labels, self._keys_of(given, sizes[0], number))

    def _takes(self, key: Any) -> bool:
        return key != self._entry and key not in _LABELS and (self._accepts is None or key in self._accepts)

    def _keys_of(self, given: Any, rows: int, number: int) -> Any:
        if self._entry is not None:
            if not isinstance(given, Mapping) or self._entry not in given:
                raise ExtractError(f"keys={self._entry!r} names an entry of each batch, but batch {number} has none")
            return given[self._entry]
        if self._keys is None:
            return None
        keys = list(islice(self._keys, rows))
        if len(keys) < rows:
            raise ExtractError(f"there are fewer keys than rows: they end in batch {number}")
        return keys

    def finish(self) -> None:
        """Checks that every key was for a row."""
        nothing = object()
        if self._keys is not None and next(self._keys, nothing) is not nothing:
            raise ExtractError("there are more keys than rows; keys are one for each row, in the order of the batches")


def _accepts(module: nn.Module) -> frozenset[str] | None:
    """The names of the arguments that the module takes; None: it takes any."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # a scripted forward, perhaps
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL)


def _described(value: Any) -> str:
    kinds = dict.fromkeys(type(part).__name__ for part in value) if isinstance(value, list | tuple) else {}
    inside = f" of {' and '.join(list(kinds)[:2])}" if kinds else ""
    return f"{type(value).__name__}{inside}"


# -- columns ---------------------------------------------------------------------------------------------------------

Column = Tensor | list[str]


def columns_of(value: Any, name: str) -> Iterator[tuple[str, Column]]:
    """The columns in a nested value, one row of each for a row of the batch.

    A tensor is one column, called `name`; what is in a list or tuple is called ``name_0``, ``name_1``; what is in a
    dict, by its key. Deeper down, names are joined: ``c3_0``, ``c3.mean``. None is no column.
    """
    yield from _columns(value, name, top=True)


def _columns(value: Any, name: str, top: bool = False) -> Iterator[tuple[str, Column]]:
    if value is None:
        return
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _columns(part, str(key) if top else f"{name}.{key}")
    elif isinstance(value, list | tuple) and not _is_column(value):
        for i, part in enumerate(value):
            yield from _columns(part, f"{name}_{i}")
    else:
        yield name, _column(value, name)


def _is_column(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list holds plain values, one a row, and not columns."""
    return bool(value) and not any(isinstance(part, Tensor | Mapping | list | tuple | None) for part in value)


def _column(value: Any, name: str) -> Column:
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return list(value)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ExtractError(
            f"{name!r} holds a {_described(value)}: only tensors, numbers and strings can be stored, and all rows "
            "must be of one kind"
        ) from None


def check_rows(columns: Iterable[tuple[str, Column]], rows: int) -> None:
    """Raises if a column does not have one row for each row of the batch."""
    for name, column in columns:
        found = len(column) if isinstance(column, list) or column.ndim else 0
        if found != rows:
            shape = "" if isinstance(column, list) else f" (it is {tuple(column.shape)})"
            raise ExtractError(f"{name!r} has {found} rows, where the batch has {rows}{shape}")


def refilled(value: Any, columns: Iterator[Any]) -> Any:
    """The nested value with its columns replaced, one after the other."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: refilled(part, columns) for key, part in value.items()}
    if isinstance(value, list | tuple) and not _is_column(value):
        parts = [refilled(part, columns) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return next(columns)
