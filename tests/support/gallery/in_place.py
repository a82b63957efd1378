"""Work in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.repeats import Residual
from gallery.specimen import images, linear, specimen


@specimen()
class WritesOnSlice(nn.Module):
    """Assigns to slices, adds to slices, writes through views and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.c = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x[:, 0] = 0
        x[:, 1:3] += 1
        x[..., -1:] *= 2
        x = self.b(x)
        view = x.view(-1)
        view.mul_(2)
        left = x[:, :2]
        left.add_(x[:, 2:])
        x[x > 1] = 1
        return self.c(x)


@specimen()
class WritesThroughUndeclaredViews(nn.Module):
    """Writes on what functions return that hand back their argument, though torch's signatures do not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear() for _ in range(9))

    def forward(self, x: Tensor) -> Tensor:
        views = (
            torch.atleast_2d,
            lambda x: +x,
            lambda x: x.type_as(x),
            lambda x: x.sum_to_size(x.shape),
            lambda x: torch.einsum("ij->ji", x),
            lambda x: torch.broadcast_tensors(x, x)[0],
            lambda x: torch.unsafe_chunk(x, 2, 1)[0],
            lambda x: F.dropout(x, training=False),
            torch.conj_physical,
        )
        for layer, view in zip(self.layers, views):
            x = layer(x)
            view(x).mul_(2)
        return x


@specimen()
class InplaceAfterTap(nn.Module):
    """Overwrites what its layers have returned."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.relu = nn.ReLU(inplace=True)
        self.flatten = nn.Flatten()
        self.identity = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        a.add_(1)
        b = self.identity(self.flatten(self.b(a)))
        self.relu(b)
        b *= 2
        return F.relu(b, inplace=True)


@specimen()
class DeadCallsWithEffect(nn.Module):
    """Calls whose results nobody reads, but whose work in place everybody needs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.relu = nn.ReLU(inplace=True)
        self.b = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.relu(x)
        x = self.b(x)
        x.clamp_(max=2)
        torch.neg_(x[:, 0])
        F.hardtanh(x, -1, 1, inplace=True)
        return self.out(x)


class AddsInPlace(nn.Module):
    """Changes its argument and returns something else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, values: list[Tensor], scale: float = 1.0) -> Tensor:
        values[0][:, :2] += scale
        return self.fc(values[1])


@specimen(exact=False)  # the child that is kept for its effect is kept whole
class ChildChangesArgument(nn.Module):
    """A child changes a tensor inside a list that it is given; its result is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.adds = AddsInPlace()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = x * 2
        self.adds([x.view(-1, 4), y], scale=3.0)
        return self.b(x)


@specimen()
class InplaceOnInput(nn.Module):
    """Changes its own argument, and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.a = linear()

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        y = self.drop(x)
        return self.a(x.clone()) + y.mul_(2)


@specimen()
class InplaceBlocks(nn.Module):
    """Residual blocks with in-place activations, as ResNet has: taps inside are overwritten by what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Residual(True), Residual(True), linear())
        self.head = nn.Sequential(nn.ReLU(inplace=True), linear(), nn.Dropout(0.5, inplace=True), linear())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.clone()))


@specimen(images)
class SizesInPlace(nn.Module):
    """Computes with sizes by ``//=``, which changes no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.out = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        old = h
        h //= 2
        w = w // 2
        x = x.reshape(n * 4, c, h, w)
        return self.out(self.conv(x) + old)
