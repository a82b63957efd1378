"""Which tensors share memory."""

from __future__ import annotations

import torch


def memory_of(tensor: torch.Tensor) -> int:
    """A number that is the same for all tensors that share memory, such as views of each other."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a sparse tensor, or another kind without a storage
        return id(tensor)
