"""Models that run one module more than once."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gallery.specimen import linear, specimen


@specimen()
class SharedUnderTwoNames(nn.Module):
    """One layer under two names, both called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = linear()
        self.middle = linear()
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.middle(self.first(x)))


@specimen()
class CalledInLoop(nn.Module):
    """One activation and one layer called three times each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.relu(self.fc(x) + x)
        return x


class Residual(nn.Module):
    """A block to put in other models."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.fc = linear()
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.fc(x))
        y += x
        return self.act(y)


@specimen()
class SharedBlock(nn.Module):
    """A block that runs twice: a target inside its last call still needs the whole of its first."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()
        self.between = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.between(self.block(x)))


@specimen()
class SharedAcrossBlocks(nn.Module):
    """One activation inside two blocks: its last call lies in the second, whatever name is used."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Residual()
        self.two = Residual()
        self.two.act = self.one.act

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


@specimen()
class SequentialWithRepeats(nn.Module):
    """A Sequential that holds one activation at two positions."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.body = nn.Sequential(linear(), relu, linear(), relu)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * 2


@specimen()
class TiedWeights(nn.Module):
    """The decoder's weight is the encoder's, and is used as a plain tensor as well."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = linear()
        self.decoder = linear()
        self.decoder.weight = self.encoder.weight
        self.after = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.linear(self.decoder(self.encoder(x)), self.encoder.weight))


@specimen()
class CallsItself(nn.Module):
    """Recursion: the forward calls its own module with another constant."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.leaf = linear()

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        if depth == 0:
            return self.leaf(x)
        return self.forward(self.fc(x), depth - 1)
