"""Other threads serve a model while it is truncated, and see nothing of it."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import equal
from rebuilt import truncate
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from truncate import CannotFollowError, TruncateError

SECONDS = 60
pytestmark = pytest.mark.filterwarnings("ignore::truncate.ContentWarning")


class Block(nn.Module):
    """Needs an example, and asks in every way that recording answers in its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        n = int(x.shape[0] * 2) // 2
        if isinstance(x, Tensor) and n < 1000 and len(x.shape) == 2:
            x = x + torch.arange(n, device=x.device, dtype=x.dtype)[:, None] * 0.1
        y = self.norm(self.fc(x))
        y[:, 0] = 0
        with torch.no_grad():
            scale = y.abs().max().item()
        return self.drop(y) / (scale + 1) if x.sum() > -1e9 else x


def stack() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(), nn.Sequential(Block(), nn.ReLU(inplace=True)), Block()).eval()


class Served:
    """A model, and the threads that run it: each compares what it gets with what it got before."""

    def __init__(self, model: nn.Module, x: Tensor, threads: int = 8) -> None:
        self.wrong: list[Any] = []
        self.runs = [0] * threads
        self._model, self._x, self._expected = model, x, model(x.clone())
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(threads)]

    def _serve(self, number: int) -> None:
        while not self._done.is_set():
            try:
                given = self._model(self._x.clone())
                if not equal(given, self._expected) or given.requires_grad is not torch.is_grad_enabled():
                    self.wrong.append(given)
            except BaseException as error:  # whatever a patched PyTorch might raise
                self.wrong.append(error)
            self.runs[number] += 1

    def __enter__(self) -> Served:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(timeout=SECONDS)
        assert not any(thread.is_alive() for thread in self._threads)


X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Cut = Callable[[nn.Module], nn.Module]


def cutter(path: str, *args: Tensor) -> Cut:
    return lambda model: truncate(model, path, args=args or None)


WITHOUT = [cutter(path) for path in ("layer1.0.bn2", "layer2", "flatten", "layer3.1.conv1")]
WITH = [cutter(path, X) for path in ("1.0.fc", "2.norm", "1", "0.drop")]


def repeat(cuts: list[Cut], model: nn.Module, other: nn.Module, served: Served, times: int = 100) -> None:
    """Cuts of the served model and of another, in turn, until each thread ran in between."""
    made, end = 0, time.monotonic() + SECONDS / 2
    while made < times or (min(served.runs) < 3 and time.monotonic() < end):
        for whole in (model, other):
            assert cuts[made % len(cuts)](whole) is not None
            made += 1


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    ("cuts", "make", "x"), [(WITH, stack, X), (WITHOUT, lambda: resnet18().eval(), IMAGE)], ids=["recorded", "followed"]
)
def test_eight_threads_serve_a_model_meanwhile(cuts: list[Cut], make: Callable[[], nn.Module], x: Tensor) -> None:
    model, other = make(), make()
    expected = [cut(model)(x) for cut in cuts]
    with Served(model, x) as served:
        repeat(cuts, model, other, served)
        again = [cut(model)(x) for cut in cuts]
    assert not served.wrong, served.wrong[:3]
    assert min(served.runs) >= 3
    assert all(map(equal, again, expected))


@pytest.mark.timeout(SECONDS)
def test_errors_leave_the_other_threads_alone() -> None:
    """Cuts that end in an error half way through a forward."""

    def fails(model: nn.Module) -> nn.Module:
        with pytest.raises(TruncateError):
            truncate(model, "2.norm:7", args=(X,))
        with pytest.raises(CannotFollowError):
            truncate(model, "2.norm")
        with pytest.raises(TruncateError):
            truncate(model, "0.norm", args=(X[:, :3],))
        return model

    model = stack()
    with Served(model, X) as served:
        repeat([fails], model, stack(), served, times=40)
    assert not served.wrong, served.wrong[:3]


@pytest.mark.timeout(SECONDS)
def test_several_threads_truncate_one_model() -> None:
    """Each gets what it asked for."""
    model = stack()
    expected = [cut(model)(X) for cut in WITH]
    wrong: list[Any] = []

    def work(first: int) -> None:
        for i in range(first, first + 25):
            try:
                if not equal(WITH[i % len(WITH)](model)(X), expected[i % len(WITH)]):
                    wrong.append(i)
            except BaseException as error:
                wrong.append(error)

    with Served(model, X, threads=4) as served:
        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=SECONDS)
    assert not wrong and not served.wrong, (wrong[:3], served.wrong[:3])


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing:UserWarning")
def test_that_this_test_can_fail() -> None:
    """The extractor of torchvision patches the class of all modules while it traces."""
    model = resnet18().eval()
    with Served(model, IMAGE) as served:
        end = time.monotonic() + SECONDS / 2
        while not served.wrong and time.monotonic() < end:
            with contextlib.suppress(Exception):  # the other threads may break its own work, too
                create_feature_extractor(model, ["layer4"])
    assert served.wrong


DRAWS: dict[str, Callable[[], Any]] = {
    "torch": lambda: float(torch.rand((), dtype=torch.float64)),
    "numpy": lambda: float(np.random.random()),
    "random": random.random,
}


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", DRAWS)
def test_another_thread_draws_random_numbers(name: str) -> None:
    """Without an example nothing is refused for that, and no number of the other thread comes twice."""
    model, drawn, done = resnet18().eval(), [], threading.Event()

    def draw() -> None:
        while not done.is_set():
            drawn.append(DRAWS[name]())

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    made, end = 0, time.monotonic() + SECONDS / 2
    try:
        while made < 30 or (len(drawn) < 100 and time.monotonic() < end):
            truncate(model, ("layer3", "flatten")[made % 2])
            made += 1
    finally:
        done.set()
        thread.join(timeout=SECONDS)
    assert len(drawn) >= 100 and len(set(drawn)) == len(drawn)


class Draws(nn.Module):
    def __init__(self, draw: Callable[[], Any]) -> None:
        super().__init__()
        self.a, self.b, self.draw = nn.Linear(8, 8), nn.Linear(8, 8), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.draw())


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", ["numpy", "random"])
def test_another_thread_draws_while_an_example_runs(name: str) -> None:
    model, done = stack(), threading.Event()
    paths = ["2.norm", "1.0.fc"]
    expected = [truncate(model, path, args=(X,))(X) for path in paths]

    def draw() -> None:
        while not done.is_set():
            DRAWS[name]()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        for _ in range(5):
            assert equal([truncate(model, path, args=(X,))(X) for path in paths], expected)
    finally:
        done.set()
        thread.join(timeout=SECONDS)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", ["numpy", "random"])
@pytest.mark.parametrize("args", [None, (X,)], ids=["no example", "example"])
def test_its_own_draws_are_told_from_those_of_others(name: str, args: Any) -> None:
    """A forward that draws is refused, whether another thread draws meanwhile or only waits."""
    model, done = Draws(DRAWS[name]), threading.Event()
    for other in (lambda: done.wait(0.001), DRAWS[name]):

        def run(other: Callable[[], Any] = other) -> None:
            while not done.is_set():
                other()

        done.clear()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            for _ in range(5):
                with pytest.raises(CannotFollowError, match="random numbers"):
                    truncate(model, "b", args=args)
        finally:
            done.set()
            thread.join(timeout=SECONDS)
