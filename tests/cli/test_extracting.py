"""``python -m truncate extract``: the table holds what the model returns, and every fault is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import images
import numpy as np
import pandas
import polars
import pytest
import tiny
import torch
import torchvision
from folders import ROOT
from PIL import Image

from truncate import extract, truncate
from truncate._build.pool import POOLS
from truncate._cli import models as _models
from truncate._cli.commands import cli, main
from truncate._cli.extracting import AUTOCAST


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images.small(monkeypatch)
    return tmp_path


def arguments(*more: str, model: str = "tiny:net", out: str = "out.parquet", upto: str = "pool") -> list[str]:
    return ["extract", model, "images", "--upto", upto, "--out", out, "--workers", "0", *more]


def run(capsys: pytest.CaptureFixture[str], *given: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(given)) == code
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refuse(capsys: pytest.CaptureFixture[str], *given: str, code: int = 2) -> str:
    """The one line on stderr, of what is refused. Nothing is left behind."""
    before = sorted(Path().iterdir())
    capsys.readouterr()
    assert main(list(given)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(Path().iterdir()) == before
    return err.removeprefix("error: ").rstrip()


def by_hand(targets: Any, batch: int, **options: Any) -> Any:
    """What a user would write."""
    torch.manual_seed(0)
    model = tiny.Net().eval()
    paths = sorted(Path("images").rglob("*.*"), key=os.fsencode)
    transform = _models.imagenet()
    tensors = [transform(Image.open(path).convert("RGB")) for path in paths]
    batches = [torch.stack(tensors[i : i + batch]) for i in range(0, len(tensors), batch)]
    return [str(path) for path in paths], extract(truncate(model, targets, **options), batches).features


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("out", ["out.parquet", "out"])
def test_the_main_job(workers: str, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 7)
    assert run(capsys, *arguments("--batch-size", "3", "--workers", workers, out=out)) == f"{out}: 7 rows\n"
    paths, features = by_hand("pool", 3)
    frame = pandas.read_parquet(out if Path(out).suffix else f"{out}/shards")
    assert list(frame) == ["path", "features"]
    assert frame["path"].tolist() == paths
    assert np.array_equal(np.stack(frame["features"]), features.reshape(7, -1))


def test_several_places(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 5)
    run(capsys, *arguments("--upto", "act:0", "--pool", "avg", upto="conv"))
    _, features = by_hand({"conv": "conv", "act:0": "act:0"}, 32, pool="avg", flatten=True)
    frame = polars.read_parquet("out.parquet")
    assert frame.columns == ["path", "conv", "act:0"]
    assert np.array_equal(frame["conv"].to_numpy(), features["conv"])
    assert np.array_equal(frame["act:0"].to_numpy(), features["act:0"])


def test_what_a_target_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    given = ["extract", "tiny:net", "images", "--before", "head", "--out", "out.parquet", "--workers", "0"]
    run(capsys, *given)
    _, features = by_hand("flatten", 32)
    assert np.array_equal(np.stack(pandas.read_parquet("out.parquet")["features"]), features)
    told = 'other settings (upto: [] then, ["head"] now; before: ["head"] then, [] now'
    assert told in refuse(capsys, *arguments(upto="head"))


def test_random_weights_are_refused_unless_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 1)
    given = arguments(model="alexnet", upto="features.1")
    assert refuse(capsys, *given) == (
        "alexnet has random weights, and their features say little about an image: --weights DEFAULT downloads "
        "trained ones, --weights FILE reads a checkpoint, and --random uses random weights anyway"
    )
    assert main([*given, "--random"]) == 0
    out, err = capsys.readouterr()
    assert out == "out.parquet: 1 rows\n"
    assert err.startswith("warning: alexnet has random weights, and their features say little about an image (")
    torch.save(torchvision.models.alexnet().state_dict(), "w.pth")
    run(capsys, *arguments("--weights", "w.pth", model="alexnet", upto="features.1", out="trained.parquet"))


def test_what_may_be_chosen_is_all_that_there_is() -> None:
    """The options are declared where torch is not imported."""
    options = {option.name: option.type for option in cli.commands["extract"].params}
    for name, known in {"pool": POOLS, "dtype": AUTOCAST}.items():
        kind = options[name]
        assert isinstance(kind, click.Choice)
        assert list(kind.choices) == list(known)


def test_the_model_itself_among_several(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    run(capsys, *arguments("--upto", "", upto="pool"))
    assert polars.read_parquet("out.parquet").columns == ["path", "pool", "output"]


def test_a_model_that_needs_its_example(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 3)
    run(capsys, *arguments(model="tiny:Branching"))
    assert len(pandas.read_parquet("out.parquet")) == 3


def test_the_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 3)
    run(capsys, *arguments(upto="head"))
    run(capsys, *arguments("--dtype", "bfloat16", out="half.parquet", upto="head"))
    one, half = (np.stack(pandas.read_parquet(f"{name}.parquet")["features"]) for name in ("out", "half"))
    assert half.dtype == np.float32
    assert not np.array_equal(one, half)
    assert np.allclose(one, half, atol=0.05)


def test_the_transform_of_the_weights_and_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """In the sizes of a real model, against torchvision's own transform."""
    Path("images").mkdir()
    for i in range(2):
        Image.effect_noise((300 + 60 * i, 260), 90).convert("RGB").save(f"images/{i}.png")
    torch.manual_seed(7)
    model = torchvision.models.squeezenet1_1().eval()
    torch.save(model.state_dict(), "weights.pth")
    run(capsys, *arguments("--weights", "weights.pth", model="squeezenet1_1", upto="features.4"))
    transform = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    batch = torch.stack([transform(Image.open(f"images/{i}.png")) for i in range(2)])
    wanted = extract(truncate(model, "features.4"), [batch]).features
    got = np.stack(pandas.read_parquet("out.parquet")["features"])
    assert np.array_equal(got, wanted.reshape(2, -1))


