"""What ``python -m truncate cut`` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from truncate._cli import models, saving, verifying
from truncate._errors import Differs, NotUsable, brief, explained
from truncate._graph import tensors_in
from truncate._show import shape_of, shape_text


def cut(
    model: str,
    upto: tuple[str, ...],
    weights: str | None,
    trust: bool,
    shape: tuple[int, ...] | None,
    path: Path | None,
    image: Path | None,
) -> None:
    """Cuts, compares, says what was found, and saves."""
    if path is not None:
        saving.check(path)
    if image is not None and shape is not None:
        raise NotUsable("--shape is that of random numbers, and --image brings its own: leave one of them out")
    opened = models.read_image(image) if image is not None else None
    built = models.build(model, weights, shape, trust)
    if opened is not None:
        with explained(f"cannot prepare {image} for {model}"):
            built.args = (built.transform(opened).unsqueeze(0),)
    part = built.stopped(upto[0] if len(upto) == 1 else list(upto))
    given = f"{image.name if image is not None else 'random numbers'} ({built.shapes})"
    with explained(f"{model} does not run on {given}{', see --shape' * (image is None)}"), torch.no_grad():
        built.model(*built.args)
    with verifying.same_random_numbers(), torch.no_grad():
        features = part(*built.args)
    outputs = [features] if len(upto) == 1 else features
    if wrong := verifying.differing(built.model, list(upto), outputs, built.args):
        raise Differs(f"the cut returns something else than the model has at {', '.join(wrong)}; nothing was written")

    names = [target or "the model itself" for target in upto]
    print(f"{model} up to {', '.join(names)}, with {built.weights}\n")
    _compare(built, part)
    for assumption in getattr(part, "assumptions", ()):
        print(f"assumed: {assumption}")
    print(f"\nchecked on {given}: the cut returns bit for bit what the whole model has there")
    for target, output in zip(names, outputs):
        values = next(tensors_in(output), torch.zeros(0)).flatten()
        shown = ", ".join([f"{value:.4f}" for value in values[:6].tolist()] + ["…"] * (len(values) > 6))
        print(f"{target}: {shape_text(shape_of(output))}, {shown}")
    if path is not None:
        print(f"saved {saving.save(part, path, built.args)}")


def _compare(built: models.Built, part: nn.Module) -> None:
    """Prints the summary of the cut, and what it saves."""
    import torchinfo

    def run(module: nn.Module) -> Callable[[], Any]:
        return lambda: module(*built.args)

    table = Table(box=None, pad_edge=False)
    for name in ("", "whole", "cut", "cut / whole"):
        table.add_column(name, justify="right" if name else "left")
    whole, kept = [sum(p.numel() for p in module.parameters()) for module in (built.model, part)]
    table.add_row("parameters", f"{whole:,}", f"{kept:,}", _percent(kept, whole))
    with torch.inference_mode():
        try:
            summaries = [torchinfo.summary(m, input_data=list(built.args), verbose=0) for m in (built.model, part)]
        except Exception as error:  # it is for reading only; some models it cannot follow
            print(f"torchinfo cannot summarize this model: {brief(error)}")
        else:
            print(summaries[1], end="\n\n")
            whole, kept = [int(summary.total_mult_adds) for summary in summaries]
            table.add_row("multiply-adds", f"{whole:,}", f"{kept:,}", _percent(kept, whole))
        slow, fast = verifying.times(run(built.model), run(part))
    table.add_row("time", f"{slow * 1e3:.1f} ms", f"{fast * 1e3:.1f} ms", _percent(fast, slow))
    Console(highlight=False).print(table)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
