"""From a plan to modules: what is kept stays as it is, and each module on the path gets a forward of its own."""

from __future__ import annotations

import functools
import hashlib
import itertools
import linecache
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from truncate._build.forward_source import source_of
from truncate._build.held import carry_over
from truncate._build.names import PROVIDED, numbered
from truncate._build.optional import required_by_model
from truncate._errors import CannotFollowError, TruncateError
from truncate._follow import has_own_call, is_chain
from truncate._graph import Kind, Node, descend, is_mode, join, map_nested
from truncate._live import build_live, is_live
from truncate._plan import Branch, LivePlan, Plan
from truncate._target import ABOUT, headline, item_of, keys_of, names_of


class Truncated(nn.Module):
    """A module of a model, rebuilt so that its forward ends at a layer.

    Its children, parameters and buffers are those of the original that the layer needs, under their own names. Its
    forward is written anew, and ``inspect.getsource(cut.forward)`` shows it. What `truncate` returns also has `origin`,
    the class of the model as text; `targets`, what was asked for, as paths; and `assumptions`, what was fixed where
    a forward was recorded. If the model has attributes of these names, it has those. Plain data of the model, such as
    its configuration, is there as it was when it was cut.
    """

    _truncated_how = "followed"  # or recorded, for whoever prints the module; TorchScript reads no annotation here
    _truncated_source: str  # of its forward
    _truncated_names: dict[str, Any]  # what the names in the source stand for
    _truncated_required: tuple[str, ...]  # arguments that have a default here, and none in the model

    def extra_repr(self) -> str:
        line = headline(self)
        return f"{line}\n{'; '.join(_ways(self))}" if line else self._truncated_how

    def __reduce__(self) -> Any:
        # `exec` by name: who lets in this function of ours, but not that one, has let in nothing that runs code.
        own = type(self).__name__, self._truncated_source, self._truncated_names
        return run_source_of_pickle, (exec, *own), self.__dict__


class Container(nn.Module):
    """Holds what is left of a module that is not called itself, under the same names."""


def build(plan: Plan, result: Any = None, then: Mapping[str, nn.Module] = MappingProxyType({})) -> nn.Module:
    """The module of a plan. It returns `result`: nested containers with the numbers of targets in place of values.

    Without `result`, as for the modules inside, it returns its own output if the plan asks for it, then its captures.
    `then`: modules through which each value is passed in turn, by the names that they should have in it.
    """
    if isinstance(plan, LivePlan):
        return _live(plan, result, then)
    if result is not None and plan.own and plan.module._forward_hooks:
        return _hooked_root(plan, result, then)
    children = {child: build(sub) for child, sub in plan.children.items()}
    pieces = _pieces(plan, children)
    then = _under_free_names(then, plan.module)
    if result is None and _is_slice(plan, pieces):
        return _slice(plan, {**pieces, **then})
    made = Truncated()
    made.training = plan.module.training
    made._truncated_how = how_rebuilt(plan)
    _fill(made, plan.module, {**pieces, **then})
    source, names = source_of(plan, made, result, list(then))
    made.__class__ = _class(exec, f"Truncated{type(plan.module).__name__.removeprefix('Truncated')}", source, names)
    _keep_hooks(made, plan)
    carry_over(plan.module, made)
    return made


def _live(plan: LivePlan, result: Any, then: Mapping[str, nn.Module]) -> nn.Module:
    then = _under_free_names(then, plan.module)
    asked = [(plan.targets[capture.target], capture.call) for capture in plan.captures]
    made, part = build_live(plan.module, plan.path, asked, plan.own, to_end=plan.own or plan.mutates)
    part.result, part.then = result, tuple(then)
    part.numbers = tuple(capture.target for capture in plan.captures)
    made._modules.update(then)
    return made


def how_rebuilt(plan: Plan) -> str:
    """How the forward of a module was rebuilt, in words."""
    if isinstance(plan, LivePlan):
        return "live"
    graphs = [branch.graph for branch in plan.branches if branch.graph.recorded]
    if not graphs:
        return "followed"
    fixed = len({assumption for graph in graphs for _, assumption in graph.assumptions})
    return "recorded on the example" + (f", {fixed} fixed: see assumptions" if fixed else "")


def _ways(root: Truncated) -> Iterator[str]:
    """How a cut was rebuilt, and each module inside for which that is another way."""
    yield root._truncated_how
    first, *_ = root._truncated_how.split()
    others: dict[str, list[str]] = {}
    for path, module in root.named_modules():
        way = module._truncated_how if isinstance(module, Truncated) else "live" if is_live(module) else ""
        if path and way and not headline(module):
            others.setdefault(way.partition(" ")[0], []).append(path)
    yield from (f"{way}: {', '.join(paths)}" for way, paths in others.items() if way != first)


