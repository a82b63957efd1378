"""What bash offers behind the installed command, and the help of each command."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete

from truncate._cli import cli

ROOT = Path(__file__).parent.parent
VARIABLE = "_TORCH_TRUNCATE_COMPLETE"


def offered(*words: str) -> list[str]:
    """What is offered for the last word, in this process."""
    completer = BashComplete(cli, {}, "torch-truncate", VARIABLE)
    return [f"{item.type} {item.value}" for item in completer.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_in_bash(tmp_path: Path) -> None:
    """A stand-in of the command that pip installs; bash is told to complete it as the documentation says."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, entry = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, function = entry.split(":")
    command = tmp_path / name
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    command.chmod(0o755)
    page = (ROOT / "docs" / "command-line.md").read_text()
    evaluated = next(line for line in page.splitlines() if f"{VARIABLE}=bash_source" in line)
    script = f"""
        {evaluated}
        [[ $(complete -p {name}) == *"-F _torch_truncate_completion {name}" ]] || exit 3
        COMP_WORDS=({name} cut alexnet --upto features.1)
        COMP_CWORD=4
        _torch_truncate_completion {name}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["features.1", "features.10", "features.11", "features.12"]


def test_models_and_options() -> None:
    assert offered("la") == ["plain layers"]
    for command in ("cut", "layers", "extract"):
        assert offered(command, "squeeze") == ["plain squeezenet1_0", "plain squeezenet1_1"]
    assert offered("cut", "alexnet", "--sa") == ["plain --save"]
    assert offered("extract", "alexnet", "photos", "--engine", "") == ["plain ray"]


def test_places_one_level_at_a_time() -> None:
    top = ["plain features", "plain avgpool", "plain flatten", "plain classifier"]
    assert offered("cut", "alexnet", "--upto", "") == top
    assert offered("cut", "alexnet", "--save", "x.pt", "--upto", "") == top
    assert offered("cut", "--upto", "features", "alexnet", "--upto", "") == top
    assert offered("cut", "resnet18", "--upto", "layer1.0.c") == ["plain layer1.0.conv1", "plain layer1.0.conv2"]
    assert offered("extract", "resnet18", "photos", "--upto", "fl") == ["plain flatten"]
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
    for words in (["cut", "alexnet", "--save"], ["cut", "alexnet", "--weights"], ["extract", "alexnet"]):
        assert offered(*words, "x") == ["file x"]


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_each_help_ends_with_examples_that_can_be_run(name: str) -> None:
    """They are parsed, and not run."""
    command: click.Command = cli.commands[name] if name else cli
    shown = command.get_help(click.Context(command)).partition("Examples:\n")[2]
    examples = shown.splitlines()
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[:3] == ["python", "-m", "truncate"]
        assert not name or words[3] == name
        if words[-1] != "--help":
            cli.commands[words[3]].make_context(words[3], words[4:])
