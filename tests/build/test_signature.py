"""What a generated forward refuses: every kind of argument that was fixed, in a form that exporters take."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import FixedArgumentError, truncate


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)


THING = object()
FIXED = {
    "bool": (False, True), "true": (True, False), "int": (3, 4), "float": (0.5, 1.5), "str": ("a'\n", "b"),
    "bytes": (b"x" * 99, b""), "complex": (1j, 2j), "nan": (float("nan"), 1.0), "inf": (float("inf"), 1.0),
    "big": (10**2000, 10**2000 + 1), "none": (None, 0), "dtype": (torch.int8, torch.int16),
    "device": (torch.device("cpu"), torch.device("meta")), "slice": (slice(1, 2), slice(1, 3)),
    "tuple": ((1, "a"), (1, "b")), "dict": ({"class": 1, Colour.RED: 2}, {"class": 1, Colour.BLUE: 2}),
    "enum": (Colour.RED, Colour.BLUE), "class": (int, str), "object": (THING, object()),
}  # fmt: skip


@pytest.mark.parametrize("kind", FIXED)
def test_each_kind_of_default(kind: str) -> None:
    default, other = FIXED[kind]

    class Net(Two):
        def forward(self, x: Tensor, given: Any = default) -> Any:
            return self.b(self.a(x))

    model, x = Net(), torch.randn(2, 4)
    cut = truncate(model, "a", live=False)
    for arguments in ((), (default,)):
        assert torch.equal(cut(x, *arguments), model.a(x))
    with pytest.raises(FixedArgumentError, match="given"):
        cut(x, other)


class Inner(Two):
    def forward(self, x: Tensor, flag: bool = False, other: bool = True, mask: Any = None) -> Any:
        return self.b(self.a(x) if not flag else x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = Inner(), nn.Linear(4, 4)

    def forward(self, x: Tensor, flag: bool = False, count: int = 2, how: str = "mean", mask: Any = None) -> Any:
        return self.last(self.inner(x, flag=flag, mask=mask)) * count


def test_torchscript() -> None:
    model, x = Outer(), torch.randn(2, 4)
    cut = truncate(model, "inner.a")
    script = torch.jit.script(cut)
    assert torch.equal(script(x), cut(x))
    assert torch.equal(script(x, False, 2, "mean", None), cut(x))
    for other in ({"flag": True}, {"count": 3}, {"how": "sum"}, {"mask": x}):  # `mask` has no type that it knows
        with pytest.raises(torch.jit.Error, match=f"this module was cut with {next(iter(other))}"):
            script(x, **other)


class Branching(Inner):
    def forward(self, x: Tensor, flag: bool = False, other: bool = True, mask: Any = None) -> Any:
        rows, columns = x.shape
        if rows > 1 and x.dtype == torch.float32 and (x.sum() > -1000).item():
            x = x + 1
        return super().forward(x.view(rows, columns), flag, other, mask)


@pytest.mark.filterwarnings("ignore")  # the old exporter warns of everything
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(("kind", "upto"), [(Inner, "a"), (Outer, "inner.a"), (Branching, "a")])
@pytest.mark.parametrize("example", [False, True])
def test_both_exporters_of_onnx(kind: Any, upto: str, example: bool, dynamo: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if kind is Branching and (dynamo or not example):
        pytest.skip("the new exporter takes no branch on the content of a tensor, in the model itself neither")
    model, x = kind().eval(), torch.randn(2, 4)
    cut = truncate(model, upto, args=(x,)) if example else truncate(model, upto)
    file = str(tmp_path / "cut.onnx")
    torch.onnx.export(cut, (x,), file, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(features), cut(x), atol=1e-5)
