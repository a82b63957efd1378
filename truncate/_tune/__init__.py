"""ROOM _tune."""

from truncate._tune.freezing import freeze, unfreeze
from truncate._tune.heads import with_head

__all__ = [
    "freeze",
    "unfreeze",
    "with_head",
]
