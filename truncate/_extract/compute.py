"""Running a module over batches: in evaluation, without gradients, copying while it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from truncate._extract.batches import Batch

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's parameters are, or else its buffers."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts the module in evaluation mode, and each of its modules back in its own."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        if any(training for _, training in modes):  # some modules refuse `eval`, such as exported ones, in evaluation
            module.eval()
        yield
    finally:
        for part, training in modes:
            if part.training is not training:
                part.training = training


class Forward:
    """One call of a module: without gradients, under autocast if asked, and on channels-last images if it takes any.

    Inference mode covers the call alone and not what runs between calls, which is the user's.
    """

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
        self._module, self._device, self._dtype = module, device, dtype
        self._channels_last: bool | None = None  # unknown before the first call
        if not any(isinstance(part, _CONVOLUTIONS) for part in module.modules()):
            self._channels_last = False

    def __call__(self, batch: Batch) -> Any:
        with torch.inference_mode(), torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            if self._channels_last is False:
                return self._module(*batch.args, **batch.kwargs)
            args, kwargs = mapped((batch.args, batch.kwargs), _channels_last)
            if self._channels_last is None:
                try:
                    result = self._module(*args, **kwargs)
                    self._channels_last = True
                except RuntimeError:  # a forward that calls `view`, perhaps; or one that fails anyway, and then says so
                    self._channels_last = False
                    result = self._module(*batch.args, **batch.kwargs)
                return result
            return self._module(*args, **kwargs)


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim != 4 or not tensor.is_floating_point():
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def computed(
    forward: Callable[[Batch], Any], batches: Iterable[Batch], device: torch.device
) -> Iterator[tuple[Batch, Any]]:
    """Each batch with its outputs on the CPU."""
    if device.type == "cuda":
        yield from overlapped(forward, batches, device)
        return
    for number, batch in enumerate(batches):
        batch.args, batch.kwargs = mapped((batch.args, batch.kwargs), lambda tensor: tensor.to(device))
        with named(number):
            result = forward(batch)
        yield batch, mapped(result, lambda tensor: tensor.detach().cpu())


def overlapped(
    forward: Callable[[Batch], Any], batches: Iterable[Batch], device: torch.device
) -> Iterator[tuple[Batch, Any]]:
    """Likewise, but other batches are copied, through pinned memory, while one is computed.

    While the device computes batch k, batch k + 1 is read and copied to it, and the outputs of batch k - 1, which are
    copied back, are handed out.
    """
    streams: Any = torch.get_device_module(device)
    inward, outward = streams.Stream(device), streams.Stream(device)
    pinned = device.type == "cuda"  # elsewhere this runs in tests alone

    def event(stream: Any) -> Any:
        """Happens once the device has done what was put on the stream so far."""
        made = streams.Event()
        made.record(stream)
        return made

    def upload(batch: Batch) -> tuple[Batch, Any]:
        def copied(tensor: Tensor) -> Tensor:
            source = tensor.pin_memory() if pinned and tensor.device.type == "cpu" else tensor
            return source.to(device, non_blocking=True)

        with streams.stream(inward):
            batch.args, batch.kwargs = mapped((batch.args, batch.kwargs), copied)
            return batch, event(inward)

    def download(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        _used_on(tensor, outward)
        target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        return target.copy_(tensor, non_blocking=True)

    source = iter(batches)
    finished: tuple[Batch, Any, Any] | None = None
    upcoming = next(source, None)
    uploaded = upload(upcoming) if upcoming is not None else None
    number = 0
    while uploaded is not None:
        (batch, arrived), current = uploaded, streams.current_stream(device)
        current.wait_event(arrived)
        mapped((batch.args, batch.kwargs), lambda tensor, stream=current: _used_on(tensor, stream))
        with named(number):
            result = forward(batch)
        outward.wait_event(event(current))
        with streams.stream(outward):
            copies = mapped(result, download)
            copied_back = event(outward)
        batch.args, batch.kwargs, result = (), {}, None  # their memory is free again once the device is done with it
        upcoming = next(source, None)
        uploaded = upload(upcoming) if upcoming is not None else None
        if finished is not None:
            finished[2].synchronize()
            yield finished[0], finished[1]
        finished = (batch, copies, copied_back)
        number += 1
    if finished is not None:
        finished[2].synchronize()
        yield finished[0], finished[1]


def _used_on(tensor: Tensor, stream: Any) -> Tensor:
    """Keeps the memory of a tensor of another stream from being used again before this stream is done with it."""
    if tensor.is_cuda:
        tensor.record_stream(stream)
    return tensor


@contextlib.contextmanager
def named(number: int) -> Iterator[None]:
    """Adds to an error in which batch it was raised."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This was batch {number} of `extract`, counted from 0.")
        raise


def mapped(value: Any, function: Callable[..., Any]) -> Any:
    """A nested value with the function applied to its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(part, function) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [mapped(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
