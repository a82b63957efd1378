"""ROOM _show."""

from truncate._show.drawing import Drawing, draw
from truncate._show.listing import Layers, layers, shape_of, shape_text
from truncate._show.search import Place

__all__ = [
    "Drawing",
    "Layers",
    "Place",
    "draw",
    "layers",
    "shape_of",
    "shape_text",
]
