"""What it takes to load a part of a model from a checkpoint of the whole: ``python -m benchmarks.loading``. Linux only.

Each measurement is a process of its own, which first drops the checkpoint from the page cache. The ways to load take
turns. What counts as read is what the kernel fetched from the disk for the process (``read_bytes`` of
``/proc/self/io``), and so with its read-ahead, whether the process reads or maps the file. The peak of memory is that
of the resident set (``VmHWM``), and so with mapped pages, over what the process had before.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import vit_h_14

from benchmarks import ROOT, report
from benchmarks.timing import alone, forget_peak, numbers
from truncate import load_weights, truncate

PAGE = ROOT / "docs" / "weights.md"
PLACE = "encoder.layers.encoder_layer_2"  # the third of 32 blocks
SHARDS = 6


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return vit_h_14().eval()


# -- checkpoints -----------------------------------------------------------------------------------------------------


def write_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def write_shards(state: dict[str, Tensor], folder: Path) -> Path:
    where, names = {}, list(state)
    for shard in range(SHARDS):
        part = names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]
        file = f"model-{shard}.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        where.update(dict.fromkeys(part, file))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return index


def write_pth(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "model.pth")
    return folder / "model.pth"


FORMATS = {
    "`.safetensors`": write_safetensors,
    f"`.safetensors` in {SHARDS} files": write_shards,
    "`.pth`": write_pth,
}


def make(format: str, folder: Path) -> Path:
    """A checkpoint of a whole model with random weights."""
    model = on_meta().to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)
    return FORMATS[format](model.state_dict(), folder)


def files_of(path: Path, names: list[str] | None = None) -> Iterator[Path]:
    """The files of a checkpoint, or those that hold these names."""
    if path.suffix == ".json":
        where = json.loads(path.read_text())["weight_map"]
        yield from (path.parent / file for file in sorted({where[name] for name in names or where}))
    else:
        yield path


# -- ways to load ----------------------------------------------------------------------------------------------------


def with_truncate(path: Path) -> nn.Module:
    part = truncate(on_meta(), PLACE)
    load_weights(part, path)
    return part


def by_hand(path: Path) -> nn.Module:
    """As one would write it: map the file, and copy what is needed."""
    part = truncate(on_meta(), PLACE)
    names = list(part.state_dict())
    state: dict[str, Tensor] = {}
    for file in files_of(path, names):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                held = set(opened.keys())
                state.update({name: opened.get_tensor(name).clone() for name in names if name in held})
        else:
            mapped = torch.load(file, mmap=True, weights_only=True)
            state.update({name: mapped[name].clone() for name in names})
    part.load_state_dict(state, assign=True)
    return part


def everything(path: Path) -> nn.Module:
    """The whole model in memory, once, without a copy; and then the part of it."""
    model, state = on_meta(), dict[str, Tensor]()
    for file in files_of(path):
        safe = file.suffix == ".safetensors"
        state |= load_file(file, backend="pread") if safe else torch.load(file, weights_only=True)
    model.load_state_dict(state, assign=True)
    return truncate(model, PLACE)


WAYS: dict[str, Callable[[Path], nn.Module]] = {
    "`load_weights`": with_truncate,
    "mapped, by hand": by_hand,
    "everything": everything,
}


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(way: str, format: str, path: Path) -> dict[str, float]:
    """What one way takes, in a process that has done nothing else."""
    torch.set_num_threads(1)
    warm_up(format)
    for file in files_of(path):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    forget_peak()
    memory, before = numbers("status")["VmRSS"], numbers("io")
    begin = time.perf_counter()
    part = WAYS[way](path)
    seconds = time.perf_counter() - begin
    peak, after = numbers("status")["VmHWM"], numbers("io")
    needed = sum(tensor.nbytes for tensor in part.state_dict().values())
    check(part, path)
    return {
        "needed": needed,
        "disk": (after["read_bytes"] - before["read_bytes"]) / needed,
        "asked": (after["rchar"] - before["rchar"]) / needed,
        "memory": 1024 * (peak - memory) / needed,
        "seconds": seconds,
    }


def warm_up(format: str) -> None:
    """Loads a few bytes, so that modules imported on the way are not counted."""
    with tempfile.TemporaryDirectory() as name:
        tiny = nn.Linear(20, 20)
        path = FORMATS[format](tiny.state_dict() | {f"more{i}": torch.ones(1) for i in range(SHARDS)}, Path(name))
        load_weights(tiny, path)
        truncate(on_meta(), PLACE)


def check(part: nn.Module, path: Path) -> None:
    """Whether the values are those of the file, as its own library reads them."""
    state = part.state_dict()
    for file in files_of(path, list(state)):
        stored = load_file(file) if file.suffix == ".safetensors" else torch.load(file, mmap=True, weights_only=True)
        for name in state.keys() & stored.keys():
            if not torch.equal(state.pop(name), stored[name]):
                raise AssertionError(f"{name} has other values than {file}")
    if state:
        raise AssertionError(f"not loaded: {', '.join(state)}")


def conduct(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    for format in FORMATS:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            path = alone(make, format, Path(name))
            size = sum(file.stat().st_size for file in files_of(path))
            taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for turn in track(range(count), format):
                for way in list(WAYS) if turn % 2 else reversed(WAYS):
                    taken[way].append(alone(measure, way, format, path))
        for way, runs in taken.items():
            medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            if medians["disk"] < 0.9:
                raise click.ClickException(f"{folder} is not on a disk of its own: reading there cannot be counted")
            yield {"format": format, "way": way, "size": size, **medians}


def summary(results: list[dict[str, Any]], remark: str) -> str:
    base = {result["format"]: result["seconds"] for result in results if result["way"] == "`load_weights`"}
    rows = [
        (
            result["format"],
            result["way"],
            f"{result['disk'] * result['needed'] / 1e6:,.1f}",
            f"{result['disk']:.3f}",
            f"{result['memory'] * result['needed'] / 1e6:,.1f}",
            f"{result['memory']:.3f}",
            f"{result['seconds']:.2f}",
            f"{result['seconds'] / base[result['format']]:.1f}",
        )
        for result in results
    ]
    ours = [result for result in results if result["way"] == "`load_weights`"]
    needed, size = ours[0]["needed"], ours[0]["size"]
    asked = [result["asked"] for result in ours]
    columns = ("checkpoint", "way", "MB read", "/ needed", "MB of memory", "/ needed", "seconds", "×")
    return f"""ViT-H/14 up to its third block of 32, of a checkpoint of {size / 1e6:,.1f} MB of which
{needed / 1e6:,.1f} MB are needed ({100 * needed / size:.1f} %). {remark}

