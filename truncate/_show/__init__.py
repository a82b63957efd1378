"""ROOM _show."""

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
