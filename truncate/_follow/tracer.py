"""Tracing one forward on proxies, in one branch of modes."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Iterator
from types import FrameType, NoneType
from typing import Any, Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from truncate._follow.classes import compares_bools
from truncate._follow.filled import Given
from truncate._follow.graph_builder import GraphBuilder
from truncate._follow.objects import PLAIN, hides, is_changeable, objects_in, shares_with_copies
from truncate._follow.proxy import Held, Proxy, Unread, active, proxies_in, tracing_with
from truncate._follow.proxy_module import ProxyModules, entry_of, is_proxy_module
from truncate._follow.replaced import real_of
from truncate._follow.unheard import Functions
from truncate._graph import (
    DUNDER,
    Call,
    Graph,
    Kind,
    Known,
    Node,
    containers_in,
    descend,
    fill,
    is_container,
    is_known,
    items_of,
    map_nested,
    returns_tensor,
    tensors_in,
    whole_of,
)
from truncate._python import assigned_names, is_aside, names_tested_for_none, users_frame
from truncate._sandbox import Draws, draws_watched


class Children(Protocol):
    """What a tracer asks about the calls of children in its graph."""

    def structure(self, node: Node) -> Any:
        """The known structure of a value in the graph of the parent, such as the result of a child."""

    def filled(self, node: Node) -> list[Any] | None:
        """How a call changes each list and dict among its arguments; None: not known."""

    def is_shared(self, container: Any) -> bool:
        """Whether several modules of the model hold this list or dict."""

    def is_of_model(self, module: nn.Module) -> bool:
        """Whether a module is registered in the model."""


class _Recorder(TorchFunctionMode):
    """Sees every call of a torch function in this thread, also without a proxy, such as ``torch.arange``."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if active.tracer is not self._tracer:  # a child is being followed, to know its result
            return func(*args, **(kwargs or {}))
        return self._tracer.function(func, args, kwargs or {})


