"""What somebody may type, and what is answered: one line that is to the point, and never a traceback."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path

import images
import pytest

from truncate._cli.commands import main

# What is typed, and the beginning of the answer after "error: "
REFUSED = {
    "": "Missing command. (see python -m truncate --help)",
    "alexnet": "no command 'alexnet'; there are cut, layers, extract, probe (see python -m truncate --help)",
    "cutt alexnet": "no command 'cutt'; did you mean cut?",
    "show alexnet": "no command 'show'; did you mean layers?",
    "features alexnet": "no command 'features'; did you mean extract?",
    "--vers": "no option --vers; did you mean --version?",
    "--upto fc": "no option --upto before the command: it comes after, as in cut MODEL --upto",
    "--json layers alexnet": "no option --json before the command: it comes after, as in cut MODEL --json",
    "cut": "Missing argument 'MODEL'.",
    "cut alexnet": "say where to stop: --upto TARGET (`layers alexnet` lists the targets), or --before TARGET",
    "cut alexnet classifier.5": "Got unexpected extra argument (classifier.5); a target comes after --upto",
    "cut alexnet --upto": "Option '--upto' requires an argument.",
    "cut alexnet --upto a --before b": "--upto a and --before b both say where to stop; use only one of",
    "cut alexnet --layer x": "no option --layer; did you mean --upto?",
    "cut alexnet -l x": "no option -l; did you mean --upto?",
    "cut alexnet --upto x --weight DEFAULT": "no option --weight; did you mean --weights?",
    "cut alexnet --upto x --pretrained": "no option --pretrained; did you mean --weights?",
    "cut alexnet --upto x --output x.pt": "no option --output; did you mean --out?",
    "cut alexnet --upto x --save x.pt": "no option --save; did you mean --out?",
    "cut alexnet --upto x -o x.pt": "no option -o; did you mean --out?",
    "cut alexnet --upto x --size 1,3,8,8": "no option --size; did you mean --shape?",
    "cut alexnet --upto x --input x.jpg": "no option --input; did you mean --image?",
    "cut alexnet --upto x --limit 2": "no option --limit: it is an option of extract and probe (see python -m ",
    "cut alexnet --upto x --random": "no option --random: it is an option of extract and probe",
    "cut alexnet --upto x --frobnicate": "no option --frobnicate (see python -m truncate cut --help)",
    "cut alexnet --upto x --shape abc": "Invalid value for '--shape': 'abc' is not a shape such as 1,3,224,224",
    "cut alexnet --upto features.1 --shape 64": "alexnet does not run on random numbers (64), see --shape: ",
    "cut alexnet --upto features.99": "no target 'features.99': 'features' (Sequential) holds no '99'. Did you mean",
    "cut alexnet --upto features..1": "'features..1' is not a path: cannot read '..1'. Write it as 'features.3'",
    "cut alexnet --upto features.0.weight": "'features.0.weight' is a tensor of 'features.0' (Conv2d), not",
    "cut alexnet --before nonsense": "no target 'nonsense': the model (AlexNet) holds no 'nonsense'. It holds: ",
    "cut alexnet --before ''": "before='' stops at what the model itself is given, where nothing has been computed yet",
    "cut alexnet --upto x --weights MAGIC": "alexnet has no weights 'MAGIC'; it has: IMAGENET1K_V1, DEFAULT. A local",
    "cut alexnet --upto x --weights junk.pth": "cannot read junk.pth, which is damaged or incomplete",
    "cut alexnet --upto x --out empty": "cannot tell from 'empty' what to write: it has to end in .pt or .pt2 or",
    "cut alexnet --upto x --image list.txt": "cannot read list.txt as an image: not an image, or in an",
    "cut resnet --upto fc": "torchvision has no model 'resnet'; did you mean resnet",
    "cut none.pt2 --upto x": "no file none.pt2",
    "cut junk.pt2 --upto x": "cannot read junk.pt2: ",
    "layers": "Missing argument 'MODEL'.",
    "layers alexnet --depth x": "Invalid value for '--depth': 'x' is not a valid integer range.",
    "layers alexnet --upto fc": "no option --upto: it is an option of cut and extract",
    "layers alexnet --levels 2": "no option --levels; did you mean --depth?",
    "layers alexnet more": "Got unexpected extra argument (more) (see python -m truncate layers --help)",
    "extract alexnet images --out x": "say where to stop: --upto TARGET (`layers alexnet` lists the targets)",
    "extract alexnet images --upto x": "Missing option '--out'.",
    "extract alexnet --upto x --out x": "Missing argument 'FOLDER|FILE|-'.",
    "extract alexnet images more --upto x --out x": "Got unexpected extra argument (more); it takes one folder or file",
    "extract alexnet none --upto x --out x": "no folder none",
    "extract alexnet empty --upto x --out x": "no images in empty, it is empty; their names end in .jpg, .png",
    "extract alexnet list.txt --upto x --out x": "list.txt is a file whose name is not that of an image (.jpg, .png",
    "extract alexnet - --upto x --out x": "no images on stdin: none.jpg: no such file. With - as input, each line of",
    "extract alexnet images --upto features.1 --out x": "alexnet has random weights, and their features say little ",
    "extract alexnet images --upto x --out x.csv": "cannot write 'x.csv': the output is a file that ends in .parquet",
    "extract alexnet images --upto x --out x --limit 0": "Invalid value for '--limit': 0 is not in the range x>=1.",
    "extract alexnet images --upto x --out x --gpu 0": "no option --gpu; did you mean --device?",
    "extract alexnet images --upto x --out x --num-workers 2": "no option --num-workers; did you mean --workers?",
    "extract alexnet images --upto x --out x --batch 4": "no option --batch; did you mean --batch-size?",
    "extract alexnet images --upto x --out x --engine spark": "Invalid value for '--engine': 'spark' is not 'ray'.",
    "extract alexnet images --upto features.1 --out x --device gpu": "cannot compute on 'gpu': ",
    "probe alexnet": "Missing argument 'FOLDER|FILE|-'.",
    "probe alexnet images": "alexnet has random weights, and their features say little about an image: --weights D",
    "probe alexnet images --svg x.svg": "no option --svg; did you mean --out?",
    "probe alexnet images --layer fc": "no option --layer; did you mean --at?",
    "probe alexnet images --before fc": "no option --before; did you mean --at?",
    "probe alexnet images --out x.png": "cannot write 'x.png': the curve is written to a file that ends in .svg",
    "probe tiny:net images --folds 1": "Invalid value for '--folds': 1 is not in the range x>=2.",
    "probe tiny:net images --labels none.csv": "cannot read none.csv: ",
    "probe tiny:net images --at nonsense": "no target 'nonsense': the model (Net) holds no 'nonsense'.",
    "probe tiny:net images --estimator svm": "Invalid value for '--estimator': 'svm' is not one of 'linear', 'knn'.",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    images.make(Path("images"), 3)
    for path in sorted(Path("images/below").glob("*.*")):
        path.rename(Path("images", path.name))
    Path("empty").mkdir()
    for name in ("list.txt", "junk.pth", "junk.pt2"):
        Path(name).write_text("junk")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"none.jpg\n")))


@pytest.mark.parametrize("typed", REFUSED)
def test_what_is_refused(typed: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert main(shlex.split(typed)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: {REFUSED[typed]}")
    assert err.count("\n") == 1 and "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("command", ["", "cut", "layers", "extract", "probe"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), option]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Usage: python -m truncate")
    for word in {"": "extract", "layers": "--json"}.get(command, "--out --json --quiet").split():
        assert word in out
