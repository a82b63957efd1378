"""What a live part does not run, and so need not hold: its place is kept, so that the others keep their numbers."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from truncate._errors import NotReachedError, TruncateError
from truncate._graph import join
from truncate._live.module import Live, is_tapped
from truncate._sandbox import Example, call_model, sandbox_copy


class Dropped(nn.Module):
    """Stands where a module was that the cut does not run. It holds nothing, and asking it for anything is an error."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__()
        self._path = path
        self._why = why

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # as copying and printing ask
            raise AttributeError(name)
        raise self._error()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error()

    def _error(self) -> NotReachedError:
        return NotReachedError(
            f"{self._path!r} was dropped, since {self._why}, but now the forward asks for it. Give an example that "
            f'runs it, or ask for the output of the model too, which keeps all of it: upto={{"a": ..., "output": ""}}'
        )

    def extra_repr(self) -> str:
        return "dropped"


def drop_later(root: nn.Module, made: Any, path: str, paths: list[str], in_turn: set[int]) -> None:
    """Drops the items of containers that run later than those on the path, where one item runs after the other.

    Only of containers that all targets lie in: to come to one outside of it the forward runs all of its items.
    """
    chains = [_chain(root, below) for below in paths]
    on_path = {id(module) for chain in chains for module, _ in chain}
    for position, (owner, where) in enumerate(chains[0]):
        if any(len(chain) <= position or chain[position][0] is not owner for chain in chains):
            return
        copy = made.get_submodule(where) if where else made
        for later in _later(owner, on_path) if id(owner) in in_turn else ():
            if copy._modules[later] is owner._modules[later] is not None:
                copy._modules[later] = Dropped(join(path, join(where, later)), "it runs later than the target")


def _chain(root: nn.Module, path: str) -> list[tuple[nn.Module, str]]:
    """The modules from a root down to a path, each with its own path."""
    chain, where = [(root, "")], ""
    for name in path.split(".") if path else ():
        where = join(where, name)
        chain.append((chain[-1][0]._modules[name], where))  # type: ignore[arg-type]
    return chain


def _later(owner: nn.Module, on_path: set[int]) -> list[str]:
    """The names of the children that are registered after the last one on the path."""
    names = list(owner._modules)
    on = [position for position, child in enumerate(owner._modules.values()) if id(child) in on_path]
    return names[on[-1] + 1 :] if on else []


def drop_what_does_not_run(cut: nn.Module, example: Example) -> None:
    """Drops from the live parts of a cut what is registered after the path, and does not run on an example.

    What runs is seen in a pass of a sandbox copy in each mode. To be asked for an attribute counts as running.
    """
    candidates = list(_candidates(cut))
    if not candidates:
        return
    seen: set[int] = set()
    for flip in (False, True):
        sandbox = sandbox_copy(cut, example.meta.tensor)
        twins = dict(zip(map(id, cut.modules()), sandbox.modules()))
        for module in sandbox.modules():
            module.training ^= flip
        watched = {id(twins[id(holder._modules[name])]): holder._modules[name] for holder, name, _ in candidates}
        asked: set[int] = set()

        def begin(*_: Any, watched: Any = watched, twins: Any = twins, asked: Any = asked) -> None:
            for original in watched.values():
                _watch(twins[id(original)], asked)

        sandbox.register_forward_pre_hook(begin)
        try:
            call_model(sandbox, example)
        except TruncateError:  # it does not run in this mode, so that nobody knows
            return
        seen.update(
            id(original) for key, original in watched.items() if key in asked
        )  # others may be asked, too: a slice
    for holder, name, path in candidates:
        if id(holder._modules[name]) not in seen:
            holder._modules[name] = Dropped(path, "it did not run on the example, in either mode")


def _candidates(cut: nn.Module) -> Iterator[tuple[Any, str, str]]:
    """What is registered after the path in each live part that ends there: its holder, its name and its path."""
    for module in cut.modules():
        if isinstance(module, Live):
            for part in module._truncate_parts or ():
                if part.ends:
                    yield from _after_the_path(module, part.path, part)


def _after_the_path(module: Any, path: str, part: Any) -> Iterator[tuple[Any, str, str]]:
    names = list(module._modules)
    on = [name for name, child in module._modules.items() if child is not None and _holds_tap(child, part)]
    for name in on:
        yield from _after_the_path(module._modules[name], join(path, name), part)
    for name in names[names.index(on[-1]) + 1 :] if on else ():
        child = module._modules[name]
        if child is not None and not isinstance(child, Dropped) and name not in part.then:
            yield module, name, join(path, name)


def _holds_tap(module: nn.Module, part: Any) -> bool:
    return any(is_tapped(inside, part) for inside in module.modules())


class _Watching:
    """What a module does besides what its class does: it notes that it was asked for something."""

    _truncate_asked: set[int]

    def __init_subclass__(cls) -> None:
        """Ends here: a class that registers its subclasses must not see one that nobody wrote."""

    def __getattribute__(self, name: str) -> Any:
        if name != "_truncate_asked":
            self._truncate_asked.add(id(self))
        return super().__getattribute__(name)


def _watch(module: nn.Module, asked: set[int]) -> None:
    """Notes from now on whether a module is asked for anything."""
    kind: Any = type(module)
    made = types.new_class(kind.__name__, (_Watching, kind), {}, lambda space: space.update(_truncate_asked=asked))
    object.__setattr__(module, "__class__", made)
