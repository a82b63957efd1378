"""The live part of a cut: copies of the modules on the path, with what its forward no longer runs dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from truncate._live.copies import Copies
from truncate._live.dropped import drop_later
from truncate._live.module import Part, Role, Wanted, live_class
from truncate._live.once import Once, runs_once
from truncate._target import Target


def build_live(
    root: nn.Module, path: str, asked: list[tuple[Target, int]], own: bool, to_end: bool
) -> tuple[Any, Part]:
    """A copy of `root`, whose forward is left when all that is asked for is there.

    Args:
        root: A module of the model. It is not changed, and shares parameters and buffers with the copy.
        path: Where it is in the model.
        asked: Targets inside of it, each with the number of its call.
        own: Whether its own output is handed out too, before the values at the targets.
        to_end: Whether its forward has to run to its end in any case.
    """
    paths = [_path_below(root, target.module) for target, _ in asked]
    wanted = [
        Wanted(target.text, call, target.before, runs_once(root, below) if below else Once())
        for (target, call), below in zip(asked, paths)
    ]
    part = Part(path, wanted, own, to_end)
    roles = {id(root): Role(part, is_entry=True)}
    for number, (target, _) in enumerate(asked):
        role = roles.setdefault(id(target.module), Role(part))
        taps = (*(role.taps_before if target.before else role.taps), number)
        if target.before:
            role.taps_before = taps
        else:
            role.taps = taps
    on_path = [module for below in paths for module in _modules_on(root, below)]

    def kind_of(module: nn.Module) -> type:
        return live_class(type(module)) if id(module) in roles else type(module)

    copies = Copies(root, on_path, kind_of)
    for module in on_path:
        if id(module) in roles:
            made = copies.of(module)
            made._truncate_roles = [*getattr(module, "_truncate_roles", ()), roles[id(module)]]
    made = copies.of(root)
    if part.ends:
        in_turn = {id(container) for one in wanted if one.once is not None for container in one.once.in_turn}
        drop_later(root, made, path, paths, in_turn)
    return made, part


def _path_below(root: nn.Module, module: nn.Module) -> str:
    """The path of a module below another one."""
    if module is root:
        return ""
    return next(path for path, found in root.named_modules(remove_duplicate=False) if found is module)


def _modules_on(root: nn.Module, path: str) -> Iterator[nn.Module]:
    yield root
    for name in path.split(".") if path else ():
        root = root._modules[name]  # type: ignore[assignment]
        yield root
