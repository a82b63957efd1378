"""Copies of modules that mean each other: what their attributes and hooks hold of the originals is theirs in a copy."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import operator
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from truncate._errors import CannotFollowError
from truncate._graph import pairs
from truncate._live.held import FORWARD_HOOKS, HOOKS, PLAIN, extras, leads_to, named_extras, parts_of
from truncate._live.module import Taps
from truncate._live.parts import Part
from truncate._python import has_bytes, is_filled, is_set, slots_of

_REGISTRIES = ("_parameters", "_buffers", "_non_persistent_buffers_set")
_CONTAINERS = (list, tuple, dict, set, collections.deque)


class Copies:
    """Copies of some modules of a model, in place of the originals. All else they share, but for containers.

    A module that holds one of the originals in an attribute is copied too, and so are those above it: else it would
    lead to the model, with its mode and its state, and past the end of the cut.
    """

    def __init__(self, root: nn.Module, on_path: Iterable[nn.Module], kind_of: Callable[[nn.Module], type]) -> None:
        self.memo: dict[int, Any] = {}
        self._kept: list[Any] = []  # of which an id is in the memo
        self._shared: set[int] = set()  # objects that modules lead to which are not copied
        self._clean: set[int] = set()  # values that are known to lead to none of the originals
        copied = {id(module): module for module in on_path}
        parents, others = _others(root, copied)
        while pending := [m for m in others if any(self._leads_to(value, copied) for value in extras(m))]:
            for module in pending:  # what holds one of these is copied too
                for above in (module, *_above(module, parents)):
                    copied.setdefault(id(above), above)
            others = [module for module in others if id(module) not in copied]
            self._clean.clear()
        self._shared |= self._clean  # all that they lead to, as hooks do by their closures
        for module in others:
            self._shared.update(id(value) for value in vars(module).values() if isinstance(value, _CONTAINERS))
        for module in copied.values():
            self.memo[id(module)] = object.__new__(kind_of(module))
        for module in copied.values():
            self._fill(self.memo[id(module)], module)

    def of(self, module: nn.Module) -> Any:
        """The copy of a module, or the module itself if it is not copied."""
        return self.memo.get(id(module), module)

    def _fill(self, made: Any, module: nn.Module) -> None:
        state = made.__dict__
        for name, value in list(vars(module).items()):  # at once: another thread may run the model meanwhile
            if name == "_modules":
                state[name] = {key: child if child is None else self.of(child) for key, child in value.items()}
            elif name in _REGISTRIES:
                state[name] = value.copy()
            elif name == "_compiled_call_impl":  # by `module.compile()`: what was compiled holds the original
                state[name] = None
            elif type(value) in PLAIN:
                state[name] = value
            else:
                state[name] = self._copied(value)
        self._fill_slots(made, module)

    def _fill_slots(self, made: Any, value: Any) -> None:
        kind: Any = type(value)
        for slot in slots_of(kind):
            if is_set(slot, value):
                slot.__set__(made, self._copied(slot.__get__(value)))

    def _leads_to(self, value: Any, modules: dict[int, Any]) -> bool:
        """Whether a value that a module holds leads to one of some modules without passing through another module."""
        if id(value) in self._clean:
            return False
        seen: set[int] = set()
        if leads_to(value, modules.keys(), seen, self._clean):
            return True
        self._clean |= seen
        self._kept.append(value)  # so that no other value gets its id
        return False

    def _copied(self, value: Any) -> Any:
        """The same value, with copies in place of the originals; containers are the copy's own, to fill."""
        kind = type(value)
        if kind in PLAIN or isinstance(value, (torch.Tensor, torch.fx.Graph, Part, Taps)):
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, nn.Module):
            return value
        self._kept.append(value)
        if kind is tuple:
            return self._remember(value, _same_or(value, tuple(map(self._copied, value))))
        if isinstance(value, tuple):
            items = [self._copied(item) for item in tuple.__iter__(value)]
            same = all(map(operator.is_, items, tuple.__iter__(value)))
            return self._remember(value, value if same else tuple.__new__(kind, items))
        if isinstance(value, _CONTAINERS):
            return self._container(value)
        if kind is types.MethodType:
            owner = self._copied(value.__self__)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if kind is functools.partial:
            return self._partial(value)
        if kind is types.FunctionType:
            plain = vars(value).get("_torchdynamo_orig_callable")  # by torch.compile: what was compiled has no taps
            if plain is not None and self._leads_to(plain, self.memo):
                return self._remember(value, self._copied(plain))
            return self._function(value)
        if kind is weakref.ref:
            there = value()
            return weakref.ref(self.memo[id(there)]) if id(there) in self.memo else value
        if has_bytes(value):
            return self._remember(value, value if id(value) in self._shared else copy.copy(value))
        if self._is_state(value):
            made = self.memo[id(value)] = _another(value)
            if hasattr(value, "__dict__"):
                made.__dict__.update({name: self._copied(item) for name, item in vars(value).items()})
            self._fill_slots(made, value)
            return made
        if self._leads_to(value, self.memo):
            raise CannotFollowError(
                f"a {type(value).__name__} that a module of the model holds refers to the model, and cannot be "
                f"copied. Stop at another target"
            )
        return self._remember(value, value)

    def _of_key(self, key: Any) -> Any:
        return self.of(key) if isinstance(key, nn.Module) else key

    def _remember(self, value: Any, made: Any) -> Any:
        self.memo[id(value)] = made
        return made

    def _is_state(self, value: Any) -> bool:
        """Whether an object is one that the forward may keep something in, or that leads to an original."""
        kind: Any = type(value)
        if callable(getattr(kind, "__del__", 0)):
            return False
        if not hasattr(value, "__dict__") and not slots_of(kind):
            return False
        if id(value) in self._shared and not self._leads_to(value, self.memo):
            return False
        return _another(value) is not value

    def _container(self, value: Any) -> Any:
        if id(value) in self._shared and not self._leads_to(value, self.memo):
            return self._remember(value, value)  # several modules hand something to each other through it
        kind = type(value)
        made: Any
        if kind not in (list, dict, set, OrderedDict, collections.defaultdict, collections.deque):
            return self._container_of_its_own(value)
        made = self.memo[id(value)] = copy.copy(value)
        made.clear()
        if isinstance(value, dict):
            made.update((self._of_key(key), self._copied(item)) for key, item in value.items())
        elif isinstance(value, set):
            made.update(map(self._copied, value))
        else:
            made.extend(map(self._copied, value))
        return made

    def _container_of_its_own(self, value: Any) -> Any:
        """A container of a class that may have rules of its own about what is done to it."""
        try:
            made = self.memo[id(value)] = copy.copy(value)
            if self._leads_to(value, self.memo):
                for key, item in list(pairs(value)):
                    made[key] = self._copied(item)
        except Exception as error:
            if self._leads_to(value, self.memo):
                raise CannotFollowError(
                    f"a {type(value).__name__} that a module of the model holds refers to the model, and cannot be "
                    f"copied: {type(error).__name__}: {error}. Stop at another target"
                ) from error
            return self._remember(value, value)
        return made

    def _partial(self, value: functools.partial[Any]) -> Any:
        parts = [value.func, *value.args, *value.keywords.values()]
        copied = list(map(self._copied, parts))
        if all(map(operator.is_, parts, copied)):
            return value
        function, *args = copied[: 1 + len(value.args)]
        return functools.partial(function, *args, **dict(zip(value.keywords, copied[1 + len(value.args) :])))

    def _function(self, value: types.FunctionType) -> Any:
        """A function made inside another one, with copies in what it uses from there and in its defaults."""
        itself = types.CellType()  # should it use itself
        cells = value.__closure__ or ()
        leads = self._leads_to(value, self.memo)
        own = {id(cell) for cell in cells if leads and is_filled(cell) and cell.cell_contents is value}
        self.memo[id(value)] = value
        copied = tuple(itself if id(cell) in own else self._cell(cell) for cell in cells)
        defaults = _same_or(value.__defaults__, tuple(map(self._rebound, value.__defaults__ or ())))
        keywords = {name: self._rebound(item) for name, item in (value.__kwdefaults__ or {}).items()}
        changed = any(keywords[name] is not item for name, item in (value.__kwdefaults__ or {}).items())
        inside = {name: self._rebound(item) for name, item in vars(value).items()}
        changed |= any(inside[name] is not item for name, item in vars(value).items())
        if all(map(operator.is_, cells, copied)) and defaults is value.__defaults__ and not changed:
            return value
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, copied or None)
        made.__kwdefaults__ = keywords or None
        made.__qualname__, made.__module__, made.__doc__ = value.__qualname__, value.__module__, value.__doc__
        made.__dict__.update(inside)
        self.memo[id(value)] = itself.cell_contents = made
        return made

    def _rebound(self, value: Any) -> Any:
        """A value that a function uses: copied only if it leads to an original, since the rest is not ours to copy."""
        return self._copied(value) if self._leads_to(value, self.memo) else value

    def _cell(self, cell: types.CellType) -> types.CellType:
        try:
            value = cell.cell_contents
        except ValueError:  # nothing was put there yet
            return cell
        if id(cell) not in self.memo:
            self._kept.append(cell)
            self.memo[id(cell)] = cell
            copied = self._rebound(value)
            if copied is not value:
                self.memo[id(cell)] = types.CellType(copied)
        made: types.CellType = self.memo[id(cell)]
        return made


