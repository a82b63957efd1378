"""The graphs of the forwards of a model, each made once, and what is known of the values that they pass on."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import nn

from truncate._errors import CannotFollowError, NoPythonError, TruncateError
from truncate._follow import Unfollowable, follow, held_by_several
from truncate._graph import (
    Call,
    Graph,
    Kind,
    Known,
    Node,
    Observed,
    Structures,
    call_of_example,
    call_of_node,
    call_of_signature,
    descend,
    has_forward,
    is_container,
    join,
    map_nested,
    name_operations,
    structure_of,
)
from truncate._python import asks_for_mode
from truncate._record.passes import Pass, fingerprint
from truncate._sandbox import Example, observe
from truncate._target import TargetPaths


class Traces:
    """The graphs of one model and of all modules inside it."""

    def __init__(self, model: nn.Module, paths: TargetPaths, example: Example | None = None) -> None:
        self.entry = (
            call_of_signature(model) if example is None else call_of_example(model, example.args, example.kwargs)
        )
        self._model = model
        self.paths = paths
        self.numbers_are_fixed = example is None or example.fixes_numbers
        self._example = example
        self.has_example = example is not None
        self._followed: dict[tuple[int, str], list[list[Graph]]] = {}
        self._failed: dict[tuple[int, str], CannotFollowError] = {}
        self._recorded: dict[tuple[int, str], list[Graph]] = {}
        self._observed: dict[int, Observed] = {}
        # Each with its `given`, which is kept alive, as its id is part of the key.
        self._structures: dict[tuple[Node, int], tuple[Any, Structures | None]] = {}
        self.passed: Pass | None = None
        self._pass_failed: CannotFollowError | None = None

    @functools.cached_property
    def held_by_several(self) -> frozenset[int]:
        return held_by_several(self._model)

    def graphs(self, module: nn.Module, path: str, call: Call, record: bool = True) -> list[Graph]:
        """The graphs of the forward of the module at `path` for a call, one per branch; the current mode's is first.

        With `record`, the example is run if necessary.

        Raises:
            CannotFollowError: It depends on values that are only known when it runs, and there is no example.
        """
        try:
            followed = self.follow(module, path, call)
            if not any(graph.failure for graph in followed):
                return _without_state(followed, module, path)
            failure = None
        except CannotFollowError as error:
            followed, failure = [], error
        recorded = self._recordings(module, call, record)
        if not recorded and failure is not None:
            raise failure
        # A graph traced on proxies is better: it holds for more inputs than a recording.
        found = {_modes_of(graph): graph for graph in [*followed, *recorded]}
        found |= {_modes_of(graph): graph for graph in followed if not graph.failure}
        _without_state([*found.values()], module, path)
        return [part for graph in found.values() for part in _without(graph, list(found.values()))]

    def _recordings(self, module: nn.Module, call: Call, record: bool) -> list[Graph]:
        if self._example is None or not (self.paths.holds(module) or module is self._model):
            return []
        key = (id(module), call.key)
        if record:
            self._record()
            if key not in self._recorded:  # perhaps it is called like this in the other mode only
                self._record_flipped()
        return self._recorded.get(key, [])

    def follow(self, module: nn.Module, path: str, call: Call) -> list[Graph]:
        """The graphs of a forward that is traced on proxies."""
        key = (id(module), call.key)
        self.require_python(module, path)
        if "_truncate_roles" in vars(module):
            raise CannotFollowError(f"{path!r} is a live part of a cut, which keeps its own Python")
        if key in self._failed:
            raise self._failed[key]
        known = self._followed.setdefault(key, [])
        for graphs in known:
            if _relies_on_no_other(graphs, call):
                return graphs
        try:
            graphs = follow(module, call, path, _Children(self, module, path, given_by(call)))
        except CannotFollowError as error:
            self._failed[key] = error
            raise
        for graph in graphs:
            if any(node.kind is Kind.CHILD and descend(module, node.target) is module for node in graph.nodes):
                self._failed[key] = CannotFollowError(f"the forward of {path or 'the model itself'!r} calls itself")
                raise self._failed[key]
            name_operations(graph, module)
        known.append(graphs)
        return graphs

    def require_python(self, module: nn.Module, path: str) -> None:
        """Raises if the Python of a module is not at hand, to be followed or to be kept."""
        name = repr(path) if path else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise NoPythonError(f"{name} was compiled by TorchScript, so its Python code is no longer available")
        written_in = type(module).__module__
        if written_in.startswith("torch._dynamo"):  # importing it to ask would take a second
            raise NoPythonError(
                f"{name} was compiled by torch.compile. Cut what was compiled, which it holds as "
                f"{join(path, '_orig_mod')!r}, and compile the result"
            )
        if written_in.startswith(("torch.nn.parallel.", "torch.distributed.")):
            raise NoPythonError(
                f"{name} is a {type(module).__name__}, which wraps a model. Cut what it wraps, "
                f"{' or '.join(repr(join(path, child)) for child in module._modules)}, and wrap the result"
            )
        if not has_forward(module):
            held = ", ".join(join(path, child) for child in module._modules) or "nothing"
            raise NoPythonError(
                f"{name} ({type(module).__name__}) has no forward of its own. Cut what it holds, by name: {held}"
            )

    def _record(self) -> None:
        """Runs the example, and runs it again in the other mode if a forward branches on a mode."""
        if self.passed is not None or self._example is None:
            return
        if self._pass_failed is not None:
            raise self._pass_failed
        try:
            self.passed = self._pass(self._example)
        except CannotFollowError as error:
            self._pass_failed = error
            if self.numbers_are_fixed or isinstance(error.__cause__, Unfollowable):
                raise
            # Perhaps C code met a traced number, with which it cannot compute. Try again with all numbers fixed.
            self.numbers_are_fixed = True
            try:
                self.passed = self._pass(self._example)
            except CannotFollowError:
                raise error from None
        self._structures.clear()  # more is known now
        for key, graph in self.passed.recorded.items():
            self._recorded[key] = [self._named(key, graph)]
        followed = [graph for known in self._followed.values() for graphs in known for graph in graphs]
        if any(graph.modes for graph in self.passed.recorded.values()) or any(graph.failure for graph in followed):
            other, why = self._flipped
            for graph in followed:
                if graph.failure:
                    graph.failure = why
            for key, graph in self.passed.recorded.items():
                if graph.modes and key not in other:
                    flipped = {flag: not value for flag, value in graph.modes.items()}
                    self._recorded[key].append(Graph([], None, flipped, why))
            for key, graph in other.items():
                self._add_other_branch(key, graph)

    def _add_other_branch(self, key: tuple[int, str], graph: Graph) -> None:
        """Adds the graph of the other mode, if the forward branches on a mode, or does something else in it."""
        known = self._recorded.setdefault(key, [])
        same = next((one for one in known if _modes_of(one) == _modes_of(graph)), None)
        if same is not None:
            if fingerprint(same) == fingerprint(graph):
                return
            # A child does something else in its other mode. All modes were flipped, so this module's own tells which.
            own = self._module(key).training
            same.modes, graph.modes = {**same.modes, "training": own}, {**graph.modes, "training": not own}
        known.append(graph)

    def _pass(self, example: Example, flip: bool = False) -> Pass:
        return Pass(self._model, example, self.paths, self, flip, self.numbers_are_fixed)

    @functools.cached_property
    def _flipped(self) -> tuple[dict[tuple[int, str], Graph], str]:
        """The recordings of a pass in the other mode, and the reason if a forward is not among them."""
        if self._example is None:
            return {}, ""
        try:
            recorded = self._pass(self._example, flip=True).recorded
        except Exception as error:
            return {}, f"the example does not run in this mode: {error}"
        return {key: self._named(key, graph) for key, graph in recorded.items()}, (
            "the example did not run this forward in this mode"
        )

    def _record_flipped(self) -> None:
        """Adds the recordings of forwards that only the other mode runs."""
        for key, graph in self._flipped[0].items():
            self._recorded.setdefault(key, [graph])
        self._structures.clear()

    def _named(self, key: tuple[int, str], graph: Graph) -> Graph:
        name_operations(graph, self._module(key))
        return graph

    def _module(self, key: tuple[int, str]) -> nn.Module:
        return next(module for module in self._model.modules() if id(module) == key[0])

    def observed(self, module: nn.Module) -> Observed | None:
        """What the calls of a module do to their arguments on the example, if there is one."""
        if self._example is None:
            return None
        if id(module) not in self._observed:
            found = observe(self._model, self._example, [module], other_mode=False)
            self._observed[id(module)] = found.get(id(module), Observed(False, False))
        return self._observed[id(module)]

    def may_return_what_it_is_given(self, module: nn.Module) -> bool:
        """Whether a module does so in the other mode, as dropout does in evaluation, as far as a pass shows it."""
        return asks_for_mode(module) and id(module) in self._returning_in_other_mode

    @functools.cached_property
    def _returning_in_other_mode(self) -> frozenset[int]:
        if self._example is None:
            return frozenset()
        asking = [module for module in self._model.modules() if not isinstance(module, torch.jit.ScriptModule)]
        try:
            seen = observe(self._model, self._example, filter(asks_for_mode, asking), other_mode=True)
        except TruncateError:  # the model does not run in the other mode
            return frozenset()
        return frozenset(key for key, observed in seen.items() if observed.aliases)

    def call(self, parent: nn.Module, path: str, node: Node, given: Structures | None = None) -> Call:
        """The call of a child that a node in the graph of `parent` makes, if that is called with `given`."""
        child = descend(parent, node.target)
        return call_of_node(child, node, lambda source: self.structure(parent, path, source, given))

    def structure(self, module: nn.Module, path: str, node: Node, given: Structures | None = None) -> Any:
        """The known structure of the value of a node in the graph of `module`."""
        key = node, id(given)
        if key not in self._structures:
            of_child = _Children(self, module, path, given).returned
            found = structure_of(node, of_child, lambda other: self.structure(module, path, other, given), given)
            self._structures[key] = found, given
        return self._structures[key][0]

    def is_several(self, module: nn.Module, path: str, node: Node) -> bool:
        """Whether the value of a node in the graph of `module` is known to be several, in a list or dict, say."""
        return is_container(self.structure(module, path, node))


@dataclasses.dataclass(frozen=True)
class _Children:
    """What is known of the calls of children in the graph of one module."""

    traces: Traces
    parent: nn.Module
    path: str
    given: Structures | None  # what the parent is called with

    def structure(self, node: Node) -> Any:
        """The known structure of the value of a node in the graph of the parent."""
        return self.traces.structure(self.parent, self.path, node, self.given)

    def returned(self, node: Node) -> Any:
        """The known structure of the result of a call; unknown if it depends on the child's mode."""
        child, below = descend(self.parent, node.target), join(self.path, node.target)
        try:
            graphs = self._graphs(node)
        except TruncateError:
            return Known.NOTHING
        if any(graph.open_end for graph in graphs):
            return Known.NOTHING
        given = given_by(self._call(node))
        structures = [
            map_nested(
                graph.result,
                lambda item: self.traces.structure(child, below, item, given) if type(item) is Node else item,
            )
            for graph in graphs
        ]
        return (
            structures[0] if all(repr(structure) == repr(structures[0]) for structure in structures) else Known.NOTHING
        )

    def filled(self, node: Node) -> list[Any] | None:
        """How a call changes each list and dict among its arguments; None: not known."""
        try:
            graphs = self._graphs(node)
        except TruncateError:
            return None
        known = all(graph.filled == graphs[0].filled and not (graph.failure or graph.open_end) for graph in graphs)
        return graphs[0].filled if known else None

    def is_shared(self, container: Any) -> bool:
        """Whether several modules of the model hold this list or dict."""
        return id(container) in self.traces.held_by_several

    def is_of_model(self, module: nn.Module) -> bool:
        """Whether a module is registered in the model."""
        return any(module is other for other in self.traces._model.modules())

    def _graphs(self, node: Node) -> list[Graph]:
        child = descend(self.parent, node.target)
        # Not recorded: the parent is being followed, and a pass of the example would follow it again.
        return self.traces.graphs(child, join(self.path, node.target), self._call(node), record=False)

    def _call(self, node: Node) -> Call:
        return self.traces.call(self.parent, self.path, node, self.given)


