"""Every layer and operation of a model where one can stop, in running order.

Its forwards are followed, as `truncate` follows them, from the root down; those that cannot be are recorded on an
example, if there is one.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from truncate._errors import CannotFollowError
from truncate._graph import Call, Graph, Kind, call_of_signature, join, name_of
from truncate._record import Traces
from truncate._sandbox import Example
from truncate._show.sources import sources_of, sources_text
from truncate._target import Target, TargetPaths


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """A module that runs, or an operation of a module's forward: a target for `truncate`."""

    path: str  #: its name as a target
    type: str  #: the class of a module, or the name of an operation's function
    is_module: bool  #: whether it is a module; otherwise it is an operation
    calls: int | None  #: how often it runs in one pass of the model; None if this is unknown (see `after`)
    parameters: int  #: the number of its parameters
    mode: str = ""  #: "training" or "evaluation" if it runs only in that mode, and the model is in the other one
    same_as: str = ""  #: the path under which the same module is already listed
    tied_to: str = ""  #: the path of a module listed before it that shares a parameter with it
    followed: bool = True  #: whether its own forward can be followed; otherwise it is unknown what it runs
    after: str | None = None  #: the path of the module around it whose forward cannot be followed, if there is one
    shape: Any = None  #: with an example input: the shape of its output, in the containers that it returns
    work: int | None = None  #: with an example input: the multiply-adds of all its calls, if they can be counted
    sources: tuple[str, ...] = ()  #: what an operation takes, by names inside its module, if not what is just above it

    @property
    def notes(self) -> str:
        """Remarks about it, as text."""
        notes = [sources_text(self.sources)] if self.sources else []
        notes += [f"{self.calls} calls"] if self.calls is not None and self.calls > 1 else []
        notes += ["not run"] if self.calls == 0 else []
        notes += [f"only in {self.mode}"] if self.mode else []
        notes += [f"the same module as {self.same_as}"] if self.same_as else []
        notes += [f"shares parameters with {self.tied_to}"] if self.tied_to else []
        notes += [UNFOLLOWED] if not self.followed else []
        notes += ["perhaps not run"] if self.calls is None else []
        return ", ".join(notes)


UNFOLLOWED = "forward not followed"


@dataclasses.dataclass
class _Entry:
    """What is known of a layer or operation so far, and what is inside it in running order."""

    module: nn.Module | None  # None: an operation
    type: str
    mode: str
    calls: int = 0
    followed: bool = True
    sources: tuple[str, ...] = ()
    inside: dict[str, _Entry] = dataclasses.field(default_factory=dict)  # by their paths from here

    def walk(self, path: str = "", after: str | None = None) -> Iterator[tuple[str, _Entry, str | None]]:
        """Everything inside, with its path, and the path of the last module around it that cannot be followed."""
        after = after if self.followed else path
        for name, entry in self.inside.items():
            yield join(path, name), entry, after
            yield from entry.walk(join(path, name), after)


# A name below the module, the child or the operation's function, how a child is called, the only mode that does it, and
# what an operation takes.
_Step = tuple[str, nn.Module | str, Call, str, tuple[str, ...]]


