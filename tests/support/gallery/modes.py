"""Modes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.repeats import Residual
from gallery.specimen import linear, specimen


class AlwaysEvaluating(nn.BatchNorm1d):
    def train(self, mode: bool = True) -> AlwaysEvaluating:
        return super().train(False)


@specimen()
class FrozenNorm(nn.Module):
    """One norm stays in evaluation while the model trains."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()
        self.norm = AlwaysEvaluating(4)
        self.drop = nn.Dropout(0.5)
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.block(x))))


@specimen()
class FunctionalDropout(nn.Module):
    """Passes ``self.training`` to functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.a(x), p=0.4, training=self.training)
        x = F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=self.norm.training)
        return self.b(x)


@specimen()
class BranchesOnMode(nn.Module):
    """Goes different ways in training and in evaluation, in a child too."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = Noise()
        self.a = linear()
        self.b = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.noise(x)
        if self.training:
            x = self.a(x) * 2
        else:
            x = self.b(x)
        return self.out(x) if not self.training else self.out(x) + self.a(x)


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.fc(x)
        return self.fc(x + torch.randn_like(x))


@specimen()
class OnlyInTraining(nn.Module):
    """An auxiliary head that runs in training only, and a final one in evaluation only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = linear()
        self.aux = nn.Sequential(linear(), nn.ReLU())
        self.final = linear()

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return (x, self.aux(x)) if self.training else self.final(x)


@specimen()
class AsksSeveralModes(nn.Module):
    """Control flow asks for the mode of a child that can differ from its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.drop = nn.Dropout(0.5)
        self.out = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.drop.training and self.training:
            x = self.drop(x)
        elif self.training:
            x = x + 1
        return self.out(x)
