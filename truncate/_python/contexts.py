"""The torch contexts that a forward enters for a part of its work: ``no_grad``, ``enable_grad``, ``autocast``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

from truncate._python.frames import OWN, TORCH

_DEVICES = ("cpu", "cuda")
_OFF = (False, None)


class Contexts:
    """Watches which of these contexts a forward is in while it is traced."""

    def __init__(self) -> None:
        self._grad: list[bool] = []  # what the forward has set and not yet restored
        self._autocast = _autocast_state()
        self._ambient = torch.is_grad_enabled()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Switches gradients on, so that it is seen when the forward switches them off."""
        before = torch.is_grad_enabled()
        _set_grad(True)
        try:
            yield
        finally:
            _set_grad(before)

    @property
    def grad(self) -> bool:
        """Whether gradients would be on now if the forward were not traced."""
        return self._grad[-1] if self._grad else self._ambient

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """For a child that runs for real: some of torch's modules compute differently when gradients are on."""
        _set_grad(self.grad)
        try:
            yield
        finally:
            _set_grad(self._grad[-1] if self._grad else True)

    def grad_was_set(self, value: bool) -> None:
        """The forward calls ``_set_grad_enabled``, which restores the mode if it comes from an ``__exit__``."""
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename.startswith((OWN, TORCH)):
            if frame.f_code.co_name == "__exit__":
                if self._grad:
                    self._grad.pop()
                return
            if frame.f_code.co_name == "__enter__" and isinstance(frame.f_locals["self"], torch.set_grad_enabled):
                return  # it did so already in `__init__`
            frame = frame.f_back
        self._grad.append(value)

    @property
    def now(self) -> str:
        """The contexts that an operation runs in now, as they are written, separated by ``|``."""
        autocast = _autocast_state()
        if not self._grad and autocast == self._autocast:
            return ""
        blocks = []
        if self._grad:
            blocks.append("enable_grad()" if self._grad[-1] else "no_grad()")
        for device, (enabled, dtype), before in zip(_DEVICES, autocast, self._autocast):
            if (enabled, dtype) != before:
                how = f"dtype={dtype}" if enabled else "enabled=False"
                blocks.append(f'autocast("{device}", {how})')
        return " | ".join(blocks)

    @property
    def in_custom_function(self) -> bool:
        """Whether an ``autograd.Function`` runs, or ``inference_mode``: both switch gradients off unseen."""
        return torch.is_grad_enabled() is not (self._grad[-1] if self._grad else True)


def _set_grad(value: bool) -> None:
    with torch._C.DisableTorchFunction():  # hidden from every function mode
        torch._C._set_grad_enabled(value)


def _autocast_state() -> list[tuple[bool, torch.dtype | None]]:
    """For each device, whether autocast is on, and its dtype."""
    return [(True, torch.get_autocast_dtype(d)) if torch.is_autocast_enabled(d) else _OFF for d in _DEVICES]
