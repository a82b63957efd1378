"""From a plan to modules: what is kept is kept as it is, and each module of the spine gets a forward of its own."""

from __future__ import annotations

import functools
import hashlib
import keyword
import linecache
import typing
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from truncate._call import declared_types
from truncate._graph import Kind, Node, descend, map_nested
from truncate._head import annotation, head, refuse_way
from truncate._locate import Pick
from truncate._operations import is_mode
from truncate._plan import Plan, Slot, Way
from truncate._shadow import has_own_call
from truncate._write import PROVIDED, Copy, Names, Tap, Writer, base_name, numbered


class Truncated(nn.Module):
    """A module of the model that holds the target, rebuilt so that its forward ends there.

    Its children, parameters and buffers are those of the original that the target needs, under their own names.
    """

    _truncated_source: str  # of its forward
    _truncated_names: dict[str, Any]  # what the names in the source stand for

    def __reduce__(self) -> Any:
        return _restore, (type(self).__name__, self._truncated_source, self._truncated_names), self.__dict__


class Container(nn.Module):
    """Holds what is left of a module that is not called itself, under the same names."""


def build(plan: Plan, result: Any = None) -> nn.Module:
    """The module of a plan. It returns `result`: nested containers with the numbers of targets in place of values.

    Without `result`, which is for the modules inside: its own output if the plan asks for it, then its picks.
    """
    if result is not None and plan.own and plan.module._forward_hooks:
        return _hooked_root(plan, result)
    children = {child: build(sub) for child, sub in plan.children.items()}
    pieces = _pieces(plan, children)
    if result is None and _is_slice(plan, pieces):
        return _slice(plan, pieces)
    made = Truncated()
    made.training = plan.module.training
    _fill(made, plan.module, pieces)
    source, names = _source(plan, made, result)
    made.__class__ = _class(f"Truncated{type(plan.module).__name__.removeprefix('Truncated')}", source, names)
    _keep_hooks(made, plan)
    return made


# -- what it holds ---------------------------------------------------------------------------------------------------


def _pieces(plan: Plan, children: dict[int, nn.Module]) -> dict[str, Any]:
    """What the rebuilt module has to hold, by path: rebuilt children, and everything else as it is."""
    module = plan.module
    pieces: dict[str, Any] = {}
    modes: set[str] = set()
    for way in plan.ways:
        modes |= set(way.body.modes)
        for node in way.live:
            if node.kind is Kind.CHILD:
                child = descend(module, node.target)
                pieces[node.target] = children.get(id(child), child)
            elif is_mode(node):
                modes.add(node.target)
            elif node.kind in (Kind.ATTRIBUTE, Kind.ASSIGN) and not (node.kind is Kind.ATTRIBUTE and node.args):
                holder, _, name = node.target.rpartition(".")
                constant = way.body.constants.get(node.target)
                pieces[node.target] = getattr(descend(module, holder), name) if constant is None else constant
    if (
        module._forward_pre_hooks and plan.is_entered_at_its_beginning
    ):  # they may use anything that the module holds itself
        pieces.update({k: v for k, v in [*module._parameters.items(), *module._buffers.items()] if v is not None})
    for flag in modes:
        holder = flag.rpartition(".")[0]
        if holder and holder not in pieces:
            pieces[holder] = _container(descend(module, holder), {})
    return pieces


def _fill(made: nn.Module, original: nn.Module, pieces: dict[str, Any]) -> None:
    """Puts pieces below a module, under their paths and in the order of the original."""
    below: dict[str, dict[str, Any]] = {}
    for path, piece in pieces.items():
        name, _, rest = path.partition(".")
        below.setdefault(name, {})[rest] = piece
    order = {name: i for i, name in enumerate([*original._parameters, *original._buffers, *original._modules])}
    for name in sorted(below, key=lambda name: order.get(name, len(order))):
        parts = below[name]
        if name in original._modules:
            child = descend(original, name)
            whole: Any = parts.pop("", None)
            if whole is None:
                whole = made._modules.get(name) or _container(child, parts)
            made._modules[name] = whole
            if whole is not child:  # what is kept whole holds them already
                _fill(whole, child, parts)
        elif name in original._parameters:
            made._parameters[name] = parts[""]
        elif name in original._buffers:
            made._buffers[name] = parts[""]
            if name in original._non_persistent_buffers_set:
                made._non_persistent_buffers_set.add(name)
        else:
            made.__dict__[name] = parts[""]


