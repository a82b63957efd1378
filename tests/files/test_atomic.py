"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import images
import pytest

from truncate import ExtractError
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


WAYS = {"whole": lambda path: _whole.whole(path), "whole_path": lambda path: _whole.whole_path(path)}


def write(way: str, path: Path, text: str) -> None:
    with WAYS[way](path) as given:
        if isinstance(given, Path):
            given.write_text(text)
        else:
            given.write(text.encode())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_the_mode_of_a_replaced_file_stays(way: str, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(mode)
    write(way, path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)
    write(way, tmp_path / "fresh.txt", "new")
    (tmp_path / "usual.txt").touch()
    assert (tmp_path / "fresh.txt").stat().st_mode == (tmp_path / "usual.txt").stat().st_mode


def test_what_only_its_owner_may_read_is_never_open_to_others(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.touch(0o600)
    with _whole.whole(path):
        assert stat.S_IMODE((tmp_path / ".file.txt.partial").stat().st_mode) == 0o600


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one(way: str, there: bool, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real.txt", tmp_path / "link.txt"
    if there:
        target.write_text("old")
    (tmp_path / "first.txt").symlink_to("elsewhere/real.txt")
    link.symlink_to("first.txt")
    write(way, link, "new")
    assert link.is_symlink()
    assert (tmp_path / "first.txt").is_symlink()
    assert target.read_text() == "new"
    assert [entry.name for entry in target.parent.iterdir()] == ["real.txt"]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_process_leaves_is_gone_after_the_next(way: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def die() -> int:
        with WAYS[way](path) as given:
            if isinstance(given, Path):
                given.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert images.ended(images.child(die)) == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) > 1
    write(way, path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "new"


def test_two_processes_that_write_to_a_path(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"

    def other() -> int:
        with pytest.raises(ExtractError, match="is being written by another process"), _whole.whole_path(path):
            pass
        return 7

    with _whole.whole_path(path) as given:
        given.write_text("one")  # opens and closes the file, which gives up what locks a process has on it
        assert images.ended(images.child(other)) == 7
    assert path.read_text() == "one"
