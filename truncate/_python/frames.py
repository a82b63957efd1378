"""Whose code is running: the user's, torch's, Python's own, or this package's."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType

import torch

OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep
TORCH = os.path.dirname(torch.__file__) + os.sep
_CHECKPOINT = os.path.join(TORCH, "utils", "checkpoint.py")
_IMPORTING = "<frozen importlib._bootstrap>"
_STANDARD = os.path.dirname(os.__file__) + os.sep


def is_library(filename: str) -> bool:
    """Whether a file belongs to torch or to Python, so that no user wrote it."""
    return filename.startswith(TORCH) or (filename.startswith(_STANDARD) and "site-packages" not in filename)


def source_line(filename: str, line: int) -> str:
    return linecache.getline(filename, line).strip()


def users_frame() -> FrameType:
    """The innermost frame that is neither ours nor torch's."""
    return _outside((OWN, TORCH))


def is_aside() -> bool:
    """Whether a torch function is called for no forward, though one is running.

    That is while a module is imported, and by torch's `checkpoint`: before 2.14 it makes a tensor to keep its inputs.
    """
    frame = callers_frame()
    return frame.f_code.co_filename == _CHECKPOINT or is_importing(frame)


def is_importing(frame: FrameType | None) -> bool:
    """Whether a frame runs since the forward imports a module."""
    while frame is not None and not frame.f_code.co_filename.startswith(OWN):
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False


def callers_frame() -> FrameType:
    """The innermost frame that is not ours."""
    return _outside(OWN)


def _outside(folders: str | tuple[str, ...]) -> FrameType:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        frame = frame.f_back
    return frame
