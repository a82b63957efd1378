"""An operation says what it takes, where that is not what stands just above it."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from truncate import draw, layers
from truncate._show import html, svg


def sources(model: nn.Module, *example: Tensor) -> dict[str, str]:
    rows = layers(model.eval(), example or None)
    return {row.path: ", ".join(row.sources) for row in rows if row.sources}


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.pool = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.MaxPool2d(2)
        self.up, self.end, self.act = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        fine = self.act(self.down1(x))
        coarse = self.act(self.down2(self.pool(fine)))
        return self.end(torch.cat([self.up(coarse), fine], 1))


class Several(nn.Module):
    """Two arguments, a parameter, sizes, items of what a layer and an operation return, and a value taken twice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.lstm, self.line = nn.Parameter(torch.ones(4)), nn.LSTM(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        words, (state, _) = self.lstm(x * self.scale)
        left, right = (words + words).chunk(2, -1)
        both = torch.cat([left, right, self.line(state).expand(x.shape[0], -1, -1)], -1)
        return both.view(x.shape[0], -1)[:, :4] + skip + x.sum()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.line(x) if x.shape[0] > 1 else x


def test_a_residual_block() -> None:
    found = sources(torchvision.models.resnet18())
    assert found["layer1.0.add"] == "bn2, input"
    assert found["layer2.0.add"] == "bn2, downsample"
    assert len(found) == 8  # flatten takes what stands above it


def test_connections_over_what_is_between() -> None:
    assert sources(UNet()) == {"cat": "up, act:0"}


def test_one_that_joins_many() -> None:
    row = layers(torchvision.models.densenet121().eval())["features.denseblock1.cat"]
    assert row.sources == ("input", *(f"denselayer{i}" for i in range(1, 7)))
    assert row.notes == "from input and 6 more"
    row = layers(torchvision.models.googlenet(init_weights=False).eval())["inception3a.cat"]
    assert row.notes == "from branch1, branch2, branch3 and branch4"


def test_arguments_parameters_and_items() -> None:
    assert sources(Several()) == {
        "mul": "x, scale",
        "getitem_1": "lstm",
        "getitem_3": "lstm[1]",
        "add": "lstm[0]",
        "getitem_5": "chunk",
        "cat": "chunk[0], chunk[1], expand",
        "add_1": "getitem_6, skip",
        "sum": "x",
        "add_2": "add_1, sum",
    }


def test_what_is_recorded_says_so_too() -> None:
    assert sources(Branching()) == {}
    assert sources(Branching(), torch.zeros(3, 4)) == {"add": "input, line"}


def test_each_drawing_says_so_and_folds_what_repeats() -> None:
    drawing = draw(torchvision.models.resnet18())
    assert "from bn2 and input" in str(layers(torchvision.models.resnet18()))
    assert "0 … 1  × 2" in str(drawing)
    for text in (str(drawing), html.page(drawing.diagram), svg.page(drawing.diagram)):
        assert "from bn2 and input" in text and "from bn2 and downsample" in text
