"""ROOM _jobs."""

from truncate._jobs.images import Found, find, path_text
from truncate._jobs.ranks import joined

__all__ = [
    "Found",
    "find",
    "joined",
    "path_text",
]
