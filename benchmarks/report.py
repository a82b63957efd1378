"""Tables, and where and when they were measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"


def surroundings(*packages: str) -> dict[str, str]:
    """The date, the commit, the machine and the versions that a table was measured with."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}; {torch.get_num_threads()} thread",
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "torchvision", *packages)},
    }


def sentence(facts: dict[str, str]) -> str:
    """The surroundings in one line."""
    versions = ", ".join(
        f"{name} {value}" for name, value in facts.items() if name not in ("date", "commit", "machine")
    )
    return f"Measured on {facts['date']} at commit {facts['commit']}: {facts['machine']}; {versions}."


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; all columns but the first are numbers, and stand to the right."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write(section: str, text: str, page: Path = PAGE) -> None:
    """Puts `text` between the markers of `section` on the page, or at its end if it has none."""
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    block = f"{begin}\n\n{text.strip()}\n\n{end}"
    old = page.read_text()
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    new, found = re.subn(pattern, lambda _: block, old, flags=re.DOTALL)
    page.write_text(new if found else f"{old.rstrip()}\n\n{block}\n")


def save(path: Path, facts: dict[str, str], results: Any) -> None:
    path.write_text(json.dumps({"measured": facts, "results": results}, indent=1) + "\n")


def _commit() -> str:
    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" (changed since)" if git("status", "-s", "truncate") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
