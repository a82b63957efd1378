"""Targets: what a user asks for, a layer or an operation of a model.

A path as the user wrote it goes in, or a module; a `Target` comes out, or `UnknownTargetError`, which names what comes
close. `TargetPaths` says which modules are on the path from the model to its targets.
"""

from truncate._target.paths import TargetPaths
from truncate._target.target import Target, module_given, resolve, unknown

__all__ = [
    "Target",
    "TargetPaths",
    "module_given",
    "resolve",
    "unknown",
]
