"""What Python asks a real tensor while a forward is recorded: its truth, its length, its items, its text."""

from __future__ import annotations

import abc
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch

from truncate._follow import Unfollowable, traced
from truncate._graph import Kind
from truncate._python import demanded, only_shows_text, users_frame
from truncate._record.guards import Guards
from truncate._sandbox import is_meta


class Answers(Guards):
    """The part of a recording that answers with plain values, and writes guards for what that fixes."""

    is_paused: bool

    @abc.abstractmethod
    def fail(self, why: str) -> Unfollowable:
        """What to raise."""

    @abc.abstractmethod
    def function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A torch function is called."""

    def _content(self, tensor: torch.Tensor) -> Any:
        if is_meta(tensor):
            raise self.fail("asks for the content of a tensor, which meta tensors and fake tensors do not have")
        return tensor.item()

    def _truth(self, tensor: torch.Tensor) -> bool:
        value = bool(self._content(tensor))
        demand, condition = demanded(users_frame()) or (value, None)
        if condition is not None and demand is value:
            self.assert_holds(tensor, value, condition)
        else:
            self.guard_value(self.lower(tensor), value, "a branch on the content of a tensor was", content=True)
        return value

    def _number(self, tensor: torch.Tensor) -> Any:
        value = self._content(tensor)
        node = self.node(Kind.FUNCTION, operator.eq, (self.lower(tensor), value))
        self.guard_value(node, True, "a number in a tensor was", value, content=True)
        return value

    def _complex(self, tensor: torch.Tensor) -> complex:
        return complex(self._number(tensor))

    def _item(self, tensor: torch.Tensor) -> Any:
        lowered = self.lower(tensor)
        return traced(self._content(tensor), self, self.node(Kind.METHOD, "item", (lowered,)))

    def _length(self, tensor: torch.Tensor) -> int:
        return int(self._size_0(tensor))

    def _size_0(self, tensor: torch.Tensor) -> Any:
        lowered = self.lower(tensor)
        return traced(len(tensor), self, lambda: self.node(Kind.METHOD, "size", (lowered, 0)))

    def _iterate(self, tensor: torch.Tensor) -> Iterator[Any]:
        self._length(tensor)
        return iter(self.function(torch.Tensor.unbind, (tensor,), {}))

    def _contains(self, tensor: torch.Tensor, item: Any) -> bool:
        return self._truth(self.function(torch.Tensor.any, (self.function(torch.Tensor.eq, (tensor, item), {}),), {}))

    def _text(self, tensor: torch.Tensor, spec: str = "") -> str:
        """The text of a tensor; if it is only shown, nothing is fixed."""
        if only_shows_text(users_frame()):
            with torch._C.DisableTorchFunction():
                return format(tensor, spec)
        if tensor.dim() > 0:
            raise self.fail("computes with the text of a tensor")
        return format(self._item(tensor), spec)

    def _list(self, tensor: torch.Tensor) -> Any:
        if tensor.dim() == 0:
            return self._item(tensor)
        return [self._list(row) for row in self._iterate(tensor)]


QUESTIONS = {
    "__bool__": "_truth", "__int__": "_number", "__float__": "_number", "__index__": "_number", "item": "_item",
    "__complex__": "_complex", "__format__": "_text", "__repr__": "_text",
    "__len__": "_length", "__iter__": "_iterate", "__contains__": "_contains", "tolist": "_list",
}  # fmt: skip
