"""State."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.specimen import linear, specimen


@specimen(exact=False)
class UpdatesBuffers(nn.Module):
    """Changes its buffers by every spelling, and computes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("last", torch.zeros(4), persistent=False)
        self.register_buffer("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.count.add_(1)
        x = self.fc(x)
        if self.training:
            self.mean = self.mean * 0.9 + x.detach().mean(0) * 0.1
            with torch.no_grad():
                self.last.copy_(x[0])
        return self.out((x - self.mean) / self.count + self.last)


@specimen()
class StoresHidden(nn.Module):
    """Keeps a result as an attribute, and uses it afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.a(x)
        self.seen = [self.hidden]
        self.seen.append(self.b(self.hidden))
        return torch.stack(self.seen).sum(0)


class Remembers(nn.Module):
    """Leaves what it computed as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.weights: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.weights = self.fc(x).softmax(-1)
        return x * 2


@specimen(exact=False, refuses=("out",))
class ReadsChildsAttribute(nn.Module):
    """Reads what a child has left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Remembers()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(x)
        return self.out(y * self.attention.weights)


@specimen(exact=False, refuses=("out",))
class ReadsAttributeOfDeadCall(nn.Module):
    """Calls a child only for what it leaves behind, which before the first call is another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Remembers()
        self.attention.weights = torch.ones(4)
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        self.attention(x)
        return self.out(x * self.attention.weights)


@specimen(refuses=("fc", "out"))
class CountsInPython(nn.Module):
    """Computes with a plain number that changes from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.fc = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.calls += 1
        return self.out(x * self.calls)


class Scales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@specimen(refuses=("fc", "scale", "out"))
class SetsChildsAttribute(nn.Module):
    """Changes an option of a child just before it calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.scale = Scales()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.scale.factor = 3.0
        return self.out(self.scale(x))


@specimen(refuses=("a", "b"))
class KeepsHistory(nn.Module):
    """Appends to a list and a dict of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.history: list[Tensor] = []
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.history.append(x)
        self.cache["last"] = x
        return self.b(x + self.cache["last"])


@specimen(exact=False)
class ClipsWeightOfChild(nn.Module):
    """Normalises the weight of a child in place before it uses it, as prototypes are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.prototypes = nn.Linear(4, 4, bias=False)
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        with torch.no_grad():
            weight = F.normalize(self.prototypes.weight.data, dim=1)
            self.prototypes.weight.copy_(weight)
        self.out.weight.data.clamp_(min=0)
        return self.out(self.prototypes(x))


@specimen()
class ParameterContainers(nn.Module):
    """Parameters in a list and a dict, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.rand(4)) for _ in range(3)])
        self.shifts = nn.ParameterDict({"a": nn.Parameter(torch.rand(4)), "b": nn.Parameter(torch.rand(4))})
        self.gain = nn.Parameter(torch.rand(4))
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x * self.scales[0] + self.shifts["a"])
        x = self.b(x * self.gain.exp())
        for scale in self.scales:
            x = x * scale
        return x + self.shifts.b


@specimen()
class AsksItsParameters(nn.Module):
    """Takes a type and a device from its own parameters and from those of a child."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(next(self.parameters()).dtype)
        x = self.fc(x.to(self.fc.weight.device))
        x = x + torch.ones(self.fc.out_features, dtype=self.fc.weight.dtype)
        return self.out(x * self.fc.weight.shape[0])


@specimen(exact=False)
class PlainTensors(nn.Module):
    """Computes with tensors that it holds as plain attributes, alone and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()
        self.mean = torch.rand(4)
        self.anchors = [torch.rand(4), torch.rand(4)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x - self.mean)
        return self.out(x * self.anchors[0] + self.anchors[1])
