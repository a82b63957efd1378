"""From images to shards: what one process does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from truncate._errors import NotUsable, Stopped, brief, is_passing
from truncate._extract import Batch, Column, Forward, check_row, check_rows, columns_of, computed
from truncate._jobs.images import Loaded, load, path_text
from truncate._jobs.reading import Reading
from truncate._jobs.shards import Output


@dataclasses.dataclass
class Worker:
    """Computes the features of images with a module that is on the device."""

    module: nn.Module
    transform: Callable[[Any], Tensor]
    device: torch.device
    dtype: torch.dtype | None
    batch_size: int
    workers: int
    strict: bool
    fatal: Mapping[int, str]  # images that end each process that reads them, and how

    def fill(self, output: Output, paths: Sequence[str], numbers: Sequence[int], done: Callable[[int], None]) -> None:
        """Makes the shards of these numbers, and tells `done` after each batch how many files it had."""
        forward = Forward(self.module, self.device, self.dtype)
        read = self._read(paths, self.batches(output, numbers), Reading(output.reading, self.fatal))
        results = computed(lambda batch: self._forward(forward, batch), read, self.device)
        like: dict[str, Tensor] = {}
        with contextlib.closing(read), ThreadPoolExecutor(1) as executor:  # which ends the processes that read
            ending: Future[None] | None = None
            for number in numbers:
                part = output.inputs(number)
                with contextlib.ExitStack() as stack:
                    shard = stack.enter_context(output.writing(number))
                    reached = part.start
                    while reached < part.stop:
                        batch, value = next(results)
                        loaded: Loaded = batch.labels
                        columns = self._columns(value, batch, like)
                        failures = {paths[i]: reason for i, reason in loaded.failures.items()}
                        shard.append([paths[i] for i in loaded.kept], columns, failures)
                        done(loaded.stop - reached)
                        reached = loaded.stop
                    if ending is not None:
                        ending.result()
                    ending = executor.submit(stack.pop_all().close)  # disks are slow to say that they are done
            if ending is not None:
                ending.result()

    def batches(self, output: Output, numbers: Sequence[int]) -> list[range]:
        """The inputs of each batch: always the same ones, since other batches may round differently."""
        return [
            range(start, min(start + self.batch_size, part.stop))
            for part in map(output.inputs, numbers)
            for start in range(part.start, part.stop, self.batch_size)
        ]

    def _read(self, paths: Sequence[str], batches: list[range], reading: Reading) -> Generator[Batch]:
        for loaded in load(paths, self.transform, batches, self.workers, reading):
            if self.strict and loaded.failures:
                number, reason = next(iter(loaded.failures.items()))
                raise Stopped(f"{path_text(paths[number])}: {reason}")
            yield Batch(() if loaded.images is None else (loaded.images,), {}, len(loaded.kept), loaded, None)

    def _forward(self, forward: Forward, batch: Batch) -> Any:
        if not batch.rows:
            return None
        try:
            return forward(batch)
        except Exception as error:  # of many kinds: it is anybody's model
            if is_passing(error):
                raise
            shape = "×".join(map(str, batch.args[0].shape))
            raise NotUsable(f"the model does not run on a batch of {shape}: {brief(error)}") from error

    def _columns(self, value: Any, batch: Batch, like: dict[str, Tensor]) -> dict[str, Column]:
        columns = list(columns_of(value, "features"))
        check_rows(columns, batch.rows)
        for name, column in columns:
            if isinstance(column, Tensor):
                first = like.setdefault(name, column[:0].clone())
                check_row(name, column, first.shape[1:], first.dtype)
        return dict(columns)
