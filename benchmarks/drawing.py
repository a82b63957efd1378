"""How long drawing takes: ``python -m benchmarks.drawing``.

Each time is a median of some that were taken in turns in one process on one thread, beside the time that torchvision
takes to build the same model without its weights.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn
from torchvision.models import get_model

from benchmarks import ROOT, report
from benchmarks.timing import times
from truncate import draw

PAGE = ROOT / "docs" / "drawings.md"
PLACES = {
    "alexnet": "classifier.5",
    "resnet152": "layer3.20.conv2",
    "densenet201": "features.denseblock3",
    "efficientnet_v2_m": "features.5",
    "efficientnet_b7": "features.6",
}


def build(name: str) -> nn.Module:
    with torch.device("meta"):
        return get_model(name).eval()


def row(name: str, count: int, folder: Path) -> list[Any]:
    """The times of one model in milliseconds."""
    model, place = build(name), PLACES[name]
    photo = (torch.empty(1, 3, 224, 224, device="meta"),)
    tasks: list[Callable[[], Any]] = [
        partial(build, name),
        lambda: str(draw(model, place)),
        lambda: draw(model, place, to=folder / "cut.svg"),
        lambda: draw(model, place, to=folder / "cut.html"),
        lambda: draw(model, place, photo, to=folder / "cut.html"),
    ]
    taken = [statistics.median(seconds) * 1e3 for seconds in times(count, *tasks)]
    modules = sum(1 for _ in model.modules())
    return [name, f"{modules:,}", *(f"{each:.0f}" for each in taken), f"{taken[3] / taken[0]:.1f}"]


def measured(count: int = 5) -> tuple[str, list[list[Any]]]:
    """The table as Markdown, and its rows."""
    columns = ["model", "modules", "build", "tree", "SVG", "HTML", "HTML, with an example", "HTML / build"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, count, Path(folder)) for name in PLACES]
    return f"{report.sentence(report.surroundings())}\n\n{report.table(columns, rows)}", rows


@click.command()
@click.option("--count", default=5, help="How many times each is timed.")
@click.option("--write/--no-write", default=True, help="Put the table into docs/drawings.md.")
def main(count: int, write: bool) -> None:
    """How long drawing takes."""
    torch.set_num_threads(1)
    text, _ = measured(count)
    click.echo(text)
    if write:
        report.write("drawing", text, PAGE)


if __name__ == "__main__":
    main()
