"""Functions of torch that are hard to see in a forward, in some of its versions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from oracle import capture
from torch import Tensor, arange, nn
from torch.utils.checkpoint import checkpoint

from truncate import truncate

MADE: dict[str, Callable[[int], Tensor]] = {
    "arange": lambda n: torch.arange(n),
    "arange, imported": lambda n: arange(n),
    "arange from": lambda n: torch.arange(1, n + 1, 1),
    "bartlett_window": lambda n: torch.bartlett_window(n),
    "blackman_window": lambda n: torch.blackman_window(n),
    "empty_strided": lambda n: torch.empty_strided((n,), (1,)).zero_(),
    "full": lambda n: torch.full((n,), 2),
    "hamming_window": lambda n: torch.hamming_window(n),
    "hann_window": lambda n: torch.hann_window(n),
    "kaiser_window": lambda n: torch.kaiser_window(n),
    "linspace": lambda n: torch.linspace(0, 1, n),
    "logspace": lambda n: torch.logspace(0, 1, n),
    "randperm": lambda n: torch.randperm(n),
    "scalar_tensor": lambda n: torch.scalar_tensor(n),
    "tril_indices": lambda n: torch.tril_indices(n, n)[0],
    "triu_indices": lambda n: torch.triu_indices(n, n)[1],
}


class Makes(nn.Module):
    """Makes a tensor of a size that only its input tells."""

    def __init__(self, make: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.make = make
        self.inner, self.after = nn.Linear(1, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.make(x.size(1)).float().reshape(-1, 1)))


@pytest.mark.parametrize("name", MADE)
def test_a_tensor_is_made_of_a_size(name: str) -> None:
    model = Makes(MADE[name])
    part = truncate(model, "inner", live=False)
    for size in (3, 5):
        torch.manual_seed(0)
        expected = capture(model, ["inner"], torch.zeros(1, size))["inner"][0]
        torch.manual_seed(0)
        assert torch.equal(part(torch.zeros(1, size)), expected)


class Recomputes(nn.Module):
    """Recomputes a block in the backward pass, to save memory."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call
        self.block, self.out = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.call(self.block, x, use_reentrant=False))


def by_module(*args: Any, **kwargs: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(*args, **kwargs)


@pytest.mark.parametrize("call", [checkpoint, by_module], ids=["by name", "by module"])
@pytest.mark.parametrize("recorded", [False, True], ids=["followed", "recorded"])
@pytest.mark.parametrize("target", ["block", "block.0", "out"])
def test_what_is_recomputed(call: Callable[..., Tensor], recorded: bool, target: str) -> None:
    model, x = Recomputes(call), torch.randn(2, 4, requires_grad=True)
    part = truncate(model, target, args=(x,) if recorded else None, live=False)
    expected = capture(model, [target], x)[target][0]
    assert torch.equal(part(x), expected)
    grads = [torch.autograd.grad(output.sum(), x)[0] for output in (part(x), expected)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("example", [False, True])
def test_what_torch_notes_on_its_own_functions_is_no_state_of_the_model(example: bool) -> None:
    for name in [name for name in vars(checkpoint) if "dynamo" in name]:  # as before its first call in a process
        vars(checkpoint).pop(name)
    model, x = Recomputes(checkpoint), torch.randn(2, 4)
    part = truncate(model, "block.0", args=(x,) if example else None, live=False)
    assert torch.equal(part(x), model.block[0](x))


class Branches(Recomputes):
    """The same in a forward that has to be recorded, since it branches on a size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[0] < 9 else x


def test_what_is_recomputed_in_a_recorded_forward() -> None:
    model, x = Branches(checkpoint), torch.randn(2, 4)
    part = truncate(model, "out", args=(x,), live=False)
    assert part.assumptions
    assert torch.equal(part(x), capture(model, ["out"], x)["out"][0])


class Imports(nn.Module):
    """Imports, when it first runs, a module that makes tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        import makes_tensors

        return self.b(self.a(x) * makes_tensors.FACTOR)


@pytest.mark.parametrize("recorded", [False, True], ids=["followed", "recorded"])
def test_what_an_import_makes(recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "makes_tensors.py").write_text(
        "import torch\n"
        "TABLE = torch.zeros(3).tolist()\n"
        "def compared(one, other):\n"
        "    return one is other\n"
        "FACTOR = 3.0 if type(torch.zeros(1)) is torch.Tensor and compared(TABLE, TABLE) else 2.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "makes_tensors", raising=False)
    model, x = Imports(), torch.randn(3, 2)
    part = truncate(model, "b", args=(x,) if recorded else None, live=False)
    assert torch.equal(part(x), model(x))
