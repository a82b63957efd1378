"""Modules that keep their own Python: a live part is entered at its top, and left where the last target has run."""

from __future__ import annotations

import dataclasses
import functools
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from truncate._errors import NotReachedError, TruncateError
from truncate._graph import map_nested, memory_of, tensors_in
from truncate._live.once import Once


class Stop(BaseException):
    """Leaves the forwards of a live part. It is no `Exception`: a forward that catches errors lets it pass."""

    def __init__(self, live_pass: Pass) -> None:
        self.live_pass = live_pass


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
    then: tuple[str, ...] = ()  # children through which each value of `result` is passed in turn

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

    def take(self, number: int, value: Any, given: Any) -> Any:
        """Keeps a value if it is the one that is wanted, and returns what the forward goes on with."""
        wanted, count = self.part.wanted[number], self.counts[number]
        self.counts[number] = count + 1
        if not self.is_final[number] and (wanted.call < 0 or wanted.call == count):
            final = wanted.call >= 0 or (wanted.call == -1 and self._runs_once(wanted))
            self.is_final[number] = final
            if final and not self.part.to_end and all(self.is_final):
                self.values[number] = [value]
                raise Stop(self)
            kept, value = _apart(value, given)
            # With -2 the last but one is wanted, so that two are kept, and so on.
            self.values[number] = [*self.values[number], kept][min(wanted.call, -1) :]
        elif not self.part.to_end and all(self.is_final):  # the forward caught what should have ended it
            raise Stop(self)
        return value

    def _runs_once(self, wanted: Wanted) -> bool:
        if wanted.once is None:
            return False
        for unless in wanted.once.unless:
            owner: Any = self.module
            for name in unless.owner.split(".") if unless.owner else ():
                owner = owner._modules[name]
            if all(getattr(owner, name) for name in unless.attributes):
                return False
        return True

    def hand_out(self, own: Any) -> Any:
        """What the call returns, if its module would have returned `own`."""
        for number, wanted in enumerate(self.part.wanted):
            enough = -wanted.call if wanted.call < 0 else 1
            if len(self.values[number]) < enough:
                raise self._not_reached(number, wanted)
        taken = [kept[0] for kept in self.values]
        by_number = dict(zip(self.part.numbers, map(self._finished, taken)))
        if self.part.own:
            own = self._finished(own)
        if self.part.result is not None:
            return map_nested(self.part.result, lambda number: by_number.get(number, own))
        values = [own, *by_number.values()] if self.part.own else [*by_number.values()]
        return values[0] if len(values) == 1 else tuple(values)

    def _finished(self, value: Any) -> Any:
        for name in self.part.then:
            value = self.module._modules[name](value)  # type: ignore[misc]
        return value

    def _not_reached(self, number: int, wanted: Wanted) -> NotReachedError:
        count = self.counts[number]
        if count:
            times = "once" if count == 1 else f"{count} times"
            return NotReachedError(f"{wanted.text!r}: this call of the model ran it {times}")
        return NotReachedError(
            f"{wanted.text!r} was not run in this call of the model. Perhaps another mode, input or option runs it, "
            f"or its forward is called directly, which no hook sees either"
        )


class _Passes(threading.local):
    """The passes through live parts that are under way in this thread, the innermost last."""

    def __init__(self) -> None:
        self.under_way: list[Pass] = []


_passes = _Passes()


@dataclasses.dataclass(eq=False)
class Role:
    """What a live module is in one cut: where a part is entered, or the target of some values, or both."""

    part: Part
    is_entry: bool = False
    taps: tuple[int, ...] = ()  # numbers of the values that are its output
    taps_before: tuple[int, ...] = ()  # and of those that are what it is given


