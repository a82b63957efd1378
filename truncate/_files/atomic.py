"""Files that are there whole or not at all, each written by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from truncate._errors import ExtractError

# Device and inode of what this process has locked: its own lock does not keep it out.
_held: set[tuple[int, int]] = set()


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for reading and writing, that takes the name `path` once all of it is on the disk.

    What a killed process leaves behind is one hidden file, ``.NAME.partial``, which the next one overwrites. Of a file
    that is replaced the mode stays, and if `path` is a link, it stays one, and the file that it leads to is replaced.

    Raises:
        ExtractError: It cannot be written, or another process is writing it. What was at `path` is as before.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}.partial")
    with locked(partial, path) as handle:
        file = open(handle, "r+b", closefd=False)  # noqa: SIM115  (closing it may fail, which is told apart below)
        try:
            with writing(path):
                file.truncate(0)
                mode = _mode(path)
                if mode is not None:  # at once, since others may not read it; and so that the next process can open it
                    os.fchmod(handle, mode | 0o600)
            yield file
            with writing(path):
                file.close()
                os.fsync(handle)
                os.replace(partial, path)
                if mode is not None:
                    os.fchmod(handle, mode)
                sync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()  # which may fail once more to write what the disk had no room for
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """Likewise for what writes to a path and not to a file: another one, with the same suffix.

    A killed process leaves that file and a lock, which the next one that writes to `path` removes.
    """
    path = Path(os.path.realpath(path))
    partial, lock = path.with_name(f".{path.stem}.partial{path.suffix}"), path.with_name(f".{path.name}.lock")
    with locked(lock, path):
        try:
            partial.unlink(missing_ok=True)
            yield partial
            with writing(path), open(partial, "rb+") as file:
                os.fsync(file.fileno())
                mode = _mode(path)
                os.replace(partial, path)
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def _mode(path: Path) -> int | None:
    """Who may do what with a file, if it is there."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode) & 0o777
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def locked(path: Path, what: Path | None = None) -> Iterator[int]:
    """Opens the file at `path`, which no other process may have locked, to write `what`.

    The lock ends with the process, however that ends. It is one of `fcntl.lockf`, which forked children do not inherit:
    those that read data may outlive a killed parent.
    """
    import fcntl  # here, since not every system has it

    what = what or path
    busy = f"{what} is being written by another process: wait for it, or write elsewhere"
    while True:
        if _identity(path) in _held:  # looked up by name, since closing a second handle would give up the first lock
            raise ExtractError(busy)
        with writing(what):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EACCES, errno.EAGAIN):  # either, says POSIX
                raise ExtractError(busy) from None
            raise ExtractError(f"cannot lock {path}: {error.strerror}") from error
        held = _identity(handle)
        if held is not None and held == _identity(path):
            break
        os.close(handle)  # whoever held it has meanwhile given the file its name, or removed it
    _held.add(held)
    try:
        yield handle
    finally:
        _held.discard(held)
        os.close(handle)


def _identity(file: Path | int) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def sync(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(what: Path | str) -> Iterator[None]:
    """Turns a failure to write something into an error of one line."""
    try:
        yield
    except OSError as error:
        raise ExtractError(f"cannot write {what}: {error.strerror or error}") from error
