"""ROOM _target."""

from truncate._target.paths import TargetPaths
from truncate._target.target import Target, resolve, unknown

__all__ = [
    "Target",
    "TargetPaths",
    "resolve",
    "unknown",
]
