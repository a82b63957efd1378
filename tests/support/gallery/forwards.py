"""How Python reaches a forward."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gallery.repeats import Residual
from gallery.specimen import linear, specimen


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = linear()
        self.fc2 = linear()

    def encode(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).relu())


@specimen()
class MethodOtherThanForward(nn.Module):
    """Uses a child through a method, and another through ``forward`` itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.block = Residual()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block.forward(self.encoder.encode(x)))


@specimen()
class ForwardOnInstance(nn.Module):
    """Chooses its forward when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.step = self._step
        self.forward = self._forward

    def _step(self, x: Tensor) -> Tensor:
        return self.b(x) + self.a(x)

    def _forward(self, x: Tensor) -> Tensor:
        return self.step(self.a(x))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if isinstance(self.gain, float) else x

    @property
    def gain(self) -> float:
        return 2.0

    @functools.cached_property
    def table(self) -> list[float]:
        return [1.0, self.gain]


@specimen()
class Inherits(Base):
    """Calls its parent's forward, properties, static and class methods."""

    SCALE = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.b = linear()
        self.act = F.relu
        self.shift = functools.partial(torch.add, alpha=2)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x) * self.gain * self.table[1]
        x = self.shift(self.static(x, isinstance(x, Tensor)), self.scaled(x))
        return self.b(self.act(x))

    @staticmethod
    def static(x: Tensor, flag: bool) -> Tensor:
        return x + 1 if flag else x

    @classmethod
    def scaled(cls, x: Tensor) -> Tensor:
        return x * cls.SCALE


class Registered(nn.Module):
    """Keeps a list of its subclasses, and is strict about them."""

    kinds: list[type] = []

    def __init_subclass__(cls, *, code: str) -> None:
        super().__init_subclass__()
        Registered.kinds.append((cls, code))


@specimen()
class RegistersSubclasses(Registered, code="gallery"):
    """Its class must not be subclassed after its back."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) + len(Registered.kinds)


@specimen(refuses=("a", "b"))
class OwnCall(nn.Module):
    """Prepares its input in ``__call__``, where no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x / 255)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


@specimen(refuses=("child",))
class ChildWithOwnCall(nn.Module):
    """A child that is kept changes its output in ``__call__``."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Amplified()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.child(x))


class Amplified(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 10


@specimen()
class OwnGetattr(nn.Module):
    """Answers for attributes of a module that it wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = Residual()
        self.out = linear()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.wrapped, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.fc(x)))


def twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs) + (self.a(args[0]) if isinstance(args[0], Tensor) else 0)

    return wrapper


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    @twice
    def forward(self, x: Tensor, bias: float = 1.0) -> Tensor:
        return self.b(self.a(x)) + bias


@specimen()
class DecoratedForward(nn.Module):
    """A child's forward is wrapped by a decorator that asks for the type of its argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first = linear()
        self.decorated = Decorated()

    def forward(self, x: Tensor) -> Tensor:
        return self.decorated(self.first(x).relu(), bias=2.0)


class Helper:
    """No module, but uses one."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def run(self, x: Tensor) -> Tensor:
        return self.layer(x)


@specimen(refuses=("fc", "out"))
class ModuleInHelper(nn.Module):
    """Calls a layer through an object that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()
        self.helper = Helper(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.helper.run(x))


@specimen()
class ModuleInClosure(nn.Module):
    """Calls a layer, with running statistics, through a function that remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(4), linear()
        self.remember()

    def remember(self) -> None:
        norm = self.norm
        self.step = lambda x: norm(x)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.remember()  # else the function of a copy would lead to the original

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.step(x))


@specimen(exact=False)
class UnregisteredModule(nn.Module):
    """Hides a layer from PyTorch in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.hidden = [linear()]
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden[0](self.fc(x)))


@specimen()
class TracedChild(nn.Module):
    """A child that FX has made."""

    def __init__(self) -> None:
        super().__init__()
        self.traced = torch.fx.symbolic_trace(Residual())
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.traced(x))


@specimen(exact=False)
class ScriptedChild(nn.Module):
    """A child that TorchScript has compiled, so that nothing inside it can be seen."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.scripted = torch.jit.script(Residual())
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.scripted(x))
