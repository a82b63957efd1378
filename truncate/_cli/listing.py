"""What ``python -m truncate layers`` does."""

from __future__ import annotations

import dataclasses

from truncate._cli import models, printing
from truncate._errors import explained
from truncate._show import count_parameters, layers


def show(
    model: str,
    weights: str | None,
    trust: bool,
    shape: tuple[int, ...] | None,
    depth: int | None,
    table: bool,
    shapes: bool,
    as_json: bool,
) -> None:
    """Prints the layers and operations of a model, in colours on a terminal."""
    built = models.build(model, weights, shape, trust)
    if shapes or shape:
        with explained(f"{model} on {built.shapes}"):
            found = layers(built.model, built.args)
    else:
        found = layers(built.model)
    if not as_json:
        printing.show(found.render(tree=not table, depth=depth))
        return
    shown = [row for row in found if depth is None or row.path.count(".") < depth]
    rows = [{**dataclasses.asdict(row), "shape": printing.named(row.shape)} for row in shown]
    printing.show_json(
        model=model,
        type=type(built.model).__name__,
        weights=built.about,
        random=bool(built.untrained),
        parameters=count_parameters(built.model),
        layers=rows,
    )
