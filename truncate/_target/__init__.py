"""ROOM _target."""

from truncate._target.paths import Spine
from truncate._target.target import Target, resolve, unknown

__all__ = [
    "Spine",
    "Target",
    "resolve",
    "unknown",
]
