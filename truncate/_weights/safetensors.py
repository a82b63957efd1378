"""Files of safetensors: eight bytes that tell the length of a header, the header as JSON, and after it the numbers.

The format is read here and not by its library, which maps the file or reads it with read-ahead, and so fetched from
the disk 1.1 to 1.4 times the bytes that were asked for. What that library refuses is refused here too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from truncate._errors import WeightsError
from truncate._weights.stored import DAMAGED, LONGEST, Checkpoint, Stored, opened, pieces_of_file

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_MOST = 5_000_000  # brackets and commas in a header: each makes Python an object, of up to 72 bytes
_LARGEST = 2**64 - 1  # what the format holds as a number


def read_safetensors(path: Path, stack: contextlib.ExitStack) -> Checkpoint:
    file = opened(path, stack)
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise WeightsError(f"{path} is {DAMAGED}: it has {size} bytes, but should begin with a header of {length}")
    if length > LONGEST:
        raise WeightsError(f"{path} is {DAMAGED}: its header of {length} bytes is too long: {LONGEST} at most")
    begin = 8 + length
    try:
        header = parsed(file.read(length))
        if (metadata := header.pop("__metadata__", None)) is not None:
            "".join(dict.values(metadata)).encode()  # texts alone
        spans = sorted((*_span(entry["data_offsets"]), name) for name, entry in header.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is {DAMAGED}: its header is not that of a .safetensors file") from error
    end = 0
    for first, last, name in spans:
        if first != end or last < first or not _fits(header[name], last - first):
            raise WeightsError(f"{path} is {DAMAGED}: its header contradicts itself about {name[:200]!r}")
        end = last
    if begin + end != size:
        raise WeightsError(f"{path} is {DAMAGED}: it has {size} bytes, but {begin + end} according to its header")

    def find(name: str) -> Stored:
        shape, kind, (first, last) = (header[name][key] for key in ("shape", "dtype", "data_offsets"))
        if kind not in _DTYPES:
            raise WeightsError(f"{name[:200]!r} in {path} is of type {kind[:200]!r}, which is not supported")
        pieces = functools.partial(pieces_of_file, file, path, begin + first, last - first, _DTYPES[kind])
        return Stored(tuple(shape), _DTYPES[kind], pieces)

    return Checkpoint(header.keys(), find)


def parsed(content: bytes) -> Any:
    """What JSON holds, in bounds that no checkpoint reaches.

    Raises:
        ValueError: It is none, or goes beyond them.
    """
    if sum(map(content.count, (b"[", b"{", b","))) > _MOST:
        raise ValueError("it is not the JSON of a checkpoint")
    try:
        return json.loads(content.decode(), parse_int=_number, parse_constant=_number, object_pairs_hook=_named_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _number(text: str) -> int:
    number = int(text) if len(text) <= 20 else -1  # to read thousands of digits takes long
    if number > _LARGEST:
        raise ValueError("a number is too large")
    return number


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A part of a header. Its texts have to be ones that can be written as UTF-8."""
    made = dict(pairs)
    "".join(made).encode()
    return made


def _span(offsets: list[Any]) -> tuple[int, int]:
    """Where the numbers of a tensor begin and end; before the beginning if that is said by other than numbers."""
    first, last = offsets
    return (first, last) if type(first) is int and type(last) is int else (-1, -1)


def _fits(entry: Mapping[str, Any], nbytes: int) -> bool:
    """Whether a tensor of that shape and type has so many bytes; of types that are not read this is not known."""
    kind, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(kind, str) or not isinstance(shape, list):
        return False
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            return False
        count *= size
        if count > _LARGEST:
            return False
    return kind not in _DTYPES or count * _DTYPES[kind].itemsize == nbytes
