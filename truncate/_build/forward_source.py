"""The source of the forward of a rebuilt module: its signature, and a body for each branch and form of its plan."""

from __future__ import annotations

import functools
import operator
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from truncate._build.names import Names, base_name, numbered
from truncate._build.optional import NOTHING_LEFT_OUT, MayBeLeftOut, optional_in
from truncate._build.signature import head, refuse_branch
from truncate._build.writer import Copy, Tap, Writer
from truncate._graph import Kind, Node, declared_types, map_nested
from truncate._plan import Branch, Capture, Plan, Slot
from truncate._target import item_of, keys_of, not_several


def source_of(
    plan: Plan, made: nn.Module, result: Any, then: list[str], guarded: bool = True
) -> tuple[str, dict[str, Any]]:
    """The forward of `made`, and what the names in it stand for.

    `result`: what it returns, as for `build`; `then`: its children through which each of these values is passed;
    `guarded`: whether it refuses arguments that differ from those that were fixed.
    """
    slots = _slot_names(plan)
    names = Names([*plan.used, *slots, _form_name(plan), *(p.name for p in plan.parameters or ())])
    hints = declared_types(plan.module) | ({_form_name(plan): int} if plan.has_forms else {})
    define, opening, inputs = _head(
        plan, names, slots, hints, optional_in(plan, hints) if guarded else NOTHING_LEFT_OUT
    )
    opening = opening if guarded or plan.slots else []
    spell = functools.partial(_spell, names, made)
    forms = []
    for form, _ in enumerate(plan.forms):
        bodies = []
        for branch in plan.branches:
            if branch.form == form:
                lines = (
                    refuse_branch(names, branch.missing)
                    if branch.missing
                    else _write(plan, branch, names, spell, inputs, slots, result, then)
                )
                bodies.append((dict(branch.graph.modes), lines))
        forms.append(_by_mode(bodies, spell, names))
    body = forms[-1]
    for form, lines in reversed(list(enumerate(forms[:-1]))):
        body = _if_else(f"{_form_name(plan)} == {form}", lines, body)
    return "\n    ".join([define, *opening, *body]) + "\n", names.globals


def _head(
    plan: Plan, names: Names, slots: list[str], hints: dict[str, Any], optional: MayBeLeftOut
) -> tuple[str, list[str], dict[str, str]]:
    if plan.path or not slots:
        used = [*slots, *plan.used, *[_form_name(plan)] * plan.has_forms]
        return head(names, plan.parameters, plan.forms[0].call, used, hints, optional)
    # The model itself takes what crosses as one argument, as the piece before returns it.
    if len(slots) == 1:
        return f"def forward(self, {slots[0]}):", [], {}
    pair = names.of(typing.Tuple)  # noqa: UP006 (as TorchScript reads it)
    types = ", ".join(["Tensor"] * len(slots))
    return f"def forward(self, crossing: {pair}[{types}]):", [f"{', '.join(slots)} = crossing"], {}


def _slot_names(plan: Plan) -> list[str]:
    """A name for each value with which a forward is entered, such as a person would give to a variable."""
    taken = Names([*plan.used, _form_name(plan), "crossing"])
    slots: list[str] = []
    if not plan.path and plan.slots == 1:
        return ["x"]
    for k in range(plan.slots):
        entries = (branch.entry for branch in plan.branches)
        entry = next(entry for entry in entries if entry is not None and k < len(entry.given))
        value = entry.given[k]
        if isinstance(value, Slot):
            base = _slot_names(plan.children[plan.child_id(entry.site)])[value.index]
        else:
            base = value.target if value.kind is Kind.INPUT else base_name(value)
        slots.append(next(n for n in numbered(base) if n not in slots and not taken.taken(n)))
    return slots


def _form_name(plan: Plan) -> str:
    """The argument that tells a rebuilt child, if it is called in different ways, which one it is."""
    return next(name for name in numbered("form") if name not in plan.used)


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _by_mode(bodies: list[tuple[dict[str, bool], list[str]]], spell: Callable[[str], str], names: Names) -> list[str]:
    """One body for all modes if they agree, else a branch on the first flag that tells them apart."""
    if all(lines == bodies[0][1] for _, lines in bodies):
        return bodies[0][1]
    flag = next(iter(bodies[0][0]))
    sides = []
    for value in (True, False):
        side = [
            ({k: v for k, v in modes.items() if k != flag}, lines) for modes, lines in bodies if modes[flag] is value
        ]
        sides.append(
            _by_mode(side, spell, names)
            if side
            else refuse_branch(names, "this combination of modes was not run on the example")
        )
    return sides[0] if sides[0] == sides[1] else _if_else(spell(flag), *sides)


def _if_else(condition: str, one: list[str], other: list[str]) -> list[str]:
    # TorchScript refuses to delete inside an `if` what was not there before it.
    one, other = [[line for line in lines if not line.lstrip().startswith("del ")] for lines in (one, other)]
    return [f"if {condition}:", *_indented(one), "else:", *_indented(other)]


def _write(
    plan: Plan,
    branch: Branch,
    names: Names,
    spell: Callable[[str], str],
    inputs: dict[str, str],
    slots: list[str],
    result: Any,
    then: list[str],
) -> list[str]:
    inner: dict[tuple[Node, Capture], Node | Tap] = {}  # by call of a rebuilt child, and its capture
    bundles: dict[Node, list[Node | Tap]] = {}
    reads: dict[Node, list[Any]] = {}
    given: dict[Node | Tap, str] = {}
    below: dict[Slot, Tap] = {}
    for name, entered in zip(slots, branch.entry.given if branch.entry is not None else ()):
        given[below.setdefault(entered, Tap()) if isinstance(entered, Slot) else entered] = name
    for node in branch.live:
        sub = plan.child_of(node)
        if sub is None:
            continue
        alone = not sub.own and len(sub.captures) == 1
        inner.update(((node, capture), node if alone else Tap()) for capture in sub.captures)
        if not alone:
            own: list[Node | Tap] = [node] if sub.own else []
            bundles[node] = own + [inner[node, capture] for capture in sub.captures]
        if sub.parameters is None:
            form = branch.given[node]
            sources = {name.target: source for name, source in zip(form.call.inputs, node.given())}
            crossing = [below.get(Slot(k)) if form.start else None for k in range(sub.slots)]
            reads[node] = [*crossing, *map(sources.get, sub.used), *[sub.form_of(form)] * sub.has_forms]
    captured: dict[Capture, Any] = {}
    copies: dict[tuple[int, str], Copy] = {}
    for tap, capture in zip(branch.taps, plan.captures):
        if tap is None:
            captured[capture] = None
            continue
        value = tap.value if tap.inner is None else inner[tap.value, tap.inner]
        if tap in branch.cloned:
            key = (tap.moment, repr(map_nested(value, id)))
            goes_on = tap.value if tap in branch.replaced else None
            value = copies.setdefault(key, Copy(value, tap.moment, Tap(), goes_on)).kept
        captured[capture] = value
    live = list(branch.live)

    def run(kind: Kind, target: Any, *args: Any) -> Node:
        live.append(Node(kind, target, args, index=len(branch.graph.nodes) + len(live)))
        return live[-1]

    def finished(value: Any, number: int = 0) -> Any:
        for key in keys_of(number):
            if isinstance(value, (Node, Tap)):
                several = run(Kind.FUNCTION, operator.eq, run(Kind.FUNCTION, isinstance, value, Tensor), False)
                run(Kind.FUNCTION, torch._assert, several, not_several(keys_of(number)))
                value = run(Kind.FUNCTION, operator.getitem, value, key)
            else:
                value = item_of(value, (key,))
        for name in then:
            value = run(Kind.CHILD, name, value)
        return value

    if result is None:
        values = [*map(finished, [branch.graph.result] * plan.own + list(captured.values()))]
        result = values[0] if len(values) == 1 else tuple(values)
    else:
        by_target = {capture.target: value for capture, value in captured.items()}
        result = map_nested(result, lambda t: finished(by_target.get(t, branch.graph.result), t))
    writer = Writer(names, spell, inputs, reads, given, plan.in_no_grad)
    for changed in branch.entry.cloned if branch.entry is not None else ():
        writer.renew(below[changed] if isinstance(changed, Slot) else changed)
    writer.write(live, bundles, list(copies.values()), result)
    return writer.lines


def _spell(names: Names, made: nn.Module, path: str) -> str:
    """The expression by which a forward reaches what its module holds at a path."""
    expression = "self"
    holder: Any = made
    for name in path.split(".") if path else ():
        if isinstance(holder, nn.ModuleDict):
            expression += f"[{names.constant(name)}]"
        elif isinstance(holder, (nn.ModuleList, nn.Sequential)) and name in map(str, range(len(holder))):
            expression += f"[{list(holder._modules).index(name)}]"
        else:
            expression = names.attribute(expression, name)
        holder = getattr(holder, "_modules", {}).get(name)
    return expression
