"""Files that are there whole or not at all.

In: a path. Out: a file to write to, which takes that name once it is complete and on the disk. Also here: locks that
keep other processes out, and errors in one line for what cannot be written.
"""

from truncate._files.atomic import locked, whole, whole_path, writing

__all__ = [
    "locked",
    "whole",
    "whole_path",
    "writing",
]
