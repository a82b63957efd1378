"""Whether a forward runs a module at most once: read from its source, and denied wherever that does not show it.

A live forward is left where its target has run. Should the target run again later in the same pass, that would be an
earlier call's value, so it is left at once only where this says that there is no later call.
"""

from __future__ import annotations

import inspect
import itertools
import types
from typing import Any

from torch import nn

from truncate._errors import CannotFollowError
from truncate._graph import has_forward
from truncate._live.held import extras, leads_to
from truncate._live.parts import Once, Unless
from truncate._live.reading import Reading
from truncate._live.references import MANY, calls_of_graph, has_own_call, runs_in_turn
from truncate._live.source import source_of


def runs_once(root: nn.Module, path: str) -> Once | None:
    """Whether one call of `root` runs the module at `path` at most once; None: it may run it again."""
    if not _is_unique(root, path):
        return None
    unless: list[Unless] = []
    in_turn: list[nn.Module] = []
    reads_all = False
    owner, above, names = root, "", path.split(".")
    step: Any = lambda module, name: module._modules[name]  # noqa: E731
    on_path = set(map(id, itertools.accumulate(names, step, initial=root)))
    owners = []
    while names:  # each forward that leads there runs the next one, or a child in a container, which has none
        inside, count, below = owner, 0, set()
        while count < len(names) and (count == 0 or not has_forward(inside)):
            inside = inside._modules[names[count]]  # type: ignore[assignment]
            below.add(id(inside))
            count += 1
        reading = Reading(owner, inside, below, on_path)
        runs = reading.runs()
        if owner is root and reading.asks_own_class:
            raise CannotFollowError(
                f"the forward of {type(owner).__name__} asks for its own class, type(self), which is another class in "
                f"a live cut. Write the name of the class instead, or pass live=False"
            )
        owners.append(owner)
        if runs >= MANY:
            return None
        reads_all |= reading.reads_all
        unless += [Unless(above, attributes) for attributes in reading.unless]
        in_turn += reading.in_turn
        above = ".".join([*([above] if above else []), *names[:count]])
        owner, names = inside, names[count:]
    if _is_held_elsewhere(root, on_path, owners) or Reading(owner, owner, {id(owner)}, on_path).of_hooks():
        return None
    if calls_itself(owner):
        return None
    return Once(tuple(unless), () if reads_all else tuple(in_turn))


def calls_itself(module: nn.Module) -> bool:
    """Whether a module is seen to run again while it is called: by ``self(...)``, or by a `__call__` of its class."""
    if has_own_call(module):
        reading = Reading(module, module, {id(module)}, {id(module)})
        reading.counts_calls = True
        if reading.runs() >= MANY:
            return True
    bases = [base for base in type(module).__mro__ if issubclass(base, nn.Module) and base is not nn.Module]
    names, seen = ["forward"], {"forward"}
    for name in names:  # all that its forward may call of its class
        for found in (vars(base)[name] for base in bases if name in vars(base)):
            function = inspect.unwrap(getattr(found, "fget", found))
            source = source_of(function) if isinstance(function, types.FunctionType) else None
            if source is not None:
                if source.calls_itself:
                    return True
                names += source.attributes.keys() - seen
                seen |= source.attributes.keys()
    return False


def keeps_state(root: nn.Module, path: str) -> bool:
    """Whether a forward on the path is seen to change, perhaps after the target has run, what its next call reads.

    It assigns an attribute, works in place on what it holds, or runs a child with buffers in two places.
    """
    owner = root
    for name in ("", *path.split(".")[:-1]) if path else ("",):
        owner = owner._modules[name] if name else owner  # type: ignore[assignment]
        if not has_forward(owner) or runs_in_turn(owner) or calls_of_graph(owner) is not None:
            continue
        reading = Reading(owner, owner, {id(owner)}, {id(owner)})
        reading.runs()
        if reading.keeps_state:
            return True
    return False


def _is_held_elsewhere(root: nn.Module, on_path: set[int], owners: list[nn.Module]) -> bool:
    """Whether a module, other than those whose forwards were read, holds one on the path outside of its children."""
    read, clean = set(map(id, owners)), set[int]()
    for module in root.modules():
        for value in extras(module) if id(module) not in read else ():
            seen: set[int] = set()
            if leads_to(value, on_path, seen, clean):
                return True
            clean |= seen
    return False


def _is_unique(root: nn.Module, path: str) -> bool:
    """Whether the modules down to `path` have no other names, by which they might run too."""
    on_path, module = set(), root
    for name in path.split("."):
        module = module._modules[name]  # type: ignore[assignment]
        on_path.add(id(module))
    found, seen, pending = 0, {id(root)}, [root]
    while pending:
        for child in pending.pop()._modules.values():
            if child is not None:
                found += id(child) in on_path
                if id(child) not in seen:
                    seen.add(id(child))
                    pending.append(child)
    return found == len(on_path)
