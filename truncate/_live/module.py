"""Modules that keep their own Python: a live part is entered at its top, and left where the last target has run."""

from __future__ import annotations

import abc
import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from truncate._errors import TruncateError
from truncate._graph import tensors_in
from truncate._live.parts import Part, Pass, Stop, pass_of, passes
from truncate._python import slots_of, while_used
from truncate._target import headline


class Taps:
    """A hook that takes values of one module: what it returns, or what it is given.

    A hook, since forwards ask their children for their class and for hooks, and run in another way if there is one.
    """

    def __init__(self, takers: tuple[tuple[Part, int], ...]) -> None:
        self.takers = takers  # parts and numbers of their values; a cut that was cut again has several, outermost first


class TapsAfter(Taps):
    def __call__(self, module: nn.Module, args: Any, kwargs: Any, value: Any) -> Any:
        for part, number in self.takers:
            live_pass = pass_of(part)
            if live_pass is not None:
                value = live_pass.take(number, value, (args, kwargs), module)
        return value


class TapsBefore(Taps):
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        for part, number in self.takers:
            live_pass = pass_of(part)
            if live_pass is not None:
                args, kwargs = _with_given(live_pass, number, module, args, kwargs)
        return args, kwargs


def tap(module: nn.Module, part: Part, numbers: tuple[int, ...], before: bool) -> None:
    """Lets a part take values of a module of its own: after all other hooks, or before all of them."""
    hooks = module._forward_pre_hooks if before else hooks_on_result(module)
    known = next((key for key, hook in hooks.items() if isinstance(hook, Taps)), None)
    takers = tuple((part, number) for number in numbers)
    if known is not None:
        takers += hooks.pop(known).takers  # type: ignore[attr-defined]
    if before:
        module.register_forward_pre_hook(TapsBefore(takers), prepend=True, with_kwargs=True)
    else:
        module.register_forward_hook(TapsAfter(takers), with_kwargs=True)


def is_tapped(module: nn.Module, part: Part, numbers: tuple[int, ...] = ()) -> bool:
    """Whether a part takes values of a module: if numbers are given, one of these."""
    hooks: list[Any] = [*hooks_on_result(module).values(), *module._forward_pre_hooks.values()]
    takers = [taker for hook in hooks if isinstance(hook, Taps) for taker in hook.takers]
    return any(taker is part and (not numbers or number in numbers) for taker, number in takers)


