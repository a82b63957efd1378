"""Headers of any kind: what the library of the format refuses is refused, in bounds of time and memory."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import images
import pytest
import safetensors.torch
from checkpoints import refused
from torch import nn

from truncate import WeightsError, load_weights
from truncate._weights.checkpoint import open_checkpoint

DATA = bytes(range(64))
HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c.é": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
    "d": {"dtype": "U8", "shape": [0, 7], "data_offsets": [40, 40]},
    "e": {"dtype": "F64", "shape": [3, 1], "data_offsets": [40, 64]},
}


TYPES = ["F32", "F64", "I32", "U8", "BOOL", "F16", "C64", "f32", "F99", "", None, ["F32"]]
LETTERS = [b"", b" ", b"0", b"9", b"-", b'"', b"[", b"]", b"{", b"}", b",", b".", b"e", b"\xff", b"\\", b"\n"]


def is_ordinary(entry: Any) -> bool:
    """Whether more can be changed in it."""
    if not isinstance(entry, dict):
        return False
    offsets = entry.get("data_offsets")
    return isinstance(offsets, list) and len(offsets) == 2 and isinstance(entry.get("shape"), list)


def file_of(header: bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def mutant(chance: random.Random) -> bytes:
    """A file in which something small is wrong, or nothing that matters."""
    header, data, length = copy.deepcopy(HEADER), DATA, None
    numbers: list[Any] = [-1, 0, 1, 2, 7, 8, 24, 32, 40, 64, 65, 2**31, 2**63, 2**64 - 1, 2**64, 10**30]
    numbers += [1.0, 24.5, True, None, "24", []]
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        name = chance.choice(list(header))
        entry: Any = header[name]
        kind = chance.randrange(12)
        if kind == 0 and name != "__metadata__":
            entry["data_offsets"][chance.randrange(2)] = chance.choice(numbers)
        elif kind == 1 and name != "__metadata__":
            entry["shape"].insert(0, chance.choice(numbers))
        elif kind == 2 and name != "__metadata__":
            entry["dtype"] = chance.choice(TYPES)
        elif kind == 3 and name != "__metadata__":
            entry.pop(chance.choice(list(entry)), None)
            header[name] = entry or 3
        elif kind == 4:
            header[name] = chance.choice([3, None, [], {}, "x", copy.deepcopy(header.get("a"))])
        elif kind == 5:
            del header[name]
        elif kind == 6:
            header[chance.choice(["z", "", "__metadata__ "])] = copy.deepcopy(entry)
        elif kind == 7:
            data = chance.choice([data[:-1], data + b"x", b"", data[:40]])
        elif kind == 8:
            header["__metadata__"] = chance.choice([{"a": "b"}, {"a": 1}, {}, None, [], "x", {"a": None}, {"a": {}}])
        elif kind == 9 and name != "__metadata__":
            entry["more"] = chance.choice([1, None, "x"])
        elif kind == 10:
            length = chance.choice([0, 1, 7, 2**63, 2**64 - 1])
        elif kind == 11 and name != "__metadata__":
            entry["data_offsets"] = chance.choice([[], [0], [0, 24, 24], {"0": 0}, None, [24, 0], [0, 64], [8, 16]])
        if not header or not all(is_ordinary(entry) for name, entry in header.items() if name != "__metadata__"):
            break
    text = json.dumps(header, ensure_ascii=chance.random() < 0.5).encode()
    if chance.random() < 0.4:  # some bytes of it
        changed = bytearray(text)
        for _ in range(chance.choice([1, 2])):
            at = chance.randrange(len(changed))
            new = chance.choice(LETTERS)
            changed[at : at + chance.choice([0, 1])] = new
        text = bytes(changed)
    text = chance.choice([text, text, text, text + b"  ", b" " + text, text + b"\x00", b"\xef\xbb\xbf" + text])
    return file_of(text, data, length)


def ours(path: Path) -> Any:
    """The names, shapes and types in a file, or why it is refused."""
    with contextlib.ExitStack() as stack:
        try:
            checkpoint = open_checkpoint(path, stack)
            return {name: (stored := checkpoint.find(name)).shape + (stored.dtype,) for name in checkpoint.names}
        except WeightsError as error:
            return str(error)


def test_the_library_refuses_the_same_of_2000_mutants(tmp_path: Path) -> None:
    path = tmp_path / "mutant.safetensors"
    accepted = 0
    for seed in range(2000):
        path.write_bytes(mutant(random.Random(seed)))
        try:
            expected: Any = {n: tuple(t.shape) + (t.dtype,) for n, t in safetensors.torch.load_file(path).items()}
        except Exception as error:  # of many kinds
            expected = error
        found = ours(path)
        if isinstance(expected, dict):
            accepted += 1
            assert found == expected, (seed, path.read_bytes())
        else:
            assert isinstance(found, str), (seed, path.read_bytes(), expected)
    assert 100 < accepted < 1900


def test_what_overlaps_or_leaves_holes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for offsets in ([[0, 16], [8, 16]], [[0, 16], [20, 28]], [[8, 24], [0, 8]], [[0, 16], [0, 8]]):
        entries = zip(("weight", "bias"), ([2, 2], [2]), offsets, strict=True)
        header = {name: {"dtype": "F32", "shape": shape, "data_offsets": span} for name, shape, span in entries}
        path.write_bytes(file_of(json.dumps(header).encode(), bytes(max(map(max, offsets)))))
        if offsets == [[8, 24], [0, 8]]:
            load_weights(nn.Linear(2, 2), path)
        else:
            assert "its header contradicts itself about" in refused(nn.Linear(2, 2), path)


def write_sparse(path: Path, head: bytes, size: int) -> None:
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)


def deflated(path: Path) -> None:
    """A pickle of 1 GiB in 1 MiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x/data.pkl", "w") as file:
        for _ in range(1024):
            file.write(b"]" * (1 << 20))