def _container(original: nn.Module, parts: dict[str, Any]) -> nn.Module:
    """An empty module of the plainest kind that can hold these parts of the original."""
    names = {path.partition(".")[0] for path in parts}
    made: nn.Module = Container()
    if isinstance(original, nn.ModuleDict):
        made = nn.ModuleDict()
    elif isinstance(original, nn.ModuleList) and names == {str(i) for i in range(len(names))}:
        made = nn.ModuleList()
    made.training = original.training
    return made


def _spell(made: nn.Module, path: str) -> str:
    """The expression by which a forward reaches what its module holds at a path."""
    expression = "self"
    holder: Any = made
    for name in path.split("."):
        if isinstance(holder, nn.ModuleDict):
            expression += f"[{name!r}]"
        elif name.isidentifier() and not keyword.iskeyword(name):
            expression += f".{name}"
        elif isinstance(holder, (nn.ModuleList, nn.Sequential)) and name in map(str, range(len(holder))):
            expression += f"[{list(holder._modules).index(name)}]"
        else:
            expression = f"getattr({expression}, {name!r})"
        holder = getattr(holder, "_modules", {}).get(name)
    return expression


def _is_slice(plan: Plan, pieces: dict[str, Any]) -> bool:
    """Whether the cut leaves the first children of a plain Sequential."""
    module = plan.module
    if type(module).forward is not nn.Sequential.forward or "forward" in vars(module):
        return False
    for sub in plan.children.values():
        if len(sub.used) + sub.slots != 1 or len(sub.forms) != 1:
            return False  # a Sequential passes one value on, and needs one
    if len(plan.used) + plan.slots != 1 or len(plan.forms) != 1 or plan.own == bool(plan.picks) or len(plan.picks) > 1:
        return False
    names, kept = list(module._modules), list(pieces)
    first = 0 if plan.is_entered_at_its_beginning else len(names) - len(kept) if plan.own else names.index(kept[0])
    return names[first : first + len(kept)] == kept


def _slice(plan: Plan, pieces: dict[str, nn.Module]) -> nn.Module:
    """A Sequential of the same class that holds only these children."""
    made = shallow_copy(plan.module)
    made._modules = dict(pieces)
    if not plan.own:
        made._forward_hooks = OrderedDict()  # they would be given an output that is no longer computed
    if not plan.is_entered_at_its_beginning:
        made._forward_pre_hooks = OrderedDict()  # and these were given the input
    return made


def shallow_copy(module: nn.Module) -> nn.Module:
    """Another module of the same class that shares everything, but with registries of its own."""
    made = object.__new__(type(module))
    made.__dict__.update({k: v.copy() if type(v) in (dict, OrderedDict, set) else v for k, v in vars(module).items()})
    return made


def _hooked_root(plan: Plan, result: Any) -> nn.Module:
    """The model itself with its forward hooks, which are given its own output before all outputs are arranged."""
    made = build(plan)
    made.register_forward_hook(Arrange(result, [pick.target for pick in plan.picks]))
    return made


def _keep_hooks(made: nn.Module, plan: Plan) -> None:
    """Hooks on the original still fire: before the forward, and after it if its own output is still computed."""
    if has_own_call(plan.module):
        return  # all that it does around its forward was followed with it
    if plan.is_entered_at_its_beginning:
        for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
            getattr(made, name).update(getattr(plan.module, name))
    if plan.own:
        for key, hook in plan.module._forward_hooks.items():
            with_kwargs = key in plan.module._forward_hooks_with_kwargs
            made.register_forward_hook(OnOwnOutput(hook) if plan.picks else hook, with_kwargs=with_kwargs)


