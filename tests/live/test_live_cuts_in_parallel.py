"""Live cuts where models are trained and sent: in several processes, sharded, under autocast, and as ONNX."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from against_hooks import Listed, calls, inputs, made, run
from oracle import equal
from processes import in_two_processes
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from truncate import truncate


class Net(Listed):
    """Branches on a value, so that it is neither followed nor recorded, and has layers after the target."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if x.dim() == 2:
                x = self.norm(layer(x)).relu()
        return x


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)).relu())


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = Stem(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x))


KINDS: dict[str, tuple[Callable[[], nn.Module], str]] = {"listed": (Net, "layers.1"), "deep": (Deep, "stem.b")}
EACH = pytest.mark.parametrize(("kind", "path"), KINDS.values(), ids=list(KINDS))


def cut_of(kind: Callable[[], nn.Module], path: str) -> nn.Module:
    """Without what does not run, of which a wrapper would wait for gradients."""
    return truncate(made(kind, True), path, (inputs(2),), live=True)


def expected_gradients(kind: Callable[[], nn.Module], path: str) -> dict[str, Tensor]:
    """The means over both processes of what hooks on the untouched model give."""
    total: dict[str, Tensor] = {}
    for rank in range(2):
        model = made(kind, True)
        calls(model, path, inputs(2 + rank, rank))[-2].square().mean().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] = total.get(name, torch.zeros_like(parameter)) + parameter.grad / 2
    return total


def replicated(cut: nn.Module) -> nn.Module:
    return DistributedDataParallel(cut)


def sharded(cut: nn.Module) -> nn.Module:
    for module in list(cut.modules()):
        if isinstance(module, nn.Linear):
            fully_shard(module)
    fully_shard(cut)
    return cut


def whole(gradient: Any) -> Tensor:
    tensor: Tensor = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return tensor


def _one_of_two(rank: int, way: str) -> None:
    for name, (kind, path) in KINDS.items():
        cut = cut_of(kind, path)
        parallel = WAYS[way](cut)
        wanted = expected_gradients(kind, path)
        x = inputs(2 + rank, rank).detach()
        for _ in range(2):  # parameters that the first pass did not use make the second fail
            parallel.zero_grad()
            value = run(parallel, x)
            assert torch.equal(value.detach(), calls(made(kind, True), path, x)[-2].detach()), name
            value.square().mean().backward()
        found = {key: whole(parameter.grad) for key, parameter in cut.named_parameters()}
        assert found.keys() == wanted.keys(), name
        for key, gradient in found.items():
            assert torch.allclose(gradient, wanted[key], rtol=1e-4, atol=1e-6), (name, key)


WAYS = {"replicated": replicated, "sharded": sharded}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", WAYS)
def test_in_two_processes(way: str) -> None:
    """Every parameter is used, and gradients are the mean over both."""
    in_two_processes(_one_of_two, way)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@EACH
def test_under_autocast(kind: Callable[[], nn.Module], path: str, training: bool) -> None:
    cut, twin = truncate(made(kind, training), [path, ""], live=True), made(kind, training)
    x, y = inputs(3), inputs(3)
    with torch.autocast("cpu", torch.bfloat16):
        *_, seen, own = calls(twin, path, x)
        found = run(cut, y)
    assert seen.dtype is torch.bfloat16
    assert equal(found, [seen, own])
    seen.float().sum().backward()
    found[0].float().sum().backward()
    assert torch.equal(x.grad, y.grad)


@pytest.mark.filterwarnings("ignore")
@EACH
def test_as_onnx(kind: Callable[[], nn.Module], path: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    x = inputs(3).detach()
    cut = truncate(made(kind), path, live=True)
    torch.onnx.export(copy.deepcopy(cut), (x,), tmp_path / "cut.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "cut.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), calls(made(kind), path, x)[-2], rtol=1e-4, atol=1e-5)
