"""What each entry of the collection gives, and how its parameters become ones that hide no mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
SEED = 7


class Made(NamedTuple):
    """A model in evaluation mode with an example call, and calls of other sizes or with other arguments."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    others: list[Call]


Make = Callable[[], Made]


def randomised(model: nn.Module, seed: int = SEED) -> nn.Module:
    """Gives fresh statistics, constant parameters and uninitialised memory other values, which would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator).to(like.dtype)

    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and "running_" in name:
                buffer.copy_(noise(buffer) + (0.5 if name.endswith("var") else -0.5))
        for parameter in model.parameters():
            if nn.parameter.is_lazy(parameter) or not parameter.is_floating_point() or not parameter.numel():
                continue
            if not parameter.isfinite().all() or parameter.abs().max() > 1e3:
                parameter.copy_(noise(parameter) - 0.5)
            elif parameter.ndim <= 1 or bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_((noise(parameter) - 0.5) * 0.3)
    return model


def entry(model: Callable[[], nn.Module], *calls: Callable[[], Any], random: bool = True) -> Make:
    """An entry of functions that give a model and its calls: each a tuple of arguments, or a dict of keywords."""

    def make() -> Made:
        torch.manual_seed(SEED)
        made = model().eval()
        if random:
            randomised(made)
        given = []
        for number, call in enumerate(calls):
            torch.manual_seed(SEED + 1 + number)
            values = call()
            given.append(((), values) if isinstance(values, dict) else (values, {}))
        return Made(made, *given[0], given[1:])

    return make
