"""One pass of a model over a data set, with what each tapped layer returns pooled to one vector an example."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from truncate._api import made
from truncate._build import pooling
from truncate._errors import TruncateError
from truncate._extract import Batch, Forward, device_of, mapped
from truncate._plan import Division
from truncate._sandbox import Example
from truncate._show import count_parameters, multiply_adds, shape_of, shape_text
from truncate._target import Numbered, Target


@dataclasses.dataclass
class Tap:
    """A layer, and how what it returns becomes one vector."""

    layer: str  # its name in the table
    target: Target
    pool: Any  # as `truncate` takes it
    pooled: Callable[[Tensor], Tensor]
    like: Tensor  # an empty one, of the same type and on the same device

    @property
    def how(self) -> str:
        """The name of the pooling; empty if there is none."""
        return "" if self.pool is None else self.pool if isinstance(self.pool, str) else type(self.pool).__name__


def cut_at(model: nn.Module, targets: Sequence[Target], example: Example | None, check: bool = True) -> nn.Module:
    """The model up to several targets, some of which may be inputs of layers: it returns a list."""
    division = Division(model, [], list(targets), example, None)
    numbers = [Numbered.of(number, target.items) for number, target in enumerate(targets)]
    return made(division, numbers, False, check)[1][-1]


def cost(model: nn.Module, target: Target, example: Example | None, batch: Batch) -> tuple[int, int | None]:
    """What is needed up to a target: parameters, and the multiply-adds of one example if they can be counted."""
    cut = cut_at(model, [target], example, check=False)
    return count_parameters(cut), work(cut, batch)


def work(module: nn.Module, batch: Batch) -> int | None:
    """The multiply-adds of one example; None if they cannot be counted."""
    counted = multiply_adds(module, [""], batch.args, batch.kwargs)
    if counted is not None:
        return counted[""] // batch.rows
    few = rows_of(batch, 2)  # counted while it computes, since it asks for values
    counted = multiply_adds(module, [""], *few, run=True)
    return None if counted is None else counted[""] // min(batch.rows, 2)


def rows_of(batch: Batch, most: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a batch for its first few rows."""

    def few(tensor: Tensor) -> Tensor:
        return tensor[:most] if tensor.dim() and len(tensor) == batch.rows else tensor

    args, kwargs = mapped((batch.args, batch.kwargs), few)
    return args, kwargs


class Pass:
    """The pass: once a batch has run, `taps` are the table's rows, and `left_out` says which layers give no vector.

    Args:
        cut: The model up to the targets.
        targets: What it returns, by the names that they have in the table.
        pool: As `probe` takes it.
        rows: How many the first batch has.
    """

    def __init__(self, cut: nn.Module, targets: Mapping[str, Target], pool: Any, rows: int) -> None:
        self.taps: list[Tap] = []
        self.left_out: dict[str, str] = {}
        self._cut, self._targets, self._pool, self._rows = cut, targets, pool, rows
        self._kept: list[tuple[int, Tap]] = []
        self._clock = _Clock(device_of(cut))

    def begin(self, batch: Batch) -> None:
        """Runs a batch for what a pass learns of its first one, `taps` and `left_out`: it may not have one to run."""
        self._begin(Forward(self._cut, device_of(self._cut), None)(batch))

    @contextlib.contextmanager
    def tapped(self) -> Iterator[nn.Module]:
        """The cut, which meanwhile returns the pooled vectors as float32: a list with a tensor for each tap."""
        with contextlib.ExitStack() as stack:
            for hook in self._hooks(self._cut):
                stack.callback(hook.remove)
            yield self._cut

    def milliseconds(self, tap: Tap) -> float | None:
        """How long the pass took until the layer was there, for one example; None if that could not be seen."""
        found = self._clock.milliseconds(tap.layer)
        return self._clock.milliseconds("") if found is None and tap.target.before else found

    def _hooks(self, cut: nn.Module) -> Iterator[RemovableHandle]:
        yield cut.register_forward_pre_hook(lambda module, args: self._clock.start())
        kept = dict(cut.named_modules(remove_duplicate=False))
        for layer, target in self._targets.items():
            if target.is_module and target.call == -1 and target.path in kept:
                module = kept[target.path]
                register = module.register_forward_pre_hook if target.before else module.register_forward_hook
                yield register(lambda *_, layer=layer: self._clock.mark(layer))
        yield cut.register_forward_hook(lambda module, args, output: self._pooled(output))

    def _pooled(self, output: list[Any]) -> list[Tensor]:
        self._clock.mark("")
        if not self._kept:
            self._begin(output)
        vectors = [tap.pooled(output[number]).flatten(1).float() for number, tap in self._kept]
        self._clock.finish(len(vectors[0]))
        return vectors

    def _begin(self, output: list[Any]) -> None:
        """Decides by the first batch how each layer is pooled."""
        for number, ((layer, target), value) in enumerate(zip(self._targets.items(), output)):
            reason = _unusable(value, self._rows)
            if reason:
                self.left_out[layer] = reason
                continue
            asked = self._pool.get(layer, "auto") if isinstance(self._pool, Mapping) else self._pool
            for pool in _pools(value) if isinstance(asked, str) and asked == "auto" else [asked]:
                pool = None if value.dim() < 3 else pool
                pooled = nn.Sequential(*pooling(pool, False).values())
                self._kept.append((number, Tap(layer, target, pool, pooled, value[:0])))
        self.taps = [tap for _, tap in self._kept]
        if not self.taps:
            reasons = "; ".join(f"{layer} {reason}" for layer, reason in self.left_out.items())
            raise TruncateError(f"none of the layers gives a vector for each example: {reasons}. Name others in at=")


def _unusable(value: Any, rows: int) -> str:
    """Why a value gives no vector for each example; empty if it does."""
    if not isinstance(value, Tensor):
        return f"returns a {type(value).__name__}"
    if not value.is_floating_point():
        return f"returns {str(value.dtype).removeprefix('torch.')}"
    if value.dim() < 2 or value.dim() > 5 or len(value) != rows:
        return f"returns {shape_text(shape_of(value))}, which is not one vector or map for each of {rows} examples"
    return ""


def _pools(value: Tensor) -> list[str | None]:
    """How a value may be pooled, by its shape: maps by their mean, tokens by the first of them and by their mean."""
    if value.dim() == 2:
        return [None]
    if value.dim() == 3:
        return ["cls", "mean"]
    sizes = value.shape[1:]
    return ["mean" if len(set(sizes[:-1])) == 1 and sizes[0] < sizes[-1] else "avg"]  # channels last, or first


class _Clock:
    """Takes the time at which each layer is there, in each batch."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._begun: Any = None
        self._marks: dict[str, Any] = {}
        self._batches: list[tuple[Any, dict[str, Any], int]] = []

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self) -> None:
        self._begun, self._marks = self._now(), {}

    def mark(self, layer: str) -> None:
        self._marks[layer] = self._now()

    def finish(self, rows: int) -> None:
        self._batches.append((self._begun, self._marks, rows))

    def milliseconds(self, layer: str) -> float | None:
        """For one example: the median of all batches, without the first, in which memory is found."""
        if self._on_gpu:
            torch.cuda.synchronize()
        measured = self._batches[1:] or self._batches
        times = [self._between(begun, marks[layer]) / rows for begun, marks, rows in measured if layer in marks]
        return statistics.median(times) if times else None

    def _between(self, begun: Any, ended: Any) -> float:
        return begun.elapsed_time(ended) if self._on_gpu else 1000 * (ended - begun)