def _another(value: Any) -> Any:
    """Another object of the same class, to be filled; the same one if it cannot be made, or its class decides that."""
    kind: Any = type(value)
    if kind.__new__ is object.__new__:
        return object.__new__(kind)
    if isinstance(kind.__new__, types.BuiltinFunctionType) and not callable(value):
        with contextlib.suppress(Exception):
            return copy.copy(value)
    return value


def _same_or(value: Any, made: Any) -> Any:
    return value if value is None or all(map(operator.is_, value, made)) else made


def deep_copy(module: nn.Module) -> nn.Module:
    """``copy.deepcopy``, which leaves functions as they are: here what they use of the original is the copy's too."""
    made = copy.deepcopy(module)
    copies = Copies(module, (), type)
    copies.memo = dict(zip(map(id, module.modules()), made.modules()))
    copies._clean.clear()
    for copied in made.modules():
        for name, value in named_extras(copied):
            if name in vars(copied) and copies._leads_to(value, copies.memo):
                vars(copied)[name] = copies._copied(value)
    return made


def refuse_ways_back(model: nn.Module, path_modules: Iterable[nn.Module], kept: Iterable[nn.Module]) -> None:
    """Raises if what a cut keeps leads to a module of the model that the cut does not hold: to an original.

    Modules, containers of modules and bound methods that a rebuilt module holds itself are seen when it is followed.
    """
    rebuilt = {id(module): module for module in path_modules}
    kept = list(kept)
    held = set(map(id, kept))
    lost = {id(module) for module in model.modules()} - held
    cleans: dict[bool, set[int]] = {True: set(), False: set()}
    for module in (*rebuilt.values(), *kept):
        own = id(module) in rebuilt and id(module) not in held
        goals, clean = rebuilt.keys() if own else lost, cleans[own]
        for name, value in named_extras(module):
            if own and (_is_seen_when_followed(name, value) or (name in HOOKS and name not in FORWARD_HOOKS)):
                continue  # a rebuilt module has no other hooks than those of its forward
            seen: set[int] = set()
            if leads_to(value, goals, seen, clean):
                what = "a hook" if name in HOOKS else f"the attribute {name!r}"
                raise CannotFollowError(
                    f"{what} of a {type(module).__name__} refers to a module of the model that the cut does "
                    f"not hold itself, so it would use the mode and the state of the original"
                )
            clean |= seen


