"""The drawing that is written as pixels."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torchvision
from PIL import Image

from truncate import TruncateError, draw
from truncate._show import svg
from truncate._show.png import _light


def test_the_style_holds_nothing_that_resvg_does_not_know() -> None:
    assert not re.search(r"var\(|@media|--", _light(svg.STYLE))
    assert "fill: #1a7f37" in _light(svg.STYLE)


@pytest.fixture
def resvg() -> Any:
    return pytest.importorskip("resvg_py")


def test_a_drawing_in_pixels(resvg: Any, tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    drawn = draw(torchvision.models.alexnet(), "features.6", to=path)
    text = svg.page(drawn.diagram)
    width, height = (int(re.findall(rf' {side}="(\d+)"', text)[0]) for side in ("width", "height"))
    with Image.open(path) as image:
        assert image.size == (2 * width, 2 * height)
        colours = image.convert("RGB")
    assert colours.getpixel((2 * width - 40, 2 * height - 20)) == (255, 255, 255)
    for colour in ("#1a7f37", "#7a35d4", "#63b67a", "#0757b0"):  # kept, returned, bars, and types, which are text
        expected = tuple(bytes.fromhex(colour[1:]))
        assert sum(pixels for pixels, found in colours.getcolors(1 << 20) or () if found == expected) > 20, colour


def test_without_a_font(resvg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = functools.partial(resvg.svg_to_bytes, skip_system_fonts=True)
    monkeypatch.setattr(resvg, "svg_to_bytes", without)
    with pytest.raises(TruncateError, match=r"^a drawing as \.png needs a font of one width, and none is installed"):
        draw(torchvision.models.alexnet(), "features.6", to=tmp_path / "cut.png")
    assert not list(tmp_path.iterdir())


def test_without_resvg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    said = r"^a drawing as \.png needs resvg_py, which is missing: pip install 'torch-truncate\[png\]'$"
    with pytest.raises(TruncateError, match=said):
        draw(torchvision.models.alexnet(), "features.6", to=tmp_path / "cut.png")
    assert not list(tmp_path.iterdir())
