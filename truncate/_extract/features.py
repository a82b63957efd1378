"""Features of many batches: what a user calls."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from torch import nn

from truncate._errors import ExtractError, require_module
from truncate._extract.batches import Batch, Reader, check_rows, columns_of, refilled
from truncate._extract.compute import Forward, computed, device_of, evaluating, named
from truncate._extract.progress import Bar
from truncate._extract.sinks import Memory, Sink, opened
from truncate._files import writing
from truncate._sandbox import random_state_kept

_DTYPES = (None, torch.float32, torch.bfloat16, torch.float16)


class Features(NamedTuple):
    """What `extract` returns: one row for each row of the batches, in their order."""

    features: Any
    """Arrays in the shape of the module's output: one array, or a list, tuple or dict of them."""
    labels: Any = None
    """The labels: an array, or a tuple or dict of arrays if the batches hold several; None if there are none."""
    keys: Any = None
    """The keys, as an array; None if there are none."""


@overload
def extract(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    to: None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    keys: Iterable[Any] | str | None = None,
    progress: bool = True,
) -> Features: ...


@overload
def extract(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    to: str | os.PathLike[str],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    keys: Iterable[Any] | str | None = None,
    progress: bool = True,
) -> Path: ...


def extract(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    to: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    keys: Iterable[Any] | str | None = None,
    progress: bool = True,
) -> Features | Path:
    """The outputs of a module for all batches, as arrays or in a file.

    The module runs in evaluation mode and without gradients. If it holds convolutions, it gets images in the
    channels-last layout, so the last bits may differ from those of a plain call. Afterwards, also after an error, its
    modes and the state of the random generators are the same as before.

    Args:
        module: The module to run, such as a result of `truncate`. It returns a tensor, or a list, tuple or dict of
            tensors, with a row for each row of the batch.
        batches: A DataLoader or any other iterable of batches. A batch is a tensor; or a tuple or list, whose first
            item goes to the module while the others are labels; or a dict, whose entries go to the module if its
            forward names them, while the others are labels. Entries called ``label`` or ``labels`` are always labels.
        to: A file to write batch by batch, in constant memory: ``.parquet`` (needs pyarrow), ``.npy`` (one output and
            no labels), ``.safetensors`` (only numbers), or, without a suffix, a new folder of Parquet files. It gets
            its name when it is complete and on the disk. An existing file of that name stays until then.
        device: Where to compute. The default is where the module is. On another device, a copy of the module is used.
        dtype: ``torch.bfloat16`` or ``torch.float16`` computes under autocast. Outputs in bfloat16, which numpy does
            not have, are stored as float32.
        keys: One key for each row, a string or a number; or, if the batches are dicts, the name of the entry that
            holds the keys.
        progress: Whether to show a bar with rate and remaining time on stderr, if that is a terminal.

    Returns:
        Without `to`, `Features`: the arrays, with labels and keys. With `to`, the path of the file. In a file, a single
        output has the column ``features``. Several outputs have ``features_0`` and so on, or their keys in a dict.
        Labels have the columns ``label`` or ``label_0`` and so on, and keys have ``key``.

    Raises:
        ExtractError: A batch, an output or the keys are not as described, or the file cannot be written.
    """
    require_module("extract", module, ExtractError)
    if dtype not in _DTYPES:
        raise ExtractError(f"dtype={dtype}: autocast computes in torch.bfloat16 or torch.float16")
    if dtype is torch.float32:
        dtype = None
    with _running(module, batches, device, dtype, keys) as running:
        if to is None:
            return running.in_memory(progress)
        path = Path(to)
        with opened(path) as sink:
            running.fill(sink, progress)
            with writing(path):
                sink.finish()
    return path


def gathered(module: nn.Module, batches: Iterable[Any], progress: bool) -> Features:
    """As `extract` without a file, but arrays that are large lie in temporary files."""
    with _running(module, batches) as running:
        return running.in_memory(progress, mapped=True)


