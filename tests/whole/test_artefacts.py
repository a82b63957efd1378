"""The files that `--out` writes, run by others: C++, onnxruntime, and Python that does not know this library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny
import torch
import torchvision
from filelock import FileLock
from folders import ROOT, SUPPORT
from oracle import capture
from torch import Tensor

from truncate._cli.commands import main

PAGE = ROOT / "docs" / "export.md"

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") and shutil.which("bash")), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`artefact.cpp`, compiled once, also where several workers share the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "artefact"
    with FileLock(folder / "artefact.lock"):
        if not path.exists():
            shutil.copy(SUPPORT / "artefact.cpp", folder)
            documented("g++", folder)
    return path


def documented(word: str, folder: Path = Path()) -> None:
    """Runs the lines of docs/export.md that hold a word."""
    found = [
        text for text in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL) if word in text
    ]
    assert len(found) == 1
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run(["bash", "-euo", "pipefail", "-c", found[0]], {**os.environ, "PATH": path}, folder)


def run(command: list[str], environment: Mapping[str, str] = os.environ, folder: Path = Path()) -> str:
    environment = {**environment, "OMP_NUM_THREADS": "1"}  # as these tests; sums in several threads round otherwise
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def in_cpp(program: Path, module: str, images: Tensor) -> Tensor:
    torch.save(images, "images.pt")
    printed = run([str(program), module, "images.pt", "features.pt"])
    features: Tensor = torch.load("features.pt")
    assert printed.startswith(str(list(features.shape)))
    return features


def in_python(code: str) -> str:
    """In a fresh process, which finds what is installed and nothing of this folder."""
    return run([sys.executable, "-I", "-c", code])


def cut(model: str, upto: str, path: str, *more: str) -> None:
    assert main(["cut", model, "--upto", upto, "--out", path, *more]) == 0


def hooked(model: torch.nn.Module, place: str, images: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = capture(model.eval(), [place], images)[place][-1]
    return features


def squeezenet() -> torch.nn.Module:
    torch.manual_seed(0)  # as the command line builds it
    return torchvision.models.squeezenet1_1()


def tiny_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return tiny.Net()


@needs_compiler
def test_the_scripted_alexnet_of_the_readme_in_cpp(program: Path) -> None:
    """Bit for bit: the same kernels of the same libtorch run, in one thread here and there."""
    cut("alexnet", "classifier.5", "alexnet-fc7.pt")
    torch.manual_seed(0)
    model = torchvision.models.alexnet()
    images = torch.randn(2, 3, 224, 224)
    features = in_cpp(program, "alexnet-fc7.pt", images)
    assert features.shape == (2, 4096)
    assert torch.equal(features, hooked(model, "classifier.5", images))


@needs_compiler
@pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake")
@pytest.mark.zoo
def test_the_program_built_by_cmake() -> None:
    for name in ("artefact.cpp", "CMakeLists.txt"):
        shutil.copy(SUPPORT / name, name)
    documented("cmake --build")
    cut("tiny:net", "pool", "features.pt", "--shape", "1,3,8,8")
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(
        in_cpp(Path("build/artefact").absolute(), "features.pt", images), hooked(tiny_net(), "pool", images)
    )


def test_onnx_without_torch() -> None:
    """Not bit for bit: onnxruntime has kernels of its own, which sum in another order."""
    cut("squeezenet1_1", "features.5", "features.onnx", "--shape", "1,3,64,64")
    images = torch.randn(3, 3, 64, 64)
    np.save("images.npy", images.numpy())
    printed = in_python(
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('features.onnx', providers=['CPUExecutionProvider'])\n"
        "features, = session.run(None, {session.get_inputs()[0].name: numpy.load('images.npy')})\n"
        "numpy.save('features.npy', features)\n"
        "print('torch' in sys.modules)"
    )
    assert printed == "False\n"
    expected = hooked(squeezenet(), "features.5", images)
    torch.testing.assert_close(torch.from_numpy(np.load("features.npy")), expected, rtol=1e-4, atol=1e-5)


def test_onnx_is_for_one_size_of_pictures() -> None:
    cut("tiny:net", "pool", "features.onnx", "--shape", "1,3,8,8")
    session = onnxruntime.InferenceSession("features.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 8, 8]
    with pytest.raises(Exception, match="Got invalid dimensions for input"):
        session.run(None, {"x": np.zeros((1, 3, 9, 9), np.float32)})


def test_an_exported_program_in_a_fresh_process() -> None:
    cut("squeezenet1_1", "features.5", "features.pt2", "--shape", "1,3,64,64")
    images = torch.randn(3, 3, 64, 64)
    torch.save(images, "images.pt")
    printed = in_python(
        "import sys, torch\n"
        "module = torch.export.load('features.pt2').module()\n"
        "with torch.no_grad(): torch.save(module(torch.load('images.pt')), 'features.pt')\n"
        "print('truncate' in sys.modules, 'torchvision' in sys.modules)"
    )
    assert printed == "False False\n"
    assert torch.equal(torch.load("features.pt"), hooked(squeezenet(), "features.5", images))


@needs_compiler
@pytest.mark.zoo
def test_an_exported_program_compiled_ahead_of_time(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python and in C++. Not bit for bit: the compiler fuses operations, and so rounds in other places."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path("cache").absolute()))
    cut("tiny:net", "pool", "features.pt2", "--shape", "1,3,8,8")
    documented("aoti_compile_and_package")
    images = torch.randn(5, 3, 8, 8)
    expected = hooked(tiny_net(), "pool", images)
    torch.testing.assert_close(in_cpp(program, "compiled.pt2", images), expected)
    in_python(
        "import torch\n"
        "module = torch._inductor.aoti_load_package('compiled.pt2')\n"
        "torch.save(module(torch.load('images.pt')), 'in-python.pt')"
    )
    torch.testing.assert_close(torch.load("in-python.pt"), expected)