class OnOwnOutput:
    """A forward hook for a module that returns picks beside its own output, which alone the hook is given."""

    def __init__(self, hook: Any) -> None:
        self.hook = hook

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        *arguments, output = given
        changed = self.hook(module, *arguments, output[0])
        return None if changed is None else (changed, *output[1:])


class Arrange:
    """A forward hook that brings the own output of a model and its picks, in this order, into the shape asked for."""

    def __init__(self, result: Any, picks: list[int]) -> None:
        self.result = result
        self.picks = picks

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        own, *picked = output if self.picks else (output,)
        values = dict(zip(self.picks, picked))
        return map_nested(self.result, lambda t: values.get(t, own))


# -- its forward -----------------------------------------------------------------------------------------------------


def _source(plan: Plan, made: nn.Module, result: Any) -> tuple[str, dict[str, Any]]:
    slots = _slot_names(plan)
    names = Names([*plan.used, *slots, FORM, *(p.name for p in plan.parameters or ())])
    hints = {**declared_types(plan.module), FORM: int}
    define, opening, inputs = _head(plan, names, slots, hints)
    spell = functools.partial(_spell, made)
    forms = []
    for form, _ in enumerate(plan.forms):
        bodies = []
        for way in plan.ways:
            if way.form == form:
                lines = (
                    refuse_way(names, way.missing)
                    if way.missing
                    else _write(plan, way, names, spell, inputs, slots, result)
                )
                bodies.append((dict(way.body.modes), lines))
        forms.append(_by_mode(bodies, spell, names))
    body = forms[-1]
    for form, lines in reversed(list(enumerate(forms[:-1]))):
        body = [f"if {FORM} == {form}:", *_indented(lines), "else:", *_indented(body)]
    return "\n    ".join([define, *opening, *body]) + "\n", names.globals


def _head(plan: Plan, names: Names, slots: list[str], hints: dict[str, Any]) -> tuple[str, list[str], dict[str, str]]:
    if plan.path or not slots:
        return head(names, plan.parameters, plan.forms[0].call, [*slots, *plan.used, *[FORM] * plan.has_forms], hints)
    # The model itself takes what crosses as one argument, as what runs before returns it.
    if len(slots) == 1:
        return f"def forward(self, {slots[0]}):", [], {}
    crossing = ", ".join(slots)
    types = [annotation(names, hint) for hint in _slot_types(plan)]
    names.globals["Tuple"] = typing.Tuple  # noqa: UP006 (as TorchScript writes it)
    return f"def forward(self, crossing: Tuple[{', '.join(types)}]):", [f"{crossing} = crossing"], {}


def _slot_names(plan: Plan) -> list[str]:
    """A name for each value with which a forward goes on: that of a variable that a person would write for it."""
    taken = Names([*plan.used, FORM, "crossing"])
    slots: list[str] = []
    for k in range(plan.slots):
        entry = next(way.entry for way in plan.ways if way.entry is not None and k < len(way.entry.given))
        value = entry.given[k]
        if isinstance(value, Slot):
            base = _slot_names(plan.children[id(descend(plan.module, entry.site.target))])[value.index]
        else:
            base = value.target if value.kind is Kind.INPUT else base_name(value)
        slots.append(next(n for n in numbered(base) if n not in slots and not taken.taken(n)))
    return slots


def _slot_types(plan: Plan) -> list[type]:
    """What TorchScript has to know of them: sizes are numbers, and all else is taken for tensors."""
    return [Tensor for _ in range(plan.slots)]


