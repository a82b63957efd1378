"""Whose code is running: the user's, torch's, Python's own, or this package's."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType

import torch

OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep
TORCH = os.path.dirname(torch.__file__) + os.sep
_STANDARD = os.path.dirname(os.__file__) + os.sep


def is_library(filename: str) -> bool:
    """Whether a file belongs to torch or to Python, so that no user wrote it."""
    return filename.startswith(TORCH) or (filename.startswith(_STANDARD) and "site-packages" not in filename)


def source_line(filename: str, line: int) -> str:
    return linecache.getline(filename, line).strip()


def users_frame() -> FrameType:
    """The innermost frame that is neither ours nor torch's."""
    return _outside((OWN, TORCH))


def callers_frame() -> FrameType:
    """The innermost frame that is not ours."""
    return _outside(OWN)


def _outside(folders: str | tuple[str, ...]) -> FrameType:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        frame = frame.f_back
    return frame
