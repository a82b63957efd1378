"""A part of the tests on other versions than those at hand: `nox` runs it, in environments of their own.

An interpreter that is not there, and packages that cannot be had, are said and skipped: what fails is the library.
"""

from __future__ import annotations

import configparser
import os
import sysconfig
from importlib import metadata
from pathlib import Path

import nox
from nox.command import CommandFailed

# The interpreters of pyenv, whether they are switched on or not.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
os.environ["PATH"] = os.pathsep.join([*map(str, PYENV.glob("3.1?.*/bin")), os.environ["PATH"]])
nox.options.error_on_missing_interpreters = False  # nox would stop there where CI is set
nox.options.download_python = "never"

# Three minutes of them: what meets torch and Python in the most ways.
TESTS = "files follow python record sandbox target weights live tune/test_frozen_modules.py whole/test_package.py"
TOOLS = "expecttest hypothesis pytest pytest-randomly pytest-timeout pytest-xdist safetensors setuptools timm"
TRIED = """
import platform
from importlib.metadata import version
names = ["torch", "torchvision", "numpy", "click", "rich", "pillow"]
print("Tried: Python", platform.python_version(), *(f"{name} {version(name)}" for name in names))
"""


def required() -> list[str]:
    """What the library and its command line ask for."""
    setup = configparser.ConfigParser()
    setup.read("setup.cfg")
    return [*setup["options"]["install_requires"].split(), *setup["options.extras_require"]["cli"].split()]


def run_tests(session: nox.Session, *packages: str) -> None:
    try:
        session.install("--quiet", *TOOLS.split(), *packages)
    except CommandFailed:
        session.skip(f"these cannot be had here: {' '.join(packages)}")
    session.install("--quiet", "--no-deps", "-e", ".")
    session.run("python", "-m", "pip", "check")
    session.run("python", "-c", TRIED)
    tests = [f"tests/{path}" for path in TESTS.split()]
    session.run("pytest", "-n", "auto", "--ignore=tests/live/test_gallery_live.py", *(session.posargs or tests))


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The lowest versions that setup.cfg allows."""
    run_tests(session, *(package.replace(">=", "==") for package in required()))


@nox.session(python=["3.12", "3.13"])
def newer(session: nox.Session) -> None:
    """Other versions of Python, with the versions at hand of torch and torchvision."""
    borrow_cuda(session)
    run_tests(session, *required(), *(f"{name}=={metadata.version(name)}" for name in ("torch", "torchvision")))


def borrow_cuda(session: nox.Session) -> None:
    """Links to the libraries of CUDA beside nox: of one torch they are the same for each Python, and take 4 GB."""
    purelib = session.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True)
    for path in Path(sysconfig.get_path("purelib")).glob("nvidia*"):
        link = Path(str(purelib).strip(), path.name)
        if not link.exists():
            link.symlink_to(path)
