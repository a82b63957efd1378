"""What is remembered of classes and functions, without keeping any of them alive.

A cut has a class of its own, and a function may hold a whole model in its closure. `functools.lru_cache` would keep
them, and all that they lead to.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


def while_there(ask: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
    """Asks once for each class. The answer must not lead back to it."""
    known: weakref.WeakKeyDictionary[Any, Answer] = weakref.WeakKeyDictionary()

    @functools.wraps(ask)
    def asked(about: Any) -> Answer:
        try:
            return known[about]
        except KeyError:
            answer = known[about] = ask(about)
            return answer

    return asked


def while_used(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Makes one thing of each class or function, and another only when nobody has the first any more."""
    known: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()

    @functools.wraps(make)
    def made(of: Any) -> Any:
        found = known[of]() if of in known else None
        if found is None:
            found = make(of)
            known[of] = weakref.ref(found)
        return found

    return made


def can_be_imported(cls: Any) -> bool:
    """Whether a class stands in its module by its name, so that it is kept alive there."""
    return getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls
