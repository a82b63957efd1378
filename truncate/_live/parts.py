"""What a live part of a cut hands out, and one pass through it, which keeps the values until they are all there."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from typing import Any, NamedTuple

import torch
from torch import nn

from truncate._errors import NotReachedError, TruncateError
from truncate._graph import join, map_nested, memory_of, tensors_in
from truncate._target import item_of, keys_of, only_holds_layers


class Stop(BaseException):
    """Leaves the forwards of a live part. It is no `Exception`: a forward that catches errors lets it pass."""

    def __init__(self, live_pass: Pass) -> None:
        self.live_pass = live_pass


class Unless(NamedTuple):
    """A branch that may run the module again. It is not taken while one of these attributes of `owner` is false."""

    owner: str  # path
    attributes: tuple[str, ...]


class Once(NamedTuple):
    """What shows that one call of a module runs another one at most once."""

    unless: tuple[Unless, ...] = ()
    in_turn: tuple[nn.Module, ...] = ()  # containers on the path whose items run one after the other, and only so

    def holds(self, root: nn.Module) -> bool:
        """Whether that is so in a call of `root` now: no attribute leads into a branch that may run the other again."""
        owners = [(root.get_submodule(unless.owner), unless.attributes) for unless in self.unless]
        return not any(all(getattr(owner, name) for name in attributes) for owner, attributes in owners)


@dataclasses.dataclass(eq=False)
class Wanted:
    """A value that a live part hands out: what a target returns, or is given, in one of its calls."""

    text: str  # the target as it was written
    call: int
    before: bool
    once: Once | None  # what shows that it runs once a pass; None: it may run again

    @property
    def is_last_by_luck(self) -> bool:
        """Whether the forward has to run to its end to know which call was the last."""
        return self.call < -1 or (self.call == -1 and self.once is None)


@dataclasses.dataclass(eq=False)
class Part:
    """What is handed out by a live part of a cut: its own output if `own`, then each wanted value."""

    path: str  # of its module in the model
    wanted: list[Wanted]
    own: bool
    to_end: bool  # its forward runs to its end in any case
    result: Any = None  # nested containers with the numbers of values in place of them; None: a tuple of all
    numbers: tuple[int, ...] = ()  # of the wanted values in `result`; all others are the module's own output
    tapped: tuple[tuple[str, bool, tuple[int, ...]], ...] = ()  # paths of targets, whether before them, and numbers
    then: tuple[str, ...] = ()  # children through which each value of `result` is passed in turn
    keeps_state: bool = False  # it runs to its end since it changes what its next call reads

    @property
    def ends(self) -> bool:
        """Whether its forward is left when all values are there, in all cases that its source shows."""
        return not self.to_end and not any(wanted.is_last_by_luck for wanted in self.wanted)


class Pass:
    """One call of a live part."""

    def __init__(self, part: Part, module: nn.Module) -> None:
        self.part = part
        self.module = module
        self.values: list[list[Any]] = [[] for _ in part.wanted]
        self.counts = [0] * len(part.wanted)
        self.is_final = [False] * len(part.wanted)
        self.is_left = False  # whether the exception was raised that should have ended the forward
        self._as_left: list[tuple[torch.Tensor, int]] = []  # values that were not copied, and their versions

    def take(self, number: int, value: Any, given: Any, module: nn.Module) -> Any:
        """Keeps a value of a module if it is the one that is wanted, and returns what the forward goes on with."""
        wanted, count = self.part.wanted[number], self.counts[number]
        self.counts[number] = count + 1
        if not self.is_final[number] and (wanted.call < 0 or wanted.call == count):
            final = wanted.call >= 0 or (
                wanted.call == -1 and self._runs_once(wanted) and not _is_inside_itself(module)
            )
            self.is_final[number] = final
            if final and not self.part.to_end and all(self.is_final):
                self.values[number] = [value]
                raise self._leave(value)
            kept, value = _apart(value, given)
            # With -2 the last but one is wanted, so that two are kept, and so on.
            self.values[number] = [*self.values[number], kept][min(wanted.call, -1) :]
        elif not self.part.to_end and all(self.is_final):  # the forward caught what should have ended it
            raise self._leave()
        return value

    def _leave(self, value: Any = None) -> Stop:
        """What ends the forward. Should it still change the value, in a `finally`, this is noticed."""
        self.is_left = True
        if not torch.compiler.is_compiling():
            tensors = [tensor for tensor in tensors_in(value) if not tensor.is_inference()]
            self._as_left += [(tensor, tensor._version) for tensor in tensors]
        return Stop(self)

    def _runs_once(self, wanted: Wanted) -> bool:
        return wanted.once is not None and wanted.once.holds(self.module)

    def hand_out(self, own: Any) -> Any:
        """What the call returns, if its module would have returned `own`."""
        if any(tensor._version != version for tensor, version in self._as_left):
            raise TruncateError(
                "the forward continues after the target, in a finally or an except, and changes its value in place. "
                "Cut it on an example with live=False, or add the output of the model to the targets"
            )
        for number, wanted in enumerate(self.part.wanted):
            enough = -wanted.call if wanted.call < 0 else 1
            if len(self.values[number]) < enough:
                raise self._not_reached(number, wanted)
        by_number = {number: kept[0] for number, kept in zip(self.part.numbers, self.values)}
        if self.part.result is not None:
            return map_nested(self.part.result, lambda number: self._finished(by_number.get(number, own), number))
        values = [*map(self._finished, [own] * self.part.own + [*by_number.values()])]
        return values[0] if len(values) == 1 else tuple(values)

    def _finished(self, value: Any, number: int = 0) -> Any:
        value = item_of(value, keys_of(number))
        for name in self.part.then:
            value = self.module._modules[name](value)  # type: ignore[misc]
        return value

    def _not_reached(self, number: int, wanted: Wanted) -> NotReachedError:
        count = self.counts[number]
        if count:
            times = "once" if count == 1 else f"{count} times"
            return NotReachedError(f"{wanted.text!r}: this call of the model ran it {times}")
        below = next((below for below, _, numbers in self.part.tapped if number in numbers), "")
        reason = None
        with contextlib.suppress(AttributeError):  # the forward may have renamed it
            reason = only_holds_layers(wanted.text, join(self.part.path, below), self.module.get_submodule(below))
        return NotReachedError(
            reason
            or f"{wanted.text!r} was not run in this call of the model. Perhaps another mode, input or option runs it, "
            f"or its forward is called directly, which no hook sees either"
            + f"; or it runs after {self.part.path!r} has returned, and then live=True helps" * bool(self.part.path)
        )


class _Passes(threading.local):
    """The passes through live parts that are under way in this thread, the innermost last."""

    def __init__(self) -> None:
        self.under_way: list[Pass] = []


passes = _Passes()


def pass_of(part: Part) -> Pass | None:
    """The pass through a part; None where a module is called outside of one, as in a backward that computes anew."""
    for live_pass in reversed(passes.under_way):
        if live_pass.part is part:
            return live_pass
    return None


def _is_inside_itself(module: nn.Module) -> bool:
    """Whether the call of a module that has just run is a part of another call of that module, which ends later."""
    if torch.compiler.is_compiling():  # which has no frames, so that only what the source shows is known
        return False
    calls, frame = 0, sys._getframe(1)
    while frame is not None and calls < 2:
        calls += frame.f_code is _CALL and frame.f_locals.get("self") is module
        frame = frame.f_back  # type: ignore[assignment]
    return calls > 1


_CALL = nn.Module._call_impl.__code__


def _apart(value: Any, given: Any) -> tuple[Any, Any]:
    """A value to be handed out, and the same value for the forward to go on with, which may change it in place.

    Fresh memory is handed out itself, so that gradients flow from what follows to it, and its copy goes on. Memory
    that was there before, or that several tensors of the value share, is known by other names too, so that it has to
    go on itself, and its copy is handed out.
    """
    if torch.compiler.is_compiling():  # where memory cannot be asked for
        return map_nested(value, _cloned), value
    known = {memory_of(tensor) for tensor in tensors_in(given)}
    own = [memory_of(tensor) for tensor in tensors_in(value)]
    is_fresh = bool(given) and known.isdisjoint(own) and len(set(own)) == len(own)  # else copies would be apart
    is_fresh = is_fresh and not any(isinstance(tensor, nn.Parameter) for tensor in tensors_in(value))
    return (value, map_nested(value, _cloned)) if is_fresh else (map_nested(value, _cloned), value)


def _cloned(item: Any) -> Any:
    if not isinstance(item, torch.Tensor):
        return item
    with contextlib.nullcontext() if torch.is_grad_enabled() else torch.enable_grad():
        return item.clone()  # in a block without gradients too, where a value from outside of it has one
