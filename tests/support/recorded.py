"""What all models have in common that are recorded on an example, and how they are compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import capture
from torch import Tensor, nn

Forward = Callable[..., Any]
content_may_decide = pytest.mark.filterwarnings("ignore::truncate.ContentWarning")


class Layers(nn.Module):
    """What all models here hold. `grew` is never true; it is a question that only an example can answer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.rows = nn.Parameter(torch.rand(30, 4))
        self.table = [float(i) for i in range(30)]
        self.register_buffer("count", torch.zeros(4))


def model_of(forward: Forward) -> Layers:
    torch.manual_seed(0)
    return type("Model", (Layers,), {"forward": forward})().eval()


def grew(x: Tensor) -> bool:
    return x.shape[0] > 1000


def drawn(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EXAMPLE = drawn(2, 4)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or what it raises."""
    torch.manual_seed(3)
    try:
        return call()
    except Exception as error:
        return error


def hooked(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return outcome(lambda: capture(model, ["b"], *args, **kwargs)["b"][-1])


LOGGER = logging.getLogger(__name__)


FREE: list[Forward] = []


def free(forward: Forward) -> Forward:
    FREE.append(forward)
    return forward


@free
def asks_for_a_size(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x))


@free
def asks_whether_there_is_anything(self: Any, x: Tensor) -> Tensor:
    if grew(x) or not all(x.shape) or not x.shape[0]:
        return x
    assert x.shape[1]
    return self.b(self.a(x) / (x.shape[0] or 1) if x.shape[0] else x)


@free
def shows_a_size(self: Any, x: Tensor) -> Tensor:
    if not grew(x):
        LOGGER.debug(f"{x.shape[0]} rows, padded to {x.shape[0] + 1}")
        LOGGER.debug(f"all of {x.shape} and {x.shape[:1]}")
    return x if grew(x) else self.b(self.a(x))


@free
def computes_with_shapes(self: Any, x: Tensor) -> Tensor:
    if grew(x) or x.shape.numel() > 10**6 or not isinstance(x.shape, torch.Size) or type(x.shape) is not torch.Size:
        return x
    n = x.shape[:1].numel() * (x.shape + (3,)).numel() + ((3,) + x.shape).numel() + len(x.shape)
    return self.b(self.a(x.reshape(x.shape[:1] + (4,))) / n * np.sqrt(x.shape[1]))


@free
def computes_in_a_comprehension(self: Any, x: Tensor) -> Tensor:
    sizes = [int(size) + 1 for size in x.shape]
    return x if grew(x) else self.b(self.a(x) * (lambda: len(x) + sizes[0])())


@free
def changes_a_shape_in_place(self: Any, x: Tensor) -> Tensor:
    """Its sizes were read before, and are used after that."""
    x = self.a(x) if not grew(x) else x
    y = x[:2].repeat(2, 1).clone()
    rows, columns, total = y.shape[0], y.size(1), y.numel()
    y.t_()
    return x if grew(x) else self.b(x * y.sum() / (rows + 2 * columns + total * y.shape[0]))


@free
def takes_half_of_the_batch(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x[: int(x.shape[0] * 0.5) + 1]))


@free
def computes_with_sizes(self: Any, x: Tensor) -> Tensor:
    n = len(x.shape) + round(x.shape[0] * 1.7) + divmod(x.size(0), 3)[1] + math.ceil(x.shape[0] / 2) - abs(-x.numel())
    return x if grew(x) else self.b(self.a(x) * n)


@free
def makes_tensors_of_its_size(self: Any, x: Tensor) -> Tensor:
    n = x.shape[0]
    made = torch.zeros(n, 4) + torch.arange(n)[:, None] + torch.full((n, 1), 2.0) + torch.tensor([n, 1.0]).sum()
    return x if grew(x) else self.b(self.a(x) + made.to(x))


@free
def uses_a_number_out_of_a_tensor(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * x.abs().max().item() + float(x.sum()))


@free
def takes_some_rows(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    return y if grew(x) else self.b(y[torch.where(y[:, 0] > -9)[0]][: (x > -9).sum()])


@free
def writes_on_slices(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    y[:, 0] = x.shape[0]
    y.view(-1)[::2].mul_(2)
    x += 1
    return y if grew(x) else self.b(y + x)


@free
def draws_random_numbers(self: Any, x: Tensor) -> Tensor:
    y = self.a(x) + torch.randn(x.shape[0], 4).to(x.device) + torch.rand_like(x)
    return y if grew(x) else self.b(nn.functional.dropout(y))


@free
def unpacks_a_shape(self: Any, x: Tensor) -> Tensor:
    n, c = x.shape
    return x if n > 1000 else self.b(self.a(x).view(n, c // 2, -1).reshape(x.shape[:-1] + (c,)))


@free
def takes_a_logarithm(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * math.log(x.shape[0]))


@free
def takes_the_root_of_a_size(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * math.sqrt(x.shape[0]))


@free
def hands_an_answer_on(self: Any, x: Tensor) -> Tensor:
    """To a function that takes nothing but a bool."""
    y = self.a(x)[None, None]
    attend, causal = nn.functional.scaled_dot_product_attention, x.shape[0] > 2
    y = attend(y, y, y, is_causal=causal) + torch.nn.functional.scaled_dot_product_attention(y, y, y, is_causal=causal)
    return x if grew(x) else self.b(y[0, 0])


@free
def divides_a_fraction_by_a_size(self: Any, x: Tensor) -> Tensor:
    """Where Python asks the float first, which computes with an int in C."""
    by = 1.0 / x.shape[0] + 0.5 * x.shape[0] - 2.0 ** x.shape[0] + max(2.5, 1.5 + x.shape[1])
    return x if grew(x) else self.b(self.a(x) * by * (lambda n: 0.25 - n)(x.shape[0]) * (self.norm.eps + x.shape[0]))


@free
def repeats_with_a_tensor(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(x.shape[0] * self.a(x) * x.shape[0])


WIDE = drawn(5, 4)


def branches_on_content(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x.sum() > 0 else x)


def both_modes(self: Any, x: Tensor) -> Tensor:
    if self.training and x.shape[0] < 1000:
        return self.b(self.drop(self.norm(self.a(x))))
    return self.b(self.norm(x) * (2 if x.shape[0] < 1000 else 1))


def triples(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * 3)
