"""The live part of a cut: copies of the modules on the path, with what its forward no longer runs dropped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from truncate._errors import CannotFollowError
from truncate._live.copies import Copies
from truncate._live.dropped import drop_later
from truncate._live.module import live_class, tap
from truncate._live.once import keeps_state, runs_once
from truncate._live.parts import Once, Part, Wanted
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
    numbers: dict[tuple[str, bool], tuple[int, ...]] = {}
    for number, ((target, _), below) in enumerate(zip(asked, paths)):
        numbers[below, target.before] = (*numbers.get((below, target.before), ()), number)
    tapped = tuple((below, before, taken) for (below, before), taken in numbers.items())
    state = not to_end and any(keeps_state(root, below) for below in paths)
    part = Part(path, wanted, own, to_end or state, tapped=tapped, keeps_state=state)
    on_path = [module for below in _all_paths(root, asked) for module in _modules_on(root, below)] or [root]
    for module in on_path:
        if isinstance(module, torch.jit.ScriptModule):
            raise CannotFollowError(
                f"{path or 'the model'!r} keeps its own Python, but the target was compiled by TorchScript, which "
                f"allows no hooks, so it cannot stop there. Stop at the layer before it, or pass live=False"
            )
    copies = Copies(root, on_path, lambda module: live_class(type(module)) if module is root else type(module))
    made = copies.of(root)
    made.__dict__["_truncate_parts"] = [*(getattr(root, "_truncate_parts", None) or ()), part]
    if "_truncate_hooks" not in vars(root):
        made.__dict__.update(_truncate_hooks=OrderedDict(), _truncate_hooks_with_kwargs=OrderedDict())
    for below, before, taken in tapped:
        tap(copies.of(root.get_submodule(below)), part, taken, before)
    if part.ends:
        now = [one.once for one in wanted]
        known = [set(map(id, once.in_turn)) if once is not None and once.holds(root) else set() for once in now]
        in_turn = set.intersection(*known)  # else what runs after one target may lead to another one
        drop_later(root, made, path, paths, in_turn)
    for one in wanted:  # what is known of the model has served, and must not go with the cut
        one.once = one.once and one.once._replace(in_turn=())
    return made, part


def _path_below(root: nn.Module, module: nn.Module) -> str:
    """The path of a module below another one."""
    if module is root:
        return ""
    return next(path for path, found in root.named_modules(remove_duplicate=False) if found is module)


def _all_paths(root: nn.Module, asked: list[tuple[Target, int]]) -> list[str]:
    """Every path to a target: where several modules hold one, it runs in each of them."""
    targets = {id(target.module) for target, _ in asked}
    return [below for below, found in root.named_modules(remove_duplicate=False) if id(found) in targets]


def _modules_on(root: nn.Module, path: str) -> Iterator[nn.Module]:
    yield root
    for name in path.split(".") if path else ():
        root = root._modules[name]  # type: ignore[assignment]
        yield root