# -- what it holds ---------------------------------------------------------------------------------------------------


def _pieces(plan: Plan, children: dict[int, nn.Module]) -> dict[str, Any]:
    """What the rebuilt module has to hold, by path: rebuilt children, and everything else as it is."""
    module = plan.module
    pieces: dict[str, Any] = {}
    modes: set[str] = set()
    for branch in plan.branches:
        modes |= set(branch.graph.modes)
        for node in branch.live:
            if node.kind is Kind.CHILD:
                child = descend(module, node.target)
                pieces[node.target] = children.get(id(child), child)
            elif is_mode(node):
                modes.add(node.target)
            elif node.kind in (Kind.ATTRIBUTE, Kind.ASSIGN) and not (node.kind is Kind.ATTRIBUTE and node.args):
                holder, _, name = node.target.rpartition(".")
                constant = branch.graph.constants.get(node.target)
                pieces[node.target] = _held(plan, holder, name) if constant is None else constant
    if module._forward_pre_hooks and plan.is_entered_at_its_beginning:  # they may use anything that it holds itself
        pieces.update({k: v for k, v in [*module._parameters.items(), *module._buffers.items()] if v is not None})
    _refuse_nested(plan, pieces)
    for flag in modes:
        holder = flag.rpartition(".")[0]
        if holder and holder not in pieces:
            pieces[holder] = _container(descend(module, holder), {})
    return pieces


def _held(plan: Plan, holder: str, name: str) -> Any:
    try:
        return getattr(descend(plan.module, holder), name)
    except AttributeError:
        raise CannotFollowError(
            f"the forward of {plan.path!r} ({type(plan.module).__name__}) reads {join(holder, name)!r}, which "
            f"exists only while the model runs. Perhaps a hook sets it. Stop at {plan.path!r} or outside it"
        ) from None


def _refuse_nested(plan: Plan, pieces: dict[str, Any]) -> None:
    """A child that is rebuilt cannot also be a part of another one that is kept, or rebuilt differently."""
    for path, piece in pieces.items():
        *holders, _ = path.split(".")
        for outer in filter(pieces.__contains__, itertools.accumulate(holders, join)):
            there = pieces[outer]
            for name in path[len(outer) + 1 :].split("."):
                there = getattr(there, name, None)
            if there is not None and there is not piece:
                inner, outer = join(plan.path, path), join(plan.path, outer)
                raise CannotFollowError(
                    f"{inner!r} is called by itself and as a part of {outer!r}, and only one of these calls would be "
                    f"cut. Choose another target, or only one of these calls at a time"
                )


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
        elif isinstance(parts.get(""), nn.Module):
            made._modules[name] = parts[""]
        elif name in original._parameters:
            made._parameters[name] = parts[""]
        elif name in original._buffers:
            made._buffers[name] = parts[""]
            if name in original._non_persistent_buffers_set:
                made._non_persistent_buffers_set.add(name)
        else:
            made.__dict__[name] = parts[""]


def _under_free_names(then: Mapping[str, nn.Module], original: nn.Module) -> dict[str, nn.Module]:
    """Modules that are put after a cut, under names that the original does not have."""
    return {next(n for n in numbered(name) if not hasattr(original, n)): module for name, module in then.items()}


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


def _is_slice(plan: Plan, pieces: dict[str, Any]) -> bool:
    """Whether the cut leaves the first children of a plain Sequential."""
    module = plan.module
    if not is_chain(module):
        return False
    for sub in plan.children.values():
        if len(sub.used) + sub.slots != 1 or len(sub.forms) != 1:
            return False  # a Sequential passes one value on, and needs one
    if len(plan.used) + plan.slots != 1 or len(plan.forms) != 1:
        return False
    if plan.own == bool(plan.captures) or len(plan.captures) > 1:
        return False
    if any(branch.entry is not None and branch.entry.cloned for branch in plan.branches):
        return False  # it copies what it is given
    names, kept = list(module._modules), list(pieces)
    if not all(_is_last(branch, plan.own, kept) for branch in plan.branches if not branch.missing):
        return False
    first = 0 if plan.is_entered_at_its_beginning else len(names) - len(kept) if plan.own else names.index(kept[0])
    return names[first : first + len(kept)] == kept


def _is_last(branch: Branch, own: bool, kept: list[str]) -> bool:
    """Whether what is asked for is what the last of these children returns, and not what one before it is given."""
    value = branch.graph.result if own or branch.taps[0] is None else branch.taps[0].value
    return type(value) is Node and (value.target == kept[-1] if kept else value.kind is not Kind.CHILD)


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
    made._compiled_call_impl = None  # that of the original, if `module.compile()` was called
    return made


