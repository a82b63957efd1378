"""What ``python -m truncate layers`` does."""

from __future__ import annotations

import sys

from rich.console import Console

from truncate._cli import models
from truncate._errors import explained
from truncate._show import layers


def show(
    model: str,
    weights: str | None,
    trust: bool,
    shape: tuple[int, ...] | None,
    depth: int | None,
    table: bool,
    shapes: bool,
) -> None:
    """Prints the layers and operations of a model, in colours on a terminal."""
    built = models.build(model, weights, shape, trust)
    if shapes or shape:
        with explained(f"{model} on {built.shapes}"):
            found = layers(built.model, built.args)
    else:
        found = layers(built.model)
    if sys.stdout.isatty():
        Console(highlight=False).print(found.render(tree=not table, depth=depth))
    else:
        print(found.table(depth) if table else found.tree(depth))