def test_timm_s_own_transform(capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    Path("images").mkdir()
    Image.effect_noise((300, 260), 90).convert("RGB").save("images/0.png")
    assert main(arguments("--random", model="timm:test_resnet", upto="layer1")) == 0
    torch.manual_seed(0)
    model = timm.create_model("test_resnet").eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    batch = transform(Image.open("images/0.png")).unsqueeze(0)
    wanted = extract(truncate(model, "layer1"), [batch]).features
    assert np.array_equal(np.stack(pandas.read_parquet("out.parquet")["features"]), wanted.reshape(1, -1))


# -- files that cannot be read ---------------------------------------------------------------------------------------


def test_broken_files_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 6, broken=(2, 3))
    Path("images/notes.txt").touch()
    Path("images/empty.jpg").touch()
    Path("images/up").symlink_to(".")
    out = run(capsys, *arguments("--batch-size", "2"), code=1)
    assert out.splitlines() == [
        "skipped, since their names are not those of images: 1 .txt",
        "out.parquet: 4 rows",
        "4 files could not be read (see out.failures.parquet), the first of them images/up: a link to a folder that "
        "holds it",
    ]
    failures = pandas.read_parquet("out.failures.parquet")
    assert failures["path"].tolist() == ["images/up", "images/002.jpg", "images/below/003.png", "images/empty.jpg"]
    assert failures["reason"].iloc[3] == "the file is empty"
    paths = pandas.read_parquet("out.parquet")["path"].tolist()
    assert paths == ["images/001.png", "images/004.jpg", "images/005.png", "images/below/000.jpg"]
    assert run(capsys, *arguments("--batch-size", "2"), code=1) == out


def test_nothing_but_broken_files(capsys: pytest.CaptureFixture[str]) -> None:
    Path("images").mkdir()
    Path("images/empty.jpg").touch()
    out = run(capsys, *arguments(), code=1)
    assert out.splitlines()[-1].startswith("1 file could not be read (see out.failures.parquet), the first of them")
    assert len(pandas.read_parquet("out.parquet")) == 0


