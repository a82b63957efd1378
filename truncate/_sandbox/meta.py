"""Meta and fake tensors: they have a shape but no content, no kernel runs on them, and they take no memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from truncate._errors import TruncateError
from truncate._graph import map_nested, tensors_in

ToMeta = Callable[[torch.Tensor], torch.Tensor]


def is_meta(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)


class Meta:
    """How to run a model on arguments with meta or fake tensors: all its own tensors become such ones too."""

    def __init__(self, arguments: Any) -> None:
        tensors = list(tensors_in(arguments))
        self._mode: FakeTensorMode | None = None
        self.tensor: ToMeta | None = None  # makes a meta or fake tensor of a tensor of the model; None: not needed
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            # A mode of our own: in that of the caller, sizes may be symbolic.
            self._mode = FakeTensorMode(allow_non_fake_inputs=True)
            self.tensor = self._mode.from_tensor
        elif any(tensor.is_meta for tensor in tensors):
            self.tensor = _on_meta

    @property
    def running(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the model runs."""
        return self._mode or contextlib.nullcontext()

    def arguments(self, arguments: Any) -> Any:
        """The arguments, converted to match the tensors of the model."""
        return arguments if self._mode is None else map_nested(arguments, self._argument)

    def _argument(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        assert self._mode is not None
        if not isinstance(value, FakeTensor):
            return self._mode.from_tensor(value)
        with self._mode:
            return torch.empty_strided(
                _numbers(value.shape), _numbers(value.stride()), dtype=value.dtype, device=value.device
            ).requires_grad_(value.requires_grad)


def _numbers(sizes: Any) -> list[Any]:
    found = [size.node.hint if isinstance(size, torch.SymInt) else size for size in sizes]
    if None in found:
        raise TruncateError(f"the sizes {tuple(sizes)} of a fake tensor of the example are not known. Give it numbers")
    return found


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    made = tensor.detach().to("meta")
    return nn.Parameter(made, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
