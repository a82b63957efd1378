"""Every place of a model where one can stop, in the order in which they are reached, as rows, a table or a tree.

The model is not run for this: its forwards are followed, as `truncate` follows them, from the root down.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from truncate import _call
from truncate._api import truncate
from truncate._call import Call
from truncate._errors import CannotFollowError, TruncateError
from truncate._forwards import Forwards
from truncate._ghost import fresh, ghost_of
from truncate._graph import Body, Kind, join, map_nested
from truncate._operations import name_of
from truncate._randomness import random_state_kept
from truncate._spine import Spine

if TYPE_CHECKING:  # drawing needs rich, listing does not
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Place:
    """A module that runs, or an operation of a module's forward: a place where `truncate` can stop."""

    path: str  #: how it is written as a target
    type: str  #: the class of a module, or the name of an operation's function
    is_module: bool  #: otherwise it is an operation
    calls: int | None  #: how often one pass of the model runs it; None: unknown, since it is `behind` something
    parameters: int  #: how many numbers it holds as parameters
    mode: str = ""  #: "training" or "evaluation" if only that mode runs it, and the model is in the other one
    same_as: str = ""  #: the path under which the same module is listed already
    followed: bool = True  #: whether its own forward can be followed; otherwise what it runs is not known
    behind: str | None = None  #: the path of the module around it whose forward cannot be followed, if there is one
    shape: Any = None  #: with an example input: the shape of its output, in the containers that it returns

    @property
    def notes(self) -> str:
        """What is special about it, in words."""
        notes = [f"{self.calls} calls"] if self.calls is not None and self.calls > 1 else []
        notes += ["not run"] if self.calls == 0 else []
        notes += [f"only in {self.mode}"] if self.mode else []
        notes += [f"the same module as {self.same_as}"] if self.same_as else []
        notes += [_UNFOLLOWED] if not self.followed else []
        notes += ["perhaps not run"] if self.calls is None else []
        return ", ".join(notes)


_UNFOLLOWED = "forward not followed"


class Layers(Sequence[Place]):
    """The places of one model. Prints as a tree."""

    def __init__(self, model: nn.Module, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self._root = type(model).__name__, _count(_parameters(model))

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Place]: ...
    def __getitem__(self, index: int | slice) -> Place | Sequence[Place]:
        return self._places[index]

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<{len(self)} places of {self._root[0]}>"

    def __str__(self) -> str:
        return self.tree()

    def tree(self, depth: int | None = None) -> str:
        """The places as a tree, down to a depth."""
        return _plain(self.render(depth=depth))

    def table(self) -> str:
        """The places as a table, with their whole paths."""
        return _plain(self.render(tree=False))

    def __rich__(self) -> Table:
        return self.render()

    def render(self, tree: bool = True, depth: int | None = None) -> Table:
        """The tree or the table for a console of rich, which colours it on a terminal."""
        from rich.table import Table

        shapes = any(place.shape is not None for place in self)
        table = Table(box=None, pad_edge=False, show_header=not tree)
        table.add_column("place", no_wrap=True)
        table.add_column("type", no_wrap=True, style="cyan")
        table.add_column("parameters", no_wrap=True, justify="right")
        table.add_column("output" if shapes else "", no_wrap=True, style="green")
        table.add_column("", no_wrap=True, style="yellow")
        if tree:
            note = _UNFOLLOWED if any(place.behind == "" for place in self) else ""
            table.add_row(self._root[0], "", self._root[1], "", note, style="bold")
        for label, place in self._drawn(depth) if tree else [(place.path, place) for place in self]:
            if place is None:
                table.add_row(label)
                continue
            shape = "" if place.shape is None else shape_text(place.shape)
            style = "dim" if place.mode or place.behind is not None else None
            table.add_row(label, place.type, _count(place.parameters), shape, place.notes, style=style)
        return table

    def _drawn(self, depth: int | None) -> Iterator[tuple[str, Place | None]]:
        """Each place with its branch of the tree; None for a module that holds some but never runs itself."""
        below: dict[str, dict[str, Place | None]] = {}  # path -> what lies directly below it
        for place in self:
            path = place.path
            below.setdefault(path.rpartition(".")[0], {})[path] = place
            while path := path.rpartition(".")[0]:
                below.setdefault(path.rpartition(".")[0], {}).setdefault(path, None)

        def draw(path: str, guide: str, level: int) -> Iterator[tuple[str, Place | None]]:
            children = below.get(path, {}) if depth is None or level < depth else {}
            for position, (child, place) in enumerate(children.items(), 1):
                last = position == len(children)
                yield f"{guide}{'└── ' if last else '├── '}{child.rpartition('.')[2]}", place
                yield from draw(child, guide + ("    " if last else "│   "), level + 1)

        return draw("", "", 0)


