"""The features of many files, put together shard by shard: each is there whole or not at all, and none is made twice.

An output that is under way is a folder: ``manifest.json`` says what makes it and which inputs each shard holds,
``inputs.parquet`` names them, and ``shards`` holds those that are done. A folder is also what comes out in the end, if
a folder was asked for; a file is joined from the shards, and the folder goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from truncate._errors import ExtractError, is_passing
from truncate._extract import Column, parquet
from truncate._files import locked, whole, writing
from truncate._jobs.images import path_of, path_text

_FORMAT = 1
_WRITTEN = ("inputs.parquet", "manifest.json", "failures.parquet")
_FOLDERS = ("shards", "ray", "reading")
_OURS = {"lock", *_FOLDERS, *_WRITTEN, *(f".{name}.partial" for name in _WRITTEN)}


def check(out: Path) -> None:
    """Refuses an output that cannot be written, before any work is done for it."""
    if out.suffix not in ("", ".parquet"):
        raise ExtractError(f"cannot write {out.name!r}: the output is a file that ends in .parquet, or a new folder")
    if not out.parent.is_dir():
        raise ExtractError(f"no folder {out.parent} to write {out.name} to")
    if out.suffix and out.is_dir():
        raise ExtractError(f"{out} is a folder")
    if not out.suffix and out.is_file():
        raise ExtractError(f"{out} is a file")


def divided(count: int, batch: int) -> list[range]:
    """The numbers of the inputs of each shard.

    A shard is what is lost when a process is killed, and what ranks divide, so there are 64 if that leaves no part of
    a batch; but at most 4096 of them, and else none of more than about 1024 inputs.
    """
    size = max(min(1024, count // 64), count // 4096, 1)
    size = -(-size // batch) * batch
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclasses.dataclass
class Outcome:
    """What was written."""

    rows: int
    failures: dict[str, str]  # the paths that are not in the table, as text, and why
    table: Path
    failed: Path  # where they are written, if there are any

    @property
    def tables(self) -> list[Path]:
        """The files with the rows, in their order."""
        return sorted(self.table.glob("shards/*.parquet")) if self.table.is_dir() else [self.table]


class Output:
    """An output: under way, or complete.

    Args:
        out: The file or folder.
        made: What makes it; all of it must be the same for two runs to go on with one output.
        paths: The inputs, in order.
        batch: How many make a batch, so that shards hold whole ones.
    """

    def __init__(self, out: Path, made: Mapping[str, Any], paths: Sequence[str], batch: int) -> None:
        check(out)
        digest = hashlib.sha256()
        for path in paths:
            digest.update(os.fsencode(path) + b"\0")
        inputs = {"count": len(paths), "sha256": digest.hexdigest()}
        self.out, self._paths = out, paths
        self._made = {"format": _FORMAT, **made, "batch_size": batch, "inputs": inputs}
        self._ranges = divided(len(paths), batch)
        self._is_file, self._is_complete = bool(out.suffix), False
        self.folder = out.with_name(f"{out.name}.parts") if self._is_file else out
        self.failed = out.with_name(f"{out.stem}.failures.parquet") if self._is_file else out / "failures.parquet"

    @contextlib.contextmanager
    def held(self) -> Iterator[Outcome | None]:
        """Keeps other processes from this output, and gives its outcome if it is complete already.

        Raises:
            ExtractError: Another process has it, or it was made with other settings or of other inputs.
        """
        self._refuse_foreign()
        with writing(self.out):
            self.folder.mkdir(exist_ok=True)
        lock = self.folder / "lock"
        is_broken = False
        with locked(lock, self.out):
            try:
                outcome = self._outcome()
                self._is_complete = outcome is not None
                if outcome is None:
                    self._begin()
                yield outcome
            except Exception as error:
                is_broken = is_passing(error)  # then the next run wants to know what was being read
                raise
            finally:
                if self._is_complete and not self._is_file:
                    shutil.rmtree(self.reading, ignore_errors=True)
                    lock.unlink()
                elif self._is_complete or not (is_broken or self._has_shards()):
                    self._remove()

    # -- before ------------------------------------------------------------------------------------------------------

    @property
    def reading(self) -> Path:
        """Where processes note what they read."""
        return self.folder / "reading"

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    def _note(self) -> Any:
        """What the manifest says, which is nothing if it is none of ours."""
        try:
            return json.loads(self._manifest.read_bytes())
        except (ValueError, IsADirectoryError):
            return {}

    def _refuse_foreign(self) -> None:
        """Refuses to touch what this library did not make."""
        for path in (self.out, self.failed) if self._is_file else ():
            if path.exists() and parquet.note_in(path) is None:
                raise ExtractError(f"{path} exists, and was not made by this command: write elsewhere, or remove it")
        if not self.folder.is_dir():
            return
        note = self._note() if self._manifest.exists() else self._made
        others = {entry.name for entry in self.folder.iterdir()} - _OURS
        if others or not isinstance(note, dict) or not self._made.keys() <= note.keys():
            what = min(others or {"manifest.json"})
            raise ExtractError(f"{self.folder} holds {what!r}, which this command did not make: write elsewhere")

    def _remove(self) -> None:
        """Removes the folder and what this library has made in it."""
        for name in _FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in _OURS.difference(_FOLDERS):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    def _outcome(self) -> Outcome | None:
        """The outcome, if the output is complete."""
        if self._is_file:
            note = parquet.note_in(self.out) if self.out.exists() else None
        else:
            note = self._note() if self._manifest.exists() else None
        if note is None or "rows" not in note:
            return None
        self._compare(note)
        failures = dict(zip(*parquet.texts_in(self.failed))) if note["failures"] else {}
        return Outcome(note["rows"], failures, self.out, self.failed)

    def agree(self) -> None:
        """Refuses to join what is under way with other settings."""
        self._compare(self._note())

    def _begin(self) -> None:
        """Goes on with what is there, or writes down what is to be done."""
        with writing(self.out):
            self.reading.mkdir(exist_ok=True)
        if self._manifest.exists() and (self._has_shards() or any(self.reading.iterdir())):
            self.agree()
            return
        with writing(self.out):
            (self.folder / "shards").mkdir(exist_ok=True)
            with whole(self.folder / "inputs.parquet") as file:
                table = parquet.Table(file)
                for start in range(0, len(self._paths), 1 << 16):
                    table.append({"path": [path_text(path) for path in self._paths[start : start + (1 << 16)]]})
                table.finish()
            self._write_manifest({})

    def _write_manifest(self, outcome: Mapping[str, Any]) -> None:
        shards = [
            {"file": f"shards/{self.shard(k).name}", "first": part.start, "stop": part.stop}
            for k, part in enumerate(self._ranges)
        ]
        with whole(self._manifest) as file:
            file.write(json.dumps({**self._made, **outcome, "shards": shards}, indent=1).encode())

    def _compare(self, note: Mapping[str, Any]) -> None:
        """Refuses to go on with what was made with other settings."""
        differing = [name for name in self._made if note.get(name) != self._made[name]]
        if not differing:
            return
        told = [_told(name, note.get(name), self._made[name]) for name in differing]
        raise ExtractError(
            f"{self.out} was made with other settings ({'; '.join(told)}): use those, or write elsewhere, or remove "
            f"{self.out if self.out.exists() else self.folder}"
        )

    # -- between -----------------------------------------------------------------------------------------------------

    def shard(self, number: int) -> Path:
        return self.folder / "shards" / f"{number:06}.parquet"

    def _has_shards(self) -> bool:
        return any(path.name[0] != "." for path in (self.folder / "shards").glob("*"))

    def missing(self) -> list[int]:
        """The numbers of the shards that are still to be made."""
        there = {entry.name for entry in (self.folder / "shards").iterdir()}
        return [number for number in range(len(self._ranges)) if self.shard(number).name not in there]

    def state(self) -> dict[str, int]:
        """The files of the shards, finished or not, with their times: a different value means that work goes on."""
        times = {}
        for entry in os.scandir(self.folder / "shards"):
            with contextlib.suppress(FileNotFoundError):  # it has just been renamed
                times[entry.name] = entry.stat().st_mtime_ns
        return times

    def inputs(self, number: int) -> range:
        """The numbers of the inputs of a shard."""
        return self._ranges[number]

    @contextlib.contextmanager
    def writing(self, number: int) -> Iterator[Shard]:
        """A shard, which is there once the block ends without an error."""
        with whole(self.shard(number)) as file:
            shard = Shard(parquet.Table(file))
            yield shard
            with writing(self.out):
                shard.finish()

    # -- after -------------------------------------------------------------------------------------------------------

    def complete(self, more: Mapping[str, str]) -> Outcome:
        """Joins the shards, when none is missing, and writes down what failed: in them, or `more`, by path."""
        parts = [self.shard(number) for number in range(len(self._ranges))]
        failures = {path_text(path): reason for path, reason in more.items()}
        for part in parts:
            failures.update(parquet.note_in(part)["failures"])
        with writing(self.out):
            if failures:
                with whole(self.failed) as file:
                    table = parquet.Table(file)
                    table.append({"path": list(failures), "reason": list(failures.values())})
                    table.finish(self._made)
            else:
                self.failed.unlink(missing_ok=True)
            if self._is_file:
                with whole(self.out) as file:
                    rows = parquet.join(parts, file, {**self._made, "failures": len(failures)})
            else:
                rows = sum(parquet.rows_in(part) for part in parts)
                self._write_manifest({"rows": rows, "failures": len(failures)})
        self._is_complete = True
        return Outcome(rows, failures, self.out, self.failed)


def inputs_of(out: Path) -> list[str]:
    """The paths that an output under way is of, in order."""
    folder = out.with_name(f"{out.name}.parts") if out.suffix else out
    return [path_of(text) for text in parquet.texts_in(folder / "inputs.parquet")[0]]


class Shard:
    """Rows of one shard, and what failed."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._failures: dict[str, str] = {}

    def append(self, paths: Iterable[str], columns: Mapping[str, Column], failures: Mapping[str, str]) -> None:
        """Adds the rows of a batch."""
        self._failures.update({path_text(path): reason for path, reason in failures.items()})
        if columns:
            self._table.append({"path": [path_text(path) for path in paths], **columns})

    def finish(self) -> None:
        self._table.finish({"failures": self._failures})


def _told(name: str, then: Any, now: Any) -> str:
    """How a setting differs, in words."""
    if name == "inputs" and isinstance(then, Mapping) and "count" in then:
        if then["count"] == now["count"]:
            return f"inputs: {now['count']} images then and now, but with other paths"
        return f"inputs: {then['count']} images then, {now['count']} now"
    return f"{name}: {_short(then)} then, {_short(now)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]} …"
