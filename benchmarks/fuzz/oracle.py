"""What forward hooks on the untouched model see: the one thing that every result is compared with."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.fuzz.author import PROBES
from benchmarks.fuzz.cuts import Run, call_of


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in _items(value) for tensor in tensors_in(item)]


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return list(value) if isinstance(value, (list, tuple)) else []


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of nested tensors, each of them changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        items = [mapped(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        return type(value)((key, mapped(item, change)) for key, item in value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for field in dataclasses.fields(value):
            setattr(twin, field.name, mapped(getattr(value, field.name), change))
        return twin
    return value


def cloned(value: Any) -> Any:
    return mapped(value, Tensor.clone)


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are of the same kinds, and hold the same tensors bit for bit."""
    if isinstance(one, Tensor):
        return (
            isinstance(other, Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and (torch.equal(one, other) or one.is_floating_point() and torch.equal(_bits(one), _bits(other)))
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and list(one) != list(other):
        return False
    ones, others = _items(one), _items(other)
    if ones or others:
        return len(ones) == len(others) and all(map(same, ones, others))
    return isinstance(one, (list, tuple, dict)) or bool(one == other)


def _bits(value: Tensor) -> Tensor:
    """The same for every value that is not a number."""
    return torch.stack([value.isnan(), value.nan_to_num()])


@dataclasses.dataclass
class Tap:
    """The gradients at a value that a target returned, as they come."""

    tensor: Tensor | None = None
    gradients: list[Tensor] = dataclasses.field(default_factory=list)
    shared: bool = False  # whether something else holds the same memory; a cut may then hand out a clone

    def watch(self, tensor: Tensor, others: Iterable[Tensor]) -> None:
        tensor.register_hook(self.gradients.append)
        self.tensor = tensor
        for other in others:
            self.compare(other)

    def compare(self, other: Tensor) -> None:
        if self.tensor is not None and self.tensor.untyped_storage()._cdata == other.untyped_storage()._cdata:
            self.shared = True


class Stop(BaseException):
    """Ends a pass after the last target, as a cut ends. A forward that catches errors does not catch it."""


class Watch(ExitStack):
    """Captures what the targets return, or are given, in one pass; each call of each."""

    def __init__(self, model: nn.Module, targets: Iterable[str], before: bool, last: int | None = None) -> None:
        super().__init__()
        self.calls: dict[str, list[Any]] = {target.partition(":")[0]: [] for target in targets}
        self.taps: dict[str, list[Tap]] = {path: [] for path in self.calls}
        self.events: list[str] = []
        self.last = last  # the event after which the pass is stopped
        self.before = before
        modules = dict(model.named_modules(remove_duplicate=False))
        for path in self.calls:
            if path in modules:
                self._hook(path, modules[path])
        if any(path not in modules for path in self.calls):
            self.enter_context(_Operations(model, self))
        self.enter_context(_Sharing(self))

    def _hook(self, path: str, module: nn.Module) -> None:
        def out(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tap = Tap()
            for tensor in tensors_in(output)[:1]:
                if tensor.requires_grad:
                    before = [tap.tensor for taps in self.taps.values() for tap in taps if tap.tensor is not None]
                    tap.watch(tensor, [*tensors_in([list(args), kwargs]), *before])
            self.see(path, output, tap)

        def given(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.see(path, tensors_in([list(args), kwargs]), Tap())

        if self.before:
            handle = module.register_forward_pre_hook(given, with_kwargs=True, prepend=True)
        else:
            handle = module.register_forward_hook(out, with_kwargs=True)
        self.callback(handle.remove)

    def see(self, path: str, value: Any, tap: Tap) -> None:
        if self.last is not None and len(self.events) > self.last:
            return
        with torch.enable_grad():  # a value from outside of a block without gradients has one
            self.calls[path].append(cloned(value))
        self.taps[path].append(tap)
        self.events.append(path)
        if self.last is not None and len(self.events) > self.last:
            raise Stop

    def counted(self, target: str) -> str:
        """The target with its call counted from the first one, as a pass that is stopped sees no later ones."""
        path, _, call = target.partition(":")
        calls, index = len(self.calls[path]), int(call or -1)
        return f"{path}:{index + calls if index < 0 else index}" if -calls <= index < calls else target

    def event_of(self, target: str) -> int | None:
        """The number of the event that a target names; None if it has not come."""
        path, _, call = target.partition(":")
        numbers = [n for n, event in enumerate(self.events) if event == path]
        index = int(call or -1)
        return numbers[index] if -len(numbers) <= index < len(numbers) else None

    def end_of(self, targets: Iterable[str]) -> int | None:
        """The number of the event with which all targets have run; None if one has not."""
        events = [self.event_of(target) for target in targets]
        return None if None in events else max(event for event in events if event is not None)


class _Operations(TorchFunctionMode):
    """Captures what some functions of torch return, by the module in whose forward they are called."""

    def __init__(self, model: nn.Module, watch: Watch) -> None:
        super().__init__()
        self.watch, self.within = watch, [""]
        for path, module in model.named_modules():
            handles = [
                module.register_forward_pre_hook(lambda m, args, path=path: self.within.append(path)),
                module.register_forward_hook(lambda m, args, out: self.within.pop() and None, always_call=True),
            ]
            for handle in handles:
                watch.callback(handle.remove)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if getattr(function, "__name__", "") in PROBES:
            path = f"{self.within[-1]}.{function.__name__}".lstrip(".")
            if path in self.watch.calls:
                self.watch.see(path, tensors_in([list(args), kwargs]) if self.watch.before else result, Tap())
        return result


class _Sharing(TorchFunctionMode):
    """Tells the taps of views that are made of what they watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if isinstance(result, Tensor):
            for tap in [tap for taps in self.watch.taps.values() for tap in taps]:
                if result is not tap.tensor:
                    tap.compare(result)
        return result


@dataclasses.dataclass
class Seen:
    """What one pass of the untouched model shows."""

    watch: Watch
    inputs: list[Tensor]  # after the pass
    error: BaseException | None = None
    stopped: bool = False

    def value(self, target: str) -> Any:
        path, _, call = target.partition(":")
        return self.watch.calls[path][int(call or -1)]

    def tap(self, target: str) -> Tap:
        path, _, call = target.partition(":")
        return self.watch.taps[path][int(call or -1)]


def observe(model: nn.Module, run: Run, targets: Iterable[str], before: bool, last: int | None = None) -> Seen:
    """One pass of a model, watched, and stopped after an event if `last` says so."""
    run.set_mode(model)
    inputs = run.inputs()
    given = [tensor.clone() for tensor in inputs] if run.gradients else inputs  # a leaf is not changed in place
    torch.manual_seed(run.content)
    with Watch(model, targets, before, last) as watch:
        seen = Seen(watch, inputs)
        args, kwargs = call_of(given)
        try:
            model(*args, **kwargs)
        except Stop:
            seen.stopped = True
        except Exception as error:
            seen.error = error
    return seen
