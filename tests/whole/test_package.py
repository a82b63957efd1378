"""What comes with the package, and what does not."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from folders import ROOT

import truncate


def test_import_takes_torch_alone_and_when_it_is_needed() -> None:
    names = ["torchvision", "torchinfo", "rich", "click", "timm", "onnx", "safetensors", "PIL"]
    code = "import sys, truncate; print('torch' in sys.modules); truncate.truncate; "
    code += f"print([name for name in {names} if name in sys.modules], 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == "False\n[] True\n"


CORE_ALONE = """
import sys

for name in {missing!r}:
    sys.modules[name] = None  # as if it was not installed

import torch
from torch import nn
from truncate import TruncateError, extract, layers, split, truncate

model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
x = torch.randn(2, 3)
assert torch.equal(truncate(model, "1")(x), model[:2](x))
front, back = split(model, at="0")
assert torch.equal(back(front(x)), model(x))
assert extract(truncate(model, "0"), [x], progress=True).features.shape == (2, 4)
assert [row.path for row in layers(model)] == ["0", "1", "2"]
try:
    print(layers(model))
except TruncateError as error:
    print(error)
"""


def test_the_core_needs_torch_and_numpy_alone() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert re.findall(r"^[\w-]+", setup["options"]["install_requires"], re.MULTILINE) == ["torch", "numpy"]
    missing = ["torchvision", "torchinfo", "click", "rich", "PIL", "timm", "onnx", "safetensors", "pyarrow", "pandas"]
    code = CORE_ALONE.format(missing=missing)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    line = "printing a drawing or a list of layers needs rich, which is missing: pip install 'torch-truncate[cli]'\n"
    assert (found.stdout, found.stderr, found.returncode) == (line, "", 0)


@pytest.mark.parametrize("module", ["click", "rich", "torchvision", "torchinfo", "PIL"])
def test_the_command_line_says_what_it_misses(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from truncate.__main__ import run; sys.exit(run())"
    command = [sys.executable, "-c", code, "layers", "alexnet"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    line = f"error: the command line needs {module}, which is missing: pip install 'torch-truncate[cli]'\n"
    assert (found.stdout, found.stderr, found.returncode) == ("", line, 2)


def test_public_names_exist_and_are_documented() -> None:
    for name in truncate.__all__:
        assert getattr(truncate, name).__doc__, name


def test_every_public_name_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text()
    missing = [name for name in truncate.__all__ if f"truncate.{name}" not in reference]
    assert not missing


def test_names_that_are_not_there() -> None:
    with pytest.raises(ImportError, match="cannot import name 'truncat' from 'truncate'"):
        from truncate import truncat  # type: ignore[attr-defined]  # noqa: F401
    assert dir(truncate) == truncate.__all__
    assert not hasattr(truncate, "__wrapped__")


def test_typed() -> None:
    assert (Path(truncate.__file__).parent / "py.typed").exists()


def test_the_version_is_stated_once() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    try:
        assert metadata.version("torch-truncate") == version
    except metadata.PackageNotFoundError:
        pytest.skip("runs from a copy that is not installed")
    assert truncate.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    sources = [*(ROOT / "truncate").glob("*.py"), ROOT / "setup.py"]
    assert not [source.name for source in sources if f'"{version}"' in source.read_text()]


def test_no_room_imports_a_higher_one() -> None:
    """By the table in CONTRIBUTING.md, which names each room once."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| room |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(_\w+)(?:\.py)?`", line.split("|")[1]) for line in table.splitlines()[1:]]
    package = ROOT / "truncate"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(room for row in rows for room in row) == sorted(rooms)
    height = {room: -number for number, row in enumerate(rows) for room in row}
    sources = [(path.relative_to(package).parts[0], path.read_text()) for path in package.rglob("*.py")]
    imports = [(room.removesuffix(".py"), other) for room, text in sources for other in imported(text)]
    assert len(imports) > 200
    assert not [(room, other) for room, other in imports if height[other] > height[room]]


def imported(text: str) -> list[str]:
    """The rooms that the source of a file imports, anywhere in it."""
    modules = [node.module or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return [module.split(".")[1] for module in modules if module.startswith("truncate.")]


def test_the_top_level_is_tidy() -> None:
    """Of what git knows, so that caches and environments do not count."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git repository")
    allowed = (
        "setup.cfg setup.py truncate tests docs README.md benchmarks examples LICENSE CONTRIBUTING.md CHANGELOG.md"
    )
    found = {path.split("/")[0] for path in listed.stdout.splitlines()}
    assert {"setup.cfg", "truncate"} <= found <= {*allowed.split(), ".ci", ".gitignore", "ruff.toml", "noxfile.py"}