{report.table(columns, rows)}

`load_weights` itself asked for {min(asked):.4f} to {max(asked):.4f} times the bytes needed."""


def disk_of(folder: Path) -> str:
    device = folder.stat().st_dev
    try:
        ahead = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text().strip()
    except OSError:
        return ""
    return f"The read-ahead of the disk is {ahead} KiB."


def measured(folder: Path | None = None, count: int = 5) -> tuple[str, list[dict[str, Any]]]:
    """The table as Markdown, and its medians."""
    folder = folder or Path(tempfile.gettempdir())
    if shutil.disk_usage(folder).free < 5e9:
        raise click.ClickException(f"{folder} has less than 5 GB free: --folder names another place")
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 4e9:
        raise click.ClickException("less than 4 GB of memory are free, and the whole model needs 2.5")
    facts = report.surroundings("safetensors")
    results = list(conduct(folder, count))
    remark = f"Medians of {count}. {disk_of(folder)}"
    return f"{report.sentence(facts)}\n\n{summary(results, remark)}", results


@click.command()
@click.option("--folder", type=Path, help="On which disk the checkpoints are put [default: that of temporary files].")
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="How often each way takes a turn.")
@click.option("--write/--no-write", default=True, help="Put the table into docs/weights.md.")
@click.option("--json", "path", type=Path, help="Where to write the medians as JSON.")
def main(folder: Path | None, count: int, write: bool, path: Path | None) -> None:
    """What it takes to load a part of a model from a checkpoint of 2.5 GB."""
    torch.set_num_threads(1)
    text, results = measured(folder, count)
    click.echo(text)
    if write:
        report.write("loading", text, PAGE)
    if path is not None:
        report.save(path, report.surroundings("safetensors"), results)


if __name__ == "__main__":
    main()