@contextlib.contextmanager
def _running(
    module: nn.Module,
    batches: Iterable[Any],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    keys: Iterable[Any] | str | None = None,
) -> Iterator[_Running]:
    """A pass over the batches, which begins when its results are asked for."""
    if not isinstance(batches, Iterable):
        raise ExtractError(f"batches must be a DataLoader or another iterable, but got a {type(batches).__name__}")
    if isinstance(batches, torch.Tensor):
        raise ExtractError("batches is one tensor: pass [tensor], or tensor.split(64) for batches of 64")
    module, at = _placed(module, device)
    with random_state_kept(listening=False), evaluating(module):
        reader = Reader(module, keys)
        given = iter(batches)
        first = [reader.read(batch, 0) for batch in itertools.islice(given, 1)]
        if not first:
            raise ExtractError("there are no batches (a generator that has already been used up is empty)")
        rest = (reader.read(batch, number) for number, batch in enumerate(given, start=1))
        results = computed(Forward(module, at, dtype), itertools.chain(first, rest), at)
        yield _Running(results, reader, _length(batches) * first[0].rows)


@dataclasses.dataclass
class _Running:
    """A pass under way."""

    results: Iterable[tuple[Batch, Any]]
    reader: Reader
    total: int  # rows; 0 if that is not known

    def in_memory(self, progress: bool, mapped: bool = False) -> Features:
        memory = Memory(self.total, mapped)
        like = self.fill(memory, progress)
        return Features(*(refilled(value, map(memory.__getitem__, names)) for value, names in like))

    def fill(self, sink: Sink, progress: bool) -> list[tuple[Any, list[str]]]:
        with Bar(self.total or None, progress) as bar:
            like = _fill(sink, self.results, bar)
        self.reader.finish()
        return like


def _placed(module: nn.Module, device: torch.device | str | None) -> tuple[nn.Module, torch.device]:
    """The module, or a copy of it on the device, if it is not there; and where it is."""
    here = device_of(module)
    try:
        there = torch.device(device) if device is not None else here
        if there.type == here.type and there.index in (None, here.index):
            return module, here
        torch.empty(0, device=there)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ExtractError(f"cannot compute on device={str(device)!r}: {error}") from error
    try:
        return copy.deepcopy(module).to(there), there
    except Exception as error:  # of many kinds: modules may hold anything
        raise ExtractError(
            f"cannot copy the module to {there}: {error}. Move it there before: module.to(...)"
        ) from error


def _length(batches: Any) -> int:
    """How many batches there are, as far as they say."""
    try:
        return len(batches)
    except TypeError:
        return 0


def _fill(sink: Sink, results: Iterable[tuple[Batch, Any]], bar: Bar) -> list[tuple[Any, list[str]]]:
    """Puts all rows into the sink. Returns the outputs, labels and keys of the first batch, with their columns."""
    like: list[tuple[Any, list[str]]] = []
    expected: list[str] = []
    for number, (batch, output) in enumerate(results):
        parts = [(output, "features"), (batch.labels, "label"), (batch.keys, "key")]
        found = [list(columns_of(value, name)) for value, name in parts]
        columns = [column for part in found for column in part]
        names = [name for name, _ in columns]
        if not like:
            like = [(value, [name for name, _ in part]) for (value, _), part in zip(parts, found)]
            expected = names
            if not found[0]:
                raise ExtractError(f"the module returned no tensor, but {output!r}")
            if twice := {name for name in names if names.count(name) > 1}:
                raise ExtractError(f"two columns would be called {min(twice)!r}: give the outputs other names")
        if names != expected:
            raise ExtractError(f"batch {number} gives {', '.join(names)}, but those before gave {', '.join(expected)}")
        with named(number):
            check_rows(columns, batch.rows)
        with writing("the output"):
            sink.append(dict(columns))
        bar.advance(batch.rows)
    return like