def given_by(call: Call) -> Structures:
    return {node.target: node.known for node in call.inputs if node.known is not None}


def _modes_of(graph: Graph) -> tuple[tuple[str, bool], ...]:
    """The modes of a graph, which tell the branches of a forward apart."""
    return tuple(sorted(graph.modes.items()))


def _without_state(graphs: list[Graph], module: nn.Module, path: str) -> list[Graph]:
    """The same graphs, if no mode sets an attribute that the other one reads: a cut sets none."""
    kept = set[str]().union(*(graph.reads for graph in graphs)) & set[str]().union(*(graph.sets for graph in graphs))
    if kept:
        where = repr(path) if path else "the model itself"
        raise CannotFollowError(
            f"cannot follow the forward of {where} ({type(module).__name__}): it keeps something in its attribute "
            f"{min(kept)!r} from a call in one mode to one in the other"
        )
    return graphs


def _without(graph: Graph, others: list[Graph]) -> list[Graph]:
    """What is left of a branch that failed, if its forward was recorded in some of the modes that it stands for."""
    covered = [other for other in others if graph.modes.items() < other.modes.items()] if graph.failure else []
    if not covered:
        return [graph]
    left, modes = [], dict(graph.modes)
    for flag in [flag for flag in covered[0].modes if flag not in modes]:
        left.append(Graph([], None, {**modes, flag: not covered[0].modes[flag]}, graph.failure))
        modes[flag] = covered[0].modes[flag]
    return left


def _relies_on_no_other(graphs: list[Graph], call: Call) -> bool:
    """Whether the known structures of inputs that these graphs rely on are the same in another call."""
    given = {node.target: node for node in call.inputs}
    return all(
        repr(known) == repr(given[name].known() if given[name].known is not None else None)  # type: ignore[misc]
        for graph in graphs
        for name, known in graph.asked.items()
    )
