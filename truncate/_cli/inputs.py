"""Which images a command takes: those of a folder, one file, or the paths on stdin."""

from __future__ import annotations

import os
import sys

from truncate._errors import NotUsable
from truncate._jobs import Found, find, is_image, path_text

STDIN = "-"


def images_of(given: str, limit: int | None = None) -> Found:
    """The images that are meant by a folder, a file, or ``-`` for paths on stdin, one in each line; the first of them.

    Raises:
        NotUsable: There are none.
    """
    found = _listed() if given == STDIN else _single(given) if os.path.isfile(given) else find(given)
    if limit is not None:
        del found.paths[limit:]
    return found


def base_of(given: str, paths: list[str]) -> str:
    """The folder from which on paths tell the class of an image."""
    if os.path.isdir(given):
        return given
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])


def _single(path: str) -> Found:
    if not is_image(path):
        raise NotUsable(
            f"{path_text(path)} is a file whose name is not that of an image (.jpg, .png, .webp and the like). "
            f"If it lists paths, pass them on stdin: - < {path_text(path)}"
        )
    return Found([path])


def _listed() -> Found:
    lines = sys.stdin.buffer.read().splitlines()
    found = Found()
    for path in (os.fsdecode(line) for line in lines if line.strip()):
        if os.path.isfile(path):
            found.paths.append(path)
        else:  # to open a pipe would wait for ever
            found.failures[path] = _why_not(path)
    if not found.paths:
        told = next((f": {path_text(path)}: {reason}" for path, reason in found.failures.items()), ", which is empty")
        raise NotUsable(f"no images on stdin{told}. With - as input, each line of stdin is the path of an image")
    return found


def _why_not(path: str) -> str:
    if os.path.isdir(path):
        return "a folder, not an image"
    return "not a regular file" if os.path.exists(path) else "no such file"