def _is_seen_when_followed(name: str, value: Any) -> bool:
    if isinstance(value, types.MethodType):
        return isinstance(value.__self__, nn.Module)
    if isinstance(value, nn.Module):
        return True
    if type(value) in (list, tuple, dict):
        return name not in HOOKS and all(isinstance(item, nn.Module) or type(item) in PLAIN for item in parts_of(value))
    return False


def _others(root: nn.Module, copied: dict[int, nn.Module]) -> tuple[dict[int, list[nn.Module]], list[nn.Module]]:
    """By the id of each module below a root those that hold it; and the modules that are not copied yet."""
    parents: dict[int, list[nn.Module]] = {}
    others, pending, seen = [], [root], {id(root)}
    while pending:
        module = pending.pop()
        if id(module) not in copied:
            others.append(module)
        for child in module._modules.values():
            if child is not None:
                parents.setdefault(id(child), []).append(module)
                if id(child) not in seen:
                    seen.add(id(child))
                    pending.append(child)
    return parents, others


def _above(module: nn.Module, parents: dict[int, list[nn.Module]]) -> Iterator[nn.Module]:
    seen, pending = {id(module)}, [module]
    while pending:
        for parent in parents.get(id(pending.pop()), ()):
            if id(parent) not in seen:
                seen.add(id(parent))
                yield parent
                pending.append(parent)
