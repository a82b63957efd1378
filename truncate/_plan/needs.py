"""Which nodes of one graph a cut needs, with which values it is entered, and what it has to copy."""

from __future__ import annotations

import functools

import torch

from truncate._errors import CannotFollowError
from truncate._graph import Graph, Kind, Node, is_made_for_child, is_mode, is_repeatable, join, mutated, nodes_in
from truncate._plan.effects import Effects, GraphEffects, State, leaving
from truncate._plan.locate import Capture
from truncate._plan.plan import Branch, Entry, LivePlan, Plan, Slot, Tapped


class Needs:
    """What one branch of a plan needs, as long as its children are planned as they are now."""

    def __init__(self, effects: Effects, plan: Plan, branch: Branch, kept: State) -> None:
        self._effects = effects
        self._plan = plan
        self._branch = branch
        self._kept = kept  # what lives on from call to call in modules that the result holds in other places
        self._entry = branch.entry
        self._of_graph = effects.of(plan.module, plan.path, branch.graph)
        self._live: set[Node] = set()  # what runs
        self.refusal: str | None = None  # why the branch cannot be entered there, if it cannot
        self._given: set[Node] = set()  # what was computed before the entry, and is read

    def find(self, whole: set[int], mutating: set[int]) -> None:
        """Fills in the branch, and adds the children on the path whose own output, or whose mutations, are needed."""
        plan, branch, effects = self._plan, self._branch, self._of_graph
        branch.missing = self._missing_below()
        if branch.missing:
            return
        taps = [tap for tap in branch.taps if tap is not None]
        for tap in taps:
            for node in nodes_in(tap.value):
                self._need(node, whole, value=tap.inner is None)
        if plan.own:
            for node in nodes_in(branch.graph.result):
                self._need(node, whole)
        for node in self._live:
            if node.kind is Kind.ATTRIBUTE and any(plan.child_of(call) is not None for call in node.args):
                raise CannotFollowError(
                    f"{join(plan.path, node.target)!r} is set by a forward that would be cut, and read outside of it, "
                    f"so one module cannot return all these targets. Cut the model once for each of them"
                )
        for node in branch.exit.state if branch.exit is not None else ():
            if node.index >= self._start:
                self._need(node, whole)
        reads = {node: tap.read_at for tap in taps for node in nodes_in(tap.value)}
        all_of_it = plan.own or plan.mutates
        reached = branch.graph.nodes[self._start : branch.decided_up_to(all_of_it)]
        stops = not all_of_it and branch.exit is None
        later = branch.graph.nodes[max(branch.end, self._start) :] if stops else []
        read = effects.read_in([other.live for other in plan.branches if other is not branch])
        elsewhere = State(read.called | self._kept.called, read.read | self._kept.read)

        def missed() -> list[Node]:
            """What is not among the live nodes yet, and has to be since it mutates something, or is a guard."""
            candidates = [*reached, *effects.keeping_state(later)]
            mutators = effects.needed_mutators(
                self._live, reads, plan.own, plan.mutates, candidates, self._elsewhere, elsewhere
            )
            return mutators or self._changing_what_the_caller_gave() or self._guards()

        while found := missed():
            for node in found:  # a call that nobody reads does all of it, also where another one is cut
                self._need(node, whole, value=plan.child_of(node) is not None)
        self._refuse_rebuilt_children()
        end = len(branch.graph.nodes) if all_of_it else max((tap.read_at for tap in taps), default=0)
        rebuilt = [node for node in self._live if plan.child_of(node) is not None and node.index < end]
        mutators = effects.read_mutators(rebuilt, self._live, reads, plan.own, plan.mutates)
        mutating.update(map(plan.child_id, [*mutators, *leaving(rebuilt, self._live)]))
        branch.live = sorted(self._live, key=lambda node: node.index)
        branch.cloned = {tap for tap in taps if self._may_be_overwritten(tap)}
        branch.replaced = {tap for tap in branch.cloned if self._may_be_replaced(tap)}
        if self._entry is not None:
            self._enter(self._entry)
        if branch.exit is not None:
            self._leave(branch.exit, whole)

    def _refuse_rebuilt_children(self) -> None:
        """Refuses children that would not do to their arguments what they do as they are."""
        for node in self._live:
            child = self._plan.child_of(node)
            if child is None or isinstance(child, LivePlan):
                continue
            where = repr(join(self._plan.path, str(node.target)))
            if self._of_graph.is_given_twice(node):
                raise CannotFollowError(f"{where} gets one tensor as several arguments, and changes it in place")
            made = set(filter(is_made_for_child, node.inputs()))
            if not made or not any(branch.graph.may_change_containers for branch in child.branches):
                continue
            if child.own or any(n.index > node.index and not made.isdisjoint(n.inputs()) for n in self._live):
                raise CannotFollowError(f"{where} changes a list or dict that it is given, and would be cut")

    def _need(self, node: Node, whole: set[int], value: bool = True) -> None:
        """`value`: what the node returns is read, not only a capture inside it."""
        plan = self._plan
        if value and plan.child_of(node) is not None and not self._is_before(node):
            whole.add(plan.child_id(node))
        pending = [node]
        while pending:
            reached = pending.pop()
            if reached in self._live or reached in self._given:
                continue
            if self._is_before(reached):
                self._given.add(reached)
                continue
            self._live.add(reached)
            sources = self._sources(reached)
            inside = (source for source in sources if not self._is_before(source))
            whole.update(plan.child_id(source) for source in inside if plan.child_of(source) is not None)
            pending += sources

    def _sources(self, node: Node) -> list[Node]:
        """The nodes that a node reads; a rebuilt child reads only the arguments that its cut still uses."""
        child = self._plan.child_of(node)
        if child is None:
            return node.inputs()
        used = set(child.used)
        inputs = self._branch.given[node].call.inputs
        return [source for source, name in zip(node.given(), inputs) if name.target in used]

    def _missing_below(self) -> str | None:
        """Why a child on the path to a capture, or to the entry, cannot be rebuilt."""
        nodes = [tap.value for tap in self._branch.taps if tap is not None and tap.inner is not None]
        reasons = [self._plan.children[self._plan.child_id(node)].missing for node in nodes]
        if self._entry is not None and self._entry.inner is not None:
            child = self._plan.children[self._plan.child_id(self._entry.site)]
            reasons.append(child.missing_in(child.form_of(self._branch.given[self._entry.site])))
        return next(filter(None, reasons), None)

    def _changing_what_the_caller_gave(self) -> list[Node]:
        """What changes the arguments before the target is there: the caller of the model may hold them."""
        if self._entry is not None:
            return []
        before = self._branch.graph.nodes[: self._branch.decided_up_to(self._plan.own)]
        return self._of_graph.changing_arguments(node for node in before if node not in self._live)

    # -- guards ----------------------------------------------------------------------------------------------------

    def _guards(self) -> list[Node]:
        """The guards before the cut: those of a recording, and others that need only what is computed anyway.

        If the rest of the forward runs in another piece, it relies on the guards of what is known here.
        """
        branch = self._branch
        passed = len(branch.graph.nodes) if self._plan.own else branch.end
        # Also of what keeps state, after the targets.
        end = max([branch.decided_up_to(self._plan.own), *(node.index + 1 for node in self._live)])
        inside = _computed_after(branch.graph, self._entry)
        elsewhere = _computed_after(branch.graph, branch.exit)
        without_call = self._needing_no_call() if branch.may_run_again else set()
        nothing_new = self._needing_nothing_new()
        guards = []
        for node in branch.graph.nodes:
            if node.target is not torch._assert or node in self._live:
                continue
            here, not_elsewhere = node.index < end, elsewhere is not None and node not in elsewhere
            if node.decides or node in without_call:
                kept = (here or not_elsewhere) and (inside is None or node in inside)
            else:  # each piece that has the value relies on it
                kept = self._start <= node.index < passed and node in nothing_new
            if kept:
                guards.append(node)
        return guards

    def _needing_nothing_new(self) -> set[Node]:
        """The nodes that can be computed of what is needed anyway."""
        found = self._live | self._given
        new = (Kind.CHILD, Kind.INPUT, Kind.ATTRIBUTE, Kind.ASSIGN)
        for node in self._branch.graph.nodes:
            if node.kind not in new and not self._is_before(node) and found.issuperset(node.inputs()):
                found.add(node)
        return found

    def _needing_no_call(self) -> set[Node]:
        """The nodes that can be computed without a call of a child, or the result of one, that is not needed anyway."""
        found = set[Node]()
        for node in self._branch.graph.nodes:
            if node.kind is Kind.CHILD:
                child = self._plan.child_of(node)
                is_of_before = node.index == self._branch.end and child is None  # the layer that `before` stops at
                needs_none = is_of_before or (node in self._live and (child is None or child.own))
            else:
                needs_none = found.issuperset(node.inputs())
            if needs_none:
                found.add(node)
        return found

    # -- copies ----------------------------------------------------------------------------------------------------

    def _may_be_overwritten(self, tap: Tapped) -> bool:
        if not any(self._of_graph.overwritten_later(node, tap.moment, self._live) for node in _sharing(tap)):
            return False
        child = self._plan.child_of(tap.value) if tap.inner is not None else None
        return child is None or tap.inner is None or _exposed(self._effects, child, tap.inner)

    def _may_be_replaced(self, tap: Tapped) -> bool:
        """Whether the forward may go on with a copy of a captured value, so that gradients flow back to that itself.

        It may where what is in memory there is known to the rest of the forward by this value alone.
        """
        branch, of_graph = self._branch, self._of_graph
        if type(tap.value) is not Node or branch.entry is not None or branch.exit is not None:
            return False
        if self._effects.traces.is_several(self._plan.module, self._plan.path, tap.value):
            return False  # perhaps of one memory, which copies would not share
        sharing = [n for n in branch.graph.nodes if of_graph.alias_set(n) is of_graph.alias_set(tap.value)]
        if any(node.kind in (Kind.INPUT, Kind.ATTRIBUTE, Kind.ASSIGN) for node in sharing):
            return False
        others = {of_graph.alias_set(node) for node in tap.value.inputs()} - {of_graph.alias_set(tap.value)}
        later = [node for node in self._live if node.index >= tap.moment]
        if tap.inner is not None and not others.isdisjoint(of_graph.changed_by(later)):
            return False
        read = {source for node in later for source in node.inputs()}
        read |= set(nodes_in(branch.graph.result)) if self._plan.own else set()
        return read.intersection(node for node in sharing if node.index < tap.moment) == {tap.value}

    # -- the entry -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _before(self) -> set[Node]:
        """The values that are computed before the forward is entered, and cannot be computed again after that."""
        entry, effects = self._entry, self._of_graph
        if entry is None:
            return set()
        nodes = self._branch.graph.nodes[: self._start]
        changed = effects.changed_by(nodes)
        before: set[Node] = set()
        for node in nodes:
            inputs = node.inputs()
            if node.kind is Kind.INPUT:
                computed = not self._plan.path  # the model's own arguments went to the piece before
            elif node.kind is Kind.ATTRIBUTE:
                computed = not is_repeatable(node)
            else:
                computed = (
                    not is_repeatable(node)
                    or any(source in before or source.kind is Kind.INPUT for source in inputs)
                    or any(effects.alias_set(source) in changed for source in (node, *inputs))
                )
            if computed or (node is entry.site and entry.inner is None):
                before.add(node)
        for node in self._branch.graph.nodes[self._start :]:
            if node.kind is Kind.ATTRIBUTE and node.args and before.issuperset(node.args):
                before.add(node)  # what a call of a child left behind
        return before

    def _is_before(self, node: Node) -> bool:
        return node in self._before

    @functools.cached_property
    def _elsewhere(self) -> list[Node]:
        """The tensors of the module that another piece of it may read."""
        nodes = self._branch.graph.nodes if self._entry is not None else []
        return [node for node in nodes if node.kind is Kind.ATTRIBUTE and not node.args and not is_mode(node)]

    @property
    def _start(self) -> int:
        """The index of the first node that may run, apart from those that can run again."""
        if self._entry is None:
            return 0
        return self._entry.site.index + (self._entry.inner is None)

    def _enter(self, entry: Entry) -> None:
        """With which values the forward is entered, and which of them it has to copy since it mutates them."""
        branch, effects = self._branch, self._of_graph
        child = self._plan.child_of(entry.site) if entry.inner is not None else None
        below = child is not None and entry.site in self._live
        slots = [Slot(k) for k in range(child.slots)] if child is not None and below else []
        given = sorted(self._given - {entry.site}, key=lambda node: node.index)
        entry.given = [*slots, *([entry.site] if entry.site in self._given else []), *given]
        before = branch.graph.nodes[: self._start]
        earlier = branch.exit.state if branch.exit is not None else []
        mutators = effects.read_mutators(before, self._live, {}, self._plan.own, self._plan.mutates, self._elsewhere)
        entry.state = [node for node in before if node not in self._live and (node in mutators or node in earlier)]
        changed = effects.changed_by(node for node in branch.live if node.index >= self._start)
        known = [*self._given, *(node for node in branch.live if node.kind is Kind.INPUT)]
        entry.cloned = {node for node in self._given if effects.alias_set(node) in changed}
        if child is not None and below and _hands_back(self._effects, child):
            known.append(entry.site)
            if effects.alias_set(entry.site) in changed:
                entry.cloned |= set(slots)
        self.refusal = self._refusal(entry, [effects.alias_set(node) for node in known], changed)
        branch.missing = self.refusal

    def _refusal(self, entry: Entry, known: list[Node], changed: set[Node]) -> str | None:
        """Why the forward cannot be entered, if so. `known`, `changed`: alias sets of what it is given, and mutates."""
        plan = self._plan
        where = repr(join(plan.path, entry.site.name or str(entry.site.target)))
        module = plan.module
        if (plan.own and module._forward_hooks) or (plan.has_forms and module._forward_pre_hooks):
            holder = repr(plan.path) if plan.path else "the model itself"
            return (
                f"{holder} has hooks, which need its arguments, and these are not available after {where} inside it. "
                f"Divide the model outside it, or remove the hooks first"
            )
        if entry.inner is not None and not self._of_graph.changed_by([entry.site]).isdisjoint(known):
            return (
                f"{where} changes its input in place, and later operations read that, so the model cannot be divided "
                f"inside {where}"
            )
        for node in self._branch.graph.nodes:
            if node.kind is Kind.ASSIGN and not _is_in_place(node) and not self._is_of_one_side(node.target):
                return (
                    f"{join(plan.path, node.target)!r} is assigned again in each call, and a piece does not see what "
                    f"another one assigns, so the model cannot be divided after {where}. Change the buffer in place "
                    f"instead, as with copy_: both pieces see that"
                )
        held = [self._of_graph.alias_set(node) for node in self._elsewhere]
        if any((known + held).count(alias_set) > 1 for alias_set in changed.intersection(known)):
            return (
                f"several values that share memory would cross after {where}, and later operations change them in "
                f"place, so the model cannot be divided there"
                + ". An example input, args=(x,), may show that it does not"
                * (not self._effects.traces.has_example)
            )
        return None

    def _leave(self, left: Entry, whole: set[int]) -> None:
        """A call that goes on in another piece ends here, but a child that another call needs whole runs to its end."""
        site = left.site
        runs_whole = self._plan.child_id(site) in whole or (site in self._live and self._plan.child_of(site) is None)
        if left.inner is not None and runs_whole and self._of_graph.child_summary(site).state:
            where = join(self._plan.path, str(site.target))
            self._branch.missing = self.refusal = (
                f"{where!r} is also needed whole, for another of its calls. It changes its own state, and this call "
                f"would do so twice. Divide the model outside {where!r}"
            )

    def _is_of_one_side(self, path: str) -> bool:
        """Whether a buffer of the model itself is read and assigned on one side of the entry only."""
        touched = [n for n in self._branch.graph.nodes if n.kind in (Kind.ATTRIBUTE, Kind.ASSIGN) and n.target == path]
        return not self._plan.path and len({node.index < self._start for node in touched}) == 1