class Search:
    """Follows all forwards of a model.

    With an example, those that cannot be followed are recorded. `order` has positions of modules by their paths, as far
    as they ran on it, for those that cannot be recorded either.
    """

    def __init__(
        self, model: nn.Module, example: Example | None = None, order: Mapping[str, int] | None = None
    ) -> None:
        self._root = _Entry(model, "", "")
        inside = [Target(path, path, module) for path, module in model.named_modules() if path and example is not None]
        self._traces = Traces(model, TargetPaths(inside), example)
        self._order = order or {}
        self._running: set[int] = set()  # a module may call itself

    def rows(self) -> list[LayerInfo]:
        self._visit(self._root, "", self._traces.entry, "")
        calls: dict[int, int] = {}  # of each module, under all its paths together
        for _, entry, _ in self._root.walk():
            calls[id(entry.module)] = calls.get(id(entry.module), 0) + entry.calls
        first: dict[int, str] = {}
        owners: dict[int, str] = {}  # of each parameter: the first module that holds it itself
        rows: dict[str, LayerInfo] = {}
        for path, entry, after in self._root.walk():
            module = entry.module
            listed = path if module is None else first.setdefault(id(module), path)
            own = [] if module is None or listed != path else list(map(id, module.parameters(recurse=False)))
            owned = [owners.setdefault(parameter, path) for parameter in own]
            known = after is None
            rows[path] = LayerInfo(
                path=path,
                type=entry.type,
                is_module=module is not None,
                calls=None if not known else entry.calls if module is None else calls[id(module)],
                parameters=0 if module is None else count_parameters(module),
                mode=entry.mode,
                same_as="" if listed == path else listed,
                tied_to=next((owner for owner in owned if owner != path), ""),
                followed=entry.followed,
                after=after,
                sources=entry.sources,
            )
        return list(rows.values())

    def _visit(self, entry: _Entry, path: str, call: Call, mode: str) -> None:
        """One call of a module: enters what it runs. `mode`: in which alone, if not in the present one."""
        module = entry.module
        if module is None or id(module) in self._running or (path and not module._modules):
            return
        self._running.add(id(module))
        try:
            steps, is_recorded = self._steps(module, path, call)
        except CannotFollowError:
            entry.followed = is_recorded = False
            steps = [(name, child, call_of_signature(child), "", ()) for name, child in _callable_children(module)]
            steps.sort(key=lambda step: self._order.get(join(path, step[0]), sys.maxsize))
        for name, what, inner, only, sources in steps:
            only = mode or only
            below = entry.inside.pop(name, None)
            if below is None:
                child = what if isinstance(what, nn.Module) else None
                below = _Entry(child, what if isinstance(what, str) else type(what).__name__, only)
            if below.mode and not only:  # known from another mode, but this one runs it too
                below.mode, below.calls = "", 0
            below.calls += below.mode == only
            below.sources = sources
            entry.inside[name] = below  # at the end, so that it stands at its last call
            self._visit(below, join(path, name), inner, only)
        if is_recorded:
            _add_idle(entry)
        self._running.discard(id(module))

    def _steps(self, module: nn.Module, path: str, call: Call) -> tuple[list[_Step], bool]:
        """What one call of a module runs, and between, where they would be, the steps of other modes alone.

        And whether that was recorded.
        """
        present, *others = self._traces.graphs(module, path, call)
        if present.open_end is not None:
            raise CannotFollowError(present.open_end)
        steps = self._named(module, path, present, "")
        for graph in others:
            known = {name for name, *_ in steps}
            position = 0
            for step in self._named(module, path, graph, _other_mode(present, graph)):
                if step[0] in known:
                    later = (at for at in range(position, len(steps)) if steps[at][0] == step[0])
                    position = next(later, position - 1) + 1
                else:
                    steps.insert(position, step)
                    position += 1
        return steps, present.recorded

    def _named(self, module: nn.Module, path: str, graph: Graph, mode: str) -> list[_Step]:
        """The nodes of a graph that are targets."""
        steps: list[_Step] = []
        sources = sources_of(graph)
        for node in graph.nodes:
            if node.kind is Kind.CHILD:
                child = module.get_submodule(node.target)
                steps.append((node.target, child, self._traces.call(module, path, node), mode, ()))
            elif node.name:
                steps.append((node.name, name_of(node), Call((), {}), mode, sources.get(node.name, ())))
        return steps


def _other_mode(present: Graph, other: Graph) -> str:
    """The mode in which a graph differs from the present one."""
    flags = [value for flag, value in other.modes.items() if present.modes.get(flag, value) is not value]
    return "training" if any(flags) else "evaluation"


def _add_idle(entry: _Entry) -> None:
    """Adds the children that did not run to those that did."""
    for name, child in _callable_children(entry.module) if entry.module is not None else ():
        if name not in entry.inside:
            entry.inside[name] = _Entry(child, type(child).__name__, "")
            _add_idle(entry.inside[name])


def _callable_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a module as registered; instead of a list or a dictionary of modules, what it holds."""
    for name, child in module.named_children():
        if type(child).forward is nn.Module.forward:
            yield from ((f"{name}.{below}", inner) for below, inner in _callable_children(child))
        else:
            yield name, child


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module holds as parameters, those that it holds twice counted once."""
    return sum(parameter.numel() for parameter in module.parameters())
