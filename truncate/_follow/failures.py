"""The error message for a forward that could not be followed or recorded."""

from __future__ import annotations

import inspect
import traceback

from torch import nn

from truncate._errors import CannotFollowError
from truncate._follow.proxy import Unfollowable
from truncate._python import OWN, is_library, source_line


def explain(error: BaseException, module: nn.Module, path: str, recorded: bool = False) -> CannotFollowError:
    """The error that says what could not be followed, where, and what the user can do about it."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not f.filename.startswith(OWN)] or list(frames)
    theirs = [f for f in outside if not is_library(f.filename)]
    if isinstance(error, Unfollowable) and error.where is not None:
        file, number, function = error.where
    elif theirs and not theirs[-1].filename.startswith(OWN):
        file, number, function = theirs[-1].filename, theirs[-1].lineno or 0, theirs[-1].name
    else:  # noticed only after the forward had ended
        code = inspect.unwrap(type(module).forward).__code__
        file, number, function = code.co_filename, code.co_firstlineno, code.co_name
    line = source_line(file, number)
    name = f"{path!r} ({type(module).__name__})" if path else f"the model itself ({type(module).__name__})"
    if recorded:
        what = f"raises {type(error).__name__}: {error}"
        remedy = "This happened on the example; does the model itself run on it?"
        if isinstance(error, Unfollowable):
            what = str(error)
            remedy = "This cannot be recorded. Stop before it" + f", or at {path!r} or outside it" * bool(path) + "."
    else:
        what = str(error) if isinstance(error, Unfollowable) else f"raises {type(error).__name__} on proxies: {error}"
        remedy = "Give an example input, args=(x,) or kwargs={...}: then this forward is recorded on it."
        remedy += f" Or stop at {path!r} or outside it." * bool(path)
    return CannotFollowError(
        f"cannot follow the forward of {name}: it {what}\n"
        f"    {file}, line {number}, in {function}\n"
        f"        {line}\n"
        f"{remedy}"
    )
