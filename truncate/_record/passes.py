"""One pass of a model on an example, in which the forwards that cannot be followed are recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from truncate._errors import CannotFollowError
from truncate._follow import INSTEAD_OF, PLAIN, explain
from truncate._graph import Call, Graph, Kind, Node, descend, join, map_nested, tensors_in
from truncate._record.recording import Recording
from truncate._sandbox import UNCHANGING, Example, call_model, sandbox_copy, twins, watch
from truncate._target import TargetPaths


class Traces(Protocol):
    """What a pass asks about the forwards that run in it."""

    entry: Call
    paths: TargetPaths

    def follow(self, module: nn.Module, path: str, call: Call) -> list[Graph]: ...

    def call(self, parent: nn.Module, path: str, node: Node) -> Call: ...


class Pass:
    """One pass of a model on an example, with a recording of each forward that cannot be followed."""

    def __init__(
        self, model: nn.Module, example: Example, paths: TargetPaths, traces: Traces, flip: bool, fixes_numbers: bool
    ) -> None:
        self.recorded: dict[tuple[int, str], Graph] = {}
        self._traces = traces
        self._fixes_numbers = fixes_numbers
        self._calls: list[_Calls] = []
        self._next: tuple[nn.Module, str, Call] | None = (model, "", traces.entry)
        sandbox = sandbox_copy(model, example.meta.tensor)
        for original, module in zip(model.modules(), sandbox.modules()):
            module.training ^= flip
            if paths.holds(original) or original is model:
                self._take_over(original, module)
        self.calls = [0] * len(paths.targets)  # how often each target ran
        watch(paths.targets, twins(model, sandbox), self._count)
        self._found_before = _tensors_of(sandbox)
        call_model(sandbox, example)

    def _count(self, t: int, value: Any) -> None:
        self.calls[t] += 1

    def _take_over(self, original: nn.Module, sandbox: nn.Module) -> None:
        """Replaces the forward of a module on the path by one that records the call if it cannot be followed."""
        own = sandbox.__dict__.get("forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            entered = self._entered(original)
            if own is None:
                del sandbox.__dict__["forward"]
            else:
                sandbox.__dict__["forward"] = own
            try:
                return (
                    sandbox.forward(*args, **kwargs) if entered is None else self._run(*entered, sandbox, args, kwargs)
                )
            finally:
                sandbox.__dict__["forward"] = forward

        setattr(forward, INSTEAD_OF, own)
        sandbox.__dict__["forward"] = forward

    def _entered(self, original: nn.Module) -> tuple[nn.Module, str, Call] | None:
        """The module, path and call of a forward that begins, from the recording or the graph of its parent."""
        if self._next is not None and self._next[0] is original:
            entered, self._next = self._next, None
            return entered
        return self._calls[-1].next_of(original) if self._calls else None

    def _run(self, module: nn.Module, path: str, call: Call, sandbox: nn.Module, args: Any, kwargs: Any) -> Any:
        try:
            graphs = self._traces.follow(module, path, call)
        except CannotFollowError:
            return self._record(module, path, call, sandbox, args, kwargs)
        taken = next(graph for graph in graphs if _is_taken(graph, sandbox))
        if taken.failure is not None:
            return self._record(module, path, call, sandbox, args, kwargs)
        self._calls.append(_Calls(self._traces, module, path, taken))
        try:
            return sandbox.forward(*args, **kwargs)
        finally:
            self._calls.pop()

    def _record(self, module: nn.Module, path: str, call: Call, sandbox: nn.Module, args: Any, kwargs: Any) -> Any:
        def is_wanted(name: str) -> bool:
            return self._traces.paths.reaches(descend(module, name))

        def call_child(name: str, node: Node | None, args: Any, kwargs: Any) -> Any:
            if node is None:  # the recording has ended: no target follows
                return descend(sandbox, name)(*args, **kwargs)
            self._next = (
                descend(module, name),
                join(path, name),
                self._traces.call(module, path, node),
            )
            try:
                return descend(sandbox, name)(*args, **kwargs)
            finally:
                self._next = None

        recording = Recording(sandbox, path, call_child, is_wanted, self._found_before, self._fixes_numbers)
        self._calls.append(_Calls(self._traces, module, path, Graph([], None, {})))
        try:
            graph, result = recording.record(call, args, kwargs)
        except CannotFollowError:  # a child's
            raise
        except Exception as error:
            raise explain(recording.open_end or error, module, path, recorded=True) from error
        finally:
            self._calls.pop()
        graph.recorded = True
        if recording.open_end is not None:
            graph.open_end = str(explain(recording.open_end, module, path, recorded=True))
        known = self.recorded.setdefault((id(module), call.key), graph)
        if fingerprint(known) != fingerprint(graph):
            raise CannotFollowError(
                f"{path!r} ({type(module).__name__}) runs several times in the example, and not always the same "
                f"operations, so one rebuilt module cannot serve all its calls. Stop at {path!r} or outside it"
            )
        return result


def fingerprint(graph: Graph) -> list[Any]:
    """What a recording does, to compare it with another one of the same forward."""

    def known(value: Any) -> Any:
        return value.index if type(value) is Node else value if type(value) in PLAIN else type(value)

    def given(node: Node) -> Any:
        return node.args[:1] if node.target is torch._assert else (node.args, node.kwargs)  # without an error text

    return [(node.kind, node.target, map_nested(given(node), known)) for node in graph.nodes]


def _is_taken(graph: Graph, module: nn.Module) -> bool:
    """Whether a module in its current mode takes the branch of a graph."""
    return all(descend(module, flag.rpartition(".")[0]).training is value for flag, value in graph.modes.items())


class _Calls:
    """The calls of children that follow in a forward, in order, according to its graph."""

    def __init__(self, traces: Traces, module: nn.Module, path: str, graph: Graph) -> None:
        self._traces = traces
        self._module = module
        self._path = path
        self._nodes: dict[int, Iterator[Node]] = {}
        calls: dict[int, list[Node]] = {}
        for node in graph.nodes:
            if node.kind is Kind.CHILD:
                calls.setdefault(id(descend(module, node.target)), []).append(node)
        self._nodes = {child: iter(nodes) for child, nodes in calls.items()}

    def next_of(self, child: nn.Module) -> tuple[nn.Module, str, Call] | None:
        node = next(self._nodes.get(id(child), iter(())), None)
        if node is None:
            return None
        path = join(self._path, node.target)
        return child, path, self._traces.call(self._module, self._path, node)


def _tensors_of(sandbox: nn.Module) -> dict[int, torch.Tensor]:
    """The tensors in attributes and globals, and in lists and dicts there, when a pass begins; by id.

    A tensor that appears there later was made in this pass, so a cut must not keep it.
    """
    modules = list(sandbox.modules())
    files = {type(module).__module__ for module in modules if not type(module).__module__.startswith("torch.")}
    spaces = [*map(vars, modules), *(vars(sys.modules[name]) for name in files if name in sys.modules)]
    held = [value for space in spaces for value in list(space.values()) if type(value) not in UNCHANGING]
    return {id(tensor): tensor for tensor in tensors_in(held)}
