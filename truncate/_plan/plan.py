"""What a cut keeps of the forwards of a model: bookkeeping, from which `_build` makes modules."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from truncate._graph import Call, Graph, Kind, Node, descend
from truncate._plan.locate import Capture
from truncate._target import Target


@dataclasses.dataclass(frozen=True)
class Slot:
    """One of the values with which a child is entered in its middle, by number."""

    index: int


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """One of the ways in which a module is called, and after which target it is entered, if in its middle."""

    call: Call
    start: Capture | None = None

    @property
    def key(self) -> tuple[str, Capture | None]:
        return self.call.key, self.start


@dataclasses.dataclass(eq=False)
class Tapped:
    """A value to be returned: as it is once all nodes of its graph before `moment` have run."""

    value: Any  # a node, or what a layer is given: nested nodes
    moment: int
    read_at: int  # mutations by nodes before this one belong to it
    inner: Capture | None = None  # the value is what the rebuilt child that the node calls returns for it


@dataclasses.dataclass(eq=False)
class Entry:
    """Where a forward is entered, and with what."""

    site: Node
    inner: Capture | None  # after which the child that `site` calls is entered itself
    given: list[Node | Slot] = dataclasses.field(default_factory=list)  # values computed before that are still read
    state: list[Node] = dataclasses.field(default_factory=list)  # nodes before that mutate state which is read after
    cloned: set[Node | Slot] = dataclasses.field(default_factory=set)  # given values that are mutated


@dataclasses.dataclass(eq=False)
class Branch:
    """What a cut leaves of one graph."""

    form: int  # which of the plan's forms
    graph: Graph
    live: list[Node]
    taps: list[Tapped | None]  # where each capture of the plan appears; None: not needed here
    cloned: set[Tapped]  # those that a later operation may overwrite
    replaced: set[Tapped] = dataclasses.field(default_factory=set)  # among these: the forward goes on with the copy
    given: dict[Node, Form] = dataclasses.field(default_factory=dict)  # how each child that is rebuilt is called
    missing: str | None = None  # why this branch does not lead to the captures
    entry: Entry | None = None
    exit: Entry | None = None  # where the forward is left, if it goes on in another piece
    may_run_again: bool = False  # for another input a target may run once more: what decides that is kept

    @property
    def end(self) -> int:
        """How many nodes have run when the last tap is taken, or the forward is left."""
        left = 0 if self.exit is None else self.exit.site.index + (self.exit.inner is None)
        return max((tap.moment for tap in self.taps if tap is not None), default=left)

    def decided_up_to(self, own: bool) -> int:
        """How many nodes have run when all is decided that the targets depend on; `own`: so does the result."""
        return len(self.graph.nodes) if own or self.may_run_again else self.end


@dataclasses.dataclass(eq=False)
class Plan:
    """How one module on the path is rebuilt. Its result: its own output if `own`, then each of `captures`."""

    module: nn.Module
    path: str
    forms: tuple[Form, ...]
    captures: tuple[Capture, ...]
    own: bool
    mutates: bool  # its caller reads what it mutates of its arguments
    branches: list[Branch]
    children: dict[int, Plan]  # id of a child that is rebuilt too -> its plan
    in_no_grad: bool = False  # whether it may be called in a block without gradients

    @property
    def has_forms(self) -> bool:
        """Whether its caller has to say which form a call has."""
        return len(self.forms) > 1

    @property
    def is_entered_at_its_beginning(self) -> bool:
        return any(form.start is None for form in self.forms)

    @property
    def parameters(self) -> tuple[inspect.Parameter, ...] | None:
        """The signature to keep; None: one argument for each value."""
        return None if any(form.start for form in self.forms) else self.forms[0].call.parameters

    @property
    def used(self) -> list[str]:
        """The names of the inputs that the cut still reads, in order."""
        if self.parameters is not None:
            return [node.target for node in self.forms[0].call.inputs]
        read = {node.target for branch in self.branches for node in branch.live if node.kind is Kind.INPUT}
        names = dict.fromkeys(node.target for form in self.forms for node in form.call.inputs)
        return [name for name in names if name in read]

    @property
    def slots(self) -> int:
        """With how many values it is entered, if that is in its middle."""
        return max(
            (len(branch.entry.given) for branch in self.branches if branch.entry and not branch.missing), default=0
        )

    def child_id(self, node: Node) -> int:
        """The id of the child that a node calls; 0 for any other node."""
        return id(descend(self.module, node.target)) if node.kind is Kind.CHILD else 0

    def child_of(self, node: Node) -> Plan | None:
        """The plan of the child that a node calls, if that is rebuilt too."""
        return self.children.get(self.child_id(node))

    def rebuilt(self) -> Iterator[Plan]:
        """The plan itself, and those of all modules inside that are rebuilt too."""
        yield self
        for child in self.children.values():
            yield from child.rebuilt()

    def kept(self) -> Iterator[nn.Module]:
        """The modules that are kept as they are."""
        for plan in self.rebuilt():
            yield from plan.kept_here()

    def kept_here(self) -> Iterator[nn.Module]:
        """Those of them that its own forward calls."""
        branches = [branch for branch in self.branches if not branch.missing]
        calls = [node for branch in branches for node in branch.live if node.kind is Kind.CHILD]
        for target in {node.target for node in calls if self.child_of(node) is None}:
            yield from descend(self.module, target).modules()

    def note_blocks(self) -> None:
        """Tells the plans inside which of them may be called in a block without gradients."""
        for branch in self.branches:
            for node in branch.live:
                child = self.child_of(node)
                if child is not None:
                    child.in_no_grad |= self.in_no_grad or "no_grad()" in node.context
        for child in self.children.values():
            child.note_blocks()

    def form_of(self, form: Form) -> int:
        return [known.key for known in self.forms].index(form.key)

    @property
    def missing(self) -> str | None:
        """Why no branch leads to the captures, if none does."""
        return _common(self.branches)

    def missing_in(self, form: int) -> str | None:
        """Why no branch of one form leads to the captures, if none does."""
        return _common([branch for branch in self.branches if branch.form == form])


@dataclasses.dataclass(eq=False)
class LivePlan(Plan):
    """A module that keeps its own Python, and all below it: it is left when its captures are there."""

    reason: str = ""  # why its forward is not rebuilt
    targets: list[Target] = dataclasses.field(default_factory=list)  # which the captures name by number

    @property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        return ()  # it is called as it was

    @property
    def used(self) -> list[str]:
        return list(dict.fromkeys(node.target for form in self.forms for node in form.call.inputs))

    @property
    def has_forms(self) -> bool:
        return False

    @property
    def missing(self) -> str | None:
        return None

    def missing_in(self, form: int) -> str | None:
        return None

    def kept_here(self) -> Iterator[nn.Module]:
        yield from self.module.modules()


def _common(branches: list[Branch]) -> str | None:
    reasons = [branch.missing for branch in branches]
    return reasons[0] if all(reasons) else None


def assumptions_of(plan: Plan) -> tuple[Any, ...]:
    """What was fixed in the recorded forwards of a plan before they reach the targets, each once."""
    found = []
    for branch in plan.branches:
        start = 0 if branch.entry is None else branch.entry.site.index
        end = max([branch.decided_up_to(plan.own), *(node.index + 1 for node in branch.live)])
        found += [assumption for index, assumption in branch.graph.assumptions if start <= index < end]
    found += [assumption for child in plan.children.values() for assumption in assumptions_of(child)]
    return tuple(dict.fromkeys(found))