def layers(model: nn.Module, args: tuple[Any, ...] | None = None, kwargs: Mapping[str, Any] | None = None) -> Layers:
    """Every place where `truncate` can stop, in running order; what runs several times stands at its last call.

    Args:
        model: Any module. It is neither run nor changed.
        args: An example input, as for ``torch.export.export``. With one, the shapes of the outputs are listed too;
            they come from one pass of a copy of the model.
        kwargs: Its keyword arguments.

    Returns:
        A sequence of `Place`, which prints as a tree. Its ``table()`` shows the whole paths. The operations inside
        modules without children, such as ``nn.Conv2d``, are not listed. Where a forward cannot be followed, its
        children are listed in the order in which they were registered, and each says so by `behind`: to stop there,
        `truncate` needs an example input.

    Raises:
        TruncateError: `model` is of a wrong type.
    """
    if not isinstance(model, nn.Module):
        raise TruncateError(f"layers takes a torch.nn.Module, but got {model!r} of type {type(model).__name__}")
    places = _Search(model).places()
    if args is not None or kwargs is not None:
        places = _with_shapes(model, places, args or (), dict(kwargs or {}))
    return Layers(model, places)


# -- finding them ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Entry:
    """What is known of a place so far, and the places inside it in running order."""

    module: nn.Module | None  # None: an operation
    type: str
    mode: str
    calls: int = 0
    followed: bool = True
    inside: dict[str, _Entry] = dataclasses.field(default_factory=dict)  # by their paths from here

    def walk(self, path: str = "", behind: str | None = None) -> Iterator[tuple[str, _Entry, str | None]]:
        """Everything inside, with its path, and the path of the last module around it that cannot be followed."""
        behind = behind if self.followed else path
        for name, entry in self.inside.items():
            yield join(path, name), entry, behind
            yield from entry.walk(join(path, name), behind)


# A name below the module, the child or the operation's function, how a child is called, and the only mode that does it.
_Step = tuple[str, nn.Module | str, Call, str]


class _Search:
    """Follows all forwards of a model."""

    def __init__(self, model: nn.Module) -> None:
        self._root = _Entry(model, "", "")
        self._forwards = Forwards(model, Spine([]))
        self._running: set[int] = set()  # a module may call itself

    def places(self) -> list[Place]:
        self._visit(self._root, "", self._forwards.entry, "")
        calls: dict[int, int] = {}  # of each module, under all its paths together
        for _, entry, _ in self._root.walk():
            calls[id(entry.module)] = calls.get(id(entry.module), 0) + entry.calls
        first: dict[int, str] = {}
        places: dict[str, Place] = {}
        for path, entry, behind in self._root.walk():
            module = entry.module
            listed = path if module is None else first.setdefault(id(module), path)
            known = behind is None
            places[path] = Place(
                path=path,
                type=entry.type,
                is_module=module is not None,
                calls=None if not known else entry.calls if module is None else calls[id(module)],
                parameters=0 if module is None else _parameters(module),
                mode=entry.mode,
                same_as="" if listed == path else listed,
                followed=entry.followed,
                behind=behind,
            )
        return list(places.values())

    def _visit(self, entry: _Entry, path: str, call: Call, mode: str) -> None:
        """One call of a module: enters what it runs. `mode`: in which alone, if not in the present one."""
        module = entry.module
        if module is None or id(module) in self._running or (path and not module._modules):
            return
        self._running.add(id(module))
        try:
            steps = self._steps(module, path, call)
        except CannotFollowError:
            entry.followed = False
            steps = [(name, child, _call.from_signature(child), "") for name, child in _callable_children(module)]
        for name, what, inner, only in steps:
            only = mode or only
            below = entry.inside.pop(name, None)
            if below is None:
                child = what if isinstance(what, nn.Module) else None
                below = _Entry(child, what if isinstance(what, str) else type(what).__name__, only)
            if below.mode and not only:  # known from another mode, but this one runs it too
                below.mode, below.calls = "", 0
            below.calls += below.mode == only
            entry.inside[name] = below  # at the end, so that it stands at its last call
            self._visit(below, join(path, name), inner, only)
        self._running.discard(id(module))

    def _steps(self, module: nn.Module, path: str, call: Call) -> list[_Step]:
        """What one call of a module runs, and between, where they would be, the steps of other modes alone."""
        present, *others = self._forwards.bodies(module, path, call)
        steps = self._named(module, path, present, "")
        for body in others:
            known = {name for name, *_ in steps}
            position = 0
            for step in self._named(module, path, body, _other_mode(present, body)):
                if step[0] in known:
                    later = (at for at in range(position, len(steps)) if steps[at][0] == step[0])
                    position = next(later, position - 1) + 1
                else:
                    steps.insert(position, step)
                    position += 1
        return steps

    def _named(self, module: nn.Module, path: str, body: Body, mode: str) -> list[_Step]:
        """The nodes of a body that are places."""
        steps: list[_Step] = []
        for node in body.nodes:
            if node.kind is Kind.CHILD:
                child = module.get_submodule(node.target)
                steps.append((node.target, child, self._forwards.call(module, path, node), mode))
            elif node.name:
                steps.append((node.name, name_of(node), Call((), {}), mode))
        return steps


