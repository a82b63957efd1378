"""How fast features of many pictures are extracted: ``python -m benchmarks.extraction``.

Figures are ratios of medians taken in turns in one process: of times, or of core time where that is said.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import alexnet, resnet50

from benchmarks import report
from benchmarks.report import PAGE
from benchmarks.timing import ratio, times
from truncate import extract, truncate
from truncate._cli import models as _models
from truncate._jobs import images as _photos
from truncate._jobs.reading import Reading
from truncate._jobs.shards import Output
from truncate._jobs.worker import Worker

PYRAMID = ["layer1", "layer2", "layer3"]


def rate(rows: int, seconds: list[float]) -> float:
    return rows / statistics.median(seconds)


def core_times(turns: int, *tasks: Callable[[], Any]) -> list[list[float]]:
    """As `times`, but seconds of a core that this process takes, which others on the machine change less."""
    taken: list[list[float]] = [[] for _ in tasks]
    for turn in range(turns + 1):
        for seconds, task in zip(taken, tasks):
            begin = time.process_time()
            task()
            if turn:
                seconds.append(time.process_time() - begin)
    return taken


def cpu(turns: int, task: Callable[[], Any]) -> float:
    return statistics.median(core_times(turns, task)[0])


# -- the model is what takes the time --------------------------------------------------------------------------------


def bare(module: nn.Module, batches: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                module(batch)

    return run


def kept(module: nn.Module, batches: list[Tensor]) -> Callable[[], Any]:
    """The least that keeps the outputs: written by hand, into arrays that are made once."""

    def run() -> Any:
        arrays: list[Tensor] = []
        with torch.inference_mode():
            for number, batch in enumerate(batches):
                output = module(batch)
                outputs = output if isinstance(output, list) else [output]
                size = len(batch)
                arrays = arrays or [
                    torch.from_numpy(np.empty((size * len(batches), *o.shape[1:]), "f4")) for o in outputs
                ]
                for array, one in zip(arrays, outputs):
                    array[size * number : size * (number + 1)].copy_(one)
        return arrays

    return run


def tutorial(model: nn.Module, place: str, batches: list[Tensor]) -> Callable[[], Any]:
    """The loop that is written by hand everywhere: a hook on the whole model, and a list."""

    def run() -> Any:
        found: list[Any] = []
        handle = model.get_submodule(place).register_forward_hook(
            lambda module, args, output: found.append(output.detach().cpu().numpy())
        )
        try:
            with torch.no_grad():
                for batch in batches:
                    model(batch)
        finally:
            handle.remove()
        return np.concatenate(found)

    return run


def flops(module: nn.Module, batch: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(batch)
    return counter.get_total_flops()


def model_bound(folder: Path, turns: int, batches: list[Tensor]) -> str:
    model = resnet50().eval()
    rows, lines = sum(map(len, batches)), []
    last = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    for name, upto in [("`layer2`", "layer2"), ("`layer1`, `layer2`, `layer3`", PYRAMID)]:
        part = truncate(model, upto)

        def to(file: str, part: nn.Module = part) -> Callable[[], Any]:
            return lambda: extract(part, batches, to=folder / file, progress=False)

        tasks = {
            "forward alone, on tensors of the usual layout": bare(part, batches),
            "forward alone, on channels-last tensors": bare(part, last),
            "the same, its outputs copied to arrays by hand": kept(part, last),
            "`extract` to arrays": lambda part=part: extract(part, batches, progress=False),
            "`extract` to `.safetensors`": to("a.safetensors"),
            "`extract` to `.parquet`": to("a.parquet"),
        }
        taken = dict(zip(tasks, core_times(turns, *tasks.values())))
        usual, best = list(taken.values())[:2]
        for task, seconds in taken.items():
            shares = [f"{100 * ratio(other, seconds):.1f} %" for other in (usual, best)]
            lines.append([f"{name}: {task}", f"{rate(rows, seconds):.1f}", *shares])
    columns = [
        "ResNet-50 up to",
        "pictures a second of a core",
        "of the rate of the usual layout",
        "of that of channels-last",
    ]
    return report.table(columns, lines)


def against_the_loop(turns: int, batches: list[Tensor]) -> str:
    lines = []
    for name, model, place in [
        ("resnet50", resnet50().eval(), "layer2"),
        ("resnet50", resnet50().eval(), "layer3"),
        ("alexnet", alexnet().eval(), "features.5"),
        ("alexnet", alexnet().eval(), "classifier.5"),
    ]:
        part = truncate(model, place)
        share = flops(part, batches[0]) / flops(model, batches[0])
        ours = lambda part=part: extract(part, batches, progress=False)  # noqa: E731
        tasks = [tutorial(model, place, batches), bare(model, batches), bare(part, batches), ours]
        loop, whole, cut, taken = core_times(turns, *tasks)
        ratios = share, ratio(cut, whole), ratio(taken, loop)
        lines.append([name, f"`{place}`", *(f"{100 * value:.1f} %" for value in ratios)])
    columns = ["model", "place", "operations, cut / whole", "forward alone, cut / whole", "`extract` / the loop"]
    return report.table(columns, lines)


# -- memory ----------------------------------------------------------------------------------------------------------


def memory(folder: Path, rows: int = 100_000, width: int = 2048, batch: int = 250) -> str:
    process, module = psutil.Process(), nn.Linear(32, width)
    lines = []
    for suffix in ("npy", "safetensors", "parquet"):
        seen: list[int] = []

        def source(seen: list[int] = seen) -> Iterator[Tensor]:
            for number in range(rows // batch):
                if number % 4 == 0:
                    seen.append(process.memory_info().rss)
                yield torch.full((batch, 32), float(number))

        gc.collect()
        path = extract(module, source(), to=folder / f"memory.{suffix}", progress=False)
        tenth = len(seen) // 10
        sizes = [seen[0], max(seen[:tenth]), max(seen[tenth:])]
        lines.append([f"`.{suffix}`", f"{path.stat().st_size / 1e6:.0f}", *(f"{size / 1e6:.0f}" for size in sizes)])
        path.unlink()
    return report.table(
        ["to", "file, MB", "before, MB", "most up to 10,000 rows, MB", "most from there to the end, MB"], lines
    )


# -- reading is what takes the time ----------------------------------------------------------------------------------


def photos(folder: Path, count: int) -> list[str]:
    """Photographs of 640×427 as JPEG, no two alike."""
    folder.mkdir(exist_ok=True)
    originals = [Image.fromarray(image) for image in load_sample_images().images]
    paths = []
    for number in range(count):
        image = originals[number % 2].rotate(number % 7 - 3)
        paths.append(str(folder / f"{number:05}.jpg"))
        image.save(paths[-1], quality=90)
    return paths


def decoding_bound(folder: Path, turns: int, count: int, workers: int) -> str:
    paths = photos(folder / "images", count)
    built = _models.build("mobilenet_v3_small")
    part = truncate(built.model, "features.0", pool="avg", flatten=True)
    worker = Worker(part, built.transform, torch.device("cpu"), None, 32, workers, strict=False, fatal={})
    number = 0

    def whole() -> None:
        nonlocal number
        number += 1
        output = Output(folder / f"features{number}.parquet", {}, paths, 32)
        with output.held():
            worker.fill(output, paths, output.missing(), lambda rows: None)
            output.complete({})

    def nothing() -> None:
        batches = [range(start, min(start + 32, count)) for start in range(0, count, 32)]
        for _ in _photos.load(paths, built.transform, batches, workers, Reading(folder, {})):
            pass

    batch = torch.randn(32, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    loaded, full = times(turns, nothing, whole)
    own = [cpu(turns, nothing) / count, cpu(turns, whole) / count, cpu(turns, bare(part, [batch])) / 32]
    shown = [f"{seconds * 1e3:.2f}" for seconds in own]
    lines = [
        ["reading and preparing alone", f"{rate(count, loaded):.1f}", "100.0 %", shown[0]],
        ["with features, to `.parquet`", f"{rate(count, full):.1f}", f"{100 * ratio(loaded, full):.1f} %", shown[1]],
        ["forward alone, on tensors in memory", "", "", shown[2]],
    ]
    name = f"MobileNetV3 up to `features.0`, {workers} worker"
    return report.table([name, "images/s", "of the rate alone", "core time of the main process, ms a image"], lines)


# -- rates, for working out what more would cost ---------------------------------------------------------------------


def rates(folder: Path, turns: int, count: int) -> str:
    paths = photos(folder / "images", count)
    transform = _models.build("alexnet").transform
    read = cpu(turns, lambda: [_photos.prepared(path, transform) for path in paths]) / count
    source = [torch.randn(4096, 2048).relu()] * 4
    written = cpu(turns, lambda: extract(nn.Identity(), source, to=folder / "rate.parquet", progress=False)) / 4 / 4096
    size = (folder / "rate.parquet").stat().st_size / 4 / 4096
    part, batch = truncate(resnet50().eval(), "flatten"), torch.randn(16, 3, 224, 224)
    forward = cpu(turns, bare(part, [batch.contiguous(memory_format=torch.channels_last)])) / 16
    names, before = [], psutil.Process().memory_info().rss
    names += [f"images/{number // 1000:06}/{number:09}.jpg" for number in range(1_000_000)]
    held = (psutil.Process().memory_info().rss - before) / len(names)
    lines = [
        ["a image (JPEG, 640×427)", f"{sum(map(os.path.getsize, paths)) / count / 1e3:.0f} kB"],
        ["reading it and preparing it as ImageNet's", f"{read * 1e3:.1f} ms of a core"],
        ["ResNet-50 up to `flatten`, forward alone", f"{forward * 1e3:.0f} ms of a core"],
        ["its operations (two for each multiply-add)", f"{flops(part, batch) / 16 / 1e9:.1f} G"],
        ["writing 2048 numbers, half of them 0, to `.parquet`", f"{written * 1e6:.0f} µs of a core"],
        ["they take in the file", f"{size / 1e3:.1f} kB"],
        ["a path of 27 letters takes in the memory of each process", f"{held:.0f} bytes"],
    ]
    return report.table(["what", "measured"], lines)


# -- on a GPU --------------------------------------------------------------------------------------------------------


def gpu(turns: int) -> str:
    if not torch.cuda.is_available():
        return (
            "Not measured: there was no GPU. With one, this compares with the forward alone on tensors in its memory."
        )
    batches = [torch.randn(64, 3, 224, 224).pin_memory() for _ in range(16)]
    there, lines = [batch.cuda() for batch in batches], []
    for name, compiled in [("as it is", False), ("`torch.compile`", True)]:
        part: Any = truncate(resnet50().eval(), "layer2").cuda()
        part = torch.compile(part) if compiled else part
        for dtype in (None, torch.bfloat16):

            def alone(part: Any = part, dtype: torch.dtype | None = dtype) -> None:
                with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype is not None):
                    for batch in there:
                        part(batch.contiguous(memory_format=torch.channels_last))
                torch.cuda.synchronize()

            task = lambda part=part, dtype=dtype: extract(part, batches, dtype=dtype, progress=False)  # noqa: E731
            one, other = times(turns, alone, task)
            rows = 16 * 64
            shares = f"{rate(rows, one):.0f}", f"{rate(rows, other):.0f}", f"{100 * ratio(one, other):.1f} %"
            lines.append([f"{name}, {dtype or 'float32'}", *shares])
    return report.table(["ResNet-50 up to `layer2`", "forward alone, pictures/s", "`extract`", "share"], lines)


def measured(turns: int = 5, count: int = 960, workers: int = 1) -> tuple[str, dict[str, str]]:
    """All tables as Markdown, together and by name."""
    batches = list(torch.randn(32, 3, 224, 224).split(16))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = {
            "Where the model takes the time": (
                f"{len(batches)} batches of 16 pictures, medians of {turns}, in core time: what waits for the disk is "
                "left out. Memory that is touched for the first time costs more than the copy into it.",
                model_bound(folder, turns, batches),
            ),
            "Against the loop with a hook": (
                "The hook is on the whole model. In core time.",
                against_the_loop(turns, batches),
            ),
            "Where reading takes the time": (
                f"{count} photographs; the same DataLoader alone and with everything after it, in time.",
                decoding_bound(folder, turns, count, workers),
            ),
            "Memory": (
                "100,000 rows of 2048 numbers; what the process holds, sampled every 1,000 rows.",
                memory(folder),
            ),
            "Rates": ("For one image, as the page on large data sets uses them.", rates(folder, turns, min(count, 96))),
            "On a GPU": ("", gpu(turns)),
        }
    parts = [report.sentence(report.surroundings("pyarrow", "pillow"))]
    for heading, (remark, table) in tables.items():
        parts += [f"### {heading}", remark, table]
    text = "\n\n".join(filter(None, ["## Extraction", "`python -m benchmarks.extraction`", *parts]))
    return text, {heading: table for heading, (_, table) in tables.items()}


@click.command()
@click.option("--turns", default=5, show_default=True)
@click.option("--images", "count", default=960, show_default=True)
@click.option("--workers", default=1, show_default=True)
@click.option("--write/--no-write", default=True, help="Put the tables into docs/benchmarks.md.")
def main(turns: int, count: int, workers: int, write: bool) -> None:
    """How fast features of many pictures are extracted."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    text, _ = measured(turns, count, workers)
    click.echo(text)
    if write:
        report.write("extraction", text, PAGE)


if __name__ == "__main__":
    main()
