"""Python that asks for values."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import random
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.specimen import images, linear, specimen


@specimen(images)
class ReadsShapes(nn.Module):
    """Unpacks and asserts shapes and computes with them, without branching on them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        assert c == 3, f"three channels are needed, not {c}"
        assert x.dim() == 4 and x.shape[-1] == w
        x = self.conv(x)
        grid = torch.arange(h * w, device=x.device, dtype=x.dtype).view(1, 1, h, w)
        x = self.norm(x + grid / (h * w) + x.new_ones(n, 1, 1, 1))
        x = x.view(x.size(0), 2, -1, *self.conv.kernel_size[:0], h, w).transpose(1, 2).reshape(x.shape)
        return self.pool(x * x.shape[1] ** -0.5).flatten(1)


@specimen()
class MakesTensorsOfItsSize(nn.Module):
    """Hands sizes to the functions that make tensors, alone and in tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = self.fc(x) + torch.zeros(n, 4, device=x.device) + torch.ones((n, 4), dtype=x.dtype)
        x = x + torch.rand(x.shape) + torch.full((n, 1), 2.0) + torch.eye(n)[:, :1]
        return self.out(x + torch.linspace(0, 1, n)[:, None] + torch.empty(x.size(0), 4).fill_(1))


@specimen()
class SignsAndConstants(nn.Module):
    """Negative, complex and infinite constants on either side of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        signs = (-1) ** torch.arange(4)
        x = 2 - -x * signs / -3 + (-2.0) ** signs
        x = torch.where(x > -math.inf, x, float("nan")) - (-x) ** 2 % -5
        return self.out((x * 1j).imag - 1e-30 + torch.tensor([1.0, -0.0, 2, 3]) + ~torch.tensor([True, False] * 2))


@specimen()
class FunctionsFromCorners(nn.Module):
    """Functions of submodules of torch, with several results, of the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.irfft(torch.fft.rfft(self.fc(x)), n=4)
        x = x / torch.linalg.norm(x) + torch.norm(x) + torch.special.expit(x)
        values, indices = torch.max(x, dim=1, keepdim=True)
        top = torch.topk(x, k=2, dim=1).values.sum(1, keepdim=True)
        a, b = torch.split(torch.einsum("bi,bj->bi", x, x), 2, dim=1)
        return self.out(torch.cat([a, b], 1) + values * indices - top)


@specimen(images)
class PoolsWithIndices(nn.Module):
    """Functions whose meaning depends on a flag, with the results that the flag adds."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.out = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, indices = self.pool(x)
        z, again = F.max_pool2d(x, 2, return_indices=True)
        y = self.unpool(y, indices, output_size=x.shape)
        return self.out(F.interpolate(z, size=x.shape[-2:]) + y + again.float().mean())


@specimen(images)
class ChecksItsInput(nn.Module):
    """Raises for an input of another shape, in several spellings; so does a norm that only what follows needs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.one = nn.Conv2d(3, 3, 1)
        self.two = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        beside = self.norm(x)
        if x.dim() != 4:
            raise ValueError(f"images have four dimensions, and not {x.dim()}")
        y = self.one(x)
        if x.shape[2] < 2 or not y.shape[1]:
            message = f"too small, or too many channels: {y.shape}"
            raise ValueError(message)
        with torch.enable_grad():
            if y.ndim == 4:
                y = y + 1
            else:
                raise ValueError("no images")
        y += self.two(y)
        return y + beside


@specimen(refuses=("a", "b"))
class CatchesItsOwnError(nn.Module):
    """Raises for an input, and goes on in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        try:
            if x.shape[0] > 2:
                raise ValueError
        except ValueError:
            return self.b(x)
        return self.a(x)


@specimen(refuses=("a", "b"))
class BranchesOnValue(nn.Module):
    """Chooses a way by what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.a(x)
        return self.b(x)


@specimen(refuses=("a", "b"))
class AsksForText(nn.Module):
    """Compares the text of a type."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if "float32" in str(x.dtype) or f"{x.device}" == "cpu" else x


@specimen(refuses=("a", "b"))
class AsksGradMode(nn.Module):
    """Goes another way when gradients are off."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * (2 if torch.is_grad_enabled() else 1))


@specimen(refuses=("a", "b"))
class DrawsInPython(nn.Module):
    """Drops a layer by chance, and draws the chance outside torch."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * random.random())


@specimen(refuses=("a", "b"))
class TakesSizeForNumber(nn.Module):
    """Needs a size as a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) / math.sqrt(x.shape[-1])
        return self.b(x)


@specimen(refuses=("a", "b"))
class SwallowsErrors(nn.Module):
    """Goes on as if nothing were when something cannot be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with contextlib.suppress(Exception):
            x = x * int(x.shape[0])
        return self.b(x)


@specimen(refuses=("a", "b"))
class CopiesValues(nn.Module):
    """Copies a tensor with Python's own tools."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(copy.deepcopy(x)))


def helper_with_generator(parts: Iterator[Tensor]) -> Tensor:
    return functools.reduce(lambda a, b: a + b, parts)


@specimen()
class Comprehensions(nn.Module):
    """Generators, closures, sums and zips over its children's results."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([linear(), linear(), linear()])
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        def apply(layer: nn.Module) -> Tensor:
            return layer(x) if isinstance(x, object) else x

        parts = [apply(layer) for layer in self.layers]
        x = helper_with_generator(part * (i + 1) for i, part in enumerate(parts))
        x = sum(a * b for a, b in zip(parts, reversed(parts))) + x
        return self.out(max([x], key=len) if not self.layers else x)


class RunsChildTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.Sequential(linear(), nn.ReLU(inplace=True), linear())

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        early = (x - y) * 0.5
        return {"early": early, "late": self.chain(self.chain(early))}


@specimen()
class RepeatsWhatRepeats(nn.Module):
    """A block that runs twice in evaluation and three times in training, with a chain that it runs twice itself."""

    def __init__(self) -> None:
        super().__init__()
        self.block = RunsChildTwice()

    def forward(self, x: Tensor) -> Tensor:
        first = self.block(y=x * 2, x=x)["late"]
        x = first + self.block(y=first, x=x)["late"]
        if self.training:
            x = x * self.block(x, y=x)["late"]
        return x


class AsksAside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.aside = linear()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor]:
        x = x - y
        result = torch.cat([x, x], -1)[..., 1:5]
        self.aside(x)
        return (result,)


@specimen(exact=False)
class ChangesWhatABlockHadBefore(nn.Module):
    """A block ends with a call that nobody reads; what it had before that is changed in place later."""

    def __init__(self) -> None:
        super().__init__()
        self.block = AsksAside()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(2):
            (x,) = self.block(x, x * 2)
        x[..., 1:3][..., 0].neg_()
        return x, x


class CountsTwice(nn.Module):
    def __init__(self, anew: bool) -> None:
        super().__init__()
        self.anew = anew
        self.act = nn.Tanh()
        self.register_buffer("count", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        x = self.act(x * self.count)
        if self.anew:
            self.count = self.count * 0.5
        else:
            self.count *= 0.5
        return x - self.count


@specimen(exact=False)
class CountsBeforeAndBehind(nn.Module):
    """A block counts in place before and after its child, and runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = CountsTwice(anew=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


@specimen(exact=False)
class CountsAnew(nn.Module):
    """A block that assigns another tensor to its buffer in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.block = CountsTwice(anew=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))
