"""The notebook in `examples/` runs from top to bottom, and the outputs stored in it are those that it gives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import ROOT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = ROOT / "examples" / "features.ipynb"
SECONDS = 300  # for all of it; measured: 23

# What differs from run to run or from machine to machine: the numbers that `probe` measures.
NUMBER = re.compile(r"\d[\d.,]*|< 0.1")


# Runs the notebook argv[1] in this folder, by a kernel that is spoken to in files and not on ports, and writes argv[2].
ALONE = """
import sys
import jupyter_client, nbclient, nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
for cell in notebook.cells:
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
kernel = jupyter_client.AsyncKernelManager(kernel_name="python3", transport="ipc", ip=sys.argv[3])
nbclient.NotebookClient(notebook, km=kernel, timeout=150).execute()
nbformat.write(notebook, sys.argv[2])
"""


def run(folder: Path) -> Any:
    """The notebook as it is after a run of all its cells in an empty folder; an error in one of them ends it."""
    work, output = folder / "work", folder / "output.ipynb"
    work.mkdir()
    settings = {"HOME": folder, "IPYTHONDIR": folder / "ipython", "JUPYTER_RUNTIME_DIR": folder, "PYTHONPATH": ROOT}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in settings.items()}}
    command = [sys.executable, "-c", ALONE, str(NOTEBOOK), str(output), str(folder / "ipc")]
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert not list(work.iterdir()), "it leaves files after"
    return nbformat.read(output, as_version=4)


def shown(cell: Any) -> list[tuple[str, dict[str, str]]]:
    """What a cell shows, kind by kind, as it is on every machine. Of an image, that there is one."""
    found = []
    for output in cell.outputs:
        data = {"text": output.text} if output.output_type == "stream" else dict(output.data)
        data.pop("image/jpeg", None)
        if "image/png" in data:
            data["image/png"] = ""
        if "probe(" in cell.source:
            data = {kind: NUMBER.sub("#", text) for kind, text in data.items()}
        found.append((output.output_type, {kind: text.strip() for kind, text in data.items()}))
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("notebook"))


def test_the_stored_outputs_are_those_that_it_gives(ran: Any) -> None:
    stored = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell.source for cell in stored.cells] == [cell.source for cell in ran.cells]
    for old, new in zip(stored.cells, ran.cells, strict=True):
        if old.cell_type == "code":
            assert shown(old) == shown(new), old.source


def test_what_it_shows(ran: Any) -> None:
    """A page of each kind that this library has, and no warning; and what the text says of them is so."""
    outputs = [(cell.source, output) for cell in ran.cells for output in cell.get("outputs", ())]
    assert all(output.get("name") != "stderr" for _, output in outputs)
    pages = {source: output.data["text/html"] for source, output in outputs if "text/html" in output.get("data", {})}
    listed, drawn, cut, probed = pages.values()
    assert "max_pool2d" in listed
    assert "multiply-adds" in drawn
    assert "TruncatedNet" in cut and "narrow" not in cut
    scores = [float(score) for score in re.findall(r"(\d\.\d+)\s*±", re.sub("<[^>]+>", " ", probed))][:4]
    assert min(scores) == scores[3] < max(scores) - 0.1  # measured: 0.713 and 0.934
    said = [output.text for _, output in outputs if output.output_type == "stream"]
    assert said == ["it knows its own digits: True\n", "True\n"]
    assert "image/png" in outputs[-1][1].data


def test_it_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 100_000
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert "image/jpeg" not in str(cell.get("outputs", "")), "one image in two formats"
