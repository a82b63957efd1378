"""Questions that never reach a proxy: ``value is None``, or ``is True``, is always false for one.

So the functions that ran are examined afterwards. If one of them asks that of more than its own arguments and constant
attributes, then no value of the graph may be None, or a bool. Other such questions are ``type(value)`` in functions
that were not copied, ``match``, and whether two values are the same object.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, NoneType
from typing import Any

from torch.utils import _pytree

from truncate._follow.proxy import Proxy, Unread, proxies_in
from truncate._graph import Node
from truncate._python import OWN, asks_unheard, attributes_stored, identity_tests, is_importing, is_library


class Functions:
    """The functions that ran in this thread while it was watched, and what they asked."""

    def __init__(self) -> None:
        self._parameters: dict[CodeType, list[tuple[type, str]]] = {}  # of each function, those that it asks about
        self._asked: dict[type, list[Proxy]] = {kind: [] for kind in _KINDS}  # the proxies passed for these
        self.unheard: str | None = None  # a question that cannot be answered for any value, if one of them asked it
        self._watch: Callable[[Any], None] | None = None
        self._seen = True

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        # `settrace` costs less, but a debugger may use it; with a profiler too, assume that anything was asked.
        self._watch = sys.settrace if sys.gettrace() is None else sys.setprofile if sys.getprofile() is None else None
        self._seen = self._watch is not None
        self.resume()
        try:
            yield
        finally:
            self.pause()
            self._watch = None

    def pause(self) -> None:
        if self._watch is not None:
            self._watch(None)

    def resume(self) -> None:
        if self._watch is not None:
            self._watch(self._see)

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        names = self._parameters.get(code)
        if names is None and _is_theirs(code) and is_importing(frame):
            return
        if "type" in code.co_names and self.unheard is None:
            self._see_type(frame)
        if names is None:
            theirs = _is_theirs(code)
            kinds = _KINDS if theirs else ()
            self.unheard = self.unheard or (asks_unheard(code) if theirs else None)
            names = self._parameters[code] = [(k, name) for k in kinds for name in identity_tests(code, k).arguments]
        for kind, name in names:
            self._asked[kind] += proxies_in(frame.f_locals.get(name))

    def _see_type(self, frame: FrameType) -> None:
        """A function that asks for the type of something is called."""
        code = frame.f_code
        theirs = _is_theirs(code)
        if "_answers_isinstance" in frame.f_builtins or not (theirs or _is_walk(frame)):
            return
        given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
        if any(theirs or not proxy._tracer.is_surely_tensor(proxy) for proxy in proxies_in(given)):
            self.unheard = "asks for the type of a value"

    def asked(self, kind: type, values: list[Node]) -> Iterator[Node]:
        """Those of the values that a function may have compared by ``is`` with a constant of this kind."""
        theirs = [code for code in self._parameters if _is_theirs(code)]
        stored = frozenset().union(*map(attributes_stored, theirs))
        if not self._seen or any(_asks_anything(code, kind, stored) for code in theirs):
            yield from values
        yield from (proxy._node for proxy in self._asked[kind] if type(proxy) is not Unread)


def _is_walk(frame: FrameType | None) -> bool:
    """Whether a function is of torch's walk over containers, called by code that is not torch's own."""
    if frame is None or frame.f_code.co_filename != _PYTREE:
        return False
    while frame is not None and frame.f_code.co_filename == _PYTREE:
        frame = frame.f_back
    return frame is not None and _is_theirs(frame.f_code)


def _is_theirs(code: CodeType) -> bool:
    made = code.co_filename == "<string>" and code.co_name == "__init__"  # by `dataclass`
    return not (made or code.co_filename.startswith(OWN) or is_library(code.co_filename))


def _asks_anything(code: CodeType, kind: type, stored: frozenset[str]) -> bool:
    """Whether a function asks that of more than its arguments and attributes that are never set."""
    tests = identity_tests(code, kind)
    return tests.others or tests.variables or not stored.isdisjoint(tests.attributes)


_KINDS: tuple[Any, ...] = (NoneType, bool)
# Torch's own walk over containers, which would take a value of unknown form for no container.
_PYTREE = _pytree.__file__
