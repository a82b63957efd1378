"""A drawing in a terminal: a tree of rich, coloured where there are colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from truncate._errors import TruncateError, need
from truncate._show.tree import Diagram, Mark, Repeated, TreeNode, folded, number, percent

if TYPE_CHECKING:  # drawing needs rich, listing does not
    from rich.console import RenderableType
    from rich.table import Table

_SIGNS = {Mark.RETURNED: "◉", Mark.KEPT: "●", Mark.PARTLY: "◐", Mark.DROPPED: "○"}
_STYLES = {Mark.RETURNED: "bold magenta", Mark.KEPT: "green", Mark.PARTLY: "green", Mark.DROPPED: "dim"}


def need_rich() -> None:
    need("rich", "printing a drawing or a list of layers", "torch-truncate[cli]", TruncateError)


def bare_tree(diagram: Diagram, depth: int | None = None) -> Table:
    """Each layer and operation on a line of its own, with its type and what is special about it."""
    from rich.table import Table
    from rich.text import Text

    shapes = any(item.shape for item in diagram.root.walk())
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("target", no_wrap=True)
    table.add_column("type", no_wrap=True, style="cyan")
    table.add_column("parameters", no_wrap=True, justify="right")
    table.add_column("output" if shapes else "", no_wrap=True, style="green")
    table.add_column("", no_wrap=True, style="yellow")
    root = diagram.root
    table.add_row(*map(Text, (root.name, "", number(root.parameters), root.shape, root.notes)), style="bold")
    for guide, repeated in _lines(root.inside, fold=False, depth=depth):
        item = repeated.first
        cells = (guide + item.name, item.type, number(item.parameters), item.shape, item.notes)
        table.add_row(*map(Text, cells), style="dim" if item.quiet else None)  # plain strings would be read as markup
    return table


def tree(diagram: Diagram) -> RenderableType:
    """The tree with repeated blocks drawn once, what a cut keeps, and the share of each row in the whole."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    root = diagram.root
    shapes = any(item.shape for item in root.walk())
    table = Table(box=None, pad_edge=False, header_style="dim")
    if diagram.marks:
        table.add_column("")
    table.add_column("target", no_wrap=True)
    table.add_column("type", no_wrap=True, style="cyan")
    if shapes:
        table.add_column("output", no_wrap=True, style="blue", max_width=44)  # some return much
    for column in ("parameters", "multiply-adds")[: 1 + (root.work is not None)]:
        table.add_column(column, no_wrap=True, justify="right")
        table.add_column("share", no_wrap=True, justify="right", style="dim")
    table.add_column("", no_wrap=True, style="yellow")

    def add(guide: str, repeated: Repeated) -> None:
        item, times, mark = repeated.first, repeated.times, repeated.first.mark
        label = f"{guide}{repeated.label}" + (f"  × {times}" if times > 1 else "")
        cells = [Text(_SIGNS[mark] if mark else " ", _STYLES[mark] if mark else "")] if diagram.marks else []
        style = "dim" if item.quiet or mark is Mark.DROPPED else "bold" if item is root else ""
        cells += [Text(label, _STYLES[mark] if mark is Mark.RETURNED else ""), Text(item.type)]
        cells += [Text(item.shape)] if shapes else []
        for column in ("parameters", "work")[: 1 + (root.work is not None)]:
            counted = getattr(item, column)
            cells += [Text(number(counted, times)), Text(percent(diagram.share(repeated, column)))]
        table.add_row(*cells, Text(", ".join(filter(None, (item.returned_as, item.notes)))), style=style)

    for guide, repeated in [("", Repeated([root])), *_lines(root.inside, fold=True)]:
        add(guide, repeated)
    head = f"{diagram.title} {diagram.cut}".strip()
    text = Text(head, "bold")
    for name, value in diagram.facts:
        text.append(f"\n{name}: {value}", "not bold")
    legend = Text()
    for mark in diagram.marks:
        legend.append(f"{_SIGNS[mark]} {mark.value}   ", _STYLES[mark])
    return Group(text, "", table, "", legend) if diagram.marks else Group(text, "", table)


def _lines(
    nodes: list[TreeNode], fold: bool, depth: int | None = None, guide: str = "", level: int = 1
) -> Iterator[tuple[str, Repeated]]:
    """What is inside a node, down to a depth, each with the lines that lead to it."""
    groups = folded(nodes) if fold else [Repeated([item]) for item in nodes]
    for position, repeated in enumerate(groups, 1):
        last = position == len(groups)
        yield guide + ("└── " if last else "├── "), repeated
        if depth is None or level < depth:
            yield from _lines(repeated.first.inside, fold, depth, guide + ("    " if last else "│   "), level + 1)


def plain(drawn: RenderableType) -> str:
    """What is printed without colours, as wide as it needs to be."""
    from rich.console import Console

    console = Console(width=10_000, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
