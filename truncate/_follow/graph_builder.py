"""What tracing on proxies and recording on real values share: the graph under construction."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from truncate._follow.filled import Change, Given, added_by, apply
from truncate._follow.proxy import Unfollowable
from truncate._graph import Kind, Node, default_containers
from truncate._python import Contexts


class GraphBuilder:
    """The nodes so far, and the first thing in the forward that could not be followed."""

    def __init__(self) -> None:
        super().__init__()
        self._nodes: list[Node] = []
        self._contexts = Contexts()
        self._failure: Unfollowable | None = None

    def node(self, kind: Kind, target: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Node:
        if self._contexts.in_custom_function:
            raise self.fail(
                "computes in torch.inference_mode, which a cut cannot reproduce; use torch.no_grad instead"
                if torch.is_inference_mode_enabled()
                else "runs an autograd.Function that cannot be seen as one operation"
            )
        made = Node(kind, target, args, kwargs or {}, len(self._nodes), self._contexts.now)
        self._nodes.append(made)
        return made

    @contextlib.contextmanager
    def own_defaults(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The keyword arguments, together with copies of the default lists and dicts of the arguments left out."""
        defaults = default_containers(module, args, kwargs)
        given = Given(list(defaults.values()))
        yield {**kwargs, **defaults}
        if any(change is not None for change in given.changes):
            raise self.fail(f"fills the default of an argument, {' or '.join(map(repr, defaults))}, from call to call")

    @property
    def node_count(self) -> int:
        return len(self._nodes)

    def calls_of(self, path: str) -> tuple[Node, ...]:
        """The calls of a child so far."""
        return tuple(node for node in self._nodes if node.kind is Kind.CHILD and node.target == path)

    def was_called(self, path: str) -> bool:
        return bool(self.calls_of(path))

    def is_surely_tensor(self, value: Any) -> bool:
        raise NotImplementedError

    def is_of_model(self, module: nn.Module) -> bool:
        """Whether a module is registered in the model, as far as that is known."""
        return False

    def hooked(self, path: str, hook: Callable[..., Any], options: dict[str, Any]) -> Any:
        """The forward registers a forward hook on one of its modules."""
        raise self.refuse_hook()

    def asked_for_class(self, value: Any, classes: Any, answer: bool) -> None:
        """The forward asked for the class of a value that is no proxy, and got the answer."""

    def refuse_hook(self) -> Unfollowable:
        return self.fail("registers a hook on a module")

    def known_changes(self, changes: list[Change | None], after: list[Any]) -> list[Change | None] | None:
        """The changes of containers that a caller can rely on: None if an added item may be no tensor."""
        added = [item for how, container in zip(changes, after) for item in added_by(how, container)]
        return changes if all(map(self.is_surely_tensor, added)) else None

    def fill(
        self, path: str, containers: list[Any], changes: list[Change | None] | None, added: Callable[[int, Any], Any]
    ) -> None:
        """Changes containers of this forward as a child did; `added` gives a new item, by container number and key."""
        distinct = len(set(map(id, containers))) == len(containers)
        for number, how in enumerate([None] if changes is None else changes):
            if changes is None or (how is not None and not (distinct and type(containers[number]) in (list, dict))):
                raise self.fail(f"passes a list, dict or dataclass that {path!r} may change")
            if how is not None:
                apply(how, containers[number], functools.partial(added, number))

    def fail(self, why: str) -> Unfollowable:
        """The error to raise. It is also kept, in case the forward catches it."""
        self._failure = self._failure or Unfollowable(why)
        return self._failure
