"""The rows of one numeric column, gathered batch by batch."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from truncate._errors import ExtractError


def numpy_type(tensor: Tensor) -> np.dtype[Any]:
    """The type in numpy: bfloat16 and smaller floats, which numpy does not know, become float32 or complex64."""
    try:
        return torch.empty(0, dtype=tensor.dtype).numpy().dtype
    except TypeError:
        return torch.empty(0, dtype=torch.complex64 if tensor.is_complex() else torch.float32).numpy().dtype


_LARGE = 1 << 30  # bytes


class Rows:
    """The rows of one numeric column in one array. It doubles when it is full, unless its size is known before.

    If `mapped`, an array of a gigabyte lies in a temporary file, so that it may be larger than the memory.
    """

    def __init__(self, name: str, like: Tensor, capacity: int, mapped: bool = False) -> None:
        self._name, self._shape, self._dtype = name, like.shape[1:], like.dtype
        self._mapped, self._kind = mapped, numpy_type(like)
        self._array = self._room(max(capacity, 1))
        self.count = 0

    def _room(self, rows: int) -> np.ndarray[Any, Any]:
        shape = (rows, *self._shape)
        size = math.prod(shape) * self._kind.itemsize
        if self._mapped and size >= _LARGE:
            with contextlib.suppress(OSError), tempfile.TemporaryFile() as file:  # a full disk: perhaps memory has room
                if hasattr(os, "posix_fallocate"):  # a disk without room is to say so now, and not by a signal later
                    os.posix_fallocate(file.fileno(), 0, size)
                return np.memmap(file, self._kind, "w+", shape=shape)
        return np.empty(shape, self._kind)

    def append(self, tensor: Tensor) -> None:
        """Copies rows to the end: once, whatever their layout, and into what numpy holds them as."""
        check_row(self._name, tensor, self._shape, self._dtype)
        end = self.count + len(tensor)
        if end > len(self._array):
            larger = self._room(max(end, 2 * len(self._array)))
            larger[: self.count] = self._array[: self.count]
            self._array = larger
        torch.from_numpy(self._array[self.count : end]).copy_(tensor)
        self.count = end

    def clear(self) -> None:
        self.count = 0

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The rows so far."""
        return self._array[: self.count]


def check_row(name: str, tensor: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    """Raises if rows are not like those before."""
    if tensor.shape[1:] != shape:
        one, other = ("×".join(map(str, sizes)) or "one number" for sizes in (shape, tensor.shape[1:]))
        raise ExtractError(
            f"the rows of {name!r} were {one}, and are now {other}: a table needs rows of one shape. Resize the "
            "inputs to one size, or reduce the outputs, for example to their mean over positions"
        )
    if tensor.dtype != dtype:
        raise ExtractError(f"{name!r} was {dtype}, and is now {tensor.dtype}")
