"""Listing the layers of a model, and drawing it with what a cut keeps.

In: a model, and for a drawing the targets; with an example also the shapes and multiply-adds.
Out: `Layers`, rows that print as a tree or a table, and `Drawing`, which prints as a tree, shows itself in a notebook,
and is written as SVG or HTML.
"""

from truncate._show.counting import multiply_adds
from truncate._show.drawing import Drawing, draw
from truncate._show.listing import Layers, layers, shape_of, shape_text
from truncate._show.search import LayerInfo, count_parameters
from truncate._show.terminal import plain
from truncate._show.tree import percent

__all__ = [
    "Drawing",
    "LayerInfo",
    "Layers",
    "count_parameters",
    "draw",
    "layers",
    "multiply_adds",
    "percent",
    "plain",
    "shape_of",
    "shape_text",
]
