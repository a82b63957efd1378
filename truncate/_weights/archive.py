"""Archives of `torch.save`: what describes the tensors is read, and where in the file the numbers of each begin.

Since PyTorch 1.6 that is a zip archive of a pickle, which describes the tensors, and of their numbers, uncompressed, a
record for each storage. The pickle is read by torch's own unpickler, which runs no code, and each storage that it asks
for is one on the meta device: its numbers are found by the index of the archive when they are needed. `mmap=True` would
map the whole file, which Linux refuses by default where the file is larger than the memory.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._weights_only_unpickler import Unpickler

from truncate._errors import WeightsError
from truncate._weights.stored import DAMAGED, LONGEST


class Archive:
    """One such file, open."""

    def __init__(self, file: io.FileIO, path: Path, records: dict[str, zipfile.ZipInfo]) -> None:
        self._file = file
        self._path = path
        self._records = records
        self._folder = next((name[: -len("/data.pkl")] for name in records if name.endswith("/data.pkl")), "")
        # By the address of a storage, which is kept alive; its Python object may be another one later.
        self._storages: dict[int, tuple[torch.UntypedStorage, str]] = {}

    def content(self) -> Any:
        """What was saved, with all tensors on the meta device.

        Raises:
            NotImplementedError: Some of them cannot be there, as sparse ones cannot.
            Exception: The file is damaged, or holds more than tensors.
        """
        order = f"{self._folder}/byteorder"
        if order in self._records and self._bytes(order) != sys.byteorder.encode():
            raise WeightsError(f"cannot read {self._path}: its values are in the byte order of another kind of machine")
        described = self._bytes(f"{self._folder}/data.pkl")
        if b"_rebuild_sparse" in described:  # torch would keep a list of these, for its next `torch.load` to check
            raise NotImplementedError
        reader: Any = Unpickler(io.BytesIO(described), encoding="utf-8")
        reader.persistent_load = self._storage
        return reader.load()

    def _storage(self, asked: Any) -> Any:
        """The storage that the pickle asks for: its type, the name of its record, its device and its length."""
        _, kind, key, _, length = asked
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        storage = torch.UntypedStorage(length * dtype.itemsize, device="meta")
        self._storages[storage._cdata] = storage, f"{self._folder}/data/{key}"
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)

    def offset(self, name: str, tensor: Tensor) -> int:
        """Where in the file the numbers of a tensor begin."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            raise WeightsError(f"{name!r} in {self._path} has no values: it was on the meta device when it was saved")
        record = self._storages[storage._cdata][1]
        last = (tensor.storage_offset() + span(tensor)) * tensor.dtype.itemsize
        if record not in self._records or not last <= self._records[record].file_size == storage.nbytes():
            raise WeightsError(f"{self._path} is {DAMAGED}: it does not hold the values of {name!r}. Save it again")
        return self._begin(record) + int(tensor.storage_offset()) * tensor.dtype.itemsize

    def _bytes(self, name: str) -> bytes:
        """A whole record. Its checksum is not looked at: torch may leave it out, and does not look at it either."""
        self._file.seek(self._begin(name))
        return self._file.read(self._records[name].file_size)

    def _begin(self, name: str) -> int:
        """Where the content of a record begins: after a header, which the name is in, and perhaps more."""
        record = self._records[name]
        self._file.seek(record.header_offset)
        header = self._file.read(30)
        lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        if header[:4] != b"PK\x03\x04" or self._file.read(lengths[0]) != record.orig_filename.encode():
            raise WeightsError(f"{self._path} is {DAMAGED}: {name!r} in it is not where its index says. Save it again")
        return record.header_offset + 30 + sum(lengths)


def records_of(path: Path) -> dict[str, zipfile.ZipInfo]:
    """What a file consists of that is a zip archive, by name; nothing for one that is none.

    Raises:
        WeightsError: It is an archive that cannot be read record by record.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(2) == b"PK":  # torch would look for an archive in a way of its own
                raise ValueError("an archive without its end")
        return {}
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: record for record in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in records):
        raise WeightsError(
            f"{path} is a scripted module and no checkpoint: torch.jit.load reads it, and has its state_dict()"
        )
    for name, record in records.items():
        if record.compress_type != zipfile.ZIP_STORED:  # it may be a thousand times larger
            raise WeightsError(
                f"cannot read {path}: {name[:200]!r} in it was compressed after torch.save. Save it again"
            )
        if name.endswith(".pkl") and record.file_size > LONGEST:
            raise WeightsError(
                f"cannot read {path}: the description of its tensors has {record.file_size} bytes, more than {LONGEST}"
            )
    return records


def span(tensor: Tensor) -> int:
    """How many numbers of its storage a tensor reaches over."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
