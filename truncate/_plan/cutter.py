"""Where to cut: from the targets down the spine, which operations of each ancestor's forward are still needed.

The spine are the modules that hold a target. Each is planned by itself, with its children as leaves: its graph is cut
at the child on the way to the target, that child is planned in the same way, and what the cut no longer needs falls
away, arguments of the child too. A module can also be entered in its middle, behind a target: what was computed before
and is read after that crosses, as an argument. A `Plan` is only bookkeeping; the room `_build` makes modules of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import nn

from truncate._errors import CannotFollowError, CrossingError, NotReachedError, TruncateError
from truncate._follow import has_own_call
from truncate._graph import Body, Call, Node, descend, join, nodes_in
from truncate._plan.crossing import unclean
from truncate._plan.effects import Effects
from truncate._plan.locate import Locator, Pick
from truncate._plan.needs import Needs
from truncate._plan.plan import Entry, Form, Plan, Slot, Tapped, Way
from truncate._target import Spine


class Cutter:
    """Plans cuts of one model at a list of targets."""

    def __init__(self, model: nn.Module, spine: Spine, effects: Effects, clean: bool = False) -> None:
        """`clean`: nothing but the output of its target may cross where a forward is entered in its middle."""
        self.model = model
        self.targets = spine.targets
        self.forwards = effects.forwards
        self.locator = Locator(model, spine, effects.forwards)
        self.effects = effects
        self.clean = clean
        self._plans: dict[Any, Plan] = {}
        self._calls: dict[tuple[int, str], Call] = {}  # one of all calls of a module that are equal
        self._refused: set[str] = set()  # why a forward cannot be entered where it should be
        self._open_ends: set[str | None] = set()  # why the end of a recording is not known
        self._entries: dict[tuple[Body, Pick], Entry] = {}  # of the forwards that were planned from there on

    def picks(self, targets: Iterable[int]) -> tuple[Pick, ...]:
        """What is picked for some of the targets; nothing for the model itself."""
        return tuple(Pick(t, self.targets[t].call) for t in targets if not self._is_whole(self.targets[t]))

    def is_own_wanted(self, targets: Iterable[int]) -> bool:
        """Whether one of the targets is the model itself."""
        return any(self._is_whole(self.targets[t]) for t in targets)

    def _is_whole(self, target: Any) -> bool:
        return target.is_module and target.module is self.model

    def stretch(self, start: Pick | None, picks: tuple[Pick, ...], own: bool) -> Plan:
        """The plan of what lies between two places: behind `start`, up to the picks, or the end for its own output."""
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
        plan = self._plan(self.model, "", (Form(entry, start),), picks, own, False)
        if plan.missing:
            error: type[TruncateError] = CrossingError if plan.missing in self._refused else NotReachedError
            if plan.missing in self._open_ends:
                error = CannotFollowError
            raise self.locator.unknown.get(plan.missing) or error(plan.missing)
        self._remember(plan)
        return plan

    def whole(self, module: nn.Module, path: str, form: Form) -> Plan:
        """The plan of one module that runs to its end, with its children as they are."""
        return self._plan(module, path, (form,), (), True, False)

    def _plan(
        self, module: nn.Module, path: str, forms: tuple[Form, ...], picks: tuple[Pick, ...], own: bool, writes: bool
    ) -> Plan:
        key = (id(module), tuple(form.key for form in forms), picks, own, writes)
        if key not in self._plans:
            self._plans[key] = self._make_plan(module, path, forms, picks, own, writes)
        return self._plans[key]

    def _make_plan(
        self, module: nn.Module, path: str, forms: tuple[Form, ...], picks: tuple[Pick, ...], own: bool, writes: bool
    ) -> Plan:
        plan = Plan(module, path, forms, picks, own, writes, [], {})
        for f, form in enumerate(forms):
            for body in self.forwards.bodies(module, path, form.call):
                plan.ways.append(self._way(plan, f, body))
        wanted: dict[int, list[Pick]] = {}  # id of a child on the spine -> what is picked from it
        sites: dict[int, Node] = {}  # and one call of it
        for way in plan.ways:
            inner = [(tap.value, [tap.inner]) for tap in way.taps if tap is not None and tap.inner is not None]
            if way.entry is not None and way.entry.inner is not None:
                inner.append((way.entry.site, []))
            for node, picked in inner:
                child = plan.child_id(node)
                sites.setdefault(child, node)
                wanted[child] = list(dict.fromkeys([*wanted.get(child, []), *picked]))
        whole: set[int] = set()  # children on the spine whose own output is needed too
        writing: set[int] = set()  # those of which what they change in their arguments is read here
        while True:
            for child, inner_picks in wanted.items():
                node = sites[child]
                below = self._forms(module, path, plan, child)
                plan.children[child] = self._plan(
                    descend(module, node.target),
                    join(path, node.target),
                    below,
                    tuple(inner_picks),
                    child in whole,
                    child in writing,
                )
            before = set(whole), set(writing)
            for way in plan.ways:
                if not way.missing:
                    needs = Needs(self.effects, plan, way)
                    needs.find(whole, writing)
                    if needs.refusal:
                        self._refused.add(needs.refusal)
            if (whole, writing) == before:
                break
        if self.clean and (own or picks):
            for way in plan.ways:
                reason = unclean(plan, way) if not way.missing else None
                if reason is not None:
                    way.missing = reason
                    self._refused.add(reason)
        return plan

    def _remember(self, plan: Plan) -> None:
        """Where the forwards of a plan are entered is where those that run before are left."""
        for way in plan.ways:
            start = plan.forms[way.form].start
            if way.entry is not None and start is not None and not way.missing:
                self._entries[way.body, start] = way.entry
        for child in plan.children.values():
            self._remember(child)

    def _way(self, plan: Plan, form: int, body: Body) -> Way:
        """One way through a forward: where it is entered, and where its picks appear."""
        start = plan.forms[form].start
        self._open_ends.add(body.open_end)
        goes_on = plan.own or plan.writes or start is not None
        way = Way(form, body, [], [], set(), missing=body.failure or (body.open_end if goes_on else None))
        for pick in (start, *plan.picks) if start is not None else plan.picks:
            found = None if body.failure else self.locator.locate(plan.module, plan.path, body, pick)
            if found is None:
                way.missing = way.missing or self.locator.missing(plan.module, plan.path, body, pick)
                way.taps += [None] * (pick is not start)
                continue
            site, call = found
            inner = None if call is None else Pick(pick.target, call, pick.item)
            if pick is start:
                way.entry = Entry(site, inner)
            else:
                way.taps.append(self._tapped(way, pick, site, inner))
        return way

    def _tapped(self, way: Way, pick: Pick, site: Node, inner: Pick | None) -> Tapped | None:
        entry, end = way.entry, site.index + 1
        before = inner is None and self.targets[pick.target].before
        if entry is not None and (
            site.index < entry.site.index or (site is entry.site and (entry.inner is None or before))
        ):
            text = self.targets[pick.target].text
            way.missing = way.missing or (
                f"{text!r} does not run behind the place after which this module begins. layers(model) lists the "
                f"places in the order in which they run"
            )
        left = self._entries.get((way.body, dataclasses.replace(pick, item=0)))
        if left is None:
            if pick.item:
                return None
            if before:
                return Tapped(given_to(site), site.index, site.index)
            return Tapped(site, end, site.index, inner)
        # The forward goes on elsewhere, which needs all of these values, as they are here.
        way.exit = left
        value = left.given[pick.item] if pick.item < len(left.given) else None
        if isinstance(value, Slot) and inner is not None:
            return Tapped(site, end, site.index, dataclasses.replace(inner, item=value.index))
        if value is site:
            return Tapped(site, end, site.index)
        if value is None:
            return None
        end = max(end, value.index + 1)  # what a call left behind is read after it
        return Tapped(value, end, site.index if inner is not None else end)

    def _forms(self, module: nn.Module, path: str, plan: Plan, child: int) -> tuple[Form, ...]:
        """The different ways in which a child on the spine is called: with a mask and without, say."""
        forms: dict[Any, Form] = {}
        for way in plan.ways:
            for node in way.body.nodes:
                entry = way.entry
                if plan.child_id(node) == child and (entry is None or node.index >= entry.site.index):
                    start = entry.inner if entry is not None and node is entry.site else None
                    call = self.forwards.call(module, path, node)
                    # One of equal calls stands for all, in all pieces, so that they speak of the same body.
                    form = Form(self._calls.setdefault((child, call.key), call), start)
                    way.given[node] = form
                    forms.setdefault(form.key, form)
        return tuple(forms.values())


def given_to(site: Node) -> Any:
    """What a layer is given: its one argument, or a tuple of all of them that hold a value of the pass."""
    values = [value for value in (*site.args, *site.kwargs.values()) if next(nodes_in(value), None) is not None]
    return values[0] if len(values) == 1 else tuple(values)
