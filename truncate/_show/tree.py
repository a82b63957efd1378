"""What is drawn, whatever it is drawn with: a tree of layers and operations, in which repeated blocks are one."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator
from enum import Enum

from truncate._errors import printable


class Mark(Enum):
    """What a cut does with a layer."""

    RETURNED = "returned"
    KEPT = "kept"
    PARTLY = "partly kept"
    DROPPED = "dropped"


@dataclasses.dataclass
class TreeNode:
    """A layer or operation, or what holds some, and what is inside it in running order."""

    name: str  # the last step of its path
    path: str
    type: str = ""  # empty: it holds targets, but is none
    parameters: int = 0
    work: int | None = None  # multiply-adds
    shape: str = ""
    notes: str = ""
    quiet: bool = False  # perhaps it does not run at all
    again: bool = False  # the same module is drawn elsewhere, and counted there
    mark: Mark | None = None  # None: nothing is cut
    returned_as: str = ""  # for what is returned: where in the result it stands
    inside: list[TreeNode] = dataclasses.field(default_factory=list)

    @property
    def is_target(self) -> bool:
        return bool(self.type and self.path)

    def printable(self) -> TreeNode:
        """The same, in which all texts can be shown: names may come from data, and hold anything."""
        texts = {name: printable(getattr(self, name)) for name in _TEXTS}
        return dataclasses.replace(self, **texts, inside=[inner.printable() for inner in self.inside])  # type: ignore[arg-type]

    def walk(self) -> Iterator[TreeNode]:
        yield self
        for item in self.inside:
            yield from item.walk()

    @functools.cached_property
    def looks(self) -> int:
        """Equal for nodes that differ in nothing but their paths."""
        own = (self.type, self.parameters, self.work, self.shape, self.notes, self.quiet, self.mark, self.returned_as)
        return hash((own, self.again, tuple((inner.name, inner.looks) for inner in self.inside)))


_TEXTS = ("name", "path", "type", "shape", "notes", "returned_as")


@dataclasses.dataclass
class Repeated:
    """Neighbours that look alike, of which one is drawn for all. Most often it is a single node."""

    nodes: list[TreeNode]

    @property
    def first(self) -> TreeNode:
        return self.nodes[0]

    @property
    def times(self) -> int:
        return len(self.nodes)

    @property
    def label(self) -> str:
        """``conv1``, or ``1 … 35`` for several."""
        return self.first.name if self.times == 1 else f"{self.first.name} … {self.nodes[-1].name}"


def folded(nodes: Iterable[TreeNode]) -> list[Repeated]:
    """Nodes, where neighbours that differ only by a number in their names are one.

    Two layers stay two, since as one they would take no less room; blocks have something inside.
    """
    groups: list[list[TreeNode]] = []
    for item in nodes:
        if groups and _unnumbered(groups[-1][0]) == _unnumbered(item):
            groups[-1].append(item)
        else:
            groups.append([item])
    found: list[Repeated] = []
    for group in groups:
        if group[0].inside or len(group) > 2:
            found.append(Repeated(group))
        else:
            found += [Repeated([item]) for item in group]
    return found


def _unnumbered(item: TreeNode) -> tuple[str, int]:
    return re.sub(r"\d+", "#", item.name), item.looks


@dataclasses.dataclass
class Diagram:
    """A model as a tree, and what there is to say about all of it."""

    root: TreeNode
    title: str
    cut: str = ""  # where it is cut, in words
    left_parameters: int | None = None  # of the cut
    left_work: int | None = None

    def printable(self) -> Diagram:
        """What is drawn."""
        texts = {"title": printable(self.title), "cut": printable(self.cut)}
        return dataclasses.replace(self, root=self.root.printable(), **texts)  # type: ignore[arg-type]

    @property
    def marks(self) -> list[Mark]:
        """The marks that occur."""
        present = {item.mark for item in self.root.walk()}
        return [mark for mark in Mark if mark in present]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Parameters and multiply-adds, and how many of them a cut keeps."""
        facts = [("parameters", _of(self.left_parameters, self.root.parameters))]
        if self.root.work is not None:
            facts.append(("multiply-adds", _of(self.left_work, self.root.work)))
        return facts

    def share(self, repeated: Repeated, column: str) -> float | None:
        """A part of all the model's parameters or work, from 0 to 1; None: there is nothing to say."""
        whole, own = getattr(self.root, column), getattr(repeated.first, column)
        return repeated.times * own / whole if whole and own and not repeated.first.again else None


def _of(left: int | None, whole: int) -> str:
    return f"{whole:,}" if left is None else f"{left:,} of {whole:,} ({percent(left / whole) if whole else '0 %'})"


def percent(share: float | None) -> str:
    """A share in three digits, but never 0 % for something or 100 % for less than all."""
    if share is None:
        return ""
    text = f"{100 * share:.1f}"
    text = "< 0.1" if text == "0.0" and share else "> 99.9" if text == "100.0" and share != 1 else text
    return f"{text} %"


def number(value: int | None, times: int = 1) -> str:
    """A number with commas, as ``35 × 1,000`` if it is there several times; nothing for none."""
    return "" if not value else f"{value:,}" if times == 1 else f"{times} × {value:,}"


def grown(root: TreeNode, leaves: Iterable[TreeNode]) -> TreeNode:
    """A tree with more nodes by their paths, and with what holds them and is no target itself."""
    found = {item.path: item for item in root.walk()}
    for leaf in leaves:
        known = found.get(leaf.path)
        if known is None:
            found[leaf.path] = leaf
            _holder(leaf.path, found).inside.append(leaf)
        else:  # met before as a holder of others, at which it stays
            vars(known).update({**vars(leaf), "inside": known.inside})
    return root


def _holder(path: str, found: dict[str, TreeNode]) -> TreeNode:
    holder, _, name = path.rpartition(".")[0].rpartition(".")
    around = f"{holder}.{name}" if holder else name
    if around not in found:
        found[around] = TreeNode(name, around)
        _holder(around, found).inside.append(found[around])
    return found[around]
