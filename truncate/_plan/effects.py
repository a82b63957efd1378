"""What operations do besides returning a value: which of them mutate a tensor that others read.

Only asked where the answer matters: of operations whose value nobody reads, and of those that follow a capture.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from truncate._errors import TruncateError
from truncate._graph import (
    Call,
    Graph,
    Kind,
    Node,
    Observed,
    aliases_of,
    descend,
    is_mode,
    is_tensor,
    join,
    may_return_tensor,
    memory_of,
    mutated,
    nodes_in,
)
from truncate._python import may_fill, may_write
from truncate._record import Traces


class State(NamedTuple):
    """What lives on from call to call."""

    called: frozenset[int] = frozenset()  # ids of children
    read: frozenset[Any] = frozenset()  # memories of tensors that the module holds


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a call of a module does to its inputs, by their names."""

    mutated: frozenset[str]  # changed in place
    returned: frozenset[str]  # the result may be an alias of them
    state: bool = True  # it mutates tensors of its own, which its next call reads
    perhaps: frozenset[str] = frozenset()  # not mutated on the example; for other values, or in another mode, maybe
    known: bool = True  # it was followed or observed; otherwise the worst is assumed


class Effects:
    """The effects of the forwards of one model."""

    def __init__(self, traces: Traces) -> None:
        self.traces = traces
        self._of: dict[Graph, GraphEffects] = {}
        self._summaries: dict[tuple[int, str], Summary] = {}
        self._may_write: dict[int, bool] = {}

    def of(self, module: nn.Module, path: str, graph: Graph) -> GraphEffects:
        if graph not in self._of:
            self._of[graph] = GraphEffects(self, module, path, graph)
        return self._of[graph]

    def summary(self, module: nn.Module, path: str, call: Call, observed: Observed | None = None) -> Summary:
        """What a call does to its inputs; if the forward cannot be followed, what was observed, or the worst case."""
        key = (id(module), call.key)
        if key not in self._summaries:
            names = frozenset(node.target for node in call.inputs)
            self._summaries[key] = Summary(names, names, known=False)  # meanwhile, in case it calls itself
            self._summaries[key] = self._summarize(module, path, call, names, observed)
        return self._summaries[key]

    def may_write(self, module: nn.Module) -> bool:
        if id(module) not in self._may_write:
            self._may_write[id(module)] = may_write(module)
        return self._may_write[id(module)]

    def _summarize(
        self, module: nn.Module, path: str, call: Call, names: frozenset[str], observed: Observed | None
    ) -> Summary:
        if any(map(_is_foreign, (*module._forward_pre_hooks.values(), *module._forward_hooks.values()))):
            return Summary(names, names, known=False)  # they may do anything to what they are given
        try:
            graphs = self.traces.graphs(module, path, call)
        except TruncateError:
            graphs = []
        if not graphs or any(graph.failure or graph.open_end for graph in graphs):
            observed = observed or self.traces.observed(module)
            if observed is None:
                return Summary(names, names, known=False)
            none: frozenset[str] = frozenset()
            changing = names if self.may_write(module) else none
            handed_back = names if observed.aliases or self.traces.may_return_what_it_is_given(module) else none
            return Summary(names if observed.mutates else none, handed_back, perhaps=changing)
        changed: set[str] = set()
        returned: set[str] = set()
        perhaps: set[str] = set()
        for graph in graphs:
            effects = self.of(module, path, graph)
            perhaps |= effects.inputs_among(target for node in graph.nodes for target in effects.perhaps(node))
            changed |= effects.inputs_among(target for node in graph.nodes for target in effects.mutated(node))
            returned |= effects.inputs_among(nodes_in(graph.result))
        state = any(effects.changes_state for effects in (self.of(module, path, graph) for graph in graphs))
        return Summary(frozenset(changed), frozenset(returned), state, frozenset(perhaps - changed))


def _is_foreign(hook: Any) -> bool:
    """Whether a hook is not one of torch's own. Those, as of weight norm, leave alone what they are given."""
    return not getattr(hook, "__module__", "").startswith("torch.")


