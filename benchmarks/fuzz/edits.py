"""Ways to make Python smaller, as edits of its syntax tree. Not all that comes out runs."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any

Edit = tuple[int, int, Callable[[Any], None]]  # what it takes away, the number of a node, and what is done to that


def edits_of(tree: ast.Module) -> Iterator[Edit]:
    """All that may be tried on a model."""
    for number, node in enumerate(ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            yield from _second_names(number, node)
        if isinstance(node, ast.arguments):
            yield from _arguments(number, node)
        for name in ("body", "orelse", "handlers"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield from _in_block(number, name, block, isinstance(node, ast.Module) or name != "body")
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr) and not isinstance(value, (ast.Name, ast.Constant)):
                yield from _in_expression(number, name, None, value)
            elif isinstance(value, list) and name not in ("targets", "decorator_list"):
                yield from _in_list(number, name, value)


def _in_block(number: int, name: str, block: list[Any], may_be_empty: bool) -> Iterator[Edit]:
    for size in (len(block) // 2, len(block) // 4, 1):
        for start in range(0, len(block), size) if size else ():
            weight = sum(len(ast.unparse(each)) for each in block[start : start + size])

            def leave_out(node: Any, start: int = start, size: int = size) -> None:
                rest = getattr(node, name)
                del rest[start : start + size]
                if not rest and not may_be_empty:
                    rest.append(ast.Pass())

            if not all(isinstance(each, ast.Pass) for each in block):
                yield weight, number, leave_out
    for position, each in enumerate(block):
        for inner in ("body", "orelse"):
            if isinstance(each, (ast.If, ast.For, ast.While, ast.With, ast.Try)) and getattr(each, inner, []):

                def flatten(node: Any, position: int = position, inner: str = inner) -> None:
                    rest = getattr(node, name)
                    rest[position : position + 1] = getattr(rest[position], inner)

                yield 20, number, flatten


def _in_list(number: int, name: str, values: list[Any]) -> Iterator[Edit]:
    """Items, arguments and keywords, which are left out or made simpler."""
    for position, value in enumerate(values):
        if not isinstance(value, (ast.expr, ast.keyword)):
            continue

        def leave_out(node: Any, position: int = position) -> None:
            del getattr(node, name)[position]
            if isinstance(node, ast.Dict):
                del node.keys[position]

        if name != "keys":
            yield len(ast.unparse(value)), number, leave_out
        if isinstance(value, ast.expr) and not isinstance(value, (ast.Name, ast.Constant)):
            yield from _in_expression(number, name, position, value)


def _in_expression(number: int, name: str, position: int | None, value: ast.expr) -> Iterator[Edit]:
    """A part of an expression, or a simple module, in the place of the whole."""
    parts: list[ast.expr] = [part for part in ast.walk(value) if isinstance(part, ast.expr) and part is not value]
    if isinstance(value, ast.Call):
        parts.append(ast.parse("nn.Identity()", mode="eval").body)
    whole = len(ast.unparse(value))
    for part in parts:
        if isinstance(part, ast.Constant) or not isinstance(getattr(part, "ctx", None), (ast.Load, type(None))):
            continue

        def replace(node: Any, part: ast.expr = part) -> None:
            if position is None:
                setattr(node, name, copy.deepcopy(part))
            else:
                getattr(node, name)[position] = copy.deepcopy(part)

        if (saved := whole - len(ast.unparse(part))) > 0:
            yield saved, number, replace


def _second_names(number: int, function: ast.FunctionDef) -> Iterator[Edit]:
    """``b = a`` is left out, and ``a`` written for ``b``."""
    for position, node in enumerate(ast.walk(function)):
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, ast.Name)):
            continue
        if isinstance(node.targets[0], ast.Name):

            def rename(function: Any, position: int = position) -> None:
                nodes = list(ast.walk(function))
                old, new = nodes[position].targets[0].id, nodes[position].value.id
                for each in nodes:
                    if isinstance(each, ast.Name) and each.id == old:
                        each.id = new
                    for name in ("body", "orelse"):
                        block = getattr(each, name, None)
                        if isinstance(block, list) and nodes[position] in block:
                            block[block.index(nodes[position])] = ast.Pass()

            yield 15, number, rename


def _arguments(number: int, given: ast.arguments) -> Iterator[Edit]:
    """Arguments with defaults are left out."""
    for position in range(len(given.defaults)):

        def leave_out(node: Any, position: int = position) -> None:
            del node.args[position - len(node.defaults)], node.defaults[position]

        yield 6, number, leave_out
