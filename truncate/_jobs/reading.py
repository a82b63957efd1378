"""Which images are being read: a process that one of them kills leaves its number in a file, and the next run tries it.

A killed process alone says little, as it may be another image, or the machine. So the image is read once more by a
process that does nothing else. Only what ends that one too is the image's fault.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truncate._errors import Broken
from truncate._jobs.images import path_text, prepared

_BYTES = 8  # of a number in a note


class Reading:
    """Reads images, and notes which one, in a file of each process that does."""

    def __init__(self, folder: Path, fatal: Mapping[int, str]) -> None:
        self._folder, self._fatal = folder, fatal
        self._process, self._note = 0, -1

    def prepared(self, number: int, path: str, transform: Callable[[Any], Tensor]) -> Tensor | str:
        """An image as a model takes it, or why there is none."""
        if number in self._fatal:
            return self._fatal[number]
        with self._noted(number):
            return prepared(path, transform)

    @contextlib.contextmanager
    def _noted(self, number: int) -> Iterator[None]:
        with contextlib.suppress(OSError):  # a note only helps
            if self._process != os.getpid():  # which a fork has copied
                self._note, _ = tempfile.mkstemp(dir=self._folder)
                self._process = os.getpid()
            os.pwrite(self._note, number.to_bytes(_BYTES, "little"), 0)
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(self._note, 0)


def fatal(folder: Path, paths: Sequence[str], transform: Callable[[Any], Tensor]) -> dict[int, str]:
    """The images that end each process that reads them, and how, of those that a killed one was reading.

    Raises:
        Broken: One of them takes more memory than there is now.
    """
    found: dict[int, str] = {}
    for note in sorted(folder.iterdir()):
        content = note.read_bytes()
        number = int.from_bytes(content, "little")
        ending = ""
        if len(content) == _BYTES and number < len(paths):
            ending = found.get(number) or _ending(paths[number], transform)
        if ending:
            found[number] = ending
        else:
            note.unlink()
    return found


def _ending(path: str, transform: Callable[[Any], Tensor]) -> str:
    """How a process ends that reads an image and nothing else; empty if nothing happens."""
    killed = _killed_for_memory()
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(path, transform))
    process.start()
    process.join()
    code = process.exitcode or 0
    if code == 0:
        return ""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if (code == -signal.SIGKILL and _killed_for_memory() != killed) or -code in (signal.SIGTERM, signal.SIGHUP):
        raise Broken(f"{path_text(path)}: the process that reads it alone was ended by {name}; is there enough memory?")
    return f"it crashes the process that reads it ({name})"


def _alone(path: str, transform: Callable[[Any], Tensor]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # those of the parent are not in a fork
    with contextlib.suppress(Exception):
        prepared(path, transform)


def _killed_for_memory() -> str:
    """A counter of Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return line
    return ""
