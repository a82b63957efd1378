"""Names and values that a model brings never become code: drawn for each place where source takes them from."""

from __future__ import annotations

import builtins
import enum
import inspect
import random
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import capture, equal
from torch import Tensor, nn

from truncate import CannotFollowError, FixedArgumentError, TruncateError, source, truncate

PAYLOAD = "__import__('builtins').__dict__.__setitem__('RAN', True)"
ODD = [
    "class", "None", "lambda", "layer-norm", "self", "super", "torch", "F", "nn", "Tensor", "model", "len", "getattr",
    "ſ", "s", "ﬁ", "fi", "ª", "__x", "__debug__", "_", "x", "x_copy", "form", "options", "0", "1a",
    " ", "'", '"', "\\", "\\'",
    "a\nb", "\r", "\x00", "\u2028", "\x0c", "{x}", "%s", "#", ")", "]", "}:", "\ud800", "é", "e\u0301",
    PAYLOAD, f"a={PAYLOAD}, b", f"'+{PAYLOAD}+'", f'"+{PAYLOAD}+"', f"\n    {PAYLOAD}\n#", f"x): {PAYLOAD}\n    def f(",
]  # fmt: skip


class Says(str):
    """A string that prints itself as something else."""

    def __repr__(self) -> str:
        return PAYLOAD

    __str__ = __repr__


class Modality(str, enum.Enum):  # noqa: UP042 (a StrEnum prints itself as the string)
    IMAGE = "image"
    TEXT = "te xt"

    def __repr__(self) -> str:
        return PAYLOAD


class Color(enum.IntFlag):
    RED = 1


class Named:
    """An object that any name may stand for."""

    def __init__(self, name: Any) -> None:
        self.__name__ = name

    def __repr__(self) -> str:
        return PAYLOAD

    def __eq__(self, other: object) -> bool:
        return type(other) is Named and other.__name__ == self.__name__

    def __hash__(self) -> int:
        return hash(self.__name__)


class Draws:
    """Draws from the odd ones above. It is not hypothesis, which takes a string of a class of its own for a string."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        if self.random.random() < 0.8:
            return self.random.choice(ODD)
        letters = self.random.choices(["a", "B", "_", "1", "ſ", "é", "\u0301", "\n", "'", '"', "\\", "(", " "], k=4)
        return "".join(letters)

    def string(self) -> str:
        return self.random.choice([self.text, self.text, self.says, self.member])()

    def says(self) -> str:
        return Says(self.text())

    def member(self) -> str:
        return self.random.choice([*Modality])

    def names(self, count: int) -> list[str]:
        """What modules accept as names, all different."""
        found: dict[str, str] = {}
        while len(found) < count:
            name = self.string()
            if name and "." not in name and not hasattr(Net, name) and not hasattr(nn.ModuleDict(), name):
                found.setdefault(str.__str__(name), name)
        return list(found.values())

    def key(self) -> Any:
        others = [
            7,
            -7,
            1.5,
            float("inf"),
            True,
            None,
            (self.text(), 1),
            b"\n'",
            Named("key"),
            Color.RED,
            int,
            10**2000,
        ]
        return self.random.choice([self.string(), self.string(), self.string(), *others])

    def value(self) -> Any:
        others = [
            float("nan"),
            -0.0,
            1j,
            complex("nan"),
            -(10**2000),
            [self.text(), [self.string()]],
            Named(self.text()),
        ]
        others += [{self.key(): self.text()}, Named(7), torch.int8, torch.device("cpu"), ..., slice(1, None), Says]
        return self.random.choice([self.key(), *others])


class Inner(nn.Module):
    """Is kept as it is, and shows what it was given."""

    def forward(self, x: Tensor, /, *given: Any, **options: Any) -> Tensor:
        self.__dict__["given"] = given, options
        return x + len(options)


class Net(nn.Module):
    """Uses all that is drawn, on the way to its last layer."""

    def __init__(self, draws: Draws) -> None:
        super().__init__()
        self.inner, self.last = Inner(), nn.Linear(4, 4)
        *self.own_names, entry, layer = draws.names(5)
        self.add_module(self.own_names[0], nn.Linear(4, 4))
        self.register_parameter(self.own_names[1], nn.Parameter(torch.randn(4)))
        self.register_buffer(self.own_names[2], torch.randn(4))
        self.table = nn.ModuleDict({entry: nn.Linear(4, 4)})
        self.chain = nn.Sequential(OrderedDict([(layer, nn.Linear(4, 4)), ("then", nn.ReLU())]))
        self.used_key, self.passed_value = draws.key(), draws.value()
        options = [draws.string() for _ in range(draws.random.randrange(4))]
        self.passed_options = {name: draws.value() for name in options if str.__str__(name) != "self"}

    def forward(self, inputs: Any) -> Tensor:
        child, parameter, buffer = self.own_names
        x = getattr(self, child)(inputs[self.used_key]) * getattr(self, parameter)
        setattr(self, buffer, getattr(self, buffer) + 1)
        for module in self.table.values():
            x = module(x)
        x = getattr(self.chain, next(iter(self.chain._modules)))(x)
        x = self.inner(x + getattr(self, buffer), self.passed_value, {self.used_key: x}, **self.passed_options)
        return self.last(x)


def net_of(seed: int, **members: Any) -> Net:
    torch.manual_seed(seed)
    draws = Draws(seed)
    kind = type(Net)(draws.text().replace("\x00", "").encode(errors="replace").decode(), (Net,), members)
    made: Net = kind(draws)
    return made.eval()


def shown(value: Any) -> Any:
    """In a form that tells apart what is equal, and not what cannot be."""
    if isinstance(value, (list, tuple, dict)):
        return type(value), [shown(item) for item in (value.items() if isinstance(value, dict) else value)]
    if isinstance(value, torch.Tensor):
        return torch.Tensor
    if isinstance(value, int):
        return type(value), hex(value)
    return (type(value), repr(value)) if type(value) in (float, complex, str, bytes, slice, torch.device) else value


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("seed", range(100))
def test_names_and_values_never_become_code(seed: int, example: bool) -> None:
    net = net_of(seed)
    inputs = {net.used_key: torch.randn(2, 4)}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    expected = capture(net, ["last"], inputs)["last"][-1]
    passed = net.inner.__dict__.pop("given")
    net.load_state_dict(state)
    cut = truncate(net, "last", args=(inputs,), live=False) if example else truncate(net, "last", live=False)
    net.load_state_dict(state)
    assert equal(cut(inputs), expected)
    assert shown(net.inner.__dict__["given"]) == shown(passed)
    assert not hasattr(builtins, "RAN")


@pytest.mark.parametrize("seed", range(100))
def test_nor_in_a_file_of_its_own(seed: int) -> None:
    net = net_of(seed, forward=forward_with_less)
    net.inner = nn.Linear(4, 4)  # of which source can be written
    inputs = {net.used_key: torch.randn(2, 4)}
    cut = truncate(net, "last", live=False)
    try:
        text = source(cut)
    except TruncateError as error:  # a key that is an object, which a file cannot hold
        assert "cannot be imported" in str(error)
        assert type(net.used_key) not in (str, float, bool, type(None)) and net.used_key not in (7, -7)
        return
    space: dict[str, Any] = {}
    exec(text, space)
    space["model"].load_state_dict(cut.state_dict())
    assert equal(space["model"](inputs), cut(inputs))
    assert not hasattr(builtins, "RAN")


def forward_with_less(self: Any, inputs: Any) -> Any:
    child, parameter, buffer = self.own_names
    x = getattr(self, child)(inputs[self.used_key]) * getattr(self, parameter)
    setattr(self, buffer, getattr(self, buffer) + 1)
    for module in self.table.values():
        x = module(x)
    return self.last(self.inner(self.chain(x) + getattr(self, buffer)))


class Shadows(nn.Module):
    """Its arguments have the names of what generated source uses."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any, len: Any = (1, 2), set: Any = {"k": 1}, torch: Any = 2, abs: Any = float("inf")) -> Any:  # noqa: B006
        return self.b(self.a(F.relu(x)).abs() + abs(x.mean()) if callable(abs) else self.a(F.relu(x)) * torch)


