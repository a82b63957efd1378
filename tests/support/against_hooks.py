"""A live cut and hooks on an untouched twin of its model, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from oracle import cloned, equal, tensors_in
from torch import Tensor, nn

from truncate import truncate


class Three(nn.Module):
    """Three layers, which subclasses run in their own ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))


class Listed(nn.Module):
    """Three layers in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))


def made(kind: Callable[[], nn.Module], training: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return kind().train(training)


def inputs(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def run(module: nn.Module, x: Tensor) -> Any:
    torch.manual_seed(1)
    return module(x * 1)


def calls(model: nn.Module, path: str, x: Tensor, before: bool = False) -> list[Any]:
    """What hooks on the module at a path capture, one item for each call, and at last what the model returns."""
    seen: list[Any] = []
    target = model.get_submodule(path)
    if before:
        handle = target.register_forward_pre_hook(lambda m, args: seen.append(cloned(args[0])), prepend=True)
    else:
        handle = target.register_forward_hook(lambda m, args, out: seen.append(cloned(out)))
    try:
        own = run(model, x)
    finally:
        handle.remove()
    return [*seen, own]


def gradients(value: Any, module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """The gradients of a weighted sum of all that is handed out."""
    tensors = [tensor for tensor in tensors_in(value) if tensor.requires_grad]
    leaves = {**dict(module.named_parameters()), "input": x}
    for leaf in leaves.values():
        leaf.grad = None
    if tensors:
        weighted = [(t * torch.arange(1.0, t.numel() + 1).view(t.shape)).sum() for t in tensors]
        torch.stack(weighted).sum().backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def assert_as_hooked(kind: Callable[[], nn.Module], path: str, training: bool, change: Any = None) -> None:
    """The cut hands out the last call, the first, what it was given, and both ends: values and gradients."""
    for ask, choose in ASKED.items():
        options = {key: _at(path, value) for key, value in ASKED_FOR[ask].items()}
        cut = truncate(made(kind, training), live=True, **options)
        twin = made(kind, training)
        if change is not None:
            cut = change(cut)
        for batch, seed in ((2, 0), (5, 1), (5, 2)):
            x, y = inputs(batch, seed), inputs(batch, seed)
            wanted = choose(calls(twin, path, x, before=ask == "before"))
            found = run(cut, y)
            assert equal(wanted, found), f"{ask}: another value at {path}"
            expected, got = gradients(wanted, twin, x), gradients(found, cut, y)
            for name in got:
                same = expected[name] is got[name] is None or torch.equal(expected[name], got[name])
                assert same, f"{ask}: another gradient of {name}"


def _at(path: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _at(path, item) for key, item in value.items()}
    return value.replace("*", path)


ASKED: dict[str, Callable[[list[Any]], Any]] = {
    "last": lambda seen: seen[-2],
    "first": lambda seen: seen[0],
    "before": lambda seen: seen[-2],
    "both ends": lambda seen: {"features": seen[-2], "output": seen[-1]},
}
ASKED_FOR: dict[str, dict[str, Any]] = {
    "last": {"upto": "*"},
    "first": {"upto": "*:0"},
    "before": {"before": "*"},
    "both ends": {"upto": {"features": "*", "output": ""}},
}
