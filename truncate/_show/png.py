"""A drawing as PNG: what is written as SVG, in its light colours and at twice the size."""

from __future__ import annotations

from truncate._errors import TruncateError, need
from truncate._show import svg
from truncate._show.tree import Diagram

_SCALE = 2
_FONTS = '"Liberation Mono", "Noto Sans Mono", "Courier New", monospace'  # resvg takes no other of its own accord
_LETTER = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><style>{}</style>{}</svg>'


def page(diagram: Diagram) -> bytes:
    """A whole file.

    Raises:
        TruncateError: resvg is missing, or there is no font of one width: it would leave out all text.
    """
    resvg = need("resvg_py", "a drawing as .png", "torch-truncate[png]", TruncateError)
    style = _light(svg.STYLE)

    def drawn(text: str) -> bytes:
        return bytes(resvg.svg_to_bytes(svg_string=text, zoom=_SCALE))

    if drawn(_LETTER.format(style, '<text y="14">m</text>')) == drawn(_LETTER.format(style, "")):
        raise TruncateError(
            "a drawing as .png needs a font of one width, and none is installed: install DejaVu Sans Mono "
            "(apt install fonts-dejavu-core), or write .svg or .html"
        )
    return drawn(svg.page(diagram, style))


def _light(style: str) -> str:
    """The style for light mode alone: resvg knows no media queries."""
    return style.partition("@media")[0].replace("monospace;", f"{_FONTS};")
