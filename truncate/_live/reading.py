"""Reading a forward, statement by statement, for how often it runs a module."""

from __future__ import annotations

import ast
import collections
import functools
import inspect
import types
from collections.abc import Iterable
from typing import Any

from torch import nn

from truncate._live.held import leads_to
from truncate._live.module import Taps
from truncate._live.references import (
    MANY,
    AnyOf,
    Each,
    Here,
    Index,
    References,
    Wrapped,
    always_leaves,
    calls_of_graph,
    from_outside,
    is_slot,
    items_in,
    refused_outside,
    runs_in_turn,
    wrapped_by,
)
from truncate._live.source import ANY, source_of


class Reading(References):
    """Counts how often the forward of `owner` runs `goal`, which is one of its children or inside a container of it."""

    def runs(self) -> int:
        count = self.of_hooks()
        if runs_in_turn(self.owner):
            return min(MANY, count + 1)
        calls = calls_of_graph(self.owner)
        if calls is not None:
            return min(MANY, count + [self.owner.get_submodule(path) for path in calls].count(self.goal))
        if "forward" in vars(self.owner):
            return MANY
        has_own_call = type(self.owner).__call__ is not nn.Module.__call__
        count += self._of_method("__call__" if has_own_call else "forward")
        set_here = {name for source in self._sources for name in source.set_attributes}
        if any(not set_here.isdisjoint((*names, ANY)) for names in self.unless):  # by then it may have another value
            return MANY
        return min(MANY, count)

    def of_hooks(self) -> int:
        """How often hooks on the owner run the goal."""
        state = vars(self.owner)
        hooks = [
            hook
            for name in ("_forward_hooks", "_forward_pre_hooks")
            for hook in state[name].values()
            if not isinstance(hook, Taps)
        ]
        return min(MANY, sum(map(self._of_hook, hooks)))

    def _of_hook(self, hook: Any) -> int:
        if leads_to(hook, self._on_path):
            return MANY
        if not isinstance(hook, types.FunctionType):
            called = hook if isinstance(hook, types.MethodType) else type(hook).__call__
            function = getattr(called, "__func__", called)
            if not isinstance(function, types.FunctionType):
                return MANY
            return self._of_function(function, None, {1: self.owner})
        return self._of_function(hook, None, {0: self.owner})

    @property
    def asks_own_class(self) -> bool:
        """Whether a function that was read asks for the very class of the owner."""
        return any(source.asks_own_class for source in self._sources)

    @property
    def keeps_state(self) -> bool:
        """Whether a function that was read stores in the owner, or runs a child of it with buffers in two places."""
        own = self._sources - self._decorators
        if any(source.stores_in_self for source in own):
            return True
        mentioned = sum((source.attributes for source in own), collections.Counter[str]())
        children = self.owner._modules.items()
        return any(mentioned[name] > 1 and next(child.buffers(), None) is not None for name, child in children if child)

    @property
    def in_turn(self) -> list[nn.Module]:
        """The containers of which one item after the other runs, up to the goal, and that nothing else reads."""
        if runs_in_turn(self.owner):
            return [self.owner]
        named = [name for name, child in self.owner._modules.items() if child is self._looped]
        mentioned = sum(source.attributes[name] for name in named for source in self._sources)
        return [self._looped] if mentioned == 1 else []

    # -- functions -----------------------------------------------------------------------------------------------

    def _of_method(self, name: str, after: type | None = None) -> int:
        """A method of the owner, found after a class of its bases if that is given: what `super()` finds."""
        bases = type(self.owner).__mro__
        for base in bases[bases.index(after) + 1 if after is not None else 0 :]:
            if name in vars(base):
                found = vars(base)[name]
                break
        else:
            return MANY
        if base is nn.Module:
            if name == "__call__":
                return 1 if self.counts_calls else self._of_method("forward")
            self.reads_all |= any(word in name for word in ("parameters", "buffers", "state_dict"))
            return MANY if "modules" in name or "children" in name or name in ("apply", "get_submodule") else 0
        if isinstance(found, property):
            found = found.fget
        elif isinstance(found, staticmethod):
            return 0
        return self._of_function(found, base, {0: self.owner})

    def _of_function(self, function: Any, base: type | None, given: dict[int | str, Any]) -> int:
        """A function that is given modules, by position or name."""
        if not isinstance(function, types.FunctionType):
            return MANY
        if any(known is function for known, _ in self._under_way) or len(self._under_way) > 20:
            return MANY
        source = source_of(function)
        if source is None:
            return MANY
        tree = source.tree
        inner = wrapped_by(function)
        own_name = ""
        if inner is not None:  # a decorator, which is taken to do no more with the module than to call what it wraps
            env: dict[str, Any] = {inner[0]: Wrapped(inner[1])}
            own_name = tree.args.args[0].arg if tree.args.args else ""
            self._decorators.add(source)
        else:
            spread = [arg.arg for arg in [*tree.args.posonlyargs, *tree.args.args]]
            names = {*spread, *(arg.arg for arg in tree.args.kwonlyargs)}
            if any(key not in names if isinstance(key, str) else key >= len(spread) for key in given):
                return MANY  # in *args or **kwargs, from where it may go anywhere
            env = {spread[key] if isinstance(key, int) else key: value for key, value in given.items()}
        for name, value in from_outside(function).items():
            if (inner is None or name != inner[0]) and leads_to(value, self._on_path):
                raise refused_outside(function.__qualname__, name)
        self._sources.add(source)
        before = self._here, self._env
        self._here, self._env = Here(function, base, source, own_name), env
        self._under_way.append((function, base))
        try:
            more = MANY if inner is not None and self._runs_itself(tree, own_name) else 0
            return min(MANY, self._block(tree.body) + more)
        finally:
            self._under_way.pop()
            self._here, self._env = before

    def _runs_itself(self, tree: ast.FunctionDef, own_name: str) -> bool:
        """Whether the function of a decorator runs the goal beside what it wraps."""
        env, self._env = self._env, {**self._env, own_name: self.owner}
        try:
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    found = self._ref(node.func)
                    if found is not None and not isinstance(found, Wrapped) and self._run(found):
                        return True
                    function = node.func
                    if isinstance(function, ast.Attribute) and self._ref(function.value) is self.owner:
                        name = function.attr
                        if name not in vars(self.owner) and hasattr(type(self.owner), name):
                            if not hasattr(nn.Module, name) and self._of_method(name):
                                return True
            return False
        finally:
            self._env = env

    # -- statements ----------------------------------------------------------------------------------------------

    def _block(self, statements: list[ast.stmt]) -> int:
        total = 0
        for position, statement in enumerate(statements):
            if isinstance(statement, ast.If) and always_leaves(statement.body):
                rest = self._block([*statement.orelse, *statements[position + 1 :]])
                return min(MANY, total + self._decided(statement.test, self._block(statement.body), rest))
            total += self._of(statement)
        return min(MANY, total)

    def _decided(self, test: ast.expr, body: int, orelse: int) -> int:
        """A branch. One that may run the goal again does not count if it depends on plain flags of the owner."""
        if body >= MANY:
            tests = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
            flags = [t.attr for t in tests if isinstance(t, ast.Attribute) and self._is_owner(t.value)]
            flags = [name for name in flags if type(getattr(self.owner, name, None)) is bool]
            if flags:
                self.unless.append(tuple(flags))
                body = 0
        return self._asked(test) + max(body, orelse)

    def _is_owner(self, node: ast.expr) -> bool:
        return self._ref(node) is self.owner or (isinstance(node, ast.Name) and node.id == self._here.own_name)

    def _asked(self, test: ast.expr) -> int:
        """An expression of which only the truth is asked: a module there does not run."""
        if isinstance(test, ast.BoolOp):
            return sum(map(self._asked, test.values))
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self._asked(test.operand)
        return 0 if self._ref(test) is not None else self._of(test)

    def _of(self, node: ast.AST) -> int:
        mentioned = self._here.source.names(node)
        if "super" not in mentioned and mentioned.isdisjoint(self._env):
            return 0
        special = getattr(self, f"_{type(node).__name__}", None)
        if special is not None:
            return int(special(node))
        if isinstance(node, ast.expr):
            found = self._ref(node)
            if found is not None:
                return MANY if self._may_be_goal(found) or found is self.owner else 0
        return self._inside(ast.iter_child_nodes(node))

    def _inside(self, nodes: Iterable[ast.AST | None]) -> int:
        return min(MANY, sum(self._of(node) for node in nodes if node is not None))

    def _If(self, node: ast.If) -> int:
        return self._decided(node.test, self._block(node.body), self._block(node.orelse))

    def _IfExp(self, node: ast.IfExp) -> int:
        return self._decided(node.test, self._of(node.body), self._of(node.orelse))

    def _Match(self, node: ast.Match) -> int:
        return self._of(node.subject) + max(self._block(case.body) for case in node.cases)

    def _With(self, node: ast.With) -> int:
        return self._inside(node.items) + self._block(node.body)

    def _Try(self, node: ast.Try) -> int:
        parts = [node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody]
        return sum(map(self._block, parts))

    def _Compare(self, node: ast.Compare) -> int:
        if all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return self._inside(part for part in [node.left, *node.comparators] if self._ref(part) is None)
        return self._inside([node.left, *node.comparators])

    def _Assign(self, node: ast.Assign) -> int:
        found = self._ref(node.value)
        target = node.targets[0]
        once = len(node.targets) == 1 and isinstance(target, ast.Name) and self._here.source.assigned[target.id] == 1
        if found is not None and once and not (self._loops and isinstance(found, nn.Module)):
            self._env[target.id] = found  # type: ignore[attr-defined]
            return 0
        return self._inside([node.value, *node.targets])

    def _FunctionDef(self, node: ast.AST) -> int:
        """A function inside: nobody knows how often it runs."""
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        known = (self._env.get(name) for name in names)
        return MANY if any(v is self.owner or (v is not None and self._may_be_goal(v)) for v in known) else 0

    _AsyncFunctionDef = _ClassDef = _Lambda = _FunctionDef

    # -- loops ---------------------------------------------------------------------------------------------------

    def _For(self, node: ast.For) -> int:
        inside = [inner for statement in node.body for inner in ast.walk(statement)]
        changed = {inner.id for inner in inside if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load)}
        body = lambda: self._block(node.body)  # noqa: E731
        return self._loop([(node.target, node.iter)], body, changed) + self._block(node.orelse)

    def _While(self, node: ast.While) -> int:
        return self._loop([], lambda: self._asked(node.test) + self._block(node.body)) + self._block(node.orelse)

    def _ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> int:
        tests = [test for generator in node.generators for test in generator.ifs]
        return self._comprehension(node, [*tests, node.elt])

    _SetComp = _GeneratorExp = _ListComp

    def _DictComp(self, node: ast.DictComp) -> int:
        return self._comprehension(node, [node.key, node.value])

    def _comprehension(self, node: Any, inside: list[ast.expr]) -> int:
        loops = [(generator.target, generator.iter) for generator in node.generators]
        if len(loops) > 1:
            return MANY if self._FunctionDef(node) else 0
        return self._loop(loops, lambda: self._inside(inside))

    def _loop(self, turns: list[tuple[ast.expr, ast.expr]], body: Any, changed: Iterable[str] = ()) -> int:
        loop = object()
        before, outside = dict(self._env), 0
        for target, source in turns:
            outside += self._bind(target, source, loop)
        for name in changed:  # a variable of the loop which the loop itself sets
            bound = self._env.get(name)
            if isinstance(bound, Each):
                self._env[name] = AnyOf(bound.container)
            elif isinstance(bound, Index):
                del self._env[name]
        self._loops.append(loop)
        try:
            return min(MANY, outside + body())
        finally:
            self._loops.pop()
            self._env = before

    # -- calls -----------------------------------------------------------------------------------------------------

    def _run(self, found: Any) -> int:
        """What is found is called."""
        if found is self.goal:
            return MANY if self._loops else 1
        if isinstance(found, Each) and self._may_be_goal(found):
            items = list(items_in(found.container))
            direct = sum(item is self.goal for item in items) == 1
            direct &= not any(leads_to(item, self._below) for item in items if item is not self.goal)
            if direct and found.in_order:
                self._looped = found.container
            return 1 if direct and self._loops == [found.loop] else MANY
        if isinstance(found, Wrapped):
            return MANY if self._loops else self._of_function(found.function, self._here.base, {0: self.owner})
        return MANY if self._may_be_goal(found) or found is self.owner else 0

    def _Call(self, node: ast.Call) -> int:
        """What is called, and what it is given."""
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        function = node.func
        found = self._ref(function)
        if found is not None:
            return min(MANY, self._run(found) + self._inside(given))
        if isinstance(function, ast.Name) and function.id == "getattr" and len(given) > 1:
            of = self._ref(given[0])
            if not isinstance(given[1], ast.Constant) and (of is self.owner or (of and self._may_be_goal(of))):
                return MANY
        if isinstance(function, ast.Name) and function.id == "next" and len(given) == 1:
            if isinstance(given[0], ast.Call) and isinstance(given[0].func, ast.Attribute):
                if given[0].func.attr in ("parameters", "buffers") and not given[0].args:
                    return 0  # the first of them, which is never of a module that is dropped
        if isinstance(function, ast.Name) and function.id in ("len", "isinstance", "hasattr", "type", "id", "getattr"):
            return self._inside(arg for arg in given if self._ref(arg) is None)
        if isinstance(function, ast.Name) and function.id == "setattr" and len(given) == 3:
            return self._inside(arg for arg in given if self._ref(arg) is None or arg is given[2])
        if isinstance(function, ast.Attribute):
            on_super = isinstance(function.value, ast.Call) and getattr(function.value.func, "id", "") == "super"
            if on_super:
                return min(MANY, self._repeated(self._of_method(function.attr, self._here.base)) + self._inside(given))
            of = self._ref(function.value)
            if of is self.owner:
                if function.attr in vars(self.owner):
                    called = 0 if not leads_to(vars(self.owner)[function.attr], self._on_path) else MANY
                else:
                    called = self._repeated(self._of_method(function.attr))
                return min(MANY, called + self._inside(given))
            if of is not None:  # a method of a child, or of a list of children
                return min(MANY, (MANY if self._may_be_goal(of) else 0) + self._inside(given))
        modules = {i: found for i, arg in enumerate(node.args) if (found := self._ref(arg)) is not None}
        named = {k.arg: found for k in node.keywords if k.arg and (found := self._ref(k.value)) is not None}
        known = dict[int | str, Any]([*modules.items(), *named.items()])
        if any(value is self.owner or self._may_be_goal(value) for value in known.values()):
            called = self._global(function)
            if called is None or any(isinstance(arg, ast.Starred) for arg in node.args):
                return MANY
            rest = [arg for i, arg in enumerate(node.args) if i not in modules]
            rest += [k.value for k in node.keywords if k.arg not in named]
            return min(MANY, self._of_function(called, None, known) + self._inside(rest))
        return self._inside([function, *given])

    def _repeated(self, count: int) -> int:
        return MANY if count and self._loops else count

    def _Attribute(self, node: ast.Attribute) -> int:
        """Something is read of a module, which may be a property that runs it."""
        of = self._ref(node.value)
        if of is None:
            return self._of(node.value)
        if of is self.owner and node.attr not in self.owner._modules and node.attr not in vars(self.owner):
            found = inspect.getattr_static(type(self.owner), node.attr, None)
            if isinstance(found, property):
                return self._of_method(node.attr)
            if isinstance(found, functools.cached_property):
                return self._of_function(found.func, None, {0: self.owner})
            if found is None or (hasattr(type(found), "__get__") and not callable(found)):
                held = node.attr in self.owner._parameters or node.attr in self.owner._buffers
                dynamic = getattr(type(self.owner), "__getattr__", None) is not nn.Module.__getattr__
                return MANY if not held and (found is not None or dynamic) and not is_slot(found) else 0
            if leads_to(found, self._on_path):
                raise refused_outside(type(self.owner).__name__, node.attr)
            return MANY if callable(found) and not isinstance(found, type) else 0  # a method that is handed on
        if of is self.owner:
            value = self.owner._modules.get(node.attr, vars(self.owner).get(node.attr))
            return MANY if value is self.goal or leads_to(value, self._on_path) else 0
        if isinstance(of, Wrapped):
            return 0  # its name, say
        if isinstance(of, (Each, AnyOf, Index)):
            return MANY if self._may_be_goal(of) else 0
        return MANY if self._may_be_goal(of) and callable(getattr(of, node.attr, None)) else 0