def _computed_after(graph: Graph, entry: Entry | None) -> set[Node] | None:
    """The nodes that depend on what runs after the entry of a forward."""
    if entry is None:
        return None
    later = {entry.site}
    for node in graph.nodes[entry.site.index + 1 :]:
        if node.kind is Kind.CHILD or any(source in later for source in node.inputs()):
            later.add(node)
    return later


def _is_in_place(assigned: Node) -> bool:
    """Whether an assignment only puts back a buffer that was mutated, as ``self.count += 1`` does."""
    value = assigned.args[0]
    while type(value) is Node and value.kind in (Kind.FUNCTION, Kind.METHOD) and mutated(value) == [value.args[0]]:
        value = value.args[0]
    return type(value) is Node and value.kind is Kind.ATTRIBUTE and value.target == assigned.target


def _sharing(tap: Tapped) -> list[Node]:
    """The nodes whose memory a capture may have."""
    nodes = list(nodes_in(tap.value))
    if tap.inner is not None:  # what is captured inside may be what the child was given, whatever it returns
        nodes += [source for node in nodes for source in node.inputs()]
    return nodes


def _exposed(effects: Effects, plan: Plan, capture: Capture) -> bool:
    """Whether the caller of a rebuilt module may overwrite a capture, since it also holds that memory otherwise."""
    if isinstance(plan, LivePlan):
        return True  # nobody knows
    for branch in plan.branches:
        tap = branch.taps[plan.captures.index(capture)]
        if branch.missing or tap is None:
            continue
        child = plan.child_of(tap.value) if tap.inner is not None else None
        kept = child is not None and tap.inner is not None and not _exposed(effects, child, tap.inner)
        if tap not in branch.cloned and not kept:
            of_graph = effects.of(plan.module, plan.path, branch.graph)
            if any(map(of_graph.exposes, _sharing(tap))):
                return True
    return False


def _hands_back(effects: Effects, plan: Plan) -> bool:
    """Whether the output of a module that is entered in its middle may share memory with what it is entered with."""
    for branch in plan.branches:
        if branch.entry is None or branch.missing:
            continue
        of_graph: GraphEffects = effects.of(plan.module, plan.path, branch.graph)
        returned = {of_graph.alias_set(node) for node in nodes_in(branch.graph.result)}
        for value in branch.entry.given:
            if isinstance(value, Slot):
                child = plan.child_of(branch.entry.site)
                shared = of_graph.alias_set(branch.entry.site) in returned
                if shared and child is not None and _hands_back(effects, child):
                    return True
            elif value not in branch.entry.cloned and of_graph.alias_set(value) in returned:
                return True
    return False