class Live:
    """What a live module does besides what its class does."""

    _truncate_roles: list[Role]  # a cut that was cut again has several; the last is that of the outermost cut
    _live_kind: type[nn.Module]  # the class of the model's

    def __init_subclass__(cls) -> None:
        """Ends here: a class that registers its subclasses must not see one that nobody wrote."""

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:  # in place of __call__, which a class may have of its own
        call = super()._call_impl  # type: ignore[misc]
        for role in reversed(self._truncate_roles):
            for number in role.taps_before:
                live_pass = _pass_of(role.part)
                if live_pass is not None:
                    args, kwargs = _with_given(live_pass, number, args, kwargs)
        for role in self._truncate_roles:
            if role.is_entry:
                call = functools.partial(_enter, role.part, self, call)  # type: ignore[arg-type]
        value = call(*args, **kwargs)
        for role in reversed(self._truncate_roles):
            for number in role.taps:
                live_pass = _pass_of(role.part)
                if live_pass is not None:
                    value = live_pass.take(number, value, (args, kwargs))
        return value

    def extra_repr(self) -> str:
        own: str = super().extra_repr()  # type: ignore[misc]
        lines = [describe(role.part) for role in self._truncate_roles if role.is_entry]
        return "\n".join(filter(None, [own, *lines]))

    def __prepare_scriptable__(self) -> Any:
        raise TruncateError(
            f"torch.jit.script cannot compile {type(self).__name__}, which keeps the Python of the model as it is. "
            f"Cut the model on an example, args=(x,) with live=False, or use torch.jit.trace, torch.export or "
            f"torch.compile"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What the class of the model gives, to be made live again: nobody could import the class made here."""
        plain: Any = object.__new__(self._live_kind)
        plain.__dict__ = self.__dict__
        make, args, *rest = plain.__reduce_ex__(protocol)
        state, *items = rest or [None]
        return _make_live, (make, args), (self._truncate_roles, state), *items

    def __setstate__(self, state: Any) -> None:
        roles, own = state
        super().__setstate__(own)  # type: ignore[misc]
        self._truncate_roles = roles  # here, since a class may make its attributes anew from what it kept of them


def describe(part: Part) -> str:
    """A part in words, for whoever prints the module."""
    stops = []
    for wanted in part.wanted:
        text = f"before {wanted.text!r}" if wanted.before else repr(wanted.text)
        if wanted.is_last_by_luck and wanted.call == -1:
            first = wanted.text + ":0"
            text += f" (its last call, so the forward runs to its end; {first!r} stops at the first)"
        stops.append(text)
    return f"live: its own Python, up to {', '.join(stops)}"


def _enter(part: Part, module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs the forward of a part until all that is wanted is there."""
    live_pass = Pass(part, module)
    _passes.under_way.append(live_pass)
    restore = _module_stack_of_export()
    own = None
    try:
        own = call(*args, **kwargs)
    except Stop as stop:
        if stop.live_pass is not live_pass:
            raise
        if restore is not None:
            restore()
    finally:
        _passes.under_way.pop()
    return live_pass.hand_out(own)


def _pass_of(part: Part) -> Pass | None:
    """The pass through a part; None where a module is called outside of one, as in a backward that computes anew."""
    for live_pass in reversed(_passes.under_way):
        if live_pass.part is part:
            return live_pass
    return None


def _with_given(
    live_pass: Pass, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Takes what a target is given: its one argument that holds tensors, or a tuple of all of them."""
    everything = [*args, *kwargs.values()]
    at = [i for i, value in enumerate(everything) if next(tensors_in(value), None) is not None]
    at = at or list(range(len(everything)))
    values = tuple([everything[i] for i in at])
    went_on = live_pass.take(number, values[0] if len(values) == 1 else values, ())
    for i, value in zip(at, (went_on,) if len(values) == 1 else went_on):
        everything[i] = value
    return tuple(everything[: len(args)]), dict(zip(kwargs, everything[len(args) :]))


def _apart(value: Any, given: Any) -> tuple[Any, Any]:
    """A value to be handed out, and the same value for the forward to go on with, which may change it in place.

    Fresh memory is handed out itself, so that gradients flow from what follows to it, and its copy goes on. Memory
    that was there before is known by other names too, so that it has to go on itself, and its copy is handed out.
    """
    if torch.compiler.is_compiling():  # where memory cannot be asked for
        return map_nested(value, _cloned), value
    known = {memory_of(tensor) for tensor in tensors_in(given)}
    is_fresh = bool(given) and known.isdisjoint(map(memory_of, tensors_in(value)))
    is_fresh = is_fresh and not any(isinstance(tensor, nn.Parameter) for tensor in tensors_in(value))
    return (value, map_nested(value, _cloned)) if is_fresh else (map_nested(value, _cloned), value)


def _cloned(item: Any) -> Any:
    return item.clone() if isinstance(item, torch.Tensor) else item


def _module_stack_of_export() -> Callable[[], None] | None:
    """Puts right what torch.export notes of calls that an exception leaves: it expects that every call returns."""
    if torch.compiler.is_dynamo_compiling() or not torch.compiler.is_compiling():
        return None
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    tracer = getattr(get_proxy_mode(), "tracer", None)
    stack = getattr(tracer, "module_stack", None)
    if stack is None:
        return None
    depth = len(stack)

    def restore() -> None:
        while len(stack) > depth:
            stack.popitem()

    return restore


# -- its class ---------------------------------------------------------------------------------------------------------


_classes: weakref.WeakKeyDictionary[type, weakref.ref[type]] = weakref.WeakKeyDictionary()


def live_class(kind: Any) -> Any:
    """The class of live modules of a class, by the same name."""
    if issubclass(kind, Live):
        return kind
    known = _classes.get(kind)
    made = known() if known is not None else None
    if made is None:
        written = {name: value for name, value in vars(kind).items() if name in _WHERE_IT_IS_WRITTEN}
        made = types.new_class(kind.__name__, (Live, kind), {}, lambda space: space.update(written, _live_kind=kind))
        _classes[kind] = weakref.ref(made)
    return made


def _make_live(make: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    made = make(*args)
    made.__class__ = live_class(type(made))
    return made


_WHERE_IT_IS_WRITTEN = ("__module__", "__qualname__", "__doc__", "__firstlineno__")  # the last since Python 3.13
