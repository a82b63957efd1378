"""How the command line says in one line what it cannot do, whoever's code found out."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any


class NotUsable(Exception):
    """What was asked for on the command line cannot be had. The message is one line for the user."""


class Stopped(Exception):
    """A file cannot be read, and it was asked to stop at the first of them."""


class Differs(Exception):
    """The check failed: a fault of this library, and not of what was asked."""


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns any error of somebody else's code into one line that begins with `what`."""
    try:
        yield
    except NotUsable:
        raise
    except Exception as error:
        raise NotUsable(f"{what}: {brief(error)}") from error


def brief(error: BaseException, limit: int = 300) -> str:
    """The message of an error on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit].rstrip()} …"


def need(module: str, purpose: str, package: str) -> Any:
    """Imports what only some users have."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotUsable(f"{purpose} needs {error.name or module}, which is missing: pip install {package!r}") from error


def close(name: str, known: Iterable[str]) -> str:
    """What was perhaps meant, to be put behind a message."""
    matches = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
