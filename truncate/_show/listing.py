"""The places of a model as rows, a table or a tree, with what one pass on an example shows of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from truncate._api import truncate
from truncate._errors import TruncateError, require_module
from truncate._graph import join, map_nested
from truncate._sandbox import Example, call_model, example_of, ghost_of, outside_inference_mode, random_state_kept
from truncate._show import html, terminal
from truncate._show.counting import hollow_copy, multiply_adds, on_meta
from truncate._show.search import UNFOLLOWED, Place, Search, count_parameters
from truncate._show.tree import Branch, Picture, grown, number

if TYPE_CHECKING:  # drawing needs rich, listing does not
    from rich.table import Table


class Layers(Sequence[Place]):
    """The places of one model. Prints as a tree."""

    def __init__(self, model: nn.Module, places: Sequence[Place], work: int | None = None) -> None:
        self._places = tuple(places)
        self._type = type(model).__name__
        self._parameters = count_parameters(model)
        self._work = work

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Place]: ...
    def __getitem__(self, index: int | slice) -> Place | Sequence[Place]:
        return self._places[index]

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<{len(self)} places of {self._type}>"

    def __str__(self) -> str:
        return self.tree()

    def tree(self, depth: int | None = None) -> str:
        """The places as a tree; `depth`: how many levels below the model, all without.

        Raises:
            TruncateError: `depth` is no number from 1 on.
        """
        return terminal.plain(self.render(depth=depth))

    def table(self, depth: int | None = None) -> str:
        """The places as a table, with their whole paths; `depth` as for `tree`."""
        return terminal.plain(self.render(tree=False, depth=depth))

    def __rich__(self) -> Table:
        return self.render()

    def _repr_html_(self) -> str:
        return html.fragment(self.picture())

    def render(self, tree: bool = True, depth: int | None = None) -> Table:
        """The tree or the table for a console of rich, which colours it on a terminal."""
        if depth is not None and (not isinstance(depth, int) or depth < 1):
            raise TruncateError(f"depth is a number of levels, from 1 on, or None for all of them, and not {depth!r}")
        return terminal.bare_tree(self.picture(), depth) if tree else self._table(depth)

    def _table(self, depth: int | None) -> Table:
        from rich.table import Table

        shapes = any(place.shape is not None for place in self)
        table = Table(box=None, pad_edge=False)
        table.add_column("place", no_wrap=True)
        table.add_column("type", no_wrap=True, style="cyan")
        table.add_column("parameters", no_wrap=True, justify="right")
        table.add_column("output" if shapes else "", no_wrap=True, style="green")
        table.add_column("", no_wrap=True, style="yellow")
        for place in self:
            if depth is not None and place.path.count(".") >= depth:
                continue
            branch = _branch(place)
            cells = (branch.type, number(branch.parameters), branch.shape, branch.notes)
            table.add_row(place.path, *cells, style="dim" if branch.quiet else None)
        return table

    def picture(self) -> Picture:
        """The places as a tree to be drawn."""
        notes = UNFOLLOWED if any(place.behind == "" for place in self) else ""
        root = Branch(self._type, "", self._type, self._parameters, self._work, notes=notes)
        return Picture(grown(root, map(_branch, self)), self._type)


def _branch(place: Place) -> Branch:
    return Branch(
        name=place.path.rpartition(".")[2],
        path=place.path,
        type=place.type,
        parameters=place.parameters,
        work=place.work,
        shape="" if place.shape is None else shape_text(place.shape),
        notes=place.notes,
        quiet=bool(place.mode) or (place.behind is not None and not place.calls),
        again=bool(place.same_as),
    )


@outside_inference_mode
def layers(model: nn.Module, args: tuple[Any, ...] | None = None, kwargs: Mapping[str, Any] | None = None) -> Layers:
    """Every place where `truncate` can stop, in running order; what runs several times stands at its last call.

    Args:
        model: Any module. It is neither run nor changed.
        args: An example input, as for ``torch.export.export``. With one, the shapes of the outputs are listed too;
            they come from one pass of a copy of the model, which costs nothing if the example is on the meta device.
        kwargs: Its keyword arguments.

    Returns:
        A sequence of `Place`, which prints as a tree. Its ``table()`` shows the whole paths. The operations inside
        modules without children, such as ``nn.Conv2d``, are not listed. Where a forward cannot be followed, its
        children are listed in the order in which they were registered, and each says so by `behind`: to stop there,
        `truncate` needs an example input.

    Raises:
        TruncateError: `model` is of a wrong type, or does not run on the example.
    """
    require_module("layers", model)
    places = Search(model).places()
    if args is None and kwargs is None:
        return Layers(model, places)
    example = example_of(model, args, kwargs)
    counted = multiply_adds(model, ["", *(place.path for place in places if place.is_module)], args or (), kwargs or {})
    counted = counted or {}
    places = [dataclasses.replace(place, work=counted.get(place.path)) for place in places]
    return Layers(model, _with_shapes(model, places, example), counted.get(""))


def _with_shapes(model: nn.Module, places: list[Place], example: Example) -> list[Place]:
    """The places with what one pass of a copy shows: the shapes, and the calls of what could not be followed."""
    twin = ghost_of(model, example.hollow.tensor)
    shapes: dict[str, Any] = {}
    calls: dict[str, int] = {}
    given: dict[str, Any] = {}  # what the last call of each module was given that has operations listed

    def watch(path: str) -> RemovableHandle:
        def see(module: nn.Module, args: Any, output: Any) -> None:
            shapes[path] = shape_of(output)
            calls[path] = calls.get(path, 0) + 1

        return twin.get_submodule(path).register_forward_hook(see)

    def keep(path: str) -> RemovableHandle:
        def see(module: nn.Module, args: Any, kwargs: Any) -> None:
            given[path] = on_meta(args), on_meta(kwargs)

        return twin.get_submodule(path).register_forward_pre_hook(see, with_kwargs=True)

    operations: dict[str, list[str]] = {}
    for place in places:
        if not place.is_module and not place.mode and place.behind is None:
            holder, _, name = place.path.rpartition(".")
            operations.setdefault(holder, []).append(name)
    for place in places:
        if place.is_module:
            watch(place.path)
    for holder in operations:
        keep(holder)
    with torch.no_grad():
        call_model(twin, example)
    shapes.update(_shapes_of_operations(model, {path: (operations[path], *given[path]) for path in given}))
    return [
        dataclasses.replace(
            place,
            shape=shapes.get(place.path),
            calls=calls.get(place.path, 0) if place.calls is None and place.is_module else place.calls,
        )
        for place in places
    ]


def _shapes_of_operations(model: nn.Module, found: dict[str, tuple[list[str], Any, Any]]) -> dict[str, Any]:
    """By the path of a module: the names of its operations, and what it is given, on the meta device.

    Each module is cut at its own operations. One cut of the whole model at all of them would take much longer.
    """
    shapes: dict[str, Any] = {}
    with torch.no_grad(), random_state_kept():
        twin = hollow_copy(model)
        for path, (names, args, kwargs) in found.items():
            with contextlib.suppress(Exception):  # of many kinds, where something does not run on the meta device
                outputs = truncate(twin.get_submodule(path), names)(*args, **kwargs)
                shapes.update({join(path, name): shape_of(output) for name, output in zip(names, outputs)})
    return shapes


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