class GraphEffects:
    """Which values of one graph may share memory, and which operations mutate them."""

    def __init__(self, effects: Effects, module: nn.Module, path: str, graph: Graph) -> None:
        self._effects = effects
        self._module = module
        self._path = path
        self._graph = graph

    def mutated(self, node: Node) -> list[Node]:
        """The nodes whose values a node mutates."""
        if node.kind is Kind.ASSIGN:
            return [node]
        if node.kind is Kind.CHILD:
            return self._mutated_by_call(node)
        if node in self._for_its_effect:
            return list(nodes_in(node.args[0]))
        return mutated(node)

    @functools.cached_property
    def _for_its_effect(self) -> set[Node]:
        """The methods of something that may be no tensor whose value nobody reads: ``found.add(x)`` of a set."""
        called = {
            node
            for node in self._graph.nodes
            if node.kind is Kind.METHOD and may_return_tensor(node.target) and not is_tensor(node.args[0])
        }
        if called:
            called.difference_update(source for node in self._graph.nodes for source in node.inputs())
            called.difference_update(nodes_in(self._graph.result))
        return called

    def _mutated_by_call(self, node: Node) -> list[Node]:
        """What a child did on the example tells that it mutates, not that it never does: another mode may."""
        if node.observed is not None:
            if node.observed.mutates:
                return node.inputs()
            if not self._effects.may_write(descend(self._module, node.target)):
                return []
        return self._arguments(node, self.child_summary(node).mutated)

    def perhaps(self, node: Node) -> list[Node]:
        """What a call may mutate, though it did not on the example."""
        if node.kind is not Kind.CHILD or not self._effects.may_write(descend(self._module, node.target)):
            return []
        return self._arguments(node, self.child_summary(node).perhaps)

    def _arguments(self, node: Node, names: frozenset[str]) -> list[Node]:
        """Those arguments of a call that the child knows by these names."""
        call = self._effects.traces.call(self._module, self._path, node)
        return [source for source, given in zip(node.given(), call.inputs) if given.target in names]

    @functools.cached_property
    def _alias_sets(self) -> dict[Node, Node]:
        return self._alias_sets_among(self._graph.nodes)

    def _alias_sets_among(self, nodes: Iterable[Node]) -> dict[Node, Node]:
        """The alias set of each of these nodes: values that may share memory. One of its members stands for it."""
        alias_sets: dict[Node, Node] = {}
        held: dict[str, Node] = {}

        def find(node: Node) -> Node:
            while alias_sets[node] is not node:
                node = alias_sets[node]
            return node

        for node in nodes:
            alias_sets[node] = node
            shared: list[Node] = []
            if node.kind in (Kind.ATTRIBUTE, Kind.ASSIGN) and not is_mode(node):
                shared += [held.setdefault(memory, node) for memory in (node.target, self._memory_of(node))]
            if node.kind is Kind.CHILD:
                shared += self._arguments(node, self.child_summary(node).returned)
            else:
                shared += aliases_of(node)
            for source in shared:
                if not is_mode(source):
                    alias_sets[find(node)] = find(source)
        return {node: find(node) for node in alias_sets}

    def _memory_of(self, node: Node) -> Any:
        """A key for the memory of a tensor of the module: the same for all names of that memory."""
        holder, _, name = node.target.rpartition(".")
        value = self._graph.constants.get(node.target)
        if value is None and not node.args:
            module = descend(self._module, holder)
            value = {**module._buffers, **module._parameters}.get(name, vars(module).get(name))
        return memory_of(value) if isinstance(value, torch.Tensor) else node.target

    @property
    def changes_state(self) -> bool:
        """Whether the forward mutates a tensor that its module holds."""
        for node in self._graph.nodes:
            if node.kind is Kind.CHILD and self.child_summary(node).state:
                return True
            if any(target.kind in _HELD for target in self.mutated(node)):
                return True
        return False

    def child_summary(self, node: Node) -> Summary:
        call = self._effects.traces.call(self._module, self._path, node)
        child, path = descend(self._module, node.target), join(self._path, node.target)
        return self._effects.summary(child, path, call, node.observed)

    def is_given_twice(self, node: Node) -> bool:
        """Whether a child gets one tensor, or views of it, as several arguments, and mutates one of them.

        To a forward that is followed its arguments are different values. With an example, its check tells.
        """
        arguments = node.given()
        if self._effects.traces.has_example or len(arguments) < 2:
            return False
        call = self._effects.traces.call(self._module, self._path, node)
        alias_sets = self._alias_sets_among(self._graph.nodes[: node.index])  # what comes later need not be followed
        names: dict[Node, set[str]] = {}
        for source, given in zip(arguments, call.inputs):
            names.setdefault(alias_sets[source], set()).add(given.target)
        several = [each for each in names.values() if len(each) > 1]
        return bool(several) and any(each & self.child_summary(node).mutated for each in several)

    def inputs_among(self, nodes: Iterable[Node]) -> set[str]:
        """The names of the inputs that may share memory with one of the nodes."""
        alias_sets = {self._alias_sets[node] for node in nodes}
        return {node.target for node in self._graph.inputs if self._alias_sets[node] in alias_sets}

    def exposes(self, value: Node) -> bool:
        """Whether the caller of this forward also holds the memory of a value: as an argument, or in the result."""
        others = {self._alias_sets[node] for node in [*self._graph.inputs, *nodes_in(self._graph.result)]}
        return self._alias_sets[value] in others

    def needed_mutators(
        self,
        live: set[Node],
        reads: dict[Node, int],
        own: bool,
        mutates: bool,
        nodes: list[Node],
        elsewhere: Iterable[Node] = (),
        other_modes: State | None = None,
    ) -> list[Node]:
        """Those among some nodes, outside `live`, that mutate something which is read afterwards.

        Live nodes read it, or it is one of `reads`: values that are read as they are just before the node of an index.
        `own`: the result of the forward is read too; `mutates`: its caller reads what it mutates of its arguments.
        `elsewhere`: tensors of the module that another piece reads, now or in the next call; `other_modes`: those that
        this forward reads in another mode, which a later call may be in.
        """
        dead = [node for node in nodes if node not in live and node.kind not in _SOURCES]
        return [*self.read_mutators(dead, live, reads, own, mutates, elsewhere, other_modes), *leaving(dead, live)]

    def read_mutators(
        self,
        nodes: Iterable[Node],
        live: set[Node],
        reads: dict[Node, int],
        own: bool,
        mutates: bool,
        elsewhere: Iterable[Node] = (),
        other_modes: State | None = None,
    ) -> list[Node]:
        """Those among some nodes that mutate something which is read afterwards, as for `needed_mutators`."""
        other_modes = other_modes or State()
        called, read = self.read_in([live])
        called, read = called | other_modes.called, read | other_modes.read
        again = [
            n
            for n in nodes
            if n.kind is Kind.CHILD and (id(descend(self._module, n.target)) in called or self._holds(n, read))
        ]
        stateful = [node for node in again if node not in live and self.child_summary(node).state]
        stateful += [node for node in nodes if node not in live and self._may_fill_shared(node)]
        mutators = [(node, targets) for node in nodes if (targets := self.mutated(node) or self.perhaps(node))]
        if not mutators:
            return stateful
        alias_sets = self._alias_sets
        last_read: dict[Node, int] = {}
        for node, index in reads.items():
            last_read[alias_sets[node]] = max(last_read.get(alias_sets[node], -1), index)
        # Tensors of the module: what is changed in them is read in the next call.
        held = {alias_sets[node] for node in elsewhere}
        if other_modes.read:
            kept = [node for node in self._graph.nodes if node.kind in _HELD and not is_mode(node)]
            held.update(alias_sets[node] for node in kept if self._memory_of(node) in other_modes.read)
        for node in live:
            for source in node.inputs():
                last_read[alias_sets[source]] = max(last_read.get(alias_sets[source], -1), node.index)
            if node.kind is Kind.ATTRIBUTE and not is_mode(node):
                held.add(alias_sets[node])
            elif node.kind is Kind.CHILD:
                below = f"{node.target}."
                held.update(alias_sets[n] for n in self._graph.nodes if n.kind in _HELD and n.target.startswith(below))
        end = len(self._graph.nodes)
        if own:
            last_read.update((alias_sets[node], end) for node in nodes_in(self._graph.result))
        if mutates:
            last_read.update((alias_sets[node], end) for node in self._graph.inputs)
        return stateful + [
            node
            for node, targets in mutators
            if any(last_read.get(alias_sets[t], -1) > node.index or alias_sets[t] in held for t in targets)
        ]

    def _may_fill_shared(self, node: Node) -> bool:
        """Whether a child may change a list or dict that another module of the model holds, too."""
        if node.kind is not Kind.CHILD:
            return False
        child, shared = descend(self._module, node.target), self._effects.traces.held_by_several
        holds = bool(shared) and any(id(value) in shared for m in child.modules() for value in vars(m).values())
        return holds and may_fill(child)

    def read_in(self, lives: Iterable[Iterable[Node]]) -> State:
        """What some nodes of this forward, in whichever mode, read of what lives on from call to call."""
        nodes = [node for live in lives for node in live]
        called = {id(descend(self._module, node.target)) for node in nodes if node.kind is Kind.CHILD}
        held = [node for node in nodes if node.kind is Kind.ATTRIBUTE and not is_mode(node)]
        return State(frozenset(called), frozenset(map(self._memory_of, held)))

    @staticmethod
    def keeping_state(nodes: Iterable[Node]) -> list[Node]:
        """Those among nodes that run after the targets which write what this module holds, for its next call to read.

        Further calls of children are not among them, though they count a batch in their statistics: a cut at one call
        of a module stops at this call.
        """
        return [node for node in nodes if node.kind is Kind.ASSIGN or any(map(_is_of_attribute, mutated(node)))]

    def _holds(self, call: Node, memory: frozenset[Any]) -> bool:
        """Whether a child holds a tensor whose memory is among these."""
        child = descend(self._module, call.target)
        return bool(memory) and not memory.isdisjoint(map(memory_of, (*child.parameters(), *child.buffers())))

    def overwritten_later(self, value: Node, moment: int, live: Iterable[Node]) -> bool:
        """Whether a live node from the index `moment` on may mutate a value."""
        later = [node for node in live if node.index >= moment and node.kind not in _SOURCES]
        return any(
            self._alias_sets[target] is self._alias_sets[value]
            for node in later
            for target in (*self.mutated(node), *self.perhaps(node))
        )

    def changing_arguments(self, nodes: Iterable[Node]) -> list[Node]:
        """Those among nodes that are known to mutate an argument of this forward."""
        mutators = [(node, targets) for node in nodes if node.kind not in _SOURCES and (targets := self.mutated(node))]
        if not mutators:
            return []
        given = {self._alias_sets[node] for node in self._graph.inputs}
        return [
            node
            for node, targets in mutators
            if any(self._alias_sets[target] in given for target in targets)
            and (node.kind is not Kind.CHILD or node.observed is not None or self.child_summary(node).known)
        ]

    def changed_by(self, nodes: Iterable[Node]) -> set[Node]:
        """The alias sets that some nodes mutate."""
        targets = [target for node in nodes if node.kind not in _SOURCES for target in self.mutated(node)]
        return {self._alias_sets[target] for target in targets}

    def alias_set(self, node: Node) -> Node:
        """The alias set of a node: one node stands for all whose values may share memory."""
        return self._alias_sets[node]


def _is_of_attribute(node: Node) -> bool:
    """Whether a value is a tensor that the module holds, or a view of one."""
    while node.kind in (Kind.FUNCTION, Kind.METHOD) and node.args and type(node.args[0]) is Node:
        node = node.args[0]
    return node.kind is Kind.ATTRIBUTE


def leaving(nodes: Iterable[Node], live: set[Node]) -> list[Node]:
    """The calls among some nodes that change an object which a live node gets later."""
    changing = [(node, node.observed.changed) for node in nodes if node.observed is not None and node.observed.changed]
    if not changing:
        return []
    last_given: dict[Node, int] = {}
    for node in live:
        for source in node.inputs():
            last_given[source] = max(last_given.get(source, -1), node.index)
    return [node for node, changed in changing if any(last_given.get(one, -1) > node.index for one in changed)]


_HELD = frozenset((Kind.ATTRIBUTE, Kind.ASSIGN))
_SOURCES = frozenset((Kind.INPUT, Kind.ATTRIBUTE))