def test_arguments_that_hide_builtins() -> None:
    model, x = Shadows(), torch.randn(2, 4)
    cut = truncate(model, before="b", live=False)
    assert equal(cut(x), model.a(x.relu()) * 2)
    assert equal(cut(x, (1, 2), {"k": 1}, 2), model.a(x.relu()) * 2)
    for other in ({"len": (1, 2, 3)}, {"set": {"j": 1}}, {"torch": 3}, {"abs": 1.0}):
        with pytest.raises(FixedArgumentError):
            cut(x, **other)


def test_an_argument_that_no_source_can_name() -> None:
    class Net(Shadows):
        def forward(self, x: Any) -> Any:  # type: ignore[override]
            return self.b(self.a(x))

    names = ("self", "ſ")
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    Net.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with pytest.raises(CannotFollowError, match="has an argument called 'ſ', which its source cannot contain"):
        truncate(Net(), before="b", live=False)


class CallsItThis(Shadows):
    def forward(this, self: Any, form: Tensor) -> Any:  # type: ignore[override]
        return this.b(this.a(self) + form)


class CallsTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = CallsItThis(), nn.Linear(4, 4)

    def forward(self, form: Tensor, self_1: float = 1.0) -> Any:
        return self.last(self.inner(self.inner(form, form), self_1))


def test_arguments_by_the_names_that_generated_source_gives() -> None:
    model, x = CallsItThis(), torch.randn(2, 4)
    with pytest.raises(CannotFollowError, match="has an argument called 'self', which its source cannot contain"):
        truncate(model, "b", live=False)
    assert equal(truncate(model, "b")(x, form=x), model(x, x))
    twice = CallsTwice()
    cut = truncate(twice, "inner.b", live=False)
    assert equal(cut(x), twice.inner(twice.inner(x, x), 1.0))

    class Net(Shadows):
        def forward(self, form: Tensor) -> Any:  # type: ignore[override]
            return self.b(self.a(form))

    assert torch.jit.script(truncate(Net(), "b"))(x).shape == x.shape


class Box:
    def __init__(self, name: str) -> None:
        setattr(self, name, torch.ones(4))
        setattr(type(self), f"{name}()", lambda self, x: x * 3)


class AsksBox(Shadows):
    def forward(self, x: Any, box: Any) -> Any:  # type: ignore[override]
        return self.b(self.a(getattr(box, "odd name()")(x)) + getattr(box, "odd name"))


def test_attributes_and_methods_of_objects() -> None:
    model, x = AsksBox(), torch.randn(2, 4)
    cut = truncate(model, before="b", args=(x, Box("odd name")))
    assert equal(cut(x, Box("odd name")), model.a(x * 3) + 1)


def test_functions_with_a_name_that_is_none() -> None:
    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

    class Net(Shadows):
        def forward(self, x: Any) -> Any:  # type: ignore[override]
            return self.b(torch.compiler.disable(odd)(self.a(Odd.apply(x))))

    def odd(x: Any) -> Any:
        return x + 1

    Odd.__name__ = odd.__name__ = f"x, {PAYLOAD}"
    model, x = Net(), torch.randn(2, 4)
    cut = truncate(model, before="b", args=(x,))
    assert equal(cut(x), model.a(x * 2) + 1)
    assert not hasattr(builtins, "RAN")
