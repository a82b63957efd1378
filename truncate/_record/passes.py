"""One pass of a model on an example, in which the forwards that cannot be followed are recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from truncate._errors import CannotFollowError
from truncate._follow import PLAIN, explain
from truncate._graph import Body, Call, Kind, Node, descend, join, map_nested, tensors_in
from truncate._record.recording import Recording
from truncate._sandbox import UNCHANGING, Example, call_model, ghost_of, twins, watch
from truncate._target import Spine


class Forwards(Protocol):
    """What a pass asks about the forwards that it comes through."""

    entry: Call
    spine: Spine

    def follow(self, module: nn.Module, path: str, call: Call) -> list[Body]: ...

    def call(self, parent: nn.Module, path: str, node: Node) -> Call: ...


class Pass:
    """One pass of a model on an example, with a recording of each forward that cannot be followed."""

    def __init__(
        self, model: nn.Module, example: Example, spine: Spine, forwards: Forwards, flip: bool, fixes_numbers: bool
    ) -> None:
        self.recorded: dict[tuple[int, str], Body] = {}
        self._forwards = forwards
        self._fixes_numbers = fixes_numbers
        self._calls: list[_Calls] = []
        self._next: tuple[nn.Module, str, Call] | None = (model, "", forwards.entry)
        ghost = ghost_of(model, example.hollow.tensor)
        for original, module in zip(model.modules(), ghost.modules()):
            module.training ^= flip
            if spine.holds(original) or original is model:
                self._take_over(original, module)
        self.calls = [0] * len(spine.targets)  # of each target
        watch(spine.targets, twins(model, ghost), self._count)
        self._found_before = _tensors_of(ghost)
        call_model(ghost, example)

    def _count(self, t: int, value: Any) -> None:
        self.calls[t] += 1

    def _take_over(self, original: nn.Module, ghost: nn.Module) -> None:
        """From now on a call of this module of the spine is seen, and recorded if need be."""
        own = ghost.__dict__.get("forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            entered = self._entered(original)
            if own is None:
                del ghost.__dict__["forward"]
            else:
                ghost.__dict__["forward"] = own
            try:
                return ghost.forward(*args, **kwargs) if entered is None else self._run(*entered, ghost, args, kwargs)
            finally:
                ghost.__dict__["forward"] = forward

        ghost.__dict__["forward"] = forward

    def _entered(self, original: nn.Module) -> tuple[nn.Module, str, Call] | None:
        """Where and how a module of the spine was just called: its parent announced it, or the parent's graph tells."""
        if self._next is not None and self._next[0] is original:
            entered, self._next = self._next, None
            return entered
        return self._calls[-1].next_of(original) if self._calls else None

    def _run(self, module: nn.Module, path: str, call: Call, ghost: nn.Module, args: Any, kwargs: Any) -> Any:
        try:
            bodies = self._forwards.follow(module, path, call)
        except CannotFollowError:
            return self._record(module, path, call, ghost, args, kwargs)
        taken = next(body for body in bodies if _is_taken(body, ghost))
        if taken.failure is not None:
            return self._record(module, path, call, ghost, args, kwargs)
        self._calls.append(_Calls(self._forwards, module, path, taken))
        try:
            return ghost.forward(*args, **kwargs)
        finally:
            self._calls.pop()

    def _record(self, module: nn.Module, path: str, call: Call, ghost: nn.Module, args: Any, kwargs: Any) -> Any:
        def is_wanted(name: str) -> bool:
            return self._forwards.spine.reaches(descend(module, name))

        def call_child(name: str, node: Node | None, args: Any, kwargs: Any) -> Any:
            if node is None:  # behind all targets
                return descend(ghost, name)(*args, **kwargs)
            self._next = (
                descend(module, name),
                join(path, name),
                self._forwards.call(module, path, node),
            )
            try:
                return descend(ghost, name)(*args, **kwargs)
            finally:
                self._next = None

        recording = Recording(ghost, path, call_child, is_wanted, self._found_before, self._fixes_numbers)
        self._calls.append(_Calls(self._forwards, module, path, Body([], None, {})))
        try:
            body, result = recording.run(call, args, kwargs)
        except CannotFollowError:  # a child's
            raise
        except Exception as error:
            raise explain(recording.open_end or error, module, path, recorded=True) from error
        finally:
            self._calls.pop()
        if recording.open_end is not None:
            body.open_end = str(explain(recording.open_end, module, path, recorded=True))
        known = self.recorded.setdefault((id(module), call.key), body)
        if doing(known) != doing(body):
            raise CannotFollowError(
                f"{path!r} ({type(module).__name__}) runs several times in the example and not always the same "
                f"operations, so one rebuilt module cannot serve all its calls. Stop at {path!r} or beside it"
            )
        return result


def doing(body: Body) -> list[Any]:
    """What a recording does, to be compared with another of the same forward."""

    def known(value: Any) -> Any:
        return value.index if type(value) is Node else value if type(value) in PLAIN else type(value)

    def given(node: Node) -> Any:
        return node.args[:1] if node.target is torch._assert else (node.args, node.kwargs)  # not the text of a check

    return [(node.kind, node.target, map_nested(given(node), known)) for node in body.nodes]


def _is_taken(body: Body, module: nn.Module) -> bool:
    """Whether a module as it is now goes that way."""
    return all(descend(module, flag.rpartition(".")[0]).training is value for flag, value in body.modes.items())


class _Calls:
    """The calls of children that the graph of a running forward announces, in order."""

    def __init__(self, forwards: Forwards, module: nn.Module, path: str, body: Body) -> None:
        self._forwards = forwards
        self._module = module
        self._path = path
        self._nodes: dict[int, Iterator[Node]] = {}
        calls: dict[int, list[Node]] = {}
        for node in body.nodes:
            if node.kind is Kind.CHILD:
                calls.setdefault(id(descend(module, node.target)), []).append(node)
        self._nodes = {child: iter(nodes) for child, nodes in calls.items()}

    def next_of(self, child: nn.Module) -> tuple[nn.Module, str, Call] | None:
        node = next(self._nodes.get(id(child), iter(())), None)
        if node is None:
            return None
        path = join(self._path, node.target)
        return child, path, self._forwards.call(self._module, self._path, node)


def _tensors_of(ghost: nn.Module) -> dict[int, torch.Tensor]:
    """The tensors that a forward may find when a pass begins, by id: in attributes and globals, lists and dicts there.

    What is found there later, and was not there before, belongs to this pass, and another one would have another.
    """
    modules = list(ghost.modules())
    files = {type(module).__module__ for module in modules if not type(module).__module__.startswith("torch.")}
    places = [*map(vars, modules), *(vars(sys.modules[name]) for name in files if name in sys.modules)]
    held = [value for place in places for value in list(place.values()) if type(value) not in UNCHANGING]
    return {id(tensor): tensor for tensor in tensors_in(held)}
