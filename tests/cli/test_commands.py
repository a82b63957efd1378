"""The command line, mostly in this process; its faults are one line and exit code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
import torchvision
from command_line import SHAPE, refuse, run, tiny_net
from folders import ROOT, SUPPORT
from oracle import equal
from PIL import Image
from sklearn.datasets import load_sample_image

from truncate import truncate
from truncate.__main__ import script
from truncate._cli import verifying as _verify
from truncate._cli.commands import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- cut -------------------------------------------------------------------------------------------------------------


def test_the_main_job(tmp_path: Path) -> None:
    """In a process of its own; and the file is read in another one, which does not know this library."""
    command = [sys.executable, "-m", "truncate", "cut", "alexnet", "--upto", "classifier.5", "--out", "fc7.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    assert re.search(r"parameters +61,100,840 +57,003,840 +93.3 %", done.stdout)
    assert re.search(r"multiply-adds +714,188,480 +710,092,480 +99.4 %", done.stdout)
    assert re.search(r"time +[\d.]+ ms +[\d.]+ ms +[\d.]+ %", done.stdout)
    assert "random weights" in done.stdout
    assert "bit for bit" in done.stdout
    assert "fc7.pt: scripted module" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["fc7.pt"]
    code = "import sys, torch; m = torch.jit.load('fc7.pt'); torch.save(m(torch.ones(2, 3, 224, 224)), 'out.pt'); "
    code += "print('truncate' in sys.modules, m.training)"
    read = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert read.stdout == "False False\n"
    torch.manual_seed(0)
    model = torchvision.models.alexnet().eval()
    with torch.no_grad():
        features: list[torch.Tensor] = []
        model.classifier[5].register_forward_hook(lambda m, args, out: features.append(out.clone()))
        model(torch.ones(2, 3, 224, 224))
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), features[0])


def test_the_output_is_what_a_hook_captures(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "cut", "tiny:net", "--upto", "act:1", "--upto", "sub", "--upto", "", SHAPE)
    seen: list[torch.Tensor] = []
    model = tiny_net()
    model.act.register_forward_hook(lambda m, args, output: seen.append(output.clone()))
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = model(x)
    for name, value in {"act:1": seen[1], "sub": seen[0] - 1, "the model itself": result}.items():
        line = next(line for line in out.splitlines() if line.startswith(f"{name}: "))
        numbers = [f"{v:.4f}" for v in value.flatten()[:6].tolist()] + ["…"] * (value.numel() > 6)
        assert line == f"{name}: {'×'.join(map(str, value.shape))}, {', '.join(numbers)}"


def test_a_branch_on_content_is_warned_of_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cut", "tiny:ByContent", "--upto", "pool", SHAPE, "--quiet"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("warning: the forward of the model itself branches on the content of a tensor.")
    assert told.count("\n") == 1


def test_what_a_target_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "cut", "tiny:net", "--before", "act:0", "--before", "flatten", SHAPE)
    assert out.startswith("tiny:net before act:0, flatten, with its own weights\n")
    seen: list[torch.Tensor] = []
    model = tiny_net()
    model.act.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    model.pool.register_forward_hook(lambda m, args, output: seen.append(output))
    with torch.no_grad():
        model(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    for name, value in {"act:0": seen[0], "flatten": seen[2]}.items():
        first = ", ".join(f"{v:.4f}" for v in value.flatten()[:4].tolist())
        assert f"\n{name}: {'×'.join(map(str, value.shape))}, {first}" in out


@pytest.mark.parametrize("before", ["act:0", "sub"])
def test_what_differs_before_a_target_is_not_saved(
    before: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    cut = truncate(tiny.Net().eval(), before="pool")
    monkeypatch.setattr("truncate._cli.models.truncate", lambda model, **options: cut)
    assert main(["cut", "tiny:net", "--before", before, SHAPE, "--out", "x.pt"]) == 1
    told = f"error: the cut returns other values than the model at {before}; nothing was written\n"
    assert capsys.readouterr().err == told
    assert not list(Path().iterdir())


def test_random_models_are_compared_on_the_same_random_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bit for bit" in run(capsys, "cut", "tiny:Noisy", "--upto", "pool", SHAPE)


def test_a_cut_that_differs_is_not_saved(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cut = truncate(tiny_net(), "conv")
    monkeypatch.setattr("truncate._cli.models.truncate", lambda model, **options: cut)
    assert main(["cut", "tiny:net", "--upto", "act:0", SHAPE, "--out", "x.pt"]) == 1
    assert capsys.readouterr().err.startswith("error: the cut returns other values than the model at act:0")
    assert not list(Path().iterdir())


def test_an_example_helps_where_python_branches_on_values(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "cut", "tiny:Branching", "--upto", "pool", SHAPE)
    assert re.search(r"^assumed: .*x\.shape\[2\] > 4", out, re.MULTILINE)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    assert "bit for bit" in run(capsys, "cut", name, "--upto", "backbone.body.1")


def test_other_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert "global_pool: 1×512" in run(capsys, "cut", "timm:resnet10t", "--upto", "global_pool")
    assert "its own weights" in run(capsys, "cut", "tiny:built", "--upto", "pool", SHAPE)
    out = run(capsys, "cut", "fcn_resnet50", "--upto", "backbone.layer1", "--shape", "1x3x64x64")
    assert "backbone.layer1: 1×256×16×16" in out


# -- weights and pictures --------------------------------------------------------------------------------------------


@pytest.fixture
def flower() -> Path:
    path = Path("flower.jpg")
    Image.fromarray(load_sample_image("flower.jpg")).save(path)
    return path


def test_trained_weights_and_a_picture(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flower: Path
) -> None:
    """The file of the weights lies where torch.hub keeps what it has downloaded; the numbers in it are ours."""
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    checkpoints = tmp_path / "hub" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.manual_seed(5)
    model = torchvision.models.squeezenet1_1().eval()
    torch.save(model.state_dict(), checkpoints / weights.url.rpartition("/")[2])
    arguments = ["--upto", "features", "--image", str(flower)]
    named = run(capsys, "cut", "squeezenet1_1", *arguments, "--weights", "IMAGENET1K_V1")
    assert "weights IMAGENET1K_V1" in named
    assert "flower.jpg (1×3×224×224)" in named

    with torch.no_grad(), Image.open(flower) as picture:
        expected = model.features(weights.transforms()(picture).unsqueeze(0))
    line = next(line for line in named.splitlines() if line.startswith("features: 1×512×13×13, "))
    values = [float(number) for number in line.split(", ")[1:7]]
    assert values == pytest.approx(expected.flatten()[:6].tolist(), abs=1e-3)

    torch.save({"epoch": 3, "state_dict": model.state_dict()}, "own.pth")
    safetensors.torch.save_file(model.state_dict(), "own.safetensors")
    for checkpoint in ("own.pth", "own.safetensors"):
        loaded = run(capsys, "cut", "squeezenet1_1", *arguments, "--weights", checkpoint)
        assert f"weights of {checkpoint}" in loaded
        assert line in loaded.splitlines()


def test_pictures_for_models_without_weights_and_of_timm(capsys: pytest.CaptureFixture[str], flower: Path) -> None:
    for name, upto, given in [
        ("tiny:net", "pool", 224),
        ("timm:resnet10t", "conv1", 176),
        ("vit_b_32", "conv_proj", 224),
    ]:
        assert f"flower.jpg (1×3×{given}×{given})" in run(capsys, "cut", name, "--upto", upto, "--image", str(flower))


def test_a_checkpoint_may_not_run_code(capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> object:
            return (Path("exploded").touch, ())

    torch.save({"state_dict": Bomb()}, "bomb.pth")
    assert main(["cut", "tiny:net", "--upto", "pool", SHAPE, "--weights", "bomb.pth"]) == 2
    err = capsys.readouterr().err
    assert re.search(r"bomb\.pth holds more than tensors: (builtins\.)?getattr\. ", err)
    assert err.endswith("; or take --trust\n")
    assert not Path("exploded").exists()


CUT = ("cut", "tiny:net", "--upto", "pool", SHAPE)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: "wrong", "w.pth holds no state dict, but str"),
        (lambda state: {}, "w.pth holds no state dict, but a dict of nothing"),
        (lambda state: {"a": torch.ones(1)}, "w.pth does not fit the module (Net), and nothing was loaded; missing in"),
        (lambda state: {"conv.bias": state["conv.bias"]}, "w.pth does not fit Net: missing in the checkpoint: 3 (conv"),
        (
            lambda state: {**state, "conv2.weight": torch.ones(2)},
            "w.pth does not fit Net: not in the model: 1 (conv2.weight)",
        ),
        (
            lambda state: {**state, "conv.bias": torch.ones(3)},
            "w.pth does not fit Net: different: 1 (conv.bias ((3,) in the checkpoint, (4,) in the module))",
        ),
    ],
)
def test_checkpoints_that_do_not_fit(
    change: Callable[[Any], Any], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(change(tiny.Net().state_dict()), "w.pth")
    assert main([*CUT, "--weights", "w.pth"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {complaint}")
    assert err.count("\n") == 1


def test_nobody_is_told_to_trust_a_file_that_is_not_whole(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(tiny.Net().state_dict(), "w.pth")
    Path("w.pth").write_bytes(Path("w.pth").read_bytes()[:2000])
    assert main([*CUT, "--weights", "w.pth"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot read w.pth, which is damaged or incomplete")
    assert "trust" not in err


@pytest.mark.parametrize("trust", [[], ["--trust"]], ids=["", "trust"])
def test_a_checkpoint_as_training_leaves_it(trust: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    net = tiny.Net()
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"best_acc1": torch.tensor(71.3), "state_dict": state}, "w.pth")
    run(capsys, *CUT, "--weights", "w.pth", *trust, "--out", "part.safetensors")
    assert equal(safetensors.torch.load_file("part.safetensors")["conv.weight"], net.conv.weight)


# -- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    "": "Missing command. (see python -m truncate --help)",
    "frob": "no command 'frob'; there are cut, layers, extract, probe (see python -m truncate --help)",
    "cut": "Missing argument 'MODEL'. (see python -m truncate cut --help)",
    "cut alexnet": "say where to stop: --upto TARGET (`layers alexnet` lists the targets), or --before TARGET",
    "cut alexnett --upto x": "torchvision has no model 'alexnett'; did you mean alexnet?",
    "cut torchvision.models.resnet18 --upto x": "Others are named timm:NAME, hf:FOLDER or hf:NAME, or",
    "cut models/mine.py --upto x": "'models/mine.py' is a file, but a model is imported: write mine:NAME, in",
    "cut mine.py:Net --upto x": "write mine:Net, in the folder of that file",
    "cut resnet18.pth --upto x": "is a checkpoint and not a model: name the model, and add --weights resnet18.pth",
    "cut timm:resnet1O --upto x": "timm has no model 'resnet1O'; did you mean ",
    "cut timm:resnet10t --upto x --weights V1": "write DEFAULT, not 'V1'. A local checkpoint ends in .safetensors",
    "cut squeezenet1_1 --upto featurs": "Did you mean 'features'?",
    "cut squeezenet1_1 --upto x --weights V9": "it has: IMAGENET1K_V1",
    "cut squeezenet1_1 --upto features.0 --shape 1,3,2,2": "does not run on random numbers (1×3×2×2), see --shape: ",
    "cut squeezenet1_1 --upto features.0 --shape 1,3,0,2": "'1,3,0,2' is not a shape such as 1,3,224,224",
    "cut tiny:net --upto x --weights none.pth": "no file none.pth",
    "cut tiny:net --upto x --weights x.pt2": "has no weights called 'x.pt2'. A local checkpoint ends in .safetensors",
    "cut tiny: --upto x": "'tiny:' is not a model: before the colon is the module to import, after it a callable",
    "cut :net --upto x": "':net' is not a model: ",
    "cut tiny:net --upto pool --image none.jpg": "no file none.jpg",
    "cut tiny:net --upto pool --image .": ". is a folder: --image takes one image, and the command `extract` takes",
    "cut tiny:net --upto pool --image p.jpg --shape 1,3,8,8": "--image has its own: use only one of them",
    "cut tiny:net --upto pool --out x.foo": "it has to end in .pt or .pt2 or .onnx or .safetensors",
    "cut tiny:net --upto pool --out x": "cannot tell from 'x' what to write",
    "cut tiny:net --upto pool --out none/x.pt": "no folder none to write x.pt to",
    "cut tiny:net --upto act:5": "its calls are :0 to :1",
    "cut tiny:nett --upto act": "'tiny' has no 'nett'; did you mean ",
    "cut tinyy:net --upto act": "cannot import 'tinyy': No module named 'tinyy'",
    "cut tiny:not_a_model --upto act": "neither a model nor a function that returns one, but 'a string'",
    "cut tiny:returns_a_string --upto act": "tiny:returns_a_string returned a str and not a torch.nn.Module",
    "cut tiny:fails --upto act": "tiny:fails failed when called without arguments: no disk",
    "cut tiny:Crashing --upto conv": "first line second line",
    "layers": "Missing argument 'MODEL'",
    "layers nonsense": "torchvision has no model 'nonsense'",
    "layers tiny:net --depth 0": "0 is not in the range x>=1",
    "layers tiny:Crashing --shapes": "tiny:Crashing on 1×3×224×224: the model does not run on the example: Value",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_one_clear_line(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert REFUSED[arguments] in refuse(capsys, *arguments.split())


def test_a_folder_that_one_may_not_write_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for root, who may write to all of them, too. The model is not even looked for."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != Path())
    arguments = ("cut", "nonsense", "--upto", "pool", "--out", "x.pt")
    assert refuse(capsys, *arguments) == "cannot write to .: Permission denied"


def test_pictures_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_text("no picture")
    assert main(["cut", "tiny:net", "--upto", "pool", "--image", "p.jpg"]) == 2
    reason = "not an image, or in an unsupported format"
    assert capsys.readouterr().err == f"error: cannot read p.jpg as an image: {reason}\n"


def test_no_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "truncate", "cut", "alexnet", "--upto", "clasifier.5", "--out", "x.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no target 'clasifier.5'")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# -- layers ----------------------------------------------------------------------------------------------------------


def test_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "layers", "tiny:net") == (
        "Net                             122\n"
        "├── conv     Conv2d             112\n"
        "├── sub      sub                       from act:0\n"
        "├── act      ReLU                      2 calls\n"
        "├── pool     AdaptiveAvgPool2d\n"
        "├── flatten  flatten\n"
        "└── head     Linear              10\n"
    )
    assert run(capsys, "layers", "tiny:net", "--table", SHAPE).splitlines()[:3] == [
        "target   type               parameters  output",
        "conv     Conv2d                    112  1×4×8×8",
        "sub      sub                            1×4×8×8  from act:0",
    ]
    assert "layer1.0.conv1" in run(capsys, "layers", "resnet18", "--table")
    assert len(run(capsys, "layers", "resnet18", "--depth", "1").splitlines()) == 12


def test_drawn_where_a_terminal_knows_no_lines() -> None:
    command = [sys.executable, "-m", "truncate", "layers", "tiny:net"]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": f"{SUPPORT}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "conv" in done.stdout
    assert done.stderr == ""


def test_a_model_in_the_current_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The installed command finds it, as `python -m truncate` does."""
    Path("beside.py").write_text("import torch\n\nnet = torch.nn.Sequential(torch.nn.Linear(2, 3))\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["torch-truncate", "layers", "beside:net"])
    try:
        assert script() == 0
    finally:
        sys.modules.pop("beside", None)
    assert "Linear" in capsys.readouterr().out


def test_times_are_taken_in_turns() -> None:
    order: list[str] = []
    whole, part = _verify.times(lambda: order.append("whole"), lambda: order.append("part"), seconds=0)
    assert order == ["whole", "part"] * 4
    assert whole > 0
    assert part > 0
