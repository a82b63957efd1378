"""A module as Python source that stands by itself, as a person would write it down."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from truncate._build.assemble import Truncated
from truncate._build.constructor import constructor, is_container, is_importable
from truncate._build.forward_source import source_of
from truncate._build.layout import Around, Listed, Text, laid_out
from truncate._build.names import PROVIDED, RESERVED, Names, numbered, text_of
from truncate._build.writer import Writer
from truncate._errors import CannotFollowError, TruncateError, require_module
from truncate._graph import Kind, descend, is_mode, is_plain_name, join, tensors_in
from truncate._plan import Cutter, Effects, Form
from truncate._record import Traces
from truncate._sandbox import example_of
from truncate._target import TargetPaths

_HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import Tensor, nn\n"
_TOO_MANY = 64  # numbers of a buffer that is not in the state dict, to be written out


def source(module: nn.Module, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None) -> str:
    """A module as readable Python source: a class for each module with its own forward, and ``model``, made of them.

    Args:
        module: Any module, usually a result of `truncate`. It is not changed.
        args: Positional arguments of an example call, for kept modules whose forward has to be recorded.
        kwargs: Keyword arguments of that call.

    Returns:
        Source that imports torch, and whatever else the forwards use. Executing it defines ``model``, with new weights
        and in training mode. ``model.load_state_dict(module.state_dict())`` makes it equal to `module`. A module that a
        constructor call can recreate is written as that call. For every other module, a class is written from the
        operations that its forward runs. To find out which modules can be recreated, their constructors are called on
        the meta device; if a constructor has side effects, such as printing or counting, these happen.

    Raises:
        CannotFollowError: The forward of a module depends on values, and there is no example.
        TruncateError: Something that the module holds cannot be written as source.
    """
    require_module("source", module)
    return _Document(module, None if args is None and kwargs is None else example_of(module, args, kwargs)).text()


class _Document:
    """The source of one module and of everything below it."""

    def __init__(self, root: nn.Module, example: Any) -> None:
        self._root = root
        for path, module in root.named_modules():
            _refuse_what_has_no_source(module, path)
        self._calls = {id(m): call for m in root.modules() if (call := constructor(m)) is not None}
        written = _Everything(self._needs_class(root))
        self._traces = Traces(root, written, example)
        self._cutter = Cutter(root, written, Effects(self._traces))
        self._paths: dict[int, tuple[str, Form]] = {}  # where a module is called first, and how
        self._globals: dict[str, Any] = {}
        self._classes: dict[str, str] = {}  # name -> text
        self._written: dict[str, str] = {}  # what this library would have to be imported for: name -> text

    def _needs_class(self, module: nn.Module) -> Iterator[nn.Module]:
        if id(module) not in self._calls and not is_container(module):
            yield module
        if id(module) not in self._calls:
            for child in module.children():
                yield from self._needs_class(child)

    def text(self) -> str:
        self._visit(self._root, "", Form(self._traces.entry))
        made = self._expression(self._root, "", top=True)
        body = "\n\n".join([*self._classes.values(), f"model = {laid_out(made, 0)}\n"])
        used = set(re.findall(r"\w+", body))
        # The last two are how a forward writes these modules if it has an argument of that name.
        named = {**self._globals, "torch_1": torch, "F_1": F}
        self._globals = {name: value for name, value in named.items() if name in used}
        for name in list(self._globals):
            if _is_ours(self._globals[name]):
                self._write_out(name, self._globals.pop(name))
        imports = sorted(_import(name, value) for name, value in self._globals.items())
        return "".join([*imports, _HEAD, "\n\n", *(f"{text}\n\n" for text in self._written.values()), body])

    # -- how each module is called -----------------------------------------------------------------------------------

    def _visit(self, module: nn.Module, path: str, form: Form) -> None:
        if id(module) in self._calls or id(module) in self._paths:
            if id(module) in self._paths and self._paths[id(module)][1].key != form.key:
                raise TruncateError(
                    f"{path!r} ({type(module).__name__}) is called in different ways, which one class cannot express"
                )
            return
        self._paths[id(module)] = path, form
        for graph in self._traces.graphs(module, path, form.call):
            for node in graph.nodes:
                if node.kind is Kind.CHILD:
                    child = descend(module, node.target)
                    self._visit(child, join(path, node.target), Form(self._traces.call(module, path, node)))

    # -- expressions -------------------------------------------------------------------------------------------------

    def _expression(self, module: nn.Module, path: str, top: bool = False) -> Text:
        """A call that makes a module like this one."""
        if id(module) in self._calls:
            return self._constructed(module)
        parts = {name: self._expression(child, join(path, name)) for name, child in module._modules.items() if child}
        if is_container(module):
            ordered = self._global(OrderedDict) if isinstance(module, nn.Sequential) and not _counted(parts) else ""
            return _container(module, parts, ordered)
        if isinstance(module, (nn.ParameterList, nn.ParameterDict)):
            raise TruncateError(f"{path!r} is a {type(module).__name__}, which source cannot recreate")
        tensors = {**module._parameters, **module._buffers}
        own = {name: self._tensor(module, path, name) for name, value in tensors.items() if value is not None}
        return self._of_class(module, path, {**parts, **own}, top)

    def _constructed(self, module: nn.Module) -> Text:
        kind, arguments = type(module), self._calls[id(module)]
        name = f"nn.{kind.__name__}" if getattr(nn, kind.__name__, None) is kind else self._global(kind)
        given = (Names(()).argument(key, _literal(value)) if key else _literal(value) for key, value in arguments)
        return f"{name}({', '.join(given)})"

    def _tensor(self, module: nn.Module, path: str, name: str) -> str:
        value = module._parameters.get(name)
        if value is not None:
            frozen = "" if value.requires_grad else ", requires_grad=False"
            return f"nn.Parameter({_empty(value)}{frozen})"
        buffer: Any = module._buffers[name]
        if name not in module._non_persistent_buffers_set:
            return _empty(buffer)
        values, shape = buffer.flatten(), tuple(buffer.shape)
        is_number = not buffer.is_complex() and buffer.dtype is not torch.bool
        if buffer.numel() > 1 and is_number and torch.equal(values, torch.arange(len(values), dtype=buffer.dtype)):
            return f"torch.arange({len(values)}, dtype={buffer.dtype}).reshape({shape})"
        if buffer.numel() > 1 and bool((values == values[0]).all()):
            return f"torch.full({shape}, {_literal(values[0].item())}, dtype={buffer.dtype})"
        if buffer.numel() > _TOO_MANY:
            raise TruncateError(
                f"{join(path, name)!r} is a buffer of {buffer.numel()} numbers that is not in the state dict, so the "
                f"source would have to contain all of them"
            )
        return f"torch.tensor({_literal(buffer.tolist())}, dtype={buffer.dtype})"

    # -- classes -----------------------------------------------------------------------------------------------------

    def _of_class(self, module: nn.Module, path: str, parts: dict[str, Text], top: bool) -> Text:
        forward, names = self._forward(module, path)
        for name, value in names.items():
            if name in self._classes or self._globals.setdefault(name, value) is not value:
                raise TruncateError(f"{name!r} has two meanings in the source of {path!r} or elsewhere")
        lines = []
        parts = {text_of(name): part for name, part in parts.items()}
        others = (name for name in numbered("part") if name not in parts)
        plain = {name: is_plain_name(name) and name not in ("self", "super") for name in parts}
        arguments = {name: name if plain[name] else next(others) for name in parts}
        for name, part in parts.items():
            value = laid_out(part, 8) if top else arguments[name]
            if name in module._buffers:
                persistent = ", persistent=False" * (name in module._non_persistent_buffers_set)
                lines.append(f"self.register_buffer({name!r}, {value}{persistent})")
            else:
                lines.append(Names(()).assigned("self", name, value))
        given = ("self",) if top else ("self", *arguments.values())
        define = laid_out(Listed("def __init__(", given, "):"), 4)
        init = "\n        ".join([define, "super().__init__()", *lines])
        body = "\n\n    ".join([init, forward.rstrip().replace("\n", "\n    ")])
        base = type(module).__name__
        name = next(n for n in numbered(base if is_plain_name(base) else "Module") if self._is_free(n, body))
        self._classes[name] = _class_text(name, body)
        given_parts = () if top else tuple(Around(f"{arguments[key]}=", part) for key, part in parts.items())
        return Listed(f"{name}(", given_parts, ")")

    def _is_free(self, name: str, body: str) -> bool:
        """Whether a class may have a name: nothing else has it, or only an equal class."""
        if name in self._classes:
            return self._classes[name] == _class_text(name, body)
        return name not in self._globals and name not in RESERVED and not hasattr(nn, name)

    def _forward(self, module: nn.Module, path: str) -> tuple[str, dict[str, Any]]:
        if isinstance(module, Truncated):
            return module._truncated_source, module._truncated_names
        if id(module) not in self._paths:
            raise CannotFollowError(f"{path!r} ({type(module).__name__}) is never called, so its forward is not known")
        where, form = self._paths[id(module)]
        # Its callers, which are here too, pass all arguments, those too that are the same in each call.
        signature = tuple(inspect.signature(module.forward).parameters.values())
        form = Form(dataclasses.replace(form.call, parameters=signature))
        plan = self._cutter.whole(module, where, form)
        for node in (node for branch in plan.branches for node in branch.live):
            is_held = node.kind in (Kind.ATTRIBUTE, Kind.ASSIGN) and not is_mode(node)
            if is_held and not _is_registered(module, node.target):
                raise TruncateError(
                    f"the forward of {path!r} ({type(module).__name__}) reads or sets {node.target!r}, which is "
                    f"neither a parameter nor a buffer, so it is not in the state dict"
                )
        return source_of(plan, module, None, [], guarded=False)

    def _global(self, value: Any) -> str:
        """The name of a class that is imported."""
        unusable = RESERVED | self._classes.keys()
        names = (name for name in numbered(value.__qualname__) if name not in unusable)
        return next(name for name in names if self._globals.setdefault(name, value) is value)

    def _write_out(self, name: str, value: Any) -> None:
        """Writes down what this library would be imported for, and what that needs: of errors, their kind."""
        if issubclass(type(value), type) and issubclass(value, Exception):
            kind = next(base.__name__ for base in value.__mro__ if base.__module__ == "builtins")
            self._written[name] = f"{name} = {kind}\n"
            return
        text = re.sub("  # type: .*", "", inspect.getsource(value))
        space = vars(sys.modules[value.__module__])
        read = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        for other in sorted(read & space.keys() - PROVIDED.keys() - {"nn", value.__name__} - self._written.keys()):
            if other in self._classes or self._globals.get(other, space[other]) is not space[other]:
                raise TruncateError(f"{other!r} has two meanings in the source")
            if _is_ours(space[other]):
                self._write_out(other, space[other])
            else:
                self._globals[other] = space[other]
        self._written[name] = text if name == value.__name__ else f"{text}\n\n{name} = {value.__name__}\n"


def _class_text(name: str, body: str) -> str:
    return f"class {name}(nn.Module):\n    {body}\n"


class _Everything(TargetPaths):
    """Paths on which every module is that needs a class of its own."""

    def __init__(self, modules: Iterator[nn.Module]) -> None:
        super().__init__([])
        self._ids = set(map(id, modules))

    def holds(self, module: nn.Module) -> frozenset[int]:
        return frozenset([0]) if id(module) in self._ids else frozenset()


def _is_registered(module: nn.Module, target: str) -> bool:
    path, _, name = target.rpartition(".")
    holder = descend(module, path)
    return name in holder._parameters or name in holder._buffers


def _refuse_what_has_no_source(module: nn.Module, path: str) -> None:
    what = ""
    registered = {id(tensor) for tensor in [*module._parameters.values(), *module._buffers.values()]}
    if isinstance(module, torch.jit.ScriptModule):
        what = "was compiled by TorchScript, so its source is no longer available"
    elif module._forward_hooks or module._forward_pre_hooks:
        what = "has hooks, which may do anything; remove them first"
    else:
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers") and not registered.issuperset(map(id, tensors_in(value))):
                what = f"holds tensors in the attribute {name!r}, which is not in the state dict; make it a buffer"
    if what:
        raise TruncateError(f"{repr(path) if path else 'the module'} ({type(module).__name__}) {what}")


# -- pieces of text ----------------------------------------------------------------------------------------------------


def _counted(parts: dict[str, Text]) -> bool:
    return list(parts) == [str(i) for i in range(len(parts))]


def _container(module: nn.Module, parts: dict[str, Text], ordered: str) -> Text:
    """A container with its parts, those that repeat made by a loop."""
    if type(module) is nn.ModuleDict:
        named = tuple(Around(f"{text_of(name)!r}: ", part) for name, part in parts.items())
        return Listed("nn.ModuleDict({", named, "})")
    is_list, items = type(module) is nn.ModuleList, tuple(parts.values())
    if ordered:
        pairs = tuple(Around(f"({text_of(name)!r}, ", part, ")") for name, part in parts.items())
        return Listed(f"nn.Sequential({ordered}([", pairs, "]))")
    if len(items) > 1 and all(item == items[0] for item in items):
        loop = f" for _ in range({len(items)})"
        opening, closing = ("nn.ModuleList([", "])") if is_list else ("nn.Sequential(*(", "))")
        return Around(opening, items[0], loop + closing)
    return Listed("nn.ModuleList([", items, "])") if is_list else Listed("nn.Sequential(", items, ")")


def _literal(value: Any) -> str:
    names = Names(())
    text = Writer(names, str, {}).value(value)
    if names.globals:
        raise TruncateError(f"the source would need {', '.join(names.globals)}, which cannot be written as a literal")
    return text


def _is_ours(value: Any) -> bool:
    return isinstance(value, (type, types.FunctionType)) and value.__module__.partition(".")[0] == _OWN


_OWN = __name__.partition(".")[0]


def _empty(tensor: torch.Tensor) -> str:
    dtype = "" if tensor.dtype is torch.float32 else f", dtype={tensor.dtype}"
    return f"torch.empty({tuple(tensor.shape)}{dtype})"


def _import(name: str, value: Any) -> str:
    """The statement that gives a name in the source its meaning."""
    if isinstance(value, types.ModuleType) and all(map(is_plain_name, value.__name__.split("."))):
        return f"import {value.__name__} as {name}\n" if value.__name__ != name else f"import {name}\n"
    if is_importable(value):
        own = value.__qualname__
        return f"from {value.__module__} import {own}{f' as {name}' if own != name else ''}\n"
    raise TruncateError(
        f"the source would need {name!r} ({type(value).__name__}), which cannot be imported, so it would not be "
        f"complete"
    )
