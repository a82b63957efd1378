"""The syntax tree of a function, proved to be that of the code that runs."""

from __future__ import annotations
import __future__

import ast
import collections
import copy
import functools
import inspect
import operator
import types
from collections.abc import Iterator
from typing import Any

ANY = "*"  # among names of attributes: some name that is computed


class Source:
    """The syntax tree of a function, and what is asked of it again and again."""

    def __init__(self, tree: ast.FunctionDef) -> None:
        self.tree = tree
        arguments = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]
        self.assigned = collections.Counter(arg.arg for arg in arguments)  # how often each local name is
        self.attributes: collections.Counter[str] = collections.Counter()  # how often each is read, but for its length
        self.set_attributes: set[str] = set()
        self.calls_itself = False  # whether it calls its first argument
        self.asks_own_class = False  # whether it compares the class of its first argument, or hands it to `super`
        self.stores_in_self = bool(tree.args.args) and any(
            _stores(node, tree.args.args[0].arg) for node in ast.walk(tree)
        )
        self._names: dict[ast.AST, frozenset[str]] = {}
        lengths = set()
        own = arguments[0].arg if arguments else ""
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == own != "":
                self.calls_itself = True
            if isinstance(node, ast.Compare):
                self.asks_own_class |= any(_is_class_of(part, own) for part in [node.left, *node.comparators])
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
                self.asks_own_class |= any(_is_class_of(part, own) for part in node.args)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
                named = len(node.args) == 3 and isinstance(node.args[1], ast.Constant)
                self.set_attributes.add(str(node.args[1].value) if named else ANY)  # type: ignore[attr-defined]
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self.assigned[node.id] += 1
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
                lengths.update(node.args)
            elif isinstance(node, ast.Attribute) and node not in lengths:
                self.attributes[node.attr] += 1
                if not isinstance(node.ctx, ast.Load):
                    self.set_attributes.add(node.attr)
                elif node.attr in ("train", "eval"):
                    self.set_attributes.add("training")

    def names(self, node: ast.AST) -> frozenset[str]:
        """The names that a part of the function mentions."""
        if node not in self._names:
            own = {node.id} if isinstance(node, ast.Name) else set()
            self._names[node] = frozenset(own.union(*map(self.names, ast.iter_child_nodes(node))))
        return self._names[node]


def _is_class_of(node: ast.expr, name: str) -> bool:
    if isinstance(node, ast.Attribute) and node.attr == "__class__":
        return isinstance(node.value, ast.Name) and node.value.id == name
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"):
        return False
    return [arg.id for arg in node.args if isinstance(arg, ast.Name)] == [name]


_MUTATORS = frozenset("append extend insert pop remove clear update setdefault popitem add discard".split())


def _stores(node: ast.AST, own_name: str | None) -> bool:
    """Whether a part of a function changes what the module of a name holds."""
    if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
        return _root_of(node.value) == own_name
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
        return bool(node.args) and _root_of(node.args[0]) == own_name
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name, of = node.func.attr, node.func.value
        in_place = (name.endswith("_") and not name.endswith("__")) or name in _MUTATORS
        return in_place and isinstance(of, (ast.Attribute, ast.Subscript)) and _root_of(of) == own_name
    return False


def _root_of(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def source_of(function: types.FunctionType) -> Source | None:
    """The source of a function; None where it is not at hand, or is no longer that of the code."""
    return _source_of(function.__code__, _imported(function))


@functools.lru_cache(maxsize=4096)
def _source_of(code: types.CodeType, imported: tuple[str, ...]) -> Source | None:
    try:
        text = "".join(inspect.getsourcelines(code)[0])
        indented = text[:1].isspace()  # as it is in its class: its texts of several lines are those of the code
        body = ast.parse(f"if True:\n{text}" if indented else text).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    if indented and body:
        body = body[0].body  # type: ignore[attr-defined]
    made = body[0] if len(body) == 1 else None
    if not isinstance(made, ast.FunctionDef):
        return None
    inside = [node for node in ast.walk(made) if isinstance(node, (ast.Import, ast.ImportFrom))]
    local = [(alias.asname or alias.name).partition(".")[0] for node in inside for alias in node.names]
    tried = dict.fromkeys([(), imported, tuple(sorted({*imported, *local})), tuple(sorted(set(local)))])
    return Source(made) if any(_is_source_of(made, code, names) for names in tried) else None


def _imported(function: types.FunctionType) -> tuple[str, ...]:
    """The names in a function that its file seems to import: Python 3.11 calls methods of these in another way."""
    names, space = {*function.__code__.co_names, *function.__code__.co_varnames}, function.__globals__
    here = space.get("__name__")
    found = ((name, space[name]) for name in sorted(names) if name in space)
    kinds = (type, types.FunctionType, types.BuiltinFunctionType)
    return tuple(
        name
        for name, value in found
        if isinstance(value, types.ModuleType) or (isinstance(value, kinds) and value.__module__ != here)
    )


def _is_source_of(tree: ast.FunctionDef, code: types.CodeType, imported: tuple[str, ...]) -> bool:
    """Whether compiling the text gives the running code again: a file may have been edited since it was imported."""
    plain = copy.copy(tree)
    plain.decorator_list = []
    inside: list[ast.stmt] = [plain]
    owner = code.co_qualname.rpartition(".")[0].rpartition(".")[2]
    if owner.isidentifier():  # for names such as self.__x
        inside = [_with_body(f"class {owner}: ...", inside)]
    free = [name for name in code.co_freevars if name != "__class__"]
    if free:  # as of a function inside another one
        inside = [_with_body(f"def outer():\n {' = '.join(free)} = None", inside)]
    inside = [*(ast.parse(f"import {', '.join(imported)}").body if imported else ()), *inside]
    flags = code.co_flags & _FUTURE
    try:
        module = ast.fix_missing_locations(ast.Module(inside, []))
        whole = compile(module, code.co_filename, "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return any(_is_same(found, code) for found in codes_in(whole) if found.co_name == code.co_name)


def _with_body(holder: str, body: list[ast.stmt]) -> ast.stmt:
    made: Any = ast.parse(holder).body[0]
    made.body += body
    return made


_FUTURE = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from codes_in(constant)


def _is_same(one: types.CodeType, other: types.CodeType) -> bool:
    if (one.co_code, one.co_names, one.co_varnames) != (other.co_code, other.co_names, other.co_varnames):
        return False
    if len(one.co_consts) != len(other.co_consts):
        return False
    for mine, theirs in zip(one.co_consts, other.co_consts):
        if isinstance(mine, types.CodeType):
            if not (isinstance(theirs, types.CodeType) and _is_same(mine, theirs)):
                return False
        elif type(mine) is not type(theirs) or repr(mine) != repr(theirs):
            return False
    return True
