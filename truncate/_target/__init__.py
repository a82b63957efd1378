"""Targets: what a user asks for, a layer or an operation of a model.

A path as the user wrote it goes in, or a module; a `Target` comes out, or `UnknownTargetError`, which names what comes
close. `TargetPaths` says which modules are on the path from the model to its targets.
`tell` lets a cut say what it is.
"""

from truncate._target.items import Numbered, item_of, keys_of, not_several
from truncate._target.label import ABOUT, BEFORE, about, headline, names_of, tell
from truncate._target.paths import TargetPaths
from truncate._target.several import all_named, like, names_several
from truncate._target.target import Target, close_modules, module_given, only_holds_layers, resolve, unknown

__all__ = [
    "ABOUT",
    "BEFORE",
    "Numbered",
    "Target",
    "TargetPaths",
    "about",
    "all_named",
    "close_modules",
    "headline",
    "item_of",
    "keys_of",
    "like",
    "module_given",
    "names_of",
    "names_several",
    "not_several",
    "only_holds_layers",
    "resolve",
    "tell",
    "unknown",
]
