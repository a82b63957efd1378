"""Every example in the documentation is run, and what it is said to print is compared with what it prints.

They run in order: the ``python`` blocks of a file share their names, and the ``text`` block after one is its output; a
``console`` block holds commands after a ``$``, and theirs. ``...`` stands for anything, on a line of its own for any
lines. ``sh`` blocks set up an environment, which is left to `.ci/run`; ``py`` is Python for another framework.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclasses.dataclass
class Block:
    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)


def matches(shown: str, printed: str) -> bool:
    """Whether `shown` is what was printed, with ``...`` for anything."""
    pattern = ""
    for line in shown.strip().splitlines():
        parts = [re.escape(part) for part in re.split(r" *\.\.\.", line)]  # how many blanks is up to what comes there
        pattern += r"(?:.*\n)*?" if line == "..." else ".*".join(parts) + r" *\n"
    return re.fullmatch(pattern, printed.strip() + "\n") is not None


def run_python(block: Block, page: Path, names: dict[str, Any]) -> str:
    printed = io.StringIO()
    source = "\n" * (block.line - 1) + block.text  # so that errors name the line
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(page), "exec"), names)
    return printed.getvalue()


def run_shell(command: str, folder: Path) -> str:
    arguments = shlex.split(command)
    if arguments[0] == "python":
        arguments[0] = sys.executable
    # Python 3.12 warns of the fork with which DataLoader starts its workers; by default nobody is shown that.
    warnings = "default,ignore::DeprecationWarning:multiprocessing.popen_fork"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": warnings}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    printed: str | None = None
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.language == "python":
            assert not printed, f"before {where}: this is printed, and not shown:\n{printed}"
            printed = run_python(block, page, names)
        elif block.language == "text":
            assert printed is not None, f"{where}: no example before it"
            assert matches(block.text, printed), f"{where}: this is printed:\n{printed}"
            printed = None
        elif block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                output = run_shell(command, tmp_path)
                assert matches(shown, output), f"{where}: `{command}` prints:\n{output}"
        elif block.language == "py":
            assert "import keras" in block.text, f"{where}: only what needs another framework is left unrun"
        else:
            shown = block.language.split(" ")[0]  # what is included from elsewhere is tested there
            known = ("sh", "{toctree}", "{eval-rst}", "{literalinclude}")
            assert shown in known, f"{where}: nobody runs {block.language!r}"
    assert not printed, f"the end of {page.name}: this is printed, and not shown:\n{printed}"


def test_there_are_examples() -> None:
    """So that a change of how they are written does not leave them out."""
    counted = {page.name: sum(block.language in ("python", "console") for block in blocks(page)) for page in PAGES}
    assert counted["README.md"] >= 4
    without = ("benchmarks.md", "in-other-frameworks.md", "reference.md")
    assert all(counted[name] for name in counted if name not in without), counted


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\nb", "a\nc\n", False),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("a\n...\nd", "a\nd\n", True),
        ("a\n...\nd", "a\nb\n", False),
        ("time ... ms", "time 3.1 ms", True),
        ("time ... ms", "time 3.1 s", False),
        ("a ...\nb", "a x\ny\nb", False),
        ("...", "anything\nat all", True),
        ("a.c", "abc", False),
    ],
)
def test_matches(shown: str, printed: str, expected: bool) -> None:
    assert matches(shown, printed) is expected


LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub and Sphinx give to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Those to other sites are only looked at, since the tests need no network."""
    for link in re.findall(r"\]\(([^)]*)\)", prose(page)):
        if "://" in link:
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[^\s()<>]*)?", link), link
            continue
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        assert there.is_file(), link
        assert not anchor or anchor in anchors(there), link


def test_anchors() -> None:
    assert "where-more-than-one-tensor-crosses" in anchors(ROOT / "docs" / "both-sides.md")
    assert "create_feature_extractor-of-torchvision" in anchors(ROOT / "docs" / "coming-from.md")
