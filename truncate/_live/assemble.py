"""The live part of a cut: copies of the modules on the path, with what its forward no longer runs dropped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn

from truncate._errors import NotReachedError
from truncate._graph import join
from truncate._live.copies import Copies
from truncate._live.module import Once, Part, Wanted, live_class, tap
from truncate._live.once import runs_once
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
    tapped = dict.fromkeys(below for (target, _), below in zip(asked, paths) if below and not target.before)
    part = Part(wanted, own, to_end, tapped=tuple(tapped))
    on_path = [module for below in paths for module in _modules_on(root, below)] or [root]
    copies = Copies(root, on_path, lambda module: live_class(type(module)) if module is root else type(module))
    made = copies.of(root)
    made.__dict__["_truncate_parts"] = [*(getattr(root, "_truncate_parts", None) or ()), part]
    if "_truncate_hooks" not in vars(root):
        made.__dict__.update(_truncate_hooks=OrderedDict(), _truncate_hooks_with_kwargs=OrderedDict())
    for before in (False, True):
        numbers: dict[nn.Module, list[int]] = {}
        for number, (target, _) in enumerate(asked):
            if target.before is before:
                numbers.setdefault(target.module, []).append(number)
        for module, taken in numbers.items():
            tap(copies.of(module), part, taken, before)
    if not to_end and not any(one.is_last_by_luck for one in wanted):
        in_turn = {id(container) for one in wanted if one.once is not None for container in one.once.in_turn}
        _drop_later(root, made, path, set(map(id, on_path)), paths, in_turn)
    for one in wanted:  # what is known of the model has served, and must not go with the cut
        one.once = one.once and one.once._replace(in_turn=())
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


class Dropped(nn.Module):
    """Stands where a module was that the cut does not run. It holds nothing, and asking it for anything is an error."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__()
        self._path = path
        self._why = why

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._error()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error()

    def _error(self) -> NotReachedError:
        return NotReachedError(
            f"{self._path!r} was dropped, since {self._why}, and now the forward asks for it. Add the output of the "
            f'model to what is cut, upto={{"features": ..., "output": ""}}, which keeps all of the model'
        )

    def extra_repr(self) -> str:
        return "dropped"


def _drop_later(
    root: nn.Module, made: nn.Module, path: str, on_path: set[int], paths: list[str], in_turn: set[int]
) -> None:
    """Drops the later items of each `Sequential` and `ModuleList` whose items run one after the other."""
    for below in paths:
        owner, copy, where = root, made, path
        for name in below.split(".") if below else ():
            names = list(owner._modules)
            last = max(i for i, key in enumerate(names) if id(owner._modules[key]) in on_path)
            if names[last] == name and id(owner) in in_turn:
                for later in names[last + 1 :]:
                    if copy._modules[later] is owner._modules[later] is not None:
                        copy._modules[later] = Dropped(join(where, later), "it runs later than what was asked for")
            owner, copy, where = owner._modules[name], copy._modules[name], join(where, name)  # type: ignore[assignment]
