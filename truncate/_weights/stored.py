"""What a checkpoint gives: which tensors it holds, and the numbers of one of them, piece by piece."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor

from truncate._errors import WeightsError, printable

PIECE = 4 << 20  # bytes: large enough for a disk, and little compared with any model for which this matters
LONGEST = 100_000_000  # bytes that describe tensors, as the safetensors library has it; more are not looked at
DAMAGED = "damaged or incomplete"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    #: Its numbers in order, as flat tensors that hold until the next one. They may lie in a given buffer of `PIECE`
    #: bytes; buffers that come and go between tensors that stay would leave holes in the memory.
    pieces: Callable[[Tensor], Iterator[Tensor]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file or a folder holds: the names of all tensors, and where to find each."""

    names: Collection[str]
    find: Callable[[str], Stored]
    notes: tuple[str, ...] = ()  #: what a user should know about how it was read, in words


def opened(path: Path, stack: contextlib.ExitStack) -> io.FileIO:
    try:
        file = stack.enter_context(io.FileIO(path))
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def pieces_of_file(
    file: io.FileIO, path: Path, offset: int, count: int, dtype: torch.dtype, buffer: Tensor
) -> Iterator[Tensor]:
    view = buffer.numpy().data
    file.seek(offset)
    for begin in range(0, count, PIECE):
        filled, wanted = 0, min(PIECE, count - begin)
        while filled < wanted:
            try:
                more = file.readinto(view[filled:wanted])
            except OSError as error:
                raise WeightsError(f"cannot read {path}: {error.strerror}") from error
            if not more:
                raise WeightsError(f"{path} became shorter while it was read")
            filled += more
        yield buffer[:wanted].view(dtype)


def brief(error: BaseException, limit: int = 200) -> str:
    text = f"{type(error).__name__}: {printable(' '.join(str(error).split()))}"
    return text if len(text) <= limit else f"{text[:limit].rstrip()} …"
