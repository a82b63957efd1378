"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import images
import pytest

from truncate._files import atomic as _whole


def test_a_child_that_outlives_its_parent_holds_no_lock(tmp_path: Path) -> None:
    """As the readers of a DataLoader may."""
    reads, writes = os.pipe()

    def parent() -> int:
        with _whole.locked(tmp_path / "lock"):
            grandchild = images.child(lambda: time.sleep(60) or 0)
            os.write(writes, str(grandchild).encode())
            return 0

    assert images.ended(images.child(parent)) == 0
    grandchild = int(os.read(reads, 20))
    try:
        with _whole.locked(tmp_path / "lock"):
            pass
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(reads)
        os.close(writes)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError), _whole.whole(path) as file:
        file.write(b"x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_file_is_synced_then_named_then_its_name_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = tmp_path / "file", []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    def fsync(handle: int) -> None:
        size = os.fstat(handle).st_size if stat.S_ISREG(os.fstat(handle).st_mode) else "folder"
        steps.append((size, path.exists()))
        real["fsync"](handle)

    def replace(one: Path, other: Path) -> None:
        steps.append((one.name, other.exists()))
        real["replace"](one, other)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with _whole.whole(path) as file:
        file.write(b"12345")
    assert steps == [(5, False), (".file.partial", False), ("folder", True)]
    assert path.read_bytes() == b"12345"
