"""Gradients and contexts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gallery.repeats import Residual
from gallery.specimen import linear, specimen


@specimen(exact=False)
class NoGradInside(nn.Module):
    """Runs a part of itself without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(linear(), nn.ReLU(), linear())
        self.middle = linear()
        self.head = linear()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
            with torch.enable_grad():
                x = self.middle(x)
            x = x + 1 - self.middle.weight[0]
        return self.head(x)


@specimen(exact=False)
class NoGradDecorator(nn.Module):
    """Its forward as a whole, and that of a child, runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Frozen()
        self.head = linear()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(x).relu())


@specimen(refuses=("b", "out"))
class AutocastInside(nn.Module):
    """Runs a part of itself in lower precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.b(x)
            x = x @ x.t()
        return self.out(x.float().mean(1, keepdim=True).expand(-1, 4))


@specimen()
class Checkpointed(nn.Module):
    """Recomputes a block in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(checkpoint(self.block, x, use_reentrant=False))


class Reverse(torch.autograd.Function):
    """Passes values on and turns gradients round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


@specimen(refuses=("b",))
class GradientReversal(nn.Module):
    """Uses an autograd function of its own, whose gradient is not that of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(Reverse.apply(self.a(x)))


def triple(grad: Tensor) -> Tensor:
    return grad * 3


@specimen(refuses=("a", "b"))
class HooksTensors(nn.Module):
    """Hangs a hook on a tensor, which changes its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = self.a(x)
            x.register_hook(triple)
        return self.b(x)


@specimen(refuses=("a", "drop", "b"))
class SeedsItself(nn.Module):
    """Sets the seed of all random numbers in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.drop = nn.Dropout(0.5)
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        torch.manual_seed(3)
        return self.b(self.drop(x))


@specimen(exact=False, refuses=("energy", "out"))
class GradientInside(nn.Module):
    """Returns a force: the gradient of an energy, taken in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.energy(x).square().sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return self.out(force)
