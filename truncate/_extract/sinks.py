"""Where the columns of `extract` go, batch by batch: into memory, or into a file in constant memory."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from truncate._errors import ExtractError
from truncate._extract.batches import Column
from truncate._extract.rows import Rows, check_row, numpy_type
from truncate._files import whole


class Sink(Protocol):
    """Takes the columns of one batch after the other; each is of as many rows as the others."""

    def append(self, columns: Mapping[str, Column]) -> None: ...

    def finish(self) -> None: ...


class Memory:
    """Columns as arrays; those that are large in temporary files, if `mapped`."""

    def __init__(self, capacity: int, mapped: bool = False) -> None:
        self._capacity, self._mapped = capacity, mapped
        self._rows: dict[str, Rows] = {}
        self._texts: dict[str, list[str]] = {}

    def append(self, columns: Mapping[str, Column]) -> None:
        for name, column in columns.items():
            if not isinstance(column, Tensor):
                self._texts.setdefault(name, []).extend(column)
                continue
            if name not in self._rows:
                self._rows[name] = Rows(name, column, max(self._capacity, len(column)), self._mapped)
            self._rows[name].append(column)

    def finish(self) -> None:
        pass

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        """The numeric columns."""
        return (rows.array for rows in self._rows.values())

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        return self._rows[name].array if name in self._rows else np.array(self._texts[name])


class _Raw:
    """Numeric columns, each written to a file as it lies in memory."""

    suffix: str

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        self._file, self._folder = file, folder
        self._like: dict[str, Tensor] = {}  # of each column, an empty one of its kind
        self._files: dict[str, Any] = {}
        self._count = 0

    def append(self, columns: Mapping[str, Column]) -> None:
        for name, column in columns.items():
            if not isinstance(column, Tensor):
                raise ExtractError(f"{name!r} is text, and {self.suffix} holds only numbers: write .parquet")
            if name not in self._like:
                self._like[name] = column[:0].clone()
                self._files[name] = self._open(name)
            check_row(name, column, self._like[name].shape[1:], self._like[name].dtype)
            array = np.empty(0, numpy_type(column))
            values = column.to(torch.from_numpy(array).dtype).contiguous().numpy()
            self._files[name].write(values.reshape(-1).view(np.uint8))
        self._count += len(next(iter(columns.values())))

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _open(self, name: str) -> Any:
        raise NotImplementedError

    def _shape(self, name: str) -> tuple[int, ...]:
        return (self._count, *self._like[name].shape[1:])


class Npy(_Raw):
    """One array, which ``numpy.load(path, mmap_mode="r")`` maps into memory."""

    suffix = ".npy"

    def _open(self, name: str) -> BinaryIO:
        if self._files:
            names = ", ".join([*self._files, name])
            raise ExtractError(f".npy holds one array, but there are {names}: write .parquet or .safetensors")
        self._file.write(self._header(name))
        return self._file

    def _header(self, name: str) -> bytes:
        kind = {"descr": np.lib.format.dtype_to_descr(numpy_type(self._like[name])), "fortran_order": False}
        header = io.BytesIO()
        # numpy leaves room in it for any number of rows, so that it can be written anew in place
        np.lib.format.write_array_header_1_0(header, {**kind, "shape": self._shape(name)})
        return header.getvalue()

    def close(self) -> None:
        pass  # whoever opened the only file closes it

    def finish(self) -> None:
        self._file.seek(0)
        self._file.write(self._header(next(iter(self._like))))


class Safetensors(_Raw):
    """Several arrays in one file, which begins with all their sizes: until they are known, each has its own file."""

    suffix = ".safetensors"

    def _open(self, name: str) -> Any:
        if self._like[name].dtype == torch.complex128:
            raise ExtractError(f"{name!r} is torch.complex128, which .safetensors does not know: write .npy")
        return tempfile.TemporaryFile(dir=self._folder)

    def finish(self) -> None:
        header, end = {}, 0
        order = sorted(self._files, key=lambda name: -numpy_type(self._like[name]).itemsize)  # so that all are aligned
        for name in order:
            kind, start = numpy_type(self._like[name]), end
            end += kind.itemsize * math.prod(self._shape(name))
            code = "BOOL" if kind.kind == "b" else f"{kind.kind.upper()}{8 * kind.itemsize}"
            header[name] = {"dtype": code, "shape": self._shape(name), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            self._files[name].seek(0)
            shutil.copyfileobj(self._files[name], self._file, 1 << 20)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Sink]:
    """A file, or a folder of shards, that appears when the block ends without an error."""
    if path.suffix not in ("", ".npy", ".safetensors", ".parquet"):
        raise ExtractError(
            f"cannot tell from {path.name!r} what to write: it has to end in .parquet, .npy or .safetensors, or be "
            "the name of a new folder"
        )
    if not path.parent.is_dir():
        raise ExtractError(f"no folder {path.parent} to write {path.name} to")
    if path.suffix in ("", ".parquet"):
        parquet = parquet_room()
        if not path.suffix:
            with parquet.folder(path) as shards:
                yield shards
            return
        with whole(path) as file:
            yield parquet.Table(file)
        return
    kind = Npy if path.suffix == ".npy" else Safetensors
    with whole(path) as file, contextlib.closing(kind(file, path.parent)) as sink:
        yield sink


def parquet_room() -> Any:
    """The module that writes Parquet, which only some users need."""
    try:
        return importlib.import_module("truncate._extract.parquet")
    except ImportError as error:
        raise ExtractError(
            f"Parquet needs {error.name}, which is missing: pip install 'torch-truncate[extract]'"
        ) from error
