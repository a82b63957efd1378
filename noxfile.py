"""The core of the tests on other versions than those in hand: `nox` runs it, in environments of their own.

An interpreter that is not there, or packages that cannot be had, are said and skipped: what fails is a test.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.error_on_missing_interpreters = False  # as it is where CI is set

SAMPLE = []
TOOLS = [
    "expecttest",
    "hypothesis",
    "pytest",
    "pytest-randomly",
    "pytest-timeout",
    "pytest-xdist",
    "safetensors",
    "setuptools",
    "timm",
    "transformers",
]
VERSIONS = """
import platform, sys
from importlib.metadata import version
names = ["torch", "torchvision", "numpy", "click", "rich", "pillow"]
print("Tried:", "Python", platform.python_version(), *(f"{name} {version(name)}" for name in names))
"""


def python(version: str) -> str:
    """An interpreter that pyenv has, whichever it has chosen; else the one on the PATH, if there is one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted((root / "versions").glob(f"{version}.*/bin/python"))
    return str(found[-1]) if found else version


def core(session: nox.Session, *packages: str) -> None:
    try:
        session.install("--quiet", *TOOLS, *packages)
    except CommandFailed:
        session.skip(f"these cannot be installed here: {' '.join(packages)}")
    session.install("--quiet", "--no-deps", "-e", ".")
    session.run("python", "-m", "pip", "check")
    session.run("python", "-c", VERSIONS)
    session.run("pytest", "-n", "auto", *(session.posargs or SAMPLE))


def required() -> list[str]:
    """What the library and its command line ask for."""
    setup = configparser.ConfigParser()
    setup.read("setup.cfg")
    return (setup["options"]["install_requires"] + setup["options.extras_require"]["cli"]).split()


@nox.session(python=python("3.11"))
def lowest(session: nox.Session) -> None:
    """With the lowest versions that setup.cfg allows."""
    core(session, *(package.replace(">=", "==") for package in required()))


@nox.session(python=[python("3.12"), python("3.13")])
def newer(session: nox.Session) -> None:
    """Other versions of Python, with the newest of everything."""
    core(session, *required())
