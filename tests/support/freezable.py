"""Models to freeze a part of, and what tests of that compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from oracle import capture, randomize
from torch import Tensor, nn
from torch.nn import functional as F


class Stage(nn.Module):
    """Has a dropout that is no module."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        if self.training:
            x = x + 1
        return F.dropout(x, 0.5, self.training)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.first = Stage()
        self.second = nn.Sequential(Stage(), Stage())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x) * self.scale)
        x = self.flat(self.pool(self.second(x)))
        return self.head(F.dropout(self.norm(x), 0.1, self.training))


class Sizes(nn.Module):
    """Needs an example: it loops as often as a size says."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(x.shape[-1]):
            x = self.layers[i](x)
        return x


def small_vit() -> nn.Module:
    """Has parameters of its own in modules that hold the target, and attention that reads its mode."""
    return torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, 0.1, 0.1)


@dataclasses.dataclass(frozen=True)
class Case:
    kind: Callable[[], nn.Module]
    path: str
    size: int = 32

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return randomize(self.kind()).eval()

    def inputs(self, batch: int = 4) -> Tensor:
        return torch.randn(batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(batch))


CASES = {
    "net": Case(Net, "second.0", 8),
    "resnet": Case(torchvision.models.resnet18, "layer3.0.conv2"),
    "mobilenet": Case(torchvision.models.mobilenet_v3_small, "features.5"),
    "densenet": Case(lambda: torchvision.models.densenet121(drop_rate=0.2), "features.denseblock2.denselayer4.conv1"),
    "dense": Case(
        lambda: torchvision.models.DenseNet(8, (2, 3, 2, 2), 8, drop_rate=0.2), "features.denseblock2.denselayer2.conv1"
    ),
    "convnext": Case(torchvision.models.convnext_tiny, "features.5.1"),
    "vit": Case(small_vit, "encoder.layers.encoder_layer_1.mlp"),
    "timm": Case(lambda: timm.create_model("test_efficientnet", drop_path_rate=0.2), "blocks.2"),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@torch.no_grad()  # with gradients, torch computes attention in another way, and other last bits
def value_at(model: nn.Module, path: str, x: Tensor) -> Any:
    return capture(model, [path], x)[path][-1]


def train(model: nn.Module, x: Tensor, steps: int = 2) -> None:
    """An ordinary loop: the whole model is set to training before each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        output = model(x)
        (output * torch.randn_like(output)).sum().backward()
        optimizer.step()


class Drops(nn.Module):
    """Drops in its own forward, before and after a layer."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = F.dropout(x, 0.5, self.training)
        return self.head(F.dropout(self.layer(x), 0.5, self.training))
