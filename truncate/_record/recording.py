"""Recording one forward on real tensors into a graph.

For Python that cannot be followed on proxies: branches on a value or a shape, loops over data. The forward runs on the
tensors that it gets in one real pass, under a `TorchFunctionMode` (which is thread-local) that writes each operation
into the graph. Children are leaves here too. What had to be fixed, such as the outcome of a branch, is listed as an
`Assumption`, and a guard verifies it at run time.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from truncate._follow import (
    PLAIN,
    Given,
    Proxy,
    ProxyModules,
    Traced,
    Unfollowable,
    active,
    asks_for_none,
    compares_bools,
    compares_values,
    entry_of,
    made_plain,
    traced,
    tracing_with,
)
from truncate._graph import (
    DUNDER,
    Call,
    Graph,
    Kind,
    Node,
    containers_in,
    descend,
    mutated,
    observed_in,
    returns_list,
    tensors_in,
)
from truncate._python import changes_given, compared_device_type, is_aside, may_fill, users_frame
from truncate._record.answers import QUESTIONS, Answers
from truncate._record.values import Values, once
from truncate._sandbox import python_draws_watched


class Recording(Values, Answers, TorchFunctionMode):
    """Records one forward on real values; the tracer of its proxies and traced numbers."""

    is_on_real_values = True

    def __init__(
        self,
        module: nn.Module,
        path: str,
        call_child: Callable[[str, Node | None, Any, Any], Any],
        is_wanted: Callable[[str], bool],
        found_before: dict[int, torch.Tensor],
        fixes_numbers: bool,
    ) -> None:
        super().__init__(module, found_before)
        kind: Any = type(module)
        self.compares_bools = compares_bools(kind)
        self.asks_for_none = asks_for_none(kind)
        self.path = path
        self.fixes_numbers = fixes_numbers
        self.modes: dict[str, bool] = {}
        self._call_child = call_child
        self._is_wanted = is_wanted  # whether a child is a target, or has one inside
        self.open_end: Unfollowable | None = None  # why the rest is not recorded, if no target needed it so far
        self._last_wanted = 0  # the number of nodes after the last target that ran before Python drew random numbers
        self.is_paused = False  # while a child runs, which is a leaf of this graph
        self._sizes_read: dict[int, list[Callable[[], Any]]] = {}  # by id of a tensor: how to add the nodes
        self._returned: dict[int, tuple[Node, Any]] = {}  # results of children, by id; kept alive

    def record(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Graph, Any]:
        """Runs the forward on arguments that match `call`; returns the graph, and what the forward returned."""
        kind: Any = type(self.module)
        if compares_values(kind):  # two names of one value here may be two values in another pass
            raise self.fail("compares two values with `is`")
        with tracing_with(self), python_draws_watched() as drawn, self._contexts.running(), self:
            self._drawn = drawn
            attributes = dict(vars(self.module))
            args = self._enter_like(call.args, args)
            kwargs = self._enter_like(call.kwargs, kwargs)
            given = Given((*args, *kwargs.values()))
            proxies = self.proxies = ProxyModules(self.module, self)
            with proxies.running(), self.own_defaults(self.module, args, kwargs) as kwargs:
                returned = entry_of(proxies.at("", self.module))(*args, **kwargs)
            lowered = self._lowered_result(returned)
        for name, value in vars(self.module).items():
            if attributes.get(name, self) is not value:
                raise self.fail(f"runs while something else sets its attribute {name!r}: a hook, perhaps")
        if drawn():
            why = self.fail("draws random numbers outside of torch")
            if not self._last_wanted:
                raise why
            self._end_here(why)
            del self._nodes[self._last_wanted :]
        self.is_paused = True  # for good: traced numbers that outlive this recording act as plain ones
        if self._failure is not self.open_end:
            raise self._failure  # type: ignore[misc]
        result = None if self.open_end is not None else lowered
        graph = Graph(self._nodes, result, self.modes, constants=self.constants, assumptions=self.assumptions)
        graph.reads, graph.sets = proxies.state.read, proxies.state.set
        graph.loses_changes = self.is_given_objects and changes_given(self.module)
        graph.filled = self.known_changes(given.changes, given.containers)
        returned = self.real(returned)
        made_plain((args, kwargs, returned, list(self._states.values())))
        return graph, returned

    def _lowered_result(self, returned: Any) -> Any:
        """The nodes of the result; if a target was reached, the result may be unknown."""
        if self.open_end is None:
            try:
                return self.lower(returned)
            except Unfollowable as why:
                if not self._last_wanted:
                    raise
                self._end_here(why)
        return None

    def _end_here(self, why: Unfollowable) -> None:
        """From now on the forward runs unrecorded, which is allowed if no target follows."""
        frame = users_frame()
        why.where = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        self.open_end = why
        self.is_paused = True

    # -- what the forward does -------------------------------------------------------------------------------------

    def held(self, path: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the module, which the forward sees as it is."""
        if id(tensor) not in self._values:
            self._values[id(tensor)] = once(lambda: self.node(Kind.ATTRIBUTE, path)), tensor
        return tensor

    def add(self, kind: Kind, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        """An operation on the mode of a module, or an assignment to one of its buffers."""
        if kind is Kind.ASSIGN:
            return self.node(kind, target, (self.lower(args[0]),))
        raise self.fail("computes with the mode of a module")

    def child(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A child is called, and runs for real."""
        if self.open_end is not None:
            if self._is_wanted(path):
                raise self.open_end
            made_plain((args, kwargs))  # for good; a list or dict stays the same object, as the child may change it
            plain = [value if type(value) in (list, dict) else self.real(value) for value in (*args, *kwargs.values())]
            return self._call_child(path, None, plain[: len(args)], dict(zip(kwargs, plain[len(args) :])))
        containers = list(containers_in((*args, *kwargs.values())))
        made: dict[int, tuple[Any, Node]] = {}  # lists and dicts that the child may fill, by id
        lower: Callable[[Any], Any] = self.lower
        if containers and may_fill(descend(self.module, path)):
            lower = functools.partial(self.lower_given, made=made)
        try:
            lowered, named = tuple(map(lower, args)), {key: lower(value) for key, value in kwargs.items()}
        except Unfollowable as why:
            self._end_here(why)
            return self.child(path, args, kwargs)
        node = self.node(Kind.CHILD, path, lowered, named)
        given = self.real(args), self.real(kwargs)
        passed = Given((*given[0], *given[1].values()))
        with self.objects_lent(path, given) as lent, self.paused(), tracing_with(None):
            versions = [(tensor, tensor._version) for tensor in tensors_in(given)]
            with self.known_values_told_apart(path):
                returned = self._call_child(path, node, *given)
            values_and_nodes = zip((*args, *kwargs.values()), (*lowered, *named.values()))
            changed = [*lent.holders(values_and_nodes), *(filled for _, filled in made.values())]
            node.observed = observed_in(versions, returned, changed=changed)
        if self._is_wanted(path) and not self._drawn():
            self._last_wanted = len(self._nodes)
        changes = passed.changes
        self.guard_structure(node, returned, f"{path}(...)")
        returned = self._enter(returned, node)
        for number, (own, held) in enumerate(zip(containers, passed.containers)):
            back = type(own) is list and any(held is other for other in containers_in((returned,)))
            if changes[number] is not None and back:
                own[:], changes[number] = held, None
            elif id(own) in made:
                before, decides = passed.before[number], back or changes[number] is not None
                self.refill(own, before, held, made[id(own)][1], decides)
                changes[number] = None
        known = self.known_changes(changes, passed.containers)
        self.fill(path, containers, known, lambda number, key: self._unread(path, passed.containers[number][key]))
        if type(returned) not in PLAIN:
            self._returned[id(returned)] = node, returned
        return returned

    def hooked(self, path: str, hook: Callable[..., Any], options: dict[str, Any]) -> Any:
        """A hook that only looks may be registered: what it stores are known values, and no cut needs the hook."""
        if not path:
            raise self.refuse_hook()

        def unknown() -> Node:
            raise self.fail("registers a hook that computes with what it sees")

        def look(*given: Any) -> None:
            seen = [tensor for tensor in tensors_in(given) if id(tensor) not in self._values]
            self._values.update((id(tensor), (unknown, tensor)) for tensor in seen)
            with self.resumed():
                changed = hook(*given)
            for tensor in seen:
                del self._values[id(tensor)]
            if changed is not None:
                raise self.fail("registers a hook that changes what a module returns")

        return descend(self.module, path).register_forward_hook(look, **options)

    def asked_for_class(self, value: Any, classes: Any, answer: bool) -> None:
        """A child may return a tuple in one mode and a tensor in the other, so there is a guard for its class."""
        node, _ = self._returned.get(id(value), (None, None))
        if node is not None and not self.is_paused:
            asked = self.node(Kind.FUNCTION, isinstance, (node, self.real(classes)))
            self.guard_value(asked, answer, "isinstance of a child's result was", decides=False)

    def is_surely_tensor(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    def _unread(self, path: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that a child put into a list or dict: reading it is an error, unless the child returned it too."""

        def read() -> Node:
            raise self.fail(f"reads what {path!r} has put into a list or dict")

        self._values.setdefault(id(tensor), (read, tensor))
        return tensor

    def left_behind(self, path: str, value: Any) -> Any:
        """An attribute of a child that the child's own forward sets: it is read when the cut runs."""
        holder, _, name = path.rpartition(".")
        calls = self.calls_of(holder)
        return self._enter(getattr(descend(self.module, holder), name), self.node(Kind.ATTRIBUTE, path, calls))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the mode while a child runs: under it, torch's modules use slower kernels, which round differently."""
        self.is_paused = True
        self.__exit__(None, None, None)
        try:
            with self._contexts.unwatched():
                yield
        finally:
            self.__enter__()
            self.is_paused = False

    @contextlib.contextmanager
    def resumed(self) -> Iterator[None]:
        """A hook of the recorded forward runs while a child does."""
        self.is_paused = False
        with tracing_with(self), self:
            yield
        self.is_paused = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if active.tracer is not self:
            return func(*args, **(kwargs or {}))
        return self.function(func, args, kwargs or {})

    def function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A torch function is called."""
        if self.open_end is None and (self._holds_values((args, kwargs)) or not is_aside()):
            try:
                return self._recorded(func, args, kwargs)
            except Unfollowable as why:
                self._end_here(why)
        return func(*self.real(args), **self.real(kwargs))

    def _recorded(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = _OTHERWISE_NAMED.get(func, getattr(func, "__name__", ""))
        if func is torch._C._set_grad_enabled:
            self._contexts.grad_was_set(*args)
        if getattr(torch.Tensor, name, None) is func and name in QUESTIONS:
            return getattr(self, QUESTIONS[name])(*args)
        if name == "__get__":
            return self._property(func.__self__.__name__, args[0], func(*args))
        if name == "__deepcopy__":
            return self.function(torch.Tensor.clone, args[:1], {})
        if name == "__set__" and func.__self__.__name__ == "data":
            raise self.fail("assigns to 'data' of a tensor")
        if name in ("numpy", "__array__"):
            raise self.fail("computes with numpy, which cannot be seen")
        if name in _PASSED or name == "__set__" or isinstance(func, type):
            return func(*self.real(args), **self.real(kwargs))
        if func is torch._assert and self.real(args[0]) is True and not isinstance(args[0], Traced):
            return None
        if name == "new" and len(args) == 2 and isinstance(args[1], torch.Size):  # a tuple would be taken for numbers
            args = (args[0], *args[1])
        kind, target = self._operation(func, name)
        lowered, named = tuple(map(self.lower, args)), {key: self.lower(value) for key, value in kwargs.items()}
        before = _state_of(args)
        try:
            result = func(*self.real(args), **self.real(kwargs))
        except Exception as error:  # if the forward catches it, that is a branch without a guard
            self.fail(f"meets an error of torch: {error}")
            raise
        if before != _state_of(args):  # sizes read before the mutation get their nodes before it
            for write_down in self._sizes_read.pop(id(args[0]), ()):
                write_down()
        if isinstance(result, torch.Size) and name == "size":
            self.guard_rank(lowered[0], len(result))
        if type(result) in (int, float, bool):
            return traced(result, self, self._lazily(args, once(lambda: self.node(kind, target, lowered, named))))
        if isinstance(result, (str, torch.dtype, torch.layout)):
            self.guard_equal(lambda: self.node(kind, target, lowered, named), result, "a property of a tensor was")
            return result
        if result is not None and not isinstance(result, (torch.Tensor, tuple, list, dict)):
            if name.startswith("register_"):
                raise self.fail("registers a hook on a tensor")
            return result
        node = self.node(kind, target, lowered, named)
        if isinstance(result, (tuple, list)) and returns_list(target):
            self.guard_items(node, result)
        if isinstance(result, torch.Tensor) and mutated(node):
            self._values[id(result)] = node, result
            return result
        return self._enter(result, node)

    def _lazily(self, args: tuple[Any, ...], read: Callable[[], Node]) -> Callable[[], Node]:
        """Delays the node of a size that was read until it is used, or until the tensor changes it."""
        if args and isinstance(args[0], torch.Tensor):
            self._sizes_read.setdefault(id(args[0]), []).append(read)
        return read

    def _operation(self, func: Any, name: str) -> tuple[Kind, Any]:
        if getattr(torch.Tensor, name, None) is not func:
            return Kind.FUNCTION, func
        if name.startswith("__") and name.strip("_") in DUNDER:
            return Kind.FUNCTION, DUNDER[name.strip("_")]
        return Kind.METHOD, name

    def _property(self, name: str, tensor: Any, value: Any) -> Any:
        """``tensor.name``"""
        lowered = self.lower(tensor)
        read = self._lazily((tensor,), once(lambda: self.node(Kind.FUNCTION, getattr, (lowered, name))))
        if name == "dtype":
            self.guard_equal(read, value, "a tensor was of type")
            return value
        if name == "device":
            compared = compared_device_type(users_frame(), value.type)
            if compared is not None:
                kind = self.node(Kind.FUNCTION, getattr, (read(), "type"))
                same = self.node(Kind.FUNCTION, operator.eq, (kind, compared))
                self.guard_value(same, value.type == compared, "a comparison was")
            self._values[id(value)] = read, value
            return value
        if name == "shape":
            self.guard_rank(lowered, len(value))
        if isinstance(value, (torch.Tensor, torch.Size, int)) and name not in _STATE:
            return self._enter(value, read)
        return value

    # -- what control flow asks ------------------------------------------------------------------------------------

    def global_state(self, func: Any, *args: Any) -> Any:
        """The forward reads or changes a state of the whole process."""
        if func is not torch.is_grad_enabled:
            self._end_here(self.fail("seeds the random numbers"))
            return func(*args)
        return traced(self._contexts.grad, self, self.node(Kind.FUNCTION, func))

    def decide(self, flag: str) -> bool:
        return self.modes_value(flag)

    def modes_value(self, flag: str) -> bool:
        if flag not in self.modes:
            self.modes[flag] = descend(self.module, flag.rpartition(".")[0]).training
        return self.modes[flag]

    def is_instance(self, proxy: Proxy, classes: Any) -> bool:
        return isinstance(True, classes)


def _state_of(args: tuple[Any, ...]) -> Any:
    """The shape, strides and `requires_grad` of the first argument."""
    first = args[0] if args else None
    if not isinstance(first, torch.Tensor):
        return None
    return first.shape, first.requires_grad, first.stride() if first.layout is torch.strided else None


_PASSED = frozenset(("__hash__", "__reduce_ex__", "_set_grad_enabled", "get_device"))
_OTHERWISE_NAMED = {torch.Tensor.__pow__: "__pow__", torch.Tensor.__ipow__: "__ipow__"}
_STATE = frozenset(("is_leaf", "itemsize", "grad"))