def hooks_on_result(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks that are given what a module returns; where it is a live one, this is what the part hands out."""
    hooks: dict[int, Callable[..., Any]] = vars(module).get("_truncate_hooks", module._forward_hooks)
    return hooks


class Live:
    """What the module at the top of a live part does besides what its class does."""

    _truncate_parts: list[Part] | None = None  # a cut that was cut again has several; the last is the outermost
    _truncate_hooks: OrderedDict[int, Callable[..., Any]]  # those of the model's own are given its own output
    _truncate_hooks_with_kwargs: OrderedDict[int, bool]
    _live_kind: type[nn.Module]  # the class of the model's

    def __init_subclass__(cls) -> None:
        """Ends here: a class that registers its subclasses must not see one that nobody wrote."""

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return _run(self, super()._call_impl, args, kwargs)  # type: ignore[misc]

    def register_forward_hook(
        self, hook: Any, *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        handle = RemovableHandle(self._truncate_hooks, extra_dict=self._truncate_hooks_with_kwargs)
        self._truncate_hooks[handle.id] = hook
        if with_kwargs:
            self._truncate_hooks_with_kwargs[handle.id] = True
        if prepend:
            self._truncate_hooks.move_to_end(handle.id, last=False)
        return handle

    def _no_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        raise TruncateError(
            "a live cut takes no backward hooks, since its forward does not return. Register them on the modules "
            "inside, or on nn.Sequential(cut)"
        )

    register_full_backward_hook = register_full_backward_pre_hook = register_backward_hook = _no_backward_hook

    def extra_repr(self) -> str:
        own: str = super().extra_repr()  # type: ignore[misc]
        return "\n".join(filter(None, [headline(self), own, *map(describe, self._truncate_parts or ())]))

    def __prepare_scriptable__(self) -> Any:
        raise TruncateError(
            f"torch.jit.script cannot compile {type(self).__name__}, which keeps the Python of the model as it is. "
            f"Cut the model on an example, args=(x,) with live=False, or use torch.jit.trace, torch.export or "
            f"torch.compile"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What the class of the model gives, to be made live again: nobody could import the class made here."""
        make, args, *rest = as_plain(self).__reduce_ex__(protocol)
        state, *items = rest or [None]
        ours = {name: value for name, value in vars(self).items() if name.startswith("_truncate_")}
        return _make_live, (make, args), (ours, state), *items

    def __setstate__(self, state: Any) -> None:
        ours, own = state
        if own is not None:
            super().__setstate__(own)  # type: ignore[misc]
        self.__dict__.update(ours)  # here, since a class may make its attributes anew from what it kept of them


def is_live(module: nn.Module) -> bool:
    """Whether a module is the top of a live part."""
    return isinstance(module, Live)


class LiveCall:
    """For a class that has a `__call__` of its own: what this does after the forward is not done to a target."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _run(self, super().__call__, args, kwargs)  # type: ignore[misc]


class LiveDeepcopy:
    """For a class that has a `__deepcopy__` of its own, which may make a whole model of a cut."""

    def __deepcopy__(self, memo: Any) -> Any:
        made = super().__deepcopy__(memo)  # type: ignore[misc]
        if vars(made).get("_truncate_parts") is None:
            raise _lost(made)
        return made


class LiveGraph(nn.Module):
    """For a class whose forward torch writes from a graph."""

    _graph: torch.fx.Graph

    @property
    def graph(self) -> torch.fx.Graph:
        return self._graph


def as_plain(module: Any) -> Any:
    """A module of the model's class with the very state of a live one."""
    plain = object.__new__(module._live_kind)
    plain.__dict__ = module.__dict__
    for slot in slots_of(module._live_kind):
        with contextlib.suppress(AttributeError):  # nothing is there
            slot.__set__(plain, slot.__get__(module))
    return plain


def _lost(module: Any) -> TruncateError:
    return TruncateError(
        f"this {type(module).__name__} was made from a live cut by code of its class, such as __reduce__, __deepcopy__ "
        f"or type(self)(...), which did not keep where the cut ends"
    )


def _run(module: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Calls a live module: it is entered, unless it calls itself, and hooks on the cut see what is handed out."""
    parts = module._truncate_parts
    if parts is None:
        raise _lost(module)
    if pass_of(parts[-1]) is not None:
        return call(*args, **kwargs)
    for part in parts:
        call = functools.partial(_enter, part, module, call)
    value = call(*args, **kwargs)
    for key, hook in list(module._truncate_hooks.items()):
        given = (args, kwargs) if key in module._truncate_hooks_with_kwargs else (args,)
        changed = hook(module, *given, value)
        if changed is not None:
            value = changed
    return value


def describe(part: Part) -> str:
    """A part in words, for whoever prints the module."""
    stops, said = [], ""
    for wanted in part.wanted:
        word = "before " if wanted.before else "up to "
        text = (word if word != said else "") + repr(wanted.text)
        said = word
        if wanted.is_last_by_luck and wanted.call == -1:
            first = wanted.text + ":0"
            text += f" (its last call, so the forward runs to its end; {first!r} stops at the first)"
        stops.append(text)
    state = "; it keeps state from call to call, so the forward runs to its end" if part.keeps_state else ""
    return f"live: its own Python, {', '.join(stops)}{state}"


def _enter(part: Part, module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs the forward of a part until all that is wanted is there."""
    if not torch.compiler.is_compiling():
        _put_taps(part, module)
    live_pass = Pass(part, module)
    passes.under_way.append(live_pass)
    restore = _module_stack_of_export()
    own = None
    try:
        own = call(*args, **kwargs)
    except Stop as stop:
        if stop.live_pass is not live_pass:
            raise
        if restore is not None:
            restore()
    except Exception:
        if not live_pass.is_left:
            raise  # else this is what the forward has made of our own exception
    finally:
        passes.under_way.pop()
    return live_pass.hand_out(own)


def _put_taps(part: Part, module: nn.Module) -> None:
    """Puts back hooks of ours that a copy has lost, and hooks that were added meanwhile before ours."""
    for path, before, numbers in part.tapped:
        inside: Any = module
        for name in path.split("."):
            inside = inside._modules[name]
        if not is_tapped(inside, part):
            if any(is_tapped(other, part, numbers) for other in module.modules()):
                continue  # the forward has given it another name
            tap(inside, part, numbers, before)
        hooks: Any = hooks_on_result(inside)
        if not before and not isinstance(hooks[next(reversed(hooks))], Taps):
            for key in [key for key, hook in hooks.items() if isinstance(hook, Taps)]:
                hooks.move_to_end(key)


def _with_given(
    live_pass: Pass, number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Takes what a target is given: its one argument that holds tensors, or a tuple of all of them."""
    everything = [*args, *kwargs.values()]
    at = [i for i, value in enumerate(everything) if next(tensors_in(value), None) is not None]
    at = at or list(range(len(everything)))
    values = tuple([everything[i] for i in at])
    went_on = live_pass.take(number, values[0] if len(values) == 1 else values, (), module)
    for i, value in zip(at, (went_on,) if len(values) == 1 else went_on):
        everything[i] = value
    return tuple(everything[: len(args)]), dict(zip(kwargs, everything[len(args) :]))


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


def live_class(kind: Any) -> Any:
    """The class of live modules of a class, by the same name."""
    return kind if issubclass(kind, Live) else _made_live(kind)


@while_used
def _made_live(kind: Any) -> Any:
    written = {name: value for name, value in vars(kind).items() if name in _WHERE_IT_IS_WRITTEN}
    if issubclass(kind, torch.fx.GraphModule):  # which is taken for its graph alone, where modules are copied or traced
        return type(kind.__name__, (Live, LiveGraph), {**written, "_live_kind": kind, "forward": kind.forward})
    own: list[type] = [LiveCall] if kind.__call__ is not nn.Module.__call__ else []
    own += [LiveDeepcopy] if hasattr(kind, "__deepcopy__") else []
    # The metaclass of a model may note each class that it makes, or ask for arguments: it is not run.
    new = abc.ABCMeta.__new__ if issubclass(type(kind), abc.ABCMeta) else type.__new__
    return new(type(kind), kind.__name__, (*own, Live, kind), {**written, "_live_kind": kind})


def _make_live(make: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    made = make(*args)
    made.__class__ = live_class(type(made))
    made.__dict__["_truncate_parts"] = None  # of which the state of the copy knows more
    return made


_WHERE_IT_IS_WRITTEN = ("__module__", "__qualname__", "__doc__", "__firstlineno__")  # the last since Python 3.13
