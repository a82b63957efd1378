"""Tables of features as Parquet files, written in constant memory."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor

from truncate._errors import ExtractError
from truncate._extract.batches import Column
from truncate._extract.rows import Rows, numpy_type
from truncate._files import whole, writing

_GROUP_BYTES = 32 << 20  # a row group is what a reader, and this writer, hold in memory
_GROUP_ROWS = 1 << 16
_SHARD_BYTES = 256 << 20
_NOTE = b"truncate"  # an entry of a file's metadata


class Table:
    """Writes columns to a Parquet file: a fixed-size list for each tensor row, and plain values for numbers and text.

    Rows of more than one dimension are flattened; the column's metadata has their ``shape``.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rows: dict[str, Rows] = {}
        self._texts: dict[str, list[str]] = {}
        self._group = _GROUP_ROWS
        self._count = 0  # of rows not yet in the file
        self._schema: pyarrow.Schema | None = None
        self._writer: Any = None

    def append(self, columns: Mapping[str, Column]) -> None:
        if self._schema is None:
            self._begin(columns)
        rows, start = len(next(iter(columns.values()))), 0
        while start < rows:
            taken = min(self._group - self._count, rows - start)
            for name, column in columns.items():
                part = column[start : start + taken]
                if isinstance(part, Tensor):
                    self._rows[name].append(part)
                else:
                    self._texts[name].extend(part)
            start += taken
            self._count += taken
            if self._count == self._group:
                self._flush()

    def finish(self, note: Any = None) -> None:
        """Writes what is left, and a note, which `note_in` reads."""
        if self._schema is None:
            self._begin({})
        if self._count or self._writer is None:
            self._flush()
        if note is not None:
            self._writer.add_key_value_metadata({_NOTE: json.dumps(note)})
        self._writer.close()

    def _begin(self, columns: Mapping[str, Column]) -> None:
        fields = [field(name, column) for name, column in columns.items()]
        self._schema = pyarrow.schema(fields)
        widths = [
            math.prod(column.shape[1:]) * numpy_type(column).itemsize
            for column in columns.values()
            if isinstance(column, Tensor)
        ]
        self._group = max(1, min(_GROUP_ROWS, _GROUP_BYTES // max(1, sum(widths))))
        for name, column in columns.items():
            if isinstance(column, Tensor):
                self._rows[name] = Rows(name, column, self._group)
            else:
                self._texts[name] = []

    def _flush(self) -> None:
        assert self._schema is not None
        if self._writer is None:
            self._writer = writer(self._file, self._schema)
        arrays = []
        for column in self._schema:
            if column.name in self._texts:
                arrays.append(pyarrow.array(self._texts[column.name], column.type))
                self._texts[column.name] = []
                continue
            arrays.append(_stored(self._rows[column.name].array, column.type))
        if arrays:
            self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))
        for rows in self._rows.values():
            rows.clear()
        self._count = 0


def field(name: str, column: Column) -> Any:
    """How a column is stored."""
    if not isinstance(column, Tensor):
        return pyarrow.field(name, pyarrow.string(), nullable=False)
    try:
        kind = pyarrow.from_numpy_dtype(numpy_type(column))
    except pyarrow.ArrowNotImplementedError:
        raise ExtractError(f"{name!r} is {column.dtype}, which Parquet does not know: write .npy") from None
    shape = list(column.shape[1:])
    if not shape:
        return pyarrow.field(name, kind, nullable=False)
    listed = pyarrow.list_(pyarrow.field("element", kind, nullable=False), math.prod(shape))
    return pyarrow.field(name, listed, nullable=False, metadata={"shape": json.dumps(shape)})


def _stored(rows: Any, kind: Any) -> Any:
    """An array as a column of that type."""
    values = pyarrow.array(rows.reshape(-1))
    return (
        pyarrow.FixedSizeListArray.from_arrays(values, type=kind) if pyarrow.types.is_fixed_size_list(kind) else values
    )


def table_of(others: Mapping[str, Any], columns: Mapping[str, Column]) -> Any:
    """A table in memory of arrays of any kind, and of the columns of features."""
    fields = {name: field(name, column).with_nullable(True) for name, column in columns.items()}
    arrays = {}
    for name, column in columns.items():
        assert isinstance(column, Tensor)
        rows = Rows(name, column, len(column))
        rows.append(column)
        arrays[name] = _stored(rows.array, fields[name].type)
    plain = {name: pyarrow.array(values) for name, values in others.items()}
    schema = pyarrow.schema([pyarrow.field(name, array.type) for name, array in plain.items()] + list(fields.values()))
    return pyarrow.Table.from_arrays([*plain.values(), *arrays.values()], schema=schema)


def columns_in(table: Any) -> dict[str, Column]:
    """The columns of a table as they were before they were stored."""
    columns: dict[str, Column] = {}
    for column in table.schema:
        values = table[column.name].combine_chunks()
        if pyarrow.types.is_string(column.type):
            columns[column.name] = values.to_pylist()
            continue
        shape = []
        if pyarrow.types.is_fixed_size_list(column.type):
            shape = json.loads((column.metadata or {}).get(b"shape", f"[{column.type.list_size}]"))
            values = values.flatten()
        array = values.to_numpy(zero_copy_only=False).reshape(len(table), *shape)
        columns[column.name] = torch.tensor(array)
    return columns


def writer(file: BinaryIO, schema: Any) -> Any:
    """Writes row groups of that schema; numbers without dictionary and statistics, which cost time and tell nothing."""
    texts = [column.name for column in schema if pyarrow.types.is_string(column.type)]
    options: dict[str, Any] = {"use_dictionary": texts or False, "write_statistics": texts or False}
    return pyarrow.parquet.ParquetWriter(file, schema, compression="snappy", **options)


