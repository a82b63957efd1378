"""Small models for the tests of the command line, which finds them as ``tiny:name``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        x = self.act(x - 1)
        return self.head(self.pool(x).flatten(1))


net = Net


class Noisy(Net):
    """Draws random numbers in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


class Odd(nn.Module):
    def forward(self, *arguments: Tensor, **options: Tensor) -> Tensor:
        return arguments[0]


class Unscriptable(Net):
    """Holds a module that TorchScript refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Sequential(Odd(), nn.AdaptiveAvgPool2d(1))


class Branching(Net):
    """Cannot be followed without an example."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[2] > 4 else x.repeat(1, 1, 2, 2))


class ByContent(Net):
    """Goes one way or the other, as the content says."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() < 1e9 else -x)


class ByBatch(Net):
    """Is written for one batch size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(1, 3, *x.shape[2:]))


class Crashing(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("first line\nsecond line")


class Reader(nn.Module):
    """Holds what is named in many ways: a layer that returns several, one that runs twice, a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.x = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Tanh()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x = self.relu(x - 1)
        words, _ = self.lstm(self.x(x).flatten(2).transpose(1, 2))
        return self.head(words[:, -1])


not_a_model = "a string"


def returns_a_string() -> str:
    return "a string"


def fails() -> Net:
    raise OSError("no disk")


built = Net()
