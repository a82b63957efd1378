"""What shells offer after the installed command, and the help of each command."""

from __future__ import annotations

import configparser
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from folders import ROOT

from truncate._cli.commands import cli
from truncate._cli.completion import Bash

VARIABLE = "_TORCH_TRUNCATE_COMPLETE"


def offered(*words: str) -> list[str]:
    """What is offered for the last word, in this process."""
    completer = Bash(cli, {}, "torch-truncate", VARIABLE)
    return [f"{item.type} {item.value}" for item in completer.get_completions(list(words[:-1]), words[-1])]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where shells find a proxy of the command that pip installs."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, entry = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, function = entry.split(":")
    command = tmp_path / name
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    command.chmod(0o755)
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **paths, "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb"}


def documented(shell: str) -> str:
    """The line that tells a shell to complete the command."""
    page = (ROOT / "docs" / "command-line.md").read_text()
    return next(line for line in page.splitlines() if f"{VARIABLE}={shell}_source" in line)


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell}")


@needs("bash")
def test_in_bash(environment: dict[str, str]) -> None:
    """Bash has `:` and `=` as words of their own."""
    script = f"""
        {documented("bash")}
        [[ $(complete -p torch-truncate) == *"-F _torch_truncate_completion torch-truncate" ]] || exit 3
        offer() {{
            COMP_WORDS=("$@")
            COMP_CWORD=$(($# - 1))
            COMPREPLY=()
            _torch_truncate_completion torch-truncate
            echo "${{COMPREPLY[@]}}"
        }}
        offer torch-truncate cut alexnet --sh
        offer torch-truncate extract alexnet images --engine = r
    """
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["--shape", "ray"]


@needs("fish")
def test_in_fish(environment: dict[str, str]) -> None:
    script = f"""
        {documented("fish")}
        complete --do-complete "torch-truncate cut alexnet --ou"
        complete --do-complete "torch-truncate extract alexnet images --engine=r"
    """
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["--out\tTo write: .pt; .pt2; .onnx or .safetensors.", "--engine=ray"]


@needs("zsh")
def test_in_zsh(environment: dict[str, str], tmp_path: Path) -> None:
    """Its completion works only where somebody types."""
    (tmp_path / ".zshrc").write_text(f"autoload -Uz compinit && compinit -u -D\n{documented('zsh')}\nPS1='ready '\n")
    terminal, end = pty.openpty()
    command = ["zsh", "-d", "-i"]  # -d: with nothing of this machine's own
    shell = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True)
    try:
        read_until("ready ", terminal)
        os.write(terminal, b"torch-truncate \t")
        read_until("Draw all layers and operations of a model", terminal)
        os.write(terminal, b"extract alexnet images --engine=r\t")
        read_until("--engine=ray ", terminal)
    finally:
        shell.kill()
        shell.wait()
        os.close(end)
        os.close(terminal)


def read_until(text: str, terminal: int) -> None:
    """Reads what a terminal shows until a text is there, with what went back taken back."""
    shown = ""
    while text not in shown:
        assert select.select([terminal], [], [], 60)[0], f"{text!r} never came; there is {shown!r}"
        shown += os.read(terminal, 4096).decode()
        while "\b" in shown:
            shown = re.sub("[^\b]\b", "", shown)


def test_help_and_completion_need_no_torch() -> None:
    code = """
import sys
from truncate._cli.commands import cli, main
from truncate._cli.completion import Bash
assert main(["cut", "--help"]) == 0
assert main(["cut", "alexnet"]) == 2
assert [item.value for item in Bash(cli, {}, "", "").get_completions(["cut", "alexnet"], "--ou")] == ["--out"]
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_words_of_bash(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has `:` and `=` as words of their own, and puts in only what is after them."""
    for typed, expected in [
        ("cut timm : resnet10t --upto glo", ["plain,global_pool"]),
        ("cut alexnet --upto = cl", ["plain,classifier"]),
        ("cut alexnet --engine =", []),
        ("extract alexnet images --engine =", ["plain,ray"]),
        ("cut timm : resnet10t", ["plain,resnet10t"]),
    ]:
        words = ["torch-truncate", *typed.split()]
        monkeypatch.setenv("COMP_WORDS", " ".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        assert Bash(cli, {}, "torch-truncate", VARIABLE).complete().splitlines() == expected


def test_models_and_options() -> None:
    assert offered("la") == ["plain layers"]
    for command in ("cut", "layers", "extract"):
        assert offered(command, "squeeze") == ["plain squeezenet1_0", "plain squeezenet1_1"]
    assert offered("cut", "alexnet", "--ou") == ["plain --out"]
    assert offered("extract", "alexnet", "images", "--engine", "") == ["plain ray"]


def test_places_one_level_at_a_time() -> None:
    top = ["plain features", "plain avgpool", "plain flatten", "plain classifier"]
    assert offered("cut", "alexnet", "--upto", "") == top
    assert offered("cut", "alexnet", "--out", "x.pt", "--upto", "") == top
    assert offered("cut", "--upto", "features", "alexnet", "--upto", "") == top
    assert offered("cut", "resnet18", "--upto", "layer1.0.c") == ["plain layer1.0.conv1", "plain layer1.0.conv2"]
    assert offered("extract", "resnet18", "images", "--upto", "fl") == ["plain flatten"]
    assert "plain global_pool" in offered("cut", "timm:resnet10t", "--upto", "")
    assert offered("cut", "vit_h_14", "--upto", "encoder.ln") == ["plain encoder.ln"]


def test_places_of_what_cannot_be_built() -> None:
    assert offered("cut", "--upto", "") == []  # no model as yet
    assert offered("cut", "alexnett", "--upto", "") == []


def test_nothing_is_run_for_the_places_of_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny

    monkeypatch.setattr(tiny, "net", lambda: pytest.fail("it was built"))
    assert offered("cut", "tiny:net", "--upto", "") == []


def test_files() -> None:
    for words in (["cut", "alexnet", "--out"], ["cut", "alexnet", "--weights"], ["extract", "alexnet"]):
        assert offered(*words, "x") == ["file x"]


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_each_help_ends_with_examples_that_can_be_run(name: str) -> None:
    """They are parsed, and not run.

    A command stands under its group here as it does when it runs: it takes the names of its help option from there,
    and keeps them for later calls in this process.
    """
    group = click.Context(cli, **cli.context_settings)
    context = click.Context(cli.commands[name], parent=group) if name else group
    shown = context.get_help().partition("Examples:\n")[2]
    examples = shown.splitlines()
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[:3] == ["python", "-m", "truncate"]
        assert not name or words[3] == name
        if words[-1] != "--help":
            cli.commands[words[3]].make_context(words[3], words[4:], parent=group)
