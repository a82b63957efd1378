"""The same table, made by Ray Data: images are read by its tasks, mapped by actors, and written to Parquet files."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor

from truncate._errors import Broken, NotUsable, Stopped, brief, need
from truncate._extract import Extractor
from truncate._extract.parquet import columns_in
from truncate._files import writing
from truncate._jobs.images import Passing, path_text, prepared
from truncate._jobs.shards import Output
from truncate._jobs.worker import Worker

_GROUP = 1 << 16  # inputs that are read, mapped and written at a time, and lost if this process is killed


def fill(
    worker: Worker, output: Output, paths: Sequence[str], numbers: Sequence[int], done: Callable[[int], None]
) -> None:
    """Does what `Worker.fill` does, on the cluster that RAY_ADDRESS names, or else on this machine alone."""
    if not numbers:
        return
    folder = output.folder / "ray"
    with _started() as ray:
        group: list[int] = []
        for number in numbers:
            group.append(number)
            inputs = sum(len(output.inputs(k)) for k in group)
            if inputs < _GROUP and number != numbers[-1]:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _write(ray, worker, output, paths, group, folder)
                _take(worker, output, paths, group, folder, done)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            group = []


@contextlib.contextmanager
def _started() -> Iterator[Any]:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its remarks are about what a user cannot choose
    need("ray.data", "--engine ray", "torch-truncate[ray]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it does itself
        import ray

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        mine = not ray.is_initialized()
        if mine and "RAY_ADDRESS" in os.environ:
            ray.init(logging_level="error", log_to_driver=False)
        elif mine:
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,
            )
        try:
            yield ray
        finally:
            if mine:
                ray.shutdown()


def _write(
    ray: Any, worker: Worker, output: Output, paths: Sequence[str], numbers: Sequence[int], folder: Path
) -> None:
    """Reads, maps and writes the inputs of some shards; each block is a batch, of the same inputs as in any run."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = None  # a block that is split would be another batch
    cores = int(ray.cluster_resources().get("CPU", 1))
    if worker.device.type == "cuda":
        actors, share = int(ray.cluster_resources().get("GPU", 1)), {"num_cpus": 1, "num_gpus": 1}
    else:  # half of the cores compute, and half of them read
        actors, share = max(1, cores // 8), {"num_cpus": max(1, min(4, cores // 2))}
    blocks = [
        pyarrow.table({"number": list(batch), "path": [os.fsencode(paths[i]) for i in batch]})
        for batch in worker.batches(output, numbers)
    ]
    with ray.data.DataContext.current(context):
        data = ray.data.from_arrow(blocks)
        read = data.map_batches(_read, fn_args=(worker.transform,), batch_size=None, num_cpus=1)
        extracted = read.map_batches(
            _Images,
            fn_constructor_args=(worker.module.cpu(), worker.device.type, worker.dtype),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=actors),
            **share,
        )
        try:
            extracted.write_parquet(str(folder.absolute()))
        except ray.exceptions.RayError as error:
            raise NotUsable(f"Ray could not finish: {brief(getattr(error, 'cause', None) or error)}") from error


def _read(batch: dict[str, Any], transform: Callable[[Any], Tensor]) -> dict[str, Any]:
    """Reads the files of a batch. For one that cannot be read there are zeros, and a reason."""
    found = [prepared(os.fsdecode(path), transform) for path in batch["path"]]
    for item in found:
        if isinstance(item, Passing):
            raise Broken(item)
    shapes = {tuple(item.shape) for item in found if isinstance(item, Tensor)}
    if len(shapes) > 1:
        raise ValueError(f"the model's own transform leaves images at different sizes: {sorted(shapes)}")
    nothing = torch.zeros(shapes.pop() if shapes else (1,))
    return {
        "number": batch["number"],
        "reason": np.array(["" if isinstance(item, Tensor) else item for item in found], dtype=object),
        "image": torch.stack([item if isinstance(item, Tensor) else nothing for item in found]).numpy(),
    }


class _Images:
    """Extracts from those images that could be read, and hands on why the others could not."""

    def __init__(self, module: torch.nn.Module, device: str, dtype: torch.dtype | None) -> None:
        self._extract = Extractor(module, device=device, dtype=dtype)

    def __call__(self, batch: dict[str, Any]) -> Any:
        good = batch["reason"] == ""
        parts = []
        if good.any():
            parts.append(self._extract({name: values[good] for name, values in batch.items()}))
        if not good.all():
            rest = {"number": batch["number"][~good], "reason": batch["reason"][~good]}
            parts.append(pyarrow.table({name: pyarrow.array(values) for name, values in rest.items()}))
        return pyarrow.concat_tables(parts, promote_options="default").sort_by("number")


def _take(
    worker: Worker,
    output: Output,
    paths: Sequence[str],
    numbers: Sequence[int],
    folder: Path,
    done: Callable[[int], None],
) -> None:
    """Makes shards of what Ray has written."""
    tables = _in_order(folder)
    for number in numbers:
        part = output.inputs(number)
        with output.writing(number) as shard:
            reached = part.start
            while reached < part.stop:
                table = next(tables)
                if table["number"].to_pylist() != list(range(reached, reached + len(table))):
                    raise NotUsable(f"Ray has not written the inputs from {reached} on in order")
                bad = table.filter(pyarrow.compute.field("reason") != "")
                failures = {paths[i]: why for i, why in zip(bad["number"].to_pylist(), bad["reason"].to_pylist())}
                if worker.strict and failures:
                    path, reason = next(iter(failures.items()))
                    raise Stopped(f"{path_text(path)}: {reason}")
                good = table.filter(pyarrow.compute.field("reason") == "")
                kept = [paths[i] for i in good["number"].to_pylist()]
                columns = columns_in(good.drop_columns(["number", "reason"])) if kept else {}
                with writing(output.out):
                    shard.append(kept, columns, failures)
                done(len(table))
                reached += len(table)


def _in_order(folder: Path) -> Iterator[Any]:
    """The batches in the files of a folder, by the numbers of their inputs."""
    firsts = {}
    for path in folder.glob("*.parquet"):
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows:
                firsts[path] = next(file.iter_batches(batch_size=1, columns=["number"]))["number"][0].as_py()
    for path in sorted(firsts, key=firsts.__getitem__):
        with pyarrow.parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)
