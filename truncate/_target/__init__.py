"""Targets: what a user asks for, a layer or an operation of a model.

A path as the user wrote it goes in, or a module; a `Target` comes out, or `UnknownTargetError`, which names what comes
close. `TargetPaths` says which modules are on the path from the model to its targets.
`tell` lets a cut say what it is.
"""

from truncate._target.about import ABOUT, headline, names_of, tell
from truncate._target.paths import TargetPaths
from truncate._target.target import Target, module_given, resolve, unknown

__all__ = [
    "ABOUT",
    "Target",
    "TargetPaths",
    "headline",
    "module_given",
    "names_of",
    "resolve",
    "tell",
    "unknown",
]
