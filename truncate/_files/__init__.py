"""ROOM _files."""

from truncate._files.atomic import locked, whole, writing

__all__ = [
    "locked",
    "whole",
    "writing",
]