def test_names_of_files_do_nothing_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 1)
    Path("images/\x1b[31m.jpg").touch()
    Path("images/x.\x1b]0;title\x07").touch()
    out = run(capsys, *arguments(), code=1)
    assert "\\x1b[31m.jpg: the file is empty" in out
    assert "1 .\\x1b]0;title\\x07" in out
    assert "\x1b" not in out
    assert pandas.read_parquet("out.failures.parquet")["path"].tolist() == ["images/\x1b[31m.jpg"]
    Path("out.parquet").unlink()
    Path("out.failures.parquet").unlink()
    assert refuse(capsys, *arguments("--strict"), code=1) == "images/\\x1b[31m.jpg: the file is empty"
    assert "'\\x1b[31m'" in refuse(capsys, *arguments(upto="\x1b[31m"))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_strict(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    Path("images/000.jpg").touch()
    given = arguments("--strict", "--workers", workers)
    assert refuse(capsys, *given, code=1) == "images/000.jpg: the file is empty"
    Path("images/000.jpg").unlink()
    Path("images/up").symlink_to(".")
    assert refuse(capsys, *given, code=1) == "images/up: a link to a folder that holds it"
    Path("images/up").unlink()
    assert run(capsys, *given) == "out.parquet: 2 rows\n"


def test_a_path_that_is_not_utf_8(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    os.rename(b"images/001.png", b"images/caf\xe9.png")
    (Path("images") / os.fsdecode(b"caf\xe8.jpg")).touch()
    out = run(capsys, *arguments(), code=1)
    assert r"the first of them images/caf\xe8.jpg: the file is empty" in out
    assert pandas.read_parquet("out.parquet")["path"].tolist() == ["images/below/000.jpg", r"images/caf\xe9.png"]


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (arguments(model="alexnett"), "torchvision has no model 'alexnett'; did you mean alexnet?"),
        (arguments(model="timm:no"), "timm has no model 'no'"),
        (arguments(model="tiny:nett"), "'tiny' has no 'nett'; did you mean net?"),
        (arguments(upto="pol"), "no target 'pol': the model (Net) holds no 'pol'. Did you mean 'pool'?"),
        (arguments(out="x.csv"), "cannot write 'x.csv': the output is a file that ends in .parquet, or a new folder"),
        (arguments(out="no/x.parquet"), "no folder no to write x.parquet to"),
        (arguments("--device", "cuda:99"), "cannot compute on 'cuda:99': "),
        (arguments("--device", "gpu"), "cannot compute on 'gpu': a device is cpu, cuda, cuda:1, mps, ..."),
        (arguments("--dtype", "int8"), "Invalid value for '--dtype': 'int8' is not one of 'float32', 'bfloat16'"),
        (arguments("--pool", "average"), "'average' is not one of 'avg', 'max', 'mean', 'cls'."),
        (arguments("--pool", "avg", upto="head"), "the model does not run on a batch of 2×3×16×16: pool='avg' takes"),
        (arguments("--batch-size", "0"), "Invalid value for '--batch-size': 0 is not in the range x>=1."),
        (
            arguments(model="tiny:Crashing", upto="head"),
            "the model does not run on the example: ValueError: first line second line",
        ),
        (arguments("--weights", "none.pt"), "no file none.pt"),
        (
            arguments("--weights", "DEFAULT"),
            "tiny:net is not a model of a library, and has no weights called 'DEFAULT'",
        ),
    ],
)
def test_refused(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 2)
    assert message in refuse(capsys, *given)


def test_a_folder_without_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(capsys, *arguments()) == "no folder images"
    Path("images").mkdir()
    assert refuse(capsys, *arguments()).startswith("no images in images, it is empty")


def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a proxy that is not there, in a process of its own."""
    images.make(Path("images"), 1)
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **closed, "TORCH_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "truncate",
        *arguments("--weights", "DEFAULT", model="squeezenet1_1", upto="features"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: cannot build squeezenet1_1: <urlopen error [Errno 111] Connection refused> (weights 'DEFAULT' are "
        "downloaded; where there is no network, --weights takes a checkpoint)\n"
    )


class Runs:
    """What a stranger may put into a file: it leaves a trace if it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("trace",))


def test_nothing_is_unpickled_without_trust(capsys: pytest.CaptureFixture[str]) -> None:
    images.make(Path("images"), 1)
    torch.save({"state_dict": tiny.Net().state_dict(), "hello": Runs()}, "stranger.pt")
    given = arguments("--weights", "stranger.pt")
    text = refuse(capsys, *given)
    assert text.startswith("stranger.pt holds more than tensors: posix.mkdir. Reading it could run code, so it was ")
    assert text.endswith("; or take --trust")
    assert not Path("trace").exists()
    run(capsys, *given, "--trust")
    assert Path("trace").exists()


def test_sizes_that_make_no_batch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.transforms.functional import to_tensor

    monkeypatch.setattr(_models, "imagenet", lambda: to_tensor)
    Path("images").mkdir()
    Image.new("RGB", (8, 8)).save("images/a.png")
    Image.new("RGB", (9, 8)).save("images/b.png")
    assert refuse(capsys, *arguments()) == (
        "the model's own transform leaves images at different sizes (3×8×8 and 3×8×9), which cannot form a batch: use "
        "--batch-size 1, and --pool avg for rows of one length"
    )
    assert main(arguments("--batch-size", "1", upto="conv")) == 2
    message = "error: the rows of 'features' were 4×8×8, and are now 4×8×9: a table needs rows of one shape"
    assert capsys.readouterr().err.startswith(message)
    (Path("out.parquet.parts")).rename("aside")
    run(capsys, *arguments("--batch-size", "1", "--pool", "avg", upto="conv"))
    assert len(pandas.read_parquet("out.parquet")) == 2