def _other_mode(present: Body, other: Body) -> str:
    """The mode of a body in which it differs from the present one."""
    flags = [value for flag, value in other.modes.items() if present.modes.get(flag, value) is not value]
    return "training" if any(flags) else "evaluation"


def _callable_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a module as registered; in place of a list or a dictionary of modules, what it holds."""
    for name, child in module.named_children():
        if type(child).forward is nn.Module.forward:
            yield from ((f"{name}.{below}", inner) for below, inner in _callable_children(child))
        else:
            yield name, child


# -- shapes ----------------------------------------------------------------------------------------------------------


def _with_shapes(model: nn.Module, places: list[Place], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Place]:
    """The places with what one pass of a copy shows: the shapes, and the calls of what could not be followed."""
    twin = ghost_of(model)
    shapes: dict[str, Any] = {}
    calls: dict[str, int] = {}

    def watch(path: str) -> RemovableHandle:
        def see(module: nn.Module, args: Any, output: Any) -> None:
            shapes[path] = shape_of(output)
            calls[path] = calls.get(path, 0) + 1

        return twin.get_submodule(path).register_forward_hook(see)

    hooks = [watch(place.path) for place in places if place.is_module]
    operations = [place.path for place in places if not place.is_module and not place.mode and place.behind is None]
    with torch.no_grad(), random_state_kept():
        twin(*fresh(args), **fresh(kwargs))
        for hook in hooks:
            hook.remove()
        if operations:
            with contextlib.suppress(TruncateError):  # if one of them cannot be had, all go without
                outputs = truncate(twin, operations)(*fresh(args), **fresh(kwargs))
                shapes.update(zip(operations, map(shape_of, outputs)))
    return [
        dataclasses.replace(
            place,
            shape=shapes.get(place.path),
            calls=calls.get(place.path, 0) if place.calls is None and place.is_module else place.calls,
        )
        for place in places
    ]


def shape_of(value: Any) -> Any:
    """The shapes of nested tensors, nested in the same way; anything else by its type."""
    return map_nested(value, lambda item: tuple(item.shape) if isinstance(item, torch.Tensor) else type(item))


def shape_text(shape: Any) -> str:
    """A shape as ``1×3×224×224``; in the brackets of the containers around it, where there are some."""
    if isinstance(shape, type):
        return "None" if shape is type(None) else shape.__name__
    if isinstance(shape, dict):
        return "{" + ", ".join(f"{key}: {shape_text(item)}" for key, item in shape.items()) + "}"
    if all(isinstance(size, int) for size in shape) and type(shape) is tuple:
        return "×".join(map(str, shape)) or "scalar"
    opening, closing = ("(", ")") if isinstance(shape, tuple) else ("[", "]")
    return opening + ", ".join(map(shape_text, shape)) + closing


# -- drawing ---------------------------------------------------------------------------------------------------------


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _plain(table: Table) -> str:
    """What a table looks like without colours, as wide as it needs to be."""
    from rich.console import Console

    console = Console(width=10_000, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
