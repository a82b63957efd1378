"""The picture that a drawing is written to."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import torch
import torchvision
from folders import ROOT
from torch import nn

from truncate import draw
from truncate._show.svg import page as svg


def test_the_picture_of_the_readme_is_what_is_drawn() -> None:
    drawn = draw(torchvision.models.alexnet(), "classifier.5", args=(torch.empty(1, 3, 224, 224, device="meta"),))
    assert svg(drawn.diagram) == (ROOT / "docs" / "alexnet.svg").read_text()


def test_svg_draws_a_repeated_block_once(deep: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "cut.svg"
    draw(deep, "layer3.20.conv2", to=path)
    text = path.read_text()
    root = ET.fromstring(text)
    rows = root.findall(".//{*}g[@class]/{*}title")
    paths = [str(title.text).split(",")[0] for title in rows]
    assert "layer3.1 … layer3.19" in paths
    assert "layer3.20.conv2" in paths
    assert "layer3.21 … layer3.35" in paths
    assert not [path for path in paths if path.startswith(("layer3.2.", "layer3.30"))]
    assert len(rows) < 130
    assert "prefers-color-scheme: dark" in text
    assert "var(" not in text  # programs other than browsers draw it black
    assert not re.search(r"@import|url\(|href|<script|<image", text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.findall(".//{*}text"):
        assert 0 <= float(element.attrib["x"]) < width
        assert 0 < float(element.attrib["y"]) < height
