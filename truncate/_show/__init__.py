"""Listing the layers of a model, and drawing it with what a cut keeps.

In: a model, and for a drawing the targets; with an example also the shapes and multiply-adds.
Out: `Layers`, rows that print as a tree or a table, and `Drawing`, which prints as a tree, shows itself in a notebook,
and is written as SVG or HTML.
"""

from truncate._show.drawing import Drawing, draw
from truncate._show.listing import Layers, layers, shape_of, shape_text
from truncate._show.search import LayerInfo

__all__ = [
    "Drawing",
    "LayerInfo",
    "Layers",
    "draw",
    "layers",
    "shape_of",
    "shape_text",
]