def with_a_large_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive, archive.open("x/data.pkl", "w") as file:
        for _ in range(101):
            file.write(b"]" * 1_000_000)


def with_shape(path: Path, shape: str) -> None:
    path.write_bytes(file_of(f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}}}'.encode(), b"1234"))


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "deep.safetensors": lambda path: path.write_bytes(
        file_of(b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    ),
    "objects.safetensors": lambda path: path.write_bytes(file_of(b'{"a":' * 100_000)),
    "long.safetensors": lambda path: write_sparse(path, struct.pack("<Q", 25 << 30), (25 << 30) + 8),
    "dense.safetensors": lambda path: path.write_bytes(file_of(b'{"a":[' + b"[]," * 30_000_000 + b"[]]}")),
    "digits.safetensors": lambda path: with_shape(path, ",".join(["9" * 4000] * 1000)),
    "sizes.safetensors": lambda path: with_shape(path, ",".join([str(10**19)] * 400_000)),
    "deep.safetensors.index.json": lambda path: path.write_bytes(b"[" * 100_000),
    "long.safetensors.index.json": lambda path: write_sparse(path, b"[", 25 << 30),
    "names.safetensors.index.json": lambda path: path.write_text(json.dumps({"weight_map": {"weight": "x" * 300}})),
    "nothing.safetensors.index.json": lambda path: path.write_text(json.dumps({"weight_map": {"weight": "\0"}})),
    "deflated.pth": deflated,
    "large.pth": with_a_large_pickle,
    "endless.pth": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "x" * 300 + ".pth": lambda path: None,
}


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:30])
def test_hostile_files_are_refused_in_little_memory(name: str, tmp_path: Path) -> None:
    """In a process that may take no more than 600 MB beside what it has, and 20 seconds of the processor."""
    path = tmp_path / name
    HOSTILE[name](path)

    def read() -> int:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + 600_000_000,) * 2)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 20,) * 2)
        text = refused(nn.Linear(2, 2), path)
        assert len(text) < 3000
        assert "emory" not in text  # then it was asked for, and refused to this process alone
        assert ("was compressed" in text or "more than 100000000" in text) == (
            name in ("deflated.pth", "large.pth", "long.safetensors.index.json")
        )
        return 7

    assert images.ended(images.child(read)) == 7


def test_a_header_as_large_as_any_is_read(tmp_path: Path) -> None:
    """Of 100,000 tensors, and with metadata that is full of brackets."""
    header: dict[str, Any] = {"__metadata__": {"tags": "[{" * 100_000}}
    for i in range(100_000):
        header[f"layers.{i}.weight"] = {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(json.dumps(header).encode(), bytes(400_000)))
    with contextlib.ExitStack() as stack:
        assert len(open_checkpoint(path, stack).names) == 100_000
