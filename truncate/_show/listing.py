"""The layers and operations of a model as rows, a table or a tree, with what one pass on an example shows."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from truncate._api import truncate
from truncate._errors import TruncateError, UnknownTargetError
from truncate._graph import join, map_nested
from truncate._sandbox import Example, call_model, example_of, outside_inference_mode, random_state_kept, sandbox_copy
from truncate._show import html, terminal
from truncate._show.counting import meta_copy, multiply_adds, on_meta
from truncate._show.search import UNFOLLOWED, LayerInfo, Search, count_parameters
from truncate._show.tree import Diagram, TreeNode, grown, number
from truncate._target import module_given

if TYPE_CHECKING:  # drawing needs rich, listing does not
    from rich.table import Table


class Layers(Sequence[LayerInfo]):
    """The layers and operations of one model. Prints as a tree."""

    def __init__(self, model: nn.Module, rows: Sequence[LayerInfo], work: int | None = None) -> None:
        self._rows = tuple(rows)
        self._type = type(model).__name__
        self._parameters = count_parameters(model)
        self._work = work

    @overload
    def __getitem__(self, index: int) -> LayerInfo: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerInfo]: ...
    @overload
    def __getitem__(self, index: str) -> LayerInfo: ...
    def __getitem__(self, index: int | slice | str) -> LayerInfo | Sequence[LayerInfo]:
        """A row by its number or by its path, as in ``layers(model)["layer3"]``; several rows by a slice.

        Raises:
            UnknownTargetError: No row has this path.
        """
        return self._row(index) if isinstance(index, str) else self._rows[index]

    def _row(self, path: str) -> LayerInfo:
        by_path = {row.path: row for row in self._rows}
        spelled = re.sub(r"\[(\w+)\]", r".\1", path.strip())
        if spelled not in by_path:
            close = difflib.get_close_matches(spelled, [*by_path], n=3)
            instead = f"Did you mean {' or '.join(map(repr, close))}?" if close else "print(layers(model)) lists them."
            raise UnknownTargetError(f"no row {path!r}: no layer or operation of {self._type} has this path. {instead}")
        return by_path[spelled]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} layers and operations of {self._type}>"

    def __str__(self) -> str:
        return self.tree()

    def tree(self, depth: int | None = None) -> str:
        """The rows as a tree. `depth` is the number of levels below the model, or None for all.

        Raises:
            TruncateError: `depth` is not a number, 1 or more.
        """
        return terminal.plain(self.render(depth=depth))

    def table(self, depth: int | None = None) -> str:
        """The rows as a table, with full paths. `depth` is as for `tree`."""
        return terminal.plain(self.render(tree=False, depth=depth))

    def __rich__(self) -> Table:
        return self.render()

    def _repr_html_(self) -> str:
        return html.fragment(self.diagram().printable())

    def render(self, tree: bool = True, depth: int | None = None) -> Table:
        """The tree or the table for a console of rich, which colours it on a terminal."""
        if depth is not None and (not isinstance(depth, int) or depth < 1):
            raise TruncateError(f"depth is a number of levels, 1 or more, or None for all of them, not {depth!r}")
        terminal.need_rich()
        return terminal.bare_tree(self.diagram().printable(), depth) if tree else self._table(depth)

    def _table(self, depth: int | None) -> Table:
        from rich.table import Table
        from rich.text import Text

        shapes = any(row.shape is not None for row in self)
        table = Table(box=None, pad_edge=False)
        table.add_column("target", no_wrap=True)
        table.add_column("type", no_wrap=True, style="cyan")
        table.add_column("parameters", no_wrap=True, justify="right")
        table.add_column("output" if shapes else "", no_wrap=True, style="green")
        table.add_column("", no_wrap=True, style="yellow")
        for row in self:
            if depth is not None and row.path.count(".") >= depth:
                continue
            item = _node(row).printable()
            cells = (item.path, item.type, number(item.parameters), item.shape, item.notes)
            table.add_row(*map(Text, cells), style="dim" if item.quiet else None)
        return table

    def diagram(self) -> Diagram:
        """The rows as a tree to be drawn."""
        notes = UNFOLLOWED if any(row.after == "" for row in self) else ""
        root = TreeNode(self._type, "", self._type, self._parameters, self._work, notes=notes)
        return Diagram(grown(root, map(_node, self)), self._type)


def _node(row: LayerInfo) -> TreeNode:
    return TreeNode(
        name=row.path.rpartition(".")[2],
        path=row.path,
        type=row.type,
        parameters=row.parameters,
        work=row.work,
        shape="" if row.shape is None else shape_text(row.shape),
        notes=row.notes,
        quiet=bool(row.mode) or (row.after is not None and not row.calls),
        again=bool(row.same_as),
    )


@outside_inference_mode
def layers(model: nn.Module, args: tuple[Any, ...] | None = None, kwargs: Mapping[str, Any] | None = None) -> Layers:
    """All layers and operations where `truncate` can stop, in the order they run; of several calls, the last counts.

    Args:
        model: Any module. It is neither run nor changed.
        args: An example input, as for ``torch.export.export``. With an example, the shapes of the outputs are listed
            too. They come from one pass of a copy of the model, which computes nothing on the meta device.
        kwargs: Keyword arguments of the example.

    Returns:
        A sequence of `LayerInfo`, which prints as a tree. Its ``table()`` shows full paths. Operations inside modules
        without children, such as ``nn.Conv2d``, are not listed. If a forward cannot be followed, `after` in the rows of
        its children is the path of that module. With an example, these rows are in running order too, with the
        operations if the forward can be recorded. Without one, the children are in the order of registration.

    Raises:
        TruncateError: `model` has a wrong type, or does not run on the example.
    """
    model = module_given("layers", model)
    rows = Search(model).rows()
    if args is None and kwargs is None:
        return Layers(model, rows)
    example = example_of(model, args, kwargs)
    seen = _seen(model, example)
    rows = _as_run(rows, Search(model, example, seen.order).rows())
    counted = multiply_adds(model, ["", *(row.path for row in rows if row.is_module)], args or (), kwargs or {}) or {}
    operations: dict[str, list[str]] = {}
    for row in rows:
        if not row.is_module and not row.mode:
            holder, _, name = row.path.rpartition(".")
            operations.setdefault(holder, []).append(name)
    found = {path: (names, *seen.given[path]) for path, names in operations.items() if path in seen.given}
    shapes = {**seen.shapes, **_shapes_of_operations(model, found)}
    rows = [
        dataclasses.replace(
            row,
            shape=shapes.get(row.path),
            work=counted.get(row.path),
            calls=seen.calls.get(row.path, 0) if row.is_module and row.after is not None else row.calls,
        )
        for row in rows
    ]
    return Layers(model, rows, counted.get(""))


@dataclasses.dataclass
class _Seen:
    """What one pass shows, by the paths of modules."""

    shapes: dict[str, Any] = dataclasses.field(default_factory=dict)
    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    given: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)  # in the last call, on the meta device
    order: dict[str, int] = dataclasses.field(default_factory=dict)  # at which position the last call ended


def _seen(model: nn.Module, example: Example) -> _Seen:
    """A pass of a copy of the model."""
    twin, seen, ended = sandbox_copy(model, example.meta.tensor), _Seen(), itertools.count()

    def watch(path: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            seen.given[path] = on_meta(args), on_meta(kwargs)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            seen.shapes[path] = shape_of(output)
            seen.calls[path] = seen.calls.get(path, 0) + 1
            seen.order[path] = next(ended)

        if module._modules:
            module.register_forward_pre_hook(before, with_kwargs=True)
        if path:
            module.register_forward_hook(after)

    for path, module in list(twin.named_modules(remove_duplicate=False)):
        if not isinstance(module, torch.jit.ScriptModule):
            watch(path, module)
    with torch.no_grad():
        call_model(twin, example)
    return seen


def _as_run(rows: list[LayerInfo], run: list[LayerInfo]) -> list[LayerInfo]:
    """The rows in the order of those of a pass, and with its operations; `followed` and `after` are as without it."""
    known = {row.path: row for row in rows}
    unfollowed = {row.path for row in rows if not row.followed} | {row.after for row in rows if row.after == ""}

    def after(path: str) -> str | None:
        holder = path.rpartition(".")[0]
        return holder if holder in unfollowed or not holder else after(holder)

    return [
        dataclasses.replace(row, followed=known[row.path].followed, after=known[row.path].after)
        if row.path in known
        else dataclasses.replace(row, after=after(row.path))
        for row in run
    ]


def _shapes_of_operations(model: nn.Module, found: dict[str, tuple[list[str], Any, Any]]) -> dict[str, Any]:
    """The shapes of operations. `found`, by path of a module: their names, and what it is given, on the meta device.

    Each module is cut at its own operations. One cut of the whole model at all of them would take much longer.
    """
    shapes: dict[str, Any] = {}
    with torch.no_grad(), random_state_kept():
        twin = meta_copy(model)
        for path, (names, args, kwargs) in found.items():
            with contextlib.suppress(Exception):  # of many kinds, where something does not run on the meta device
                outputs = truncate(twin.get_submodule(path), names, args, kwargs, check=False)(*args, **kwargs)
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
