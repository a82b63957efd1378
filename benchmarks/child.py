"""A process that tries something which may die or take too long, and says how far it came."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any


class Child:
    """Runs a function that sends messages. It is killed when the context is left; if it died before, `died` says so."""

    def __init__(self, context: BaseContext, function: Callable[..., None], *args: Any) -> None:
        """`function`: gets `args`, and last the connection to which it writes."""
        self.messages, there = context.Pipe(duplex=False)
        self._process = context.Process(target=function, args=(*args, there), daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        there.close()
        self.died = ""

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None) -> bool:
        if kind is EOFError:
            self._process.join()
            self.died = f"the process died ({self._process.exitcode})"
        self._process.kill()
        self._process.join()
        return kind is EOFError