FORM = "form"  # the argument that tells a rebuilt child, if it is called in different ways, which one it is


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
        way = (
            _by_mode(side, spell, names)
            if side
            else refuse_way(names, "this combination of modes was not run on the example")
        )
        sides.append(_indented(way))
    if sides[0] == sides[1]:
        return [line[4:] for line in sides[0]]
    # TorchScript refuses to delete in a branch what was not there before it.
    lines = [f"if {spell(flag)}:", *sides[0], "else:", *sides[1]]
    return [line for line in lines if not line.lstrip().startswith("del ")]


def _write(
    plan: Plan,
    way: Way,
    names: Names,
    spell: Callable[[str], str],
    inputs: dict[str, str],
    slots: list[str],
    result: Any,
) -> list[str]:
    inner: dict[tuple[Node, Pick], Node | Tap] = {}  # a call of a rebuilt child, and one of the child's picks
    bundles: dict[Node, list[Node | Tap]] = {}
    reads: dict[Node, list[Any]] = {}
    given: dict[Node | Tap, str] = {}
    below: dict[Slot, Tap] = {}
    for name, entered in zip(slots, way.entry.given if way.entry is not None else ()):
        given[below.setdefault(entered, Tap()) if isinstance(entered, Slot) else entered] = name
    for node in way.live:
        sub = _child(plan, node)
        if sub is None:
            continue
        alone = not sub.own and len(sub.picks) == 1
        inner.update(((node, pick), node if alone else Tap()) for pick in sub.picks)
        if not alone:
            own: list[Node | Tap] = [node] if sub.own else []
            bundles[node] = own + [inner[node, pick] for pick in sub.picks]
        if sub.parameters is None:
            form = plan.given[node]
            sources = {name.target: source for name, source in zip(form.call.inputs, node.inputs())}
            crossing = [below.get(Slot(k)) if form.start else None for k in range(sub.slots)]
            reads[node] = [*crossing, *map(sources.get, sub.used), *[sub.form_of(form)] * sub.has_forms]
    picked: dict[Pick, Any] = {}
    copies: dict[tuple[int, str], Copy] = {}
    for tap, pick in zip(way.taps, plan.picks):
        if tap is None:
            picked[pick] = None
            continue
        value = tap.value if tap.inner is None else inner[tap.value, tap.inner]
        if tap in way.cloned:
            key = (tap.moment, repr(map_nested(value, id)))
            value = copies.setdefault(key, Copy(value, tap.moment, Tap())).copy
        picked[pick] = value
    values = [way.body.result] * plan.own + list(picked.values())
    if result is None:
        result = values[0] if len(values) == 1 else tuple(values)
    else:
        result = map_nested(result, lambda t: next((v for p, v in picked.items() if p.target == t), way.body.result))
    writer = Writer(names, spell, inputs, reads, given)
    for changed in way.entry.cloned if way.entry is not None else ():
        writer.renew(below[changed] if isinstance(changed, Slot) else changed)
    writer.write(way.live, bundles, list(copies.values()), result)
    return writer.lines


def _child(plan: Plan, node: Node) -> Plan | None:
    """The plan of the child that a node calls, if that is rebuilt too."""
    return plan.children.get(id(descend(plan.module, node.target))) if node.kind is Kind.CHILD else None


# -- its class -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def _compile(source: str) -> tuple[Any, str]:
    filename = f"<truncate {hashlib.sha1(source.encode()).hexdigest()[:12]}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)  # for TorchScript
    return compile(source, filename, "exec"), filename


def _class(name: str, source: str, names: dict[str, Any]) -> type[Truncated]:
    code, _ = _compile(source)
    # Not a name of ours: a cut that is cut again is followed like anyone's code.
    space: dict[str, Any] = {**PROVIDED, **names, "__name__": "truncated"}
    exec(code, space)
    members = {"forward": space["forward"], "_truncated_source": source, "_truncated_names": names}
    return type(name, (Truncated,), {**members, "__module__": __name__})


def _restore(name: str, source: str, names: dict[str, Any]) -> Truncated:
    made = _class(name, source, names)
    return made.__new__(made)
