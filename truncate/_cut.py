"""Where to cut: from the targets down the spine, which operations of each ancestor's forward are still needed.

The spine are the modules that hold a target. Each is planned by itself, with its children as leaves: its graph is cut
at the child on the way to the target, that child is planned in the same way, and what the cut no longer needs falls
away, arguments of the child too. A `Plan` is only bookkeeping; the room `_build` makes modules of it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import nn

from truncate._call import Call
from truncate._effects import Effects
from truncate._errors import CannotFollowError, NotReachedError, UnknownTargetError
from truncate._forwards import Forwards
from truncate._graph import Body, Kind, Node, descend, join, nodes_in
from truncate._shadow import has_own_call
from truncate._spine import Spine
from truncate._target import unknown


@dataclasses.dataclass(frozen=True)
class Pick:
    """A target wanted from one call of a module: which, and at which of its calls within that call."""

    target: int
    call: int


@dataclasses.dataclass(eq=False)
class Way:
    """What a cut leaves of one body."""

    form: int  # which of the plan's calls
    body: Body
    live: list[Node]
    taps: list[Node]  # where each pick of the plan appears
    cloned: set[Node]  # taps that a later operation may overwrite
    missing: str | None = None  # why the picks cannot be had this way


@dataclasses.dataclass(eq=False)
class Plan:
    """How one module of the spine is rebuilt. Its result: its own output if `own`, then each of `picks`."""

    module: nn.Module
    path: str
    calls: tuple[Call, ...]  # the different ways in which it is called
    picks: tuple[Pick, ...]
    own: bool
    writes: bool  # what it changes in its arguments is read by its caller
    ways: list[Way]
    children: dict[int, Plan]  # id of a child that is rebuilt too -> its plan
    given: dict[Node, Call]  # what each call of such a child passes
    inner: dict[tuple[Node, Pick], Pick]  # a call of such a child and a pick of ours -> which of its picks that is

    @property
    def used(self) -> list[str]:
        """The names of the inputs that the cut still reads, in order."""
        if self.calls[0].parameters is not None:
            return [node.target for node in self.calls[0].inputs]
        read = {node.target for way in self.ways for node in way.live if node.kind is Kind.INPUT}
        return [name for name in dict.fromkeys(n.target for call in self.calls for n in call.inputs) if name in read]

    def form_of(self, call: Call) -> int:
        return [known.key for known in self.calls].index(call.key)

    @property
    def missing(self) -> str | None:
        """Why no way leads to the picks, if none does."""
        reasons = [way.missing for way in self.ways]
        return reasons[0] if all(reasons) else None


class Cutter:
    """Plans the cut of one model at a list of targets."""

    def __init__(self, model: nn.Module, spine: Spine, forwards: Forwards) -> None:
        self.model = model
        self.targets = spine.targets
        self.holds = spine.holds
        self.forwards = forwards
        self._plans: dict[Any, Plan] = {}
        self._effects = Effects(forwards)
        self._unknown: dict[str, UnknownTargetError] = {}  # by their text

    def plan(self) -> Plan:
        """The plan of the model itself: its own output if a target asks for it, then all others in order."""
        for target in self.targets:
            if target.is_module and has_own_call(target.module) and target.module is not self.model:
                raise CannotFollowError(
                    f"{target.text!r}: {type(target.module).__name__} overrides __call__, so what its call returns and "
                    f"what a hook on it captures may differ. Stop at a module inside it, or beside it"
                )
        entry = self.forwards.entry
        if entry.parameters and not entry.inputs:
            kind = type(self.model).__name__
            why = (
                f"every argument of the forward of {kind} may be left out, so it has to be seen what it is called with"
            )
            if self.forwards.has_example:
                why = f"the example for {kind} holds no tensor, so the result would take no input"
            raise CannotFollowError(f"{why}. Give an example input, args=(x,) or kwargs={{...}}")
        whole = [target.is_module and target.module is self.model for target in self.targets]
        picks = tuple(Pick(t, target.call) for t, target in enumerate(self.targets) if not whole[t])
        plan = self._plan(self.model, "", (entry,), picks, any(whole), False)
        if plan.missing:
            raise self._unknown.get(plan.missing, NotReachedError(plan.missing))
        return plan

    # -- finding a target ------------------------------------------------------------------------------------------

    def _sites(self, module: nn.Module, body: Body, t: int) -> list[tuple[Node, bool]]:
        """The nodes where a target appears; True: somewhere inside the child that the node calls."""
        target = self.targets[t]
        sites = []
        for node in body.nodes:
            if node.kind is Kind.CHILD:
                child = descend(module, node.target)
                if child is target.module and target.is_module:
                    sites.append((node, False))
                elif (child._modules or not target.is_module) and t in self.holds(child):
                    sites.append((node, True))
            elif node.name and module is target.module and node.name == target.operation:
                sites.append((node, False))
        return sites

    def _locate(self, module: nn.Module, path: str, body: Body, pick: Pick) -> tuple[Node, int | None] | None:
        """The node where a pick appears, and which of the child's calls it is if it lies inside that child."""
        sites = self._sites(module, body, pick.target)
        if len(sites) == 1 and sites[0][1]:
            return sites[0][0], pick.call
        # Several calls of one child are all in its one mode: a mode that does not reach the target reaches it in none.
        alike = len({self._child(module, node) for node, _ in sites}) == 1
        last = pick.call < 0
        skip = -pick.call - 1 if last else pick.call
        for node, deeper in reversed(sites) if last else sites:
            # Counting the calls inside a child means following it, so it is done only where the number matters.
            counts = self._counts(module, path, node, pick.target) if deeper else {1}
            counts = counts - {0} or counts if alike else counts
            if skip == 0 and 0 not in counts:
                return node, None if not deeper else -1 if last else 0
            count = self._agreed(counts, pick.target, join(path, str(node.target)))
            if skip < count:
                return node, None if not deeper else -skip - 1 if last else skip
            skip -= count
        return None

    def _counts(self, parent: nn.Module, path: str, node: Node, t: int) -> set[int]:
        """How often a target runs while `node` calls a child that holds it, in each way of the child."""
        child, below = descend(parent, node.target), join(path, node.target)
        counts = set()
        for body in self.forwards.bodies(child, below, self.forwards.call(parent, path, node)):
            sites = [] if body.failure else self._sites(child, body, t)
            counts.add(sum(self._count(child, below, site, t) if deeper else 1 for site, deeper in sites))
        return counts

    def _count(self, parent: nn.Module, path: str, node: Node, t: int) -> int:
        return self._agreed(self._counts(parent, path, node, t), t, join(path, str(node.target)))

    def _agreed(self, counts: set[int], t: int, path: str) -> int:
        if len(counts) > 1:
            raise NotReachedError(
                f"{self.targets[t].text!r} runs {' or '.join(map(str, sorted(counts)))} times in one call of {path!r}, "
                f"depending on its mode, so its calls cannot be numbered over several calls of {path!r}"
            )
        return next(iter(counts))

    def _missing(self, module: nn.Module, path: str, body: Body, pick: Pick) -> str:
        """Why a pick cannot be found in a body."""
        target = self.targets[pick.target]
        holder = f"{path!r} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"
        if body.failure:
            return body.failure
        if not target.is_module and module is target.module:
            names = tuple(node.name for node in body.nodes if node.name)
            if target.operation not in names:
                error = unknown(self.model, target.text, target.path, module, str(target.operation), names)
                return self._unknown.setdefault(str(error), error).args[0]
        count = sum(
            self._count(module, path, site, pick.target) if deeper else 1
            for site, deeper in self._sites(module, body, pick.target)
        )
        mode = "".join(f" while {flag} is {value}" for flag, value in body.modes.items())
        if count:
            calls = (
                f"{count} times{mode}, so its calls are :0 to :{count - 1}" if count > 1 else f"once{mode}, which is :0"
            )
            return f"{target.text!r}: {holder} runs it {calls}"
        return (
            f"{target.text!r} is never run: the forward of {holder} does not call it{mode}. "
            f"Perhaps another mode or option of the model uses it, or only its parts or methods are used; "
            f"layers(model) lists what runs"
        )

    # -- planning --------------------------------------------------------------------------------------------------

    def _plan(
        self, module: nn.Module, path: str, calls: tuple[Call, ...], picks: tuple[Pick, ...], own: bool, writes: bool
    ) -> Plan:
        key = (id(module), tuple(call.key for call in calls), picks, own, writes)
        if key not in self._plans:
            self._plans[key] = self._make_plan(module, path, calls, picks, own, writes)
        return self._plans[key]

    def _make_plan(
        self, module: nn.Module, path: str, calls: tuple[Call, ...], picks: tuple[Pick, ...], own: bool, writes: bool
    ) -> Plan:
        plan = Plan(module, path, calls, picks, own, writes, [], {}, {}, {})
        wanted: dict[int, list[Pick]] = {}  # id of a child on the spine -> what is picked from it
        sites: dict[int, list[Node]] = {}
        for form, body in [
            (f, body) for f, call in enumerate(calls) for body in self.forwards.bodies(module, path, call)
        ]:
            taps: list[Node] = []
            missing = body.failure
            for pick in picks:
                found = None if body.failure else self._locate(module, path, body, pick)
                if found is None:
                    missing = missing or self._missing(module, path, body, pick)
                    continue
                node, deeper = found
                taps.append(node)
                if deeper is not None:
                    child = id(descend(module, node.target))
                    inner = plan.inner[node, pick] = Pick(pick.target, deeper)
                    if inner not in wanted.setdefault(child, []):
                        wanted[child].append(inner)
                    sites.setdefault(child, []).append(node)
            plan.ways.append(Way(form, body, [], taps, set(), missing))
        whole: set[int] = set()  # children on the spine whose own output is needed too
        writing: set[int] = set()  # those of which what they change in their arguments is read here
        while True:
            for child, inner_picks in wanted.items():
                node = sites[child][0]
                target = descend(module, node.target)
                forms = self._forms(module, path, plan, child)
                plan.children[child] = self._plan(
                    target, join(path, node.target), forms, tuple(inner_picks), child in whole, child in writing
                )
            before = set(whole), set(writing)
            for way in plan.ways:
                self._keep(plan, way, whole, writing)
            if (whole, writing) == before:
                return plan

    def _forms(self, module: nn.Module, path: str, plan: Plan, child: int) -> tuple[Call, ...]:
        """The different ways in which a child on the spine is called: with a mask and without, say."""
        nodes = [node for way in plan.ways for node in way.body.nodes if self._child(module, node) == child]
        plan.given.update((node, self.forwards.call(module, path, node)) for node in nodes)
        return tuple({plan.given[node].key: plan.given[node] for node in reversed(nodes)}.values())[::-1]

    def _keep(self, plan: Plan, way: Way, whole: set[int], writing: set[int]) -> None:
        """Finds which nodes of a body its taps need, and which children on the spine have to give their own output."""
        if way.missing:
            return
        for tap in way.taps:
            child = plan.children.get(self._child(plan.module, tap))
            if child is not None and child.missing:
                way.missing = child.missing
                return
        live: set[Node] = set()
        child_of = functools.partial(self._child, plan.module)

        def need(node: Node, value: bool = True) -> None:
            """`value`: what the node returns is read, not only what is picked from inside it."""
            if value and child_of(node) in plan.children:
                whole.add(child_of(node))
            pending = [node]
            while pending:
                reached = pending.pop()
                if reached not in live:
                    live.add(reached)
                    sources = self._sources(plan, reached)
                    whole.update(c for c in map(child_of, sources) if c in plan.children)
                    pending += sources

        for tap, pick in zip(way.taps, plan.picks):
            need(tap, value=(tap, pick) not in plan.inner)
        if plan.own:
            for node in nodes_in(way.body.result):
                need(node)
        for node in live:
            if node.kind is Kind.ATTRIBUTE and any(child_of(call) in plan.children for call in node.args):
                raise CannotFollowError(
                    f"{join(plan.path, node.target)!r} is set by a forward that would be cut, and read outside of it, "
                    f"so these targets cannot be had from one module. Cut the model once for each of them"
                )
        effects = self._effects.of(plan.module, plan.path, way.body)
        while missed := effects.needed_writes(live, way.taps, plan.own, plan.writes):
            for node in missed:
                need(node, value=False)
        end = len(way.body.nodes) if plan.own or plan.writes else max(node.index for node in live)
        rebuilt = [node for node in live if child_of(node) in plan.children and node.index < end]
        writing.update(map(child_of, effects.read_writers(rebuilt, live, way.taps, plan.own, plan.writes)))
        for node in self._claims(way, live, plan.own):
            need(node)
        way.cloned = set()
        way.live = sorted(live, key=lambda node: node.index)
        for tap, pick in zip(way.taps, plan.picks):
            inner = plan.inner.get((tap, pick))
            if effects.overwritten_later(tap, live):
                if inner is None or self._exposed(plan.children[child_of(tap)], inner):
                    way.cloned.add(tap)

    def _exposed(self, plan: Plan, pick: Pick) -> bool:
        """Whether the caller of a rebuilt module may overwrite a pick, since it holds its memory by another way too."""
        for way in plan.ways:
            if way.missing:
                continue
            tap = way.taps[plan.picks.index(pick)]
            inner = plan.inner.get((tap, pick))
            kept = inner is not None and not self._exposed(plan.children[self._child(plan.module, tap)], inner)
            if tap not in way.cloned and not kept and self._effects.of(plan.module, plan.path, way.body).exposes(tap):
                return True
        return False

    def _claims(self, way: Way, live: set[Node], own: bool) -> list[Node]:
        """The checks before the cut: of what a recording decided, and others that ask for what is computed anyway."""
        end = len(way.body.nodes) if own else max(tap.index for tap in way.taps)
        claims = [node for node in way.body.nodes[:end] if node.target is torch._assert and node not in live]
        return [claim for claim in claims if claim.decides or _needs_nothing_new(claim, live)]

    def _child(self, module: nn.Module, node: Node) -> int:
        return id(descend(module, node.target)) if node.kind is Kind.CHILD else 0

    def _sources(self, plan: Plan, node: Node) -> list[Node]:
        """The nodes that a node reads; a rebuilt child reads only the arguments that its cut still uses."""
        child = plan.children.get(self._child(plan.module, node))
        if child is None:
            return node.inputs()
        used = set(child.used)
        return [source for source, name in zip(node.inputs(), plan.given[node].inputs) if name.target in used]


def _needs_nothing_new(node: Node, live: set[Node]) -> bool:
    if node in live:
        return True
    if node.kind in (Kind.CHILD, Kind.INPUT, Kind.ATTRIBUTE, Kind.ASSIGN):
        return False
    return all(_needs_nothing_new(source, live) for source in node.inputs())


def assumptions_of(plan: Plan) -> tuple[Any, ...]:
    """What was fixed in the recorded forwards of a plan before they reach the targets, each once."""
    found = []
    for way in plan.ways:
        end = len(way.body.nodes) if plan.own else max((tap.index for tap in way.taps), default=-1)
        found += [assumption for index, assumption in way.body.assumptions if index <= end]
    found += [assumption for child in plan.children.values() for assumption in assumptions_of(child)]
    return tuple(dict.fromkeys(found))
