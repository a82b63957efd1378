"""What ``python -m truncate cut`` does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from truncate._cli import models, printing, saving, verifying
from truncate._errors import Differs, NotUsable, explained
from truncate._graph import tensors_in
from truncate._show import count_parameters, multiply_adds, shape_of, shape_text


def cut(
    model: str,
    stop: dict[str, tuple[str, ...]],
    weights: str | None,
    trust: bool,
    shape: tuple[int, ...] | None,
    out: Path | None,
    image: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Cuts, compares, says what was found, and saves."""
    (kind,) = stop
    if out is not None:
        saving.check(out)
    if image is not None and shape is not None:
        raise NotUsable("--shape is the shape of random numbers, and --image has its own: use only one of them")
    opened = models.read_image(image) if image is not None else None
    built = models.build(model, weights, shape, trust)
    if opened is not None:
        transform = built.for_images()
        with explained(f"cannot prepare {image} for {model}"):
            built.args = (transform(opened).unsqueeze(0),)
    targets = built.targets(stop)
    several = len(targets) > 1
    part = built.stopped(list(targets.values()) if several else next(iter(targets.values())))
    given = f"{image.name if image is not None else 'random numbers'} ({built.shapes})"
    with explained(f"{model} does not run on {given}{', see --shape' * (image is None)}"), torch.no_grad():
        built.model(*built.args)
    failed = explained(f"the cut at {', '.join(targets)} does not run on {given}")
    with failed, verifying.same_random_numbers(), torch.no_grad():
        features = part(*built.args)
    outputs = dict(zip(targets, features if several else [features]))
    if wrong := verifying.differing(built.model, targets, outputs, built.args):
        raise Differs(f"the cut returns other values than the model at {', '.join(wrong)}; nothing was written")

    found = _Found(model, built, part, kind, given, outputs) if as_json or not quiet else None
    if found and not as_json:
        found.show()
    written = saving.save(part, out, built.args) if out is not None else ""
    if found and as_json:
        printing.show_json(**found.plain(), out=str(out) if out is not None else None)
    elif found and written:
        print(f"saved {written}")


@dataclasses.dataclass
class _Found:
    """What is told of a cut."""

    name: str
    built: models.Built
    part: nn.Module
    kind: str
    given: str
    outputs: dict[str, Any]

    def __post_init__(self) -> None:
        both, args = (self.built.model, self.part), self.built.args
        self._parameters = [count_parameters(module) for module in both]
        counted = [multiply_adds(module, [""], args, {}, run=True) for module in both]
        self._work = [count[""] for count in counted if count is not None]
        with torch.inference_mode():
            self._times = verifying.times(lambda: both[0](*args), lambda: both[1](*args))
        self._assumptions = [str(assumption) for assumption in getattr(self.part, "assumptions", ())]

    def show(self) -> None:
        """Prints it as text."""
        outputs = {name or "the model itself": output for name, output in self.outputs.items()}
        print(f"{self.name} {_WORDS[self.kind]} {', '.join(outputs)}, with {self.built.about}\n")
        table = Table(box=None, pad_edge=False)
        for title in ("", "whole", "cut", "cut / whole"):
            table.add_column(title, justify="right" if title else "left")
        table.add_row("parameters", *_compared(self._parameters))
        if len(self._work) == 2:
            table.add_row("multiply-adds", *_compared(self._work))
        table.add_row("time", *_compared([1e3 * time for time in self._times], ",.1f", " ms"))
        printing.show(table)
        for assumption in self._assumptions:
            print(f"assumed: {assumption}")
        print(f"\nchecked on {self.given}: the cut returns, bit for bit, the values of the whole model")
        for name, output in outputs.items():
            values = next(tensors_in(output), torch.zeros(0)).flatten()
            shown = ", ".join([f"{value:.4f}" for value in values[:6].tolist()] + ["…"] * (len(values) > 6))
            print(f"{name}: {shape_text(shape_of(output))}, {shown}")

    def plain(self) -> dict[str, Any]:
        """It as JSON has it."""

        def both(values: Any) -> dict[str, Any] | None:
            return dict(zip(("whole", "cut"), values)) if len(values) == 2 else None

        return {
            "model": self.name,
            "weights": self.built.about,
            "random": bool(self.built.untrained),
            self.kind: list(self.outputs),
            "parameters": both(self._parameters),
            "multiply_adds": both(self._work),
            "milliseconds": both([1e3 * time for time in self._times]),
            "checked_on": self.given,
            "shapes": [printing.named(shape_of(output)) for output in self.outputs.values()],
            "assumptions": self._assumptions,
        }


_WORDS = {"upto": "up to", "before": "before"}


def _compared(values: list[Any], form: str = ",", unit: str = "") -> list[str]:
    """The cells of a row: the whole, the cut, and its share."""
    whole, kept = values
    return [f"{value:{form}}{unit}" for value in values] + [f"{100 * kept / whole:.1f} %" if whole else ""]