class Tracer(GraphBuilder):
    """Traces one forward on proxies, in one branch of modes."""

    is_on_real_values = False

    def __init__(
        self,
        module: nn.Module,
        decisions: dict[str, bool],
        children: Children,
        answering: bool = False,
        listening: bool = False,
    ) -> None:
        super().__init__()
        self._answering = answering  # whether known structures take the place of proxies
        self.draws: Draws | None = None  # what is known of random numbers that were drawn
        self._listening = listening  # whether random draws are told from those of other threads, which takes longer
        self._answered: set[Node] = set()
        self._functions = Functions()
        self.module = module
        kind: Any = type(module)
        self.compares_bools = compares_bools(kind)
        self.decisions = dict(decisions)
        self._children = children
        self._asked: dict[str, Any] = {}
        self._constants: dict[str, torch.Tensor] = {}
        self._objects: dict[int, tuple[Node, Any]] = {}  # nodes of caches and the like, by id; kept alive

    @functools.cached_property
    def _own(self) -> set[int]:
        """The ids of what the modules hold: configurations and the like, which are shared, not copied."""
        return {id(value) for held in self.module.modules() for value in vars(held).values()}

    @functools.cached_property
    def _there_before(self) -> set[int]:
        """The ids of objects that the modules hold, at any depth, such as parts of a configuration."""
        return {id(each) for held in self.module.modules() for each in objects_in(tuple(vars(held).values()))}

    def graph(self, call: Call) -> Graph:
        forward = inspect.unwrap(type(self.module).forward).__code__
        tested = names_tested_for_none(forward)

        def enter(value: Any) -> Any:
            if type(value) is not Node:
                return value
            entered = self.node(Kind.INPUT, value.target)
            entered.known = value.known
            asked = value.target in tested or (self._answering and is_known(self.structure(entered)))
            return self._answerable(Proxy(self, entered)) if asked else Proxy(self, entered)

        watched = draws_watched(torch_too=True, listening=self._listening)
        with tracing_with(self), watched as draws, self._contexts.running(), _Recorder(self):
            args, kwargs = map_nested(call.args, enter), map_nested(call.kwargs, enter)
            given = Given((*args, *kwargs.values()))
            self._proxies = ProxyModules(self.module, self)
            entry = entry_of(self._proxies.at("", self.module))
            with (
                self._proxies.running(),
                self._functions.watched(),
                self.own_defaults(self.module, args, kwargs) as kwargs,
            ):
                result = entry(*args, **kwargs)
            lowered = self.lower(result)
        self.draws = draws
        if draws.may_be_of_others and not self._listening and draws():
            return self._again(call, self._answering, listening=True)
        if draws():
            raise self.fail("draws or seeds random numbers outside of torch's operations")
        if self._failure is not None:  # raised inside a `try` of the forward, which went on
            raise self._failure
        if self._functions.unheard is not None:
            raise self.fail(self._functions.unheard)
        with self._contexts.running():
            misled, compared = next(self._misled(), (None, ""))
        if misled is not None:
            if self._answering:
                raise self.fail(f"asks whether a value that {self._origin(misled)} is {compared}")
            return self._again(call, answering=True, listening=self._listening)
        filled = self.known_changes(given.changes, given.containers)
        graph = Graph(self._nodes, lowered, self.decisions, asked=self._asked, filled=filled, constants=self._constants)
        graph.reads, graph.sets = self._proxies.state.read, self._proxies.state.set
        return graph

    def _again(self, call: Call, answering: bool, listening: bool) -> Graph:
        again = Tracer(self.module, self.decisions, self._children, answering, listening)
        try:
            graph = again.graph(call)
        finally:
            if again.draws is not None and again.draws.heard and self.draws is not None:
                self.draws.put_back()  # it was this thread that drew, here too
        self.decisions.update(again.decisions)
        return graph

    def held(self, path: str, tensor: torch.Tensor) -> Proxy:
        """What the forward sees in place of a tensor of the module."""
        if not isinstance(tensor, nn.Parameter) and self._has_hooks_below and not self._is_registered(tensor):
            return Unread(self, f"reads the tensor {path!r}, which hooks on the modules that it calls may set")
        return Held(self, path, tensor)

    def _is_registered(self, tensor: torch.Tensor) -> bool:
        return any(tensor is held for held in (*self.module.parameters(), *self.module.buffers()))

    @functools.cached_property
    def _has_hooks_below(self) -> bool:
        below = (module for module in self.module.modules() if module is not self.module)
        return any(module._forward_hooks or module._forward_pre_hooks for module in below)

    def child(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A child is called."""
        if kwargs:  # a call that does not fit raises a TypeError, as it does in the model, which may catch it
            inspect.signature(descend(self.module, path).forward).bind(*args, **kwargs)
        self._functions.pause()  # what runs meanwhile is not part of this forward
        try:
            return self._returned(path, args, kwargs, sys._getframe(2))
        finally:
            self._functions.resume()

    def _returned(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], caller: FrameType) -> Any:
        """What a child returns. Where the forward asks if it is None, a proxy will not do."""
        returned = self.add(Kind.CHILD, path, args, kwargs)
        self._refuse_lent(path, returned._node)
        containers = list(containers_in((*args, *kwargs.values())))
        if containers:
            reading = f"reads what {path!r} has put into a list or dict"
            self.fill(path, containers, self._children.filled(returned._node), lambda n, key: Unread(self, reading))
        tested = names_tested_for_none(caller.f_code)
        if self._answering and is_known(self.structure(returned._node)):
            return self._answerable(returned)
        return self._answerable(returned) if tested and tested & assigned_names(caller) else returned

    def _refuse_lent(self, path: str, call: Node) -> None:
        """Refuses objects of this forward that a child may change: proxies do not hear what is read of them after."""
        given = call.inputs()
        lent = [value for node, value in self._objects.values() if node in given and is_changeable(value)]
        if any(id(value) not in self._there_before for value in lent):
            raise self.fail(f"passes on a {type(lent[0]).__name__} that {path!r} may change")

    def left_behind(self, path: str, value: Any) -> Any:
        """An attribute of a child that the child's own forward sets: it is read when the cut runs."""
        calls = self.calls_of(path.rpartition(".")[0])
        if not calls and type(value) in PLAIN:
            raise self.fail(f"reads {path!r} before that module has set it in this call")
        return Proxy(self, self.node(Kind.ATTRIBUTE, path, calls))

    def _answerable(self, proxy: Proxy) -> Any:
        """The known structure of a value, filled with proxies: of this, Python can ask whether a part is None."""
        structure = self.structure(proxy._node)
        if not is_known(structure):
            raise self.fail("asks whether a value that another module returns is None")
        self._answered.add(proxy._node)
        return fill(structure, proxy)

    def _misled(self) -> Iterator[tuple[Node, str]]:
        """The values that may equal what the forward compared them with by ``is``, and the name of that."""
        yield from ((node, "None") for node in self._functions.asked(NoneType, self._nodes) if self._may_be_none(node))
        asked = self._functions.asked(bool, self._nodes) if self.compares_bools else ()
        yield from ((node, "True or False") for node in asked if self._may_be_bool(node))

    def _may_be_none(self, node: Node) -> bool:
        """Whether the value of a node may be None, and the forward got a proxy for it."""
        if whole_of(node) in self._answered and self.structure(node) is None:
            return False
        known = self.structure(node)
        return known is None or known is Known.NOTHING

    def _may_be_bool(self, node: Node) -> bool:
        known = self.structure(node)
        return known in (Known.GIVEN, Known.NOTHING) or (type(known) is bool and whole_of(node) not in self._answered)

    def _origin(self, node: Node) -> str:
        origins = {Kind.INPUT: "is a part of an argument", Kind.CHILD: "another module returns"}
        return origins.get(whole_of(node).kind, "it computes")

    def structure(self, node: Node) -> Any:
        """The known structure of a value."""
        self._functions.pause()  # a child may have to be followed for this
        try:
            found = self._children.structure(node)
        finally:
            self._functions.resume()
        source = whole_of(node)
        if source.kind is Kind.INPUT and source.known is not None:
            self._asked[source.target] = source.known()
        return found

    def is_of_model(self, module: nn.Module) -> bool:
        return self._children.is_of_model(module)

    def is_surely_tensor(self, value: Any) -> bool:
        kind = type(value)
        return kind is Unread or (issubclass(kind, Proxy) and self.structure(value._node) is Known.TENSOR)

    def add(self, kind: Kind, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Proxy:
        lowered = tuple([self.lower(arg) for arg in args])
        named = {key: self.lower(value) for key, value in kwargs.items()} if kwargs else {}
        return Proxy(self, self.node(kind, target, lowered, named))

    def lower(self, value: Any) -> Any:
        """Replaces proxies by their nodes, inside nested containers too."""
        value = real_of(value)
        if type(value) in PLAIN:
            return value
        if id(value) in self._objects:
            return self._objects[id(value)][0]
        if issubclass(type(value), Proxy):
            if value._tracer is not self:
                raise self.fail("uses a value that an earlier call of a forward has left")
            return value._node
        if is_proxy_module(value):
            raise self.fail("passes a module as an argument")
        if is_container(value):
            return map_nested(value, self.lower)
        if isinstance(value, torch.Tensor):
            return self._constant(value)
        if isinstance(value, torch.Generator):
            raise self.fail("draws random numbers of its own, from a torch.Generator")
        if id(value) not in self._own and hides(value, lambda item: issubclass(type(item), Proxy)):
            raise self.fail(f"hides a value in a {type(value).__name__}")
        if is_changeable(value) and id(value) not in self._own:
            if shares_with_copies(value):
                raise self.fail(f"passes on a {type(value).__name__} with a function whose closure may change")
            # A child may change it: each call of the cut gets a copy of it as it is now.
            node = self.node(Kind.FUNCTION, copy.deepcopy, (copy.deepcopy(value),))
            return self._objects.setdefault(id(value), (node, value))[0]
        return value

    def _constant(self, tensor: torch.Tensor) -> Node:
        """The node of a tensor that is in no attribute of the module, but in a list or a global."""
        for path, held in [*self.module.named_parameters(), *self.module.named_buffers()]:
            if held is tensor:
                return self.node(Kind.ATTRIBUTE, path)
        filled_by_others = [items_of(value) for value in users_frame().f_globals.values()]
        filled_by_others += [value for value in self._proxies.containers if self._children.is_shared(value)]
        found_there = any(tensor is other for other in tensors_in(filled_by_others))
        if self._has_hooks_below or tensor.grad_fn is not None or found_there:
            raise self.fail(
                "reads a tensor from a list, dict or global that a hook or another module may have put there"
            )
        name = f"constant_{len(self._constants)}"
        self._constants[name] = tensor
        node = self.node(Kind.ATTRIBUTE, name)
        return self._objects.setdefault(id(tensor), (node, tensor))[0]

    def _refuse_hidden_module(self) -> None:
        """Refuses to go on if a real module of the model is running: the forward reached it unseen."""
        frame = sys._getframe(2)
        for _ in range(6):
            if frame is None or frame.f_code.co_name == "_call_impl":
                return
            caller = frame.f_locals.get("self") if frame.f_code.co_varnames[:1] == ("self",) else None
            if isinstance(caller, nn.Module) and not is_proxy_module(caller) and id(caller) in self._modules:
                raise self.fail(f"calls a {type(caller).__name__} of the model through an object that is not a module")
            frame = frame.f_back  # type: ignore[assignment]

    @functools.cached_property
    def _modules(self) -> set[int]:
        return set(map(id, self.module.modules()))

    def function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A torch function is called."""
        if func is torch._C._set_grad_enabled:
            self._contexts.grad_was_set(*args)
        name = getattr(func, "__name__", "")
        on_nothing = next(proxies_in((args, kwargs)), None) is None
        makes_none = not returns_tensor(func) and (not name.endswith("_") or name.endswith("__"))
        if on_nothing and (makes_none or is_aside()):
            return func(*args, **kwargs)
        self._refuse_hidden_module()
        if name in ("__get__", "__set__"):
            if name == "__set__":
                raise self.fail(f"assigns to {func.__self__.__name__!r} of a tensor")
            return self.add(Kind.FUNCTION, getattr, (args[0], func.__self__.__name__))
        if getattr(torch.Tensor, name, None) is func:
            if name.startswith("__") and name.strip("_") in DUNDER:
                return self.add(Kind.FUNCTION, DUNDER[name.strip("_")], args, kwargs)
            return self.add(Kind.METHOD, name, args, kwargs)
        return self.add(Kind.FUNCTION, func, args, kwargs)

    def global_state(self, func: Any, *args: Any) -> Any:
        """The forward reads or changes a state of the whole process."""
        if func is not torch.is_grad_enabled:
            raise self.fail("seeds the random numbers")
        return self.add(Kind.FUNCTION, func, ())

    def decide(self, flag: str) -> bool:
        """The value of a ``training`` flag on which the forward branches."""
        if flag not in self.decisions:
            self.decisions[flag] = descend(self.module, flag.rpartition(".")[0]).training
        return self.decisions[flag]

    def is_instance(self, proxy: Proxy, classes: Any) -> bool:
        if type(proxy) is Held:
            return proxy.is_instance(classes)
        structure = self.structure(proxy._node)
        if structure is Known.TENSOR:
            return any(issubclass(torch.Tensor, cls) for cls in _flat(classes))
        if type(structure) is Known:
            raise self.fail("asks for the type of a value with isinstance")
        return isinstance(structure, classes)


def _flat(classes: Any) -> Iterator[type]:
    if isinstance(classes, tuple):
        for item in classes:
            yield from _flat(item)
    else:
        yield from getattr(classes, "__args__", None) or (classes,)
