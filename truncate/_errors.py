"""The errors of this library. Each message gives the value, the likely cause and what to do next."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
from collections.abc import Iterable, Iterator
from typing import Any


class TruncateError(Exception):
    """Any error of this library. The other errors are its subclasses."""


class UnknownTargetError(TruncateError, LookupError):
    """A target that names nothing in the model."""


class NotReachedError(TruncateError, RuntimeError):
    """A target that exists, but that the forward does not run (or not that often, or not in this mode)."""


class CrossingError(TruncateError, RuntimeError):
    """A layer after which a model cannot be divided: more than one value crosses there."""


class CannotFollowError(TruncateError, RuntimeError):
    """A forward that cannot be followed or recorded, such as one that depends on values known only when it runs."""


class NoPythonError(CannotFollowError):
    """A module whose Python is not available: it was compiled, or it wraps another one."""


class FixedArgumentError(TruncateError, TypeError):
    """An argument that was fixed when the model was cut gets another value."""


class ContentWarning(UserWarning):
    """A forward branches on the content of a tensor, so the result accepts only inputs that take the same branch."""


class WeightsError(TruncateError, RuntimeError):
    """A checkpoint that cannot be read, or that does not fit a module. The module is unchanged."""


class WrongResultError(TruncateError, AssertionError):
    """The result differed from the model on the example, or did not run on it. Please report it."""


class ExtractError(TruncateError, RuntimeError):
    """Batches, keys or images that cannot be used, or an output that cannot be written."""


def require_module(caller: str, given: Any, error: type[TruncateError] = TruncateError) -> None:
    """Refuses what is no module, which `caller`, a function of the user's, takes."""
    from torch import nn  # here, as the command line knows these errors before it needs torch

    if not isinstance(given, nn.Module):
        raise error(f"{caller} takes a torch.nn.Module, but got {given!r} of type {type(given).__name__}")


# -- on the command line: one line each, whoever's code found out -----------------------------------------------------


class NotUsable(Exception):
    """What was asked for on the command line cannot be had. The message is one line for the user."""


class Stopped(Exception):
    """A file cannot be read, and it was asked to stop at the first of them."""


class Broken(Exception):
    """The machine failed and not what was asked: it goes on when it is started again. The message is one line."""


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
        if is_passing(error):
            raise
        raise NotUsable(f"{what}: {brief(error)}") from error


_PASSING = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOBUFS, errno.ESTALE, errno.ETIMEDOUT)
# What torch and Pillow say in these cases, which are no errors of a kind of their own.
_SAYINGS = ("DataLoader worker (", "llocate memory", "out of memory", "Too many open files", "items of ancdata")


def is_passing(error: BaseException | None) -> bool:
    """Whether an error comes from the state of the machine: want of memory or files, or a process that was killed."""
    while error is not None:
        if isinstance(error, (MemoryError, Broken)) or (isinstance(error, OSError) and error.errno in _PASSING):
            return True
        if isinstance(error, (RuntimeError, OSError)) and any(saying in str(error) for saying in _SAYINGS):
            return True
        error = error.__cause__
    return False


def brief(error: BaseException, limit: int = 300) -> str:
    """The message of an error on one line."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit].rstrip()} …"


def printable(text: str) -> str:
    r"""A text that comes from a model or a file, with what would act on a terminal or break a drawing as ``\x1b``."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def need(module: str, purpose: str, package: str, kind: type[Exception] = NotUsable) -> Any:
    """Imports what only some users have."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise kind(f"{purpose} needs {error.name or module}, which is missing: pip install {package!r}") from error


def close(name: str, known: Iterable[str]) -> str:
    """What was perhaps meant, to be appended to a message."""
    matches = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
