"""What a forward hook on the untouched model captures: the one thing that every result is compared with."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# Where the models of the gallery and of the collections run: `TEST_DEVICE=cuda pytest` tries them on a GPU.
DEVICE = os.environ.get("TEST_DEVICE", "cpu")


def tensors_in(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    return [t for item in value for t in tensors_in(item)] if isinstance(value, (list, tuple)) else []


def cloned(value: Any) -> Any:
    """A copy of nested tensors, as they are at this moment."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(cloned, value))
    if isinstance(value, (list, tuple)):
        return [cloned(item) for item in value]
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(twin, field.name, cloned(getattr(value, field.name)))
        return twin
    return value


def on_device(value: Any) -> Any:
    """Nested tensors and modules, moved to where the tests run."""
    if isinstance(value, (torch.Tensor, nn.Module)):
        return value.to(DEVICE)
    if isinstance(value, dict):
        return {key: on_device(item) for key, item in value.items()}
    return type(value)(map(on_device, value)) if type(value) in (list, tuple) else value


def equal(one: Any, other: Any) -> bool:
    """Whether two nested values hold bit for bit the same tensors in the same order."""
    ones, others = tensors_in(one), tensors_in(other)
    return len(ones) == len(others) and all(
        a.dtype == b.dtype and a.shape == b.shape and (torch.equal(a, b) or _equal_with_nan(a, b))
        for a, b in zip(ones, others)
    )


def _equal_with_nan(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.is_floating_point() and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


@contextlib.contextmanager
def hooked(modules: dict[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Captures what each call of these modules returns, cloned at once."""
    seen: dict[str, list[Any]] = {path: [] for path in modules}
    hooks = [
        module.register_forward_hook(lambda m, args, out, path=path: seen[path].append(cloned(out)))
        for path, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def capture(model: nn.Module, paths: list[str], *args: Any, **kwargs: Any) -> dict[str, list[Any]]:
    """What hooks on the modules at `paths` capture in one pass of the model."""
    with hooked({path: model.get_submodule(path) for path in paths}) as seen:
        model(*args, **kwargs)
    return seen


def parameters_needed(model: nn.Module, path: str, *args: Any, call: int = -1, **kwargs: Any) -> set[str]:
    """The parameters that the output at `path` depends on, as autograd finds them on a copy of the model."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad():
        output = stopped(model, path, call, *args, **kwargs)
        total = sum(t.double().abs().sum() for t in tensors_in(output) if t.requires_grad)
        if isinstance(total, torch.Tensor):
            total.backward()
    return {name for name, p in model.named_parameters(remove_duplicate=False) if p.is_leaf and p.grad is not None}


class Stopped(Exception):
    """Ends the run of an untouched model where a cut of it ends."""


def stopped(model: nn.Module, path: str, call: int, *args: Any, **kwargs: Any) -> Any:
    """What one call of the module at `path` returns, with nothing run after it (for the last call: in this pass)."""
    outputs: list[Any] = []

    def hook(module: nn.Module, given: Any, output: Any) -> None:
        outputs.append(cloned(output))
        if len(outputs) == call + 1:
            raise Stopped

    handle = model.get_submodule(path).register_forward_hook(hook)
    try:
        model(*args, **kwargs)
    except Stopped:
        pass
    finally:
        handle.remove()
    return outputs[call]


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives fresh statistics and zero-initialised scales other values, which would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and "running_" in name:
                buffer.copy_(torch.rand(buffer.shape, generator=generator) * 0.5 + 0.5)
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.ndim <= 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.5 + 0.5)
    return model


def unexpected_parameters(model: nn.Module, result: nn.Module, needed: set[str], path: str = "") -> list[str]:
    """Parameters that a result holds without need, or lacks.

    A module that is needed is kept whole, as the same object: what it holds and does not use itself does not count,
    but for those above the target at `path`, which are to be cut.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False))
    needed_ids = {id(tensors[name]) for name in needed}
    above = path.split(".")[:-1] if path else []
    cut = [model.get_submodule(".".join(above[:depth])) for depth in range(len(path.split(".")) if path else 0)]
    originals = set(map(id, model.modules())) - set(map(id, cut))
    kept = [set(map(id, module.parameters())) for module in result.modules() if id(module) in originals]
    whole = set().union(*(held for held in kept if held & needed_ids))
    held = {id(p): name for name, p in result.named_parameters(remove_duplicate=False)}
    extra = [f"+{name}" for i, name in held.items() if i not in needed_ids and i not in whole]
    return extra + [f"-{name}" for name in needed if id(tensors[name]) not in held]