def _hooked_root(plan: Plan, result: Any, then: Mapping[str, nn.Module]) -> nn.Module:
    """The model itself with its forward hooks, which get its own output before all outputs are arranged."""
    made = build(plan)
    then = _under_free_names(then, plan.module)
    made._modules.update(then)
    made.register_forward_hook(Arrange(result, [capture.target for capture in plan.captures], list(then)))
    return made


def _keep_hooks(made: nn.Module, plan: Plan) -> None:
    """Hooks on the original still fire: before the forward, and after it if its own output is still computed."""
    if has_own_call(plan.module):
        return  # all that its call does around the forward is in the graph already
    hooks = (plan.is_entered_at_its_beginning and plan.module._forward_pre_hooks) or (
        plan.own and plan.module._forward_hooks
    )
    if hooks:  # they may use anything that the module holds
        held = vars(plan.module)
        made.__dict__.update(
            {
                name: held[name]
                for name in held.keys() - made.__dict__.keys() - _MODULE_STATE - {ABOUT, *names_of(plan.module)}
            }
        )
    if plan.is_entered_at_its_beginning:
        for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
            getattr(made, name).update(getattr(plan.module, name))
    if plan.own:
        for key, hook in plan.module._forward_hooks.items():
            with_kwargs = key in plan.module._forward_hooks_with_kwargs
            made.register_forward_hook(OnOwnOutput(hook) if plan.captures else hook, with_kwargs=with_kwargs)


_MODULE_STATE = frozenset(vars(nn.Module()))


class OnOwnOutput:
    """Wraps a forward hook of a module that now also returns captures: the hook gets only the module's own output."""

    def __init__(self, hook: Any) -> None:
        self.hook = hook

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        *arguments, output = given
        changed = self.hook(module, *arguments, output[0])
        return None if changed is None else (changed, *output[1:])


class Arrange:
    """A forward hook that puts the output of a model and its captures, in this order, into the shape asked for."""

    def __init__(self, result: Any, captures: list[int], then: list[str]) -> None:
        self.result = result
        self.captures = captures
        self.then = then  # children through which each value is passed in turn

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        own, *captured = output if self.captures else (output,)
        values = dict(zip(self.captures, captured))
        through = [module._modules[name] for name in self.then]
        return map_nested(
            self.result, lambda t: functools.reduce(_call, through, item_of(values.get(t, own), keys_of(t)))
        )


def _call(value: Any, module: Any) -> Any:
    return module(value)


# -- its class -------------------------------------------------------------------------------------------------------


def _class(run: Any, name: str, source: str, names: dict[str, Any]) -> type[Truncated]:
    if run is not exec:
        raise TruncateError("this is no pickle of a cut: such a pickle runs its source with `exec`, and nothing else")
    code, module, loader = _compile(source)
    # Without the name of a module: a cut that is cut again is followed like anyone's code, and torch.compile, which
    # imports what is named there to find globals, takes these from the function.
    space: dict[str, Any] = {**PROVIDED, **names, "__loader__": loader}
    run(code, space)
    space["forward"].__module__ = module
    members = {"forward": space["forward"], "_truncated_source": source, "_truncated_names": names}
    members["_truncated_required"] = required_by_model(space["forward"], source)
    return type(name, (Truncated,), {**members, "__module__": __name__, "__doc__": Truncated.__doc__})


@functools.lru_cache(maxsize=512)
def _compile(source: str) -> tuple[types.CodeType, str, Loader]:
    """The code of a source, and the name of a module that stands for its file, as long as somebody has the loader."""
    base = f"truncated.{hashlib.sha1(source.encode()).hexdigest()[:12]}"
    modules = (types.ModuleType(name) for name in numbered(base))
    module = next(module for module in modules if sys.modules.setdefault(module.__name__, module) is module)
    vars(module)["__loader__"] = Loader(source)
    filename = f"<{module.__name__}>.py"  # what ends with > is not looked for a second time
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    loader = Loader(source)  # another one, which `sys.modules` does not hold
    weakref.finalize(loader, _forget, module.__name__, filename).atexit = False
    return compile(source, filename, "exec"), module.__name__, loader


class Loader:
    """Gives the source of a forward again to TorchScript and others, when somebody has cleared `linecache`."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, name: str) -> str:
        return self._source


def _forget(name: str, filename: str) -> None:
    sys.modules.pop(name, None)
    linecache.cache.pop(filename, None)


def run_source_of_pickle(run: Any, name: str, source: str, names: dict[str, Any]) -> Truncated:
    """A module of a class that a pickle brings as source, which is run."""
    made = _class(run, name, source, names)
    return made.__new__(made)