def note_in(path: Path) -> Any:
    """The note of a file, or None if it has none or is no Parquet file."""
    if path.is_dir():
        return None
    try:
        metadata = pyarrow.parquet.read_metadata(path).metadata or {}
    except pyarrow.ArrowInvalid:
        return None
    except OSError as error:
        raise ExtractError(f"cannot read {path}: {error.strerror or error}") from error
    return json.loads(metadata[_NOTE]) if _NOTE in metadata else None


def groups_in(path: Path) -> Iterator[dict[str, Any]]:
    """The columns of a file, a row group at a time."""
    with pyarrow.parquet.ParquetFile(path) as opened:
        yield from (columns_in(opened.read_row_group(group)) for group in range(opened.num_row_groups))


def texts_in(path: Path) -> list[list[str]]:
    """The columns of a file that holds text alone."""
    return [column.to_pylist() for column in pyarrow.parquet.read_table(path).columns]


def rows_in(path: Path) -> int:
    """How many rows a file has."""
    return int(pyarrow.parquet.read_metadata(path).num_rows)


def join(parts: Iterable[Path], file: BinaryIO, note: Any) -> int:
    """Copies the rows of all parts to one file, a row group at a time, and returns how many there are.

    The note gets their number as ``rows``.

    Raises:
        ExtractError: The rows of one part are not like those of another.
    """
    joined, schema, rows = None, None, 0
    with contextlib.ExitStack() as stack:
        for part in parts:
            with pyarrow.parquet.ParquetFile(part) as opened:
                if not opened.metadata.num_rows:  # without rows its columns are not known
                    continue
                if joined is None:
                    schema = opened.schema_arrow.remove_metadata()
                    joined = stack.enter_context(writer(file, schema))
                for group in range(opened.num_row_groups):
                    table = _cast(opened.read_row_group(group), schema, part)
                    joined.write_table(table)
                    rows += len(table)
        if joined is None:
            joined = stack.enter_context(
                writer(file, pyarrow.schema([pyarrow.field("path", pyarrow.string(), nullable=False)]))
            )
        joined.add_key_value_metadata({_NOTE: json.dumps({**note, "rows": rows})})
    return rows


def _cast(table: Any, schema: Any, part: Path) -> Any:
    try:
        return table.cast(schema)
    except (pyarrow.ArrowException, ValueError) as error:
        one, other = (_described(columns) for columns in (schema, table.schema))
        raise ExtractError(
            f"the rows were {one}, and from {part.name} on {other}: a table needs rows of one shape. Does the model "
            "return other shapes for some inputs? Then pool its output"
        ) from error


def _described(schema: Any) -> str:
    kinds = [(column.name, column.type) for column in schema]
    return ", ".join(
        f"{name} of {kind.list_size} numbers" if pyarrow.types.is_fixed_size_list(kind) else f"{name} ({kind})"
        for name, kind in kinds
    )


# -- folders of shards -----------------------------------------------------------------------------------------------


class Shards:
    """Several Parquet files in a folder, one begun when the last is large."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = contextlib.ExitStack()
        self._table: Table | None = None
        self._bytes = 0
        self.rows: dict[str, int] = {}  # of each file

    def append(self, columns: Mapping[str, Column]) -> None:
        if self._table is None:
            name = f"{len(self.rows):06}.parquet"
            self._table = Table(self._open.enter_context(whole(self._folder / name)))
            self.rows[name], self._bytes = 0, 0
        self._table.append(columns)
        name = next(reversed(self.rows))
        self.rows[name] += len(next(iter(columns.values())))
        self._bytes += sum(column.nbytes for column in columns.values() if isinstance(column, Tensor))
        if self._bytes >= _SHARD_BYTES:
            self.finish()

    def finish(self) -> None:
        if self._table is not None:
            self._table.finish()
            self._open.close()
            self._table = None

    def abandon(self, *error: Any) -> None:
        self._open.__exit__(*error)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Shards]:
    """A new folder of shards, with a manifest that says what they hold: once it is there, they are complete.

    What a killed process has left is begun again. It is known by the manifest that is not complete.
    """
    was_there = path.exists()
    if was_there and not (path.is_dir() and _is_empty_or_left(path)):
        raise ExtractError(f"{path} is there already: features go to a new folder")
    with writing(path):
        path.mkdir(exist_ok=True)
    try:
        with whole(path / "manifest.json") as manifest:  # before anything else; others are kept out from here on
            try:
                with writing(path):
                    shutil.rmtree(path / "shards", ignore_errors=True)
                    (path / "shards").mkdir()
                shards = Shards(path / "shards")
                try:
                    yield shards
                except BaseException:
                    shards.abandon(*sys.exc_info())
                    raise
                files = [{"file": f"shards/{name}", "rows": rows} for name, rows in shards.rows.items()]
                manifest.write(json.dumps({"format": 1, "shards": files}, indent=1).encode())
            except BaseException:  # nothing is left, so that it can be tried again
                shutil.rmtree(path / "shards", ignore_errors=True)
                raise
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _is_empty_or_left(path: Path) -> bool:
    """Whether a folder holds nothing besides what a killed process leaves."""
    names = {entry.name for entry in path.iterdir()}
    shards = path / "shards"
    inside = [entry.name for entry in shards.iterdir()] if "shards" in names and shards.is_dir() else []
    ours = all(re.fullmatch(r"\d{6}\.parquet|\.\d{6}\.parquet\.partial", name) for name in inside)
    return not names or (ours and ".manifest.json.partial" in names and names <= {".manifest.json.partial", "shards"})
