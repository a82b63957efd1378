"""Where to cut: from the model down to the targets, which operations of each forward on the path are still needed.

The path to a target consists of the modules that hold it. Each is planned by itself, with its children as leaves: its
graph is cut at the child on the path, that child is planned in the same way, and what the cut no longer needs is
dropped, arguments of the child too. A module can also be entered in its middle, after a target: what was computed
before that and is read after it crosses, as an argument. A `Plan` is only bookkeeping; `_build` makes modules of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from truncate._errors import CannotFollowError, CrossingError, NoPythonError, NotReachedError, TruncateError
from truncate._follow import has_own_call
from truncate._graph import Call, Graph, Kind, Node, descend, join, nodes_in, whole_of
from truncate._live import calls_itself, runs_once
from truncate._plan.crossing import unclean
from truncate._plan.effects import Effects, State
from truncate._plan.locate import Capture, Locator
from truncate._plan.needs import Needs
from truncate._plan.plan import Branch, Entry, Form, LivePlan, Plan, Slot, Tapped
from truncate._python import may_call_again
from truncate._target import TargetPaths


class Cutter:
    """Plans cuts of one model at a list of targets."""

    def __init__(
        self,
        model: nn.Module,
        paths: TargetPaths,
        effects: Effects,
        clean: bool = False,
        live: bool | None = False,
        kept: State = State(),  # noqa: B008 (a tuple)
    ) -> None:
        """Plans for these targets.

        `clean`: nothing but the output of its target may cross where a forward is entered in its middle; `live`:
        whether modules keep their own Python: all of them, none, or (None) those that cannot be rebuilt; `kept`: what
        lives on from call to call in modules that the results hold, and that run in several places.
        """
        self.model = model
        self.targets = paths.targets
        self.traces = effects.traces
        self.locator = Locator(model, paths, effects.traces)
        self.effects = effects
        self.clean = clean
        self.live = live
        self.kept = kept
        self._plans: dict[Any, Plan] = {}
        self._calls: dict[tuple[int, str], Call] = {}  # one of each group of equal calls of a module
        self._refused: set[str] = set()  # why a forward cannot be entered where it should be
        self._open_ends: set[str | None] = set()  # why the end of a recording is not known
        self._entries: dict[tuple[Graph, Capture], Entry] = {}  # where the forwards planned so far are entered

    def captures(self, targets: Iterable[int]) -> tuple[Capture, ...]:
        """The captures for some of the targets; none for the model itself."""
        return tuple(Capture(t, self.targets[t].call) for t in targets if not self._is_whole(self.targets[t]))

    def is_own_wanted(self, targets: Iterable[int]) -> bool:
        """Whether one of the targets is the model itself."""
        return any(self._is_whole(self.targets[t]) for t in targets)

    def _is_whole(self, target: Any) -> bool:
        return target.is_module and target.module is self.model

    def stretch(self, start: Capture | None, captures: tuple[Capture, ...], own: bool) -> Plan:
        """The plan of a piece: after `start`, up to the captures, or to the end of the model for its own output."""
        form = Form(self.traces.entry, start)
        reason = self._why_not_rebuilt()
        if reason is None:
            plan = self._plan(self.model, "", (form,), captures, own, False)
        elif self.live is False:
            raise CannotFollowError(reason)
        else:
            plan = LivePlan(self.model, "", (form,), captures, own, False, [], {}, reason=reason, targets=self.targets)
        if plan.missing:
            error: type[TruncateError] = CrossingError if plan.missing in self._refused else NotReachedError
            if plan.missing in self._open_ends:
                error = CannotFollowError
            raise self.locator.unknown.get(plan.missing) or error(plan.missing)
        self._remember(plan)
        plan.note_blocks()
        return plan

    def _why_not_rebuilt(self) -> str | None:
        """Why the model itself has to keep its own Python, if so."""
        self.traces.require_python(self.model, "")
        if self.live:
            return "live=True was asked for"
        for target in self.targets:
            if target.is_module and has_own_call(target.module) and target.module is not self.model:
                return (
                    f"{target.text!r}: {type(target.module).__name__} overrides __call__, so what its call returns and "
                    f"what a hook on it captures may differ. Stop at a module inside it, or outside it"
                )
            if target.is_module and (target.call != -1 or target.before) and calls_itself(target.module):
                return (
                    f"{target.text!r}: {type(target.module).__name__} calls itself, and a call inside of another one "
                    f"is not seen from outside. Stop at its last call"
                )
        entry = self.traces.entry
        if not entry.parameters or entry.inputs:
            return None
        kind = type(self.model).__name__
        why = f"every argument of the forward of {kind} is optional, so it is not known which of them it gets"
        if self.traces.has_example:
            why = f"the example for {kind} holds no tensor, so the result would take no input"
        return f"{why}. Give an example input, args=(x,) or kwargs={{...}}"

    def whole(self, module: nn.Module, path: str, form: Form) -> Plan:
        """The plan of one module that runs to its end, with its children kept as they are."""
        return self._plan(module, path, (form,), (), True, False)

    def _plan(
        self,
        module: nn.Module,
        path: str,
        forms: tuple[Form, ...],
        captures: tuple[Capture, ...],
        own: bool,
        mutates: bool,
    ) -> Plan:
        key = (id(module), tuple(form.key for form in forms), captures, own, mutates)
        if key not in self._plans:
            try:
                self._plans[key] = self._make_plan(module, path, forms, captures, own, mutates)
            except NoPythonError:
                raise
            except CannotFollowError as error:
                if self.live is False:
                    raise
                self._plans[key] = LivePlan(
                    module, path, forms, captures, own, mutates, [], {}, reason=str(error), targets=self.targets
                )
        return self._plans[key]

    def _make_plan(
        self,
        module: nn.Module,
        path: str,
        forms: tuple[Form, ...],
        captures: tuple[Capture, ...],
        own: bool,
        mutates: bool,
    ) -> Plan:
        plan = Plan(module, path, forms, captures, own, mutates, [], {})
        for f, form in enumerate(forms):
            for graph in self.traces.graphs(module, path, form.call):
                plan.branches.append(self._branch(plan, f, graph))
        if path and (own or mutates) and any(branch.graph.loses_changes for branch in plan.branches):
            raise CannotFollowError(
                f"{path!r} ({type(module).__name__}) may change an object that it gets, such as a cache, and this is "
                f"not recorded. An option of the model, such as use_cache=False, may avoid it"
            )
        wanted: dict[int, list[Capture]] = {}  # id of a child on the path -> what is captured inside it
        sites: dict[int, Node] = {}  # and one call of it
        for branch in plan.branches:
            inner = [(tap.value, [tap.inner]) for tap in branch.taps if tap is not None and tap.inner is not None]
            if branch.entry is not None and branch.entry.inner is not None:
                inner.append((branch.entry.site, []))
            for node, captured in inner:
                child = plan.child_id(node)
                sites.setdefault(child, node)
                wanted[child] = list(dict.fromkeys([*wanted.get(child, []), *captured]))
        whole: set[int] = set()  # children on the path whose own output is needed too
        mutating: set[int] = set()  # those whose mutations of their arguments are read here
        while True:
            for child, inner_captures in wanted.items():
                node = sites[child]
                below = self._forms(module, path, plan, child)
                plan.children[child] = self._plan(
                    descend(module, node.target),
                    join(path, node.target),
                    below,
                    tuple(inner_captures),
                    child in whole,
                    child in mutating,
                )
                if isinstance(plan.children[child], LivePlan) and _asks_object(plan, child):
                    raise CannotFollowError(
                        f"{join(path, node.target)!r} returns an object, and a method of it may run the target later"
                    )
            before = set(whole), set(mutating), [len(branch.live) for branch in plan.branches]
            for branch in plan.branches:
                if not branch.missing:
                    needs = Needs(self.effects, plan, branch, self.kept)
                    needs.find(whole, mutating)
                    if needs.refusal:
                        self._refused.add(needs.refusal)
            if (whole, mutating, [len(branch.live) for branch in plan.branches]) == before:
                break
        if self.clean and (own or captures):
            for branch in plan.branches:
                reason = unclean(plan, branch) if not branch.missing else None
                if reason is not None:
                    branch.missing = reason
                    self._refused.add(reason)
        return plan

    def _remember(self, plan: Plan) -> None:
        """Notes where the forwards of a plan are entered: there the piece before it leaves them."""
        for branch in plan.branches:
            start = plan.forms[branch.form].start
            if branch.entry is not None and start is not None and not branch.missing:
                self._entries[branch.graph, start] = branch.entry
        for child in plan.children.values():
            self._remember(child)

    def _branch(self, plan: Plan, form: int, graph: Graph) -> Branch:
        """The branch for one graph: where it is entered, and where the captures appear."""
        start = plan.forms[form].start
        self._open_ends.add(graph.open_end)
        goes_on = plan.own or plan.mutates or start is not None
        failure = graph.failure
        if failure is not None and start is None:
            failure = f"{failure}\nWith live=True the result runs the model's own Python, in each mode."
        branch = Branch(form, graph, [], [], set(), missing=failure or (graph.open_end if goes_on else None))
        for capture in (start, *plan.captures) if start is not None else plan.captures:
            found = None if graph.failure else self.locator.locate(plan.module, plan.path, graph, capture)
            if found is None:
                branch.missing = branch.missing or self.locator.missing(plan.module, plan.path, graph, capture)
                branch.taps += [None] * (capture is not start)
                continue
            site, call = found
            inner = None if call is None else Capture(capture.target, call, capture.item)
            if capture is start:
                branch.entry = Entry(site, inner)
            else:
                branch.taps.append(self._tapped(branch, capture, site, inner))
                branch.may_run_again |= branch.exit is None and capture.call < 0 and _may_run_again(plan, graph, site)
        if branch.may_run_again:
            branch.missing = branch.missing or graph.open_end
        return branch

    def _tapped(self, branch: Branch, capture: Capture, site: Node, inner: Capture | None) -> Tapped | None:
        entry, end = branch.entry, site.index + 1
        before = inner is None and self.targets[capture.target].before
        if entry is not None and (
            site.index < entry.site.index or (site is entry.site and (entry.inner is None or before))
        ):
            text = self.targets[capture.target].text
            branch.missing = branch.missing or (
                f"{text!r} does not run after the layer where this module begins. layers(model) lists layers "
                f"and operations in the order they run"
            )
        left = self._entries.get((branch.graph, dataclasses.replace(capture, item=0)))
        if left is None:
            if capture.item:
                return None
            if before:
                return Tapped(given_to(site), site.index, site.index)
            return Tapped(site, end, site.index, inner)
        # The forward goes on in another piece, which needs all of these values as they are here.
        branch.exit = left
        value = left.given[capture.item] if capture.item < len(left.given) else None
        if isinstance(value, Slot) and inner is not None:
            return Tapped(site, end, site.index, dataclasses.replace(inner, item=value.index))
        if value is site:
            return Tapped(site, end, site.index)
        if value is None:
            return None
        end = max(end, value.index + 1)  # what a call left behind is read after it
        return Tapped(value, end, site.index if inner is not None else end)

    def _forms(self, module: nn.Module, path: str, plan: Plan, child: int) -> tuple[Form, ...]:
        """The different ways in which a child on the path is called: with and without a mask, for example."""
        forms: dict[Any, Form] = {}
        for branch in plan.branches:
            for node in branch.graph.nodes:
                entry = branch.entry
                if plan.child_id(node) == child and (entry is None or node.index >= entry.site.index):
                    start = entry.inner if entry is not None and node is entry.site else None
                    call = self.traces.call(module, path, node)
                    # One of equal calls stands for all, in all pieces, so that they share the same graph.
                    form = Form(self._calls.setdefault((child, call.key), call), start)
                    branch.given[node] = form
                    forms.setdefault(form.key, form)
        return tuple(forms.values())


def _asks_object(plan: Plan, child: int) -> bool:
    """Whether the forward calls a method, which no tensor has, of what a child returns, or of a part of it."""
    for node in (node for branch in plan.branches for node in branch.graph.nodes):
        if node.kind is Kind.METHOD and not hasattr(torch.Tensor, node.target):
            whole = whole_of(node.args[0]) if type(node.args[0]) is Node else None
            if whole is not None and whole.kind is Kind.CHILD and plan.child_id(whole) == child:
                return True
    return False


def _may_run_again(plan: Plan, graph: Graph, site: Node) -> bool:
    """Whether a forward may run a child once more where it decides, after its last call on the example, otherwise."""
    if not graph.recorded or site.kind is not Kind.CHILD:
        return False
    if graph.open_end is None and not any(node.target is torch._assert for node in graph.nodes[site.index :]):
        return False
    kind: Any = type(plan.module)
    if not may_call_again(kind, site.target.partition(".")[0]):
        return False
    try:
        once = runs_once(plan.module, site.target)
        return once is None or not once.holds(plan.module)
    except CannotFollowError:
        return True


def given_to(site: Node) -> Any:
    """What a layer is given: its one argument, or a tuple of all arguments that hold values of the pass."""
    values = [value for value in (*site.args, *site.kwargs.values()) if next(nodes_in(value), None) is not None]
    return values[0] if len(values) == 1 else tuple(values)
