"""What a forward reaches by its helpers: what C reads of it, imports, and threads that meet one at once."""

from __future__ import annotations

import decimal
import sys
import threading

import helpers
import pytest
import torch
from oracle import capture
from rebuilt import truncate
from three import Three, X, many
from torch import Tensor, nn


class ReadsByC(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x if many(x) else self.b(helpers.TABLE["over"](x, x.shape[0]))


class LedAstrayByC(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x if many(x) or decimal.Decimal(x.shape[0]) < 0 else self.b(x)


class LoopsBesideC(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        rows = torch.stack([row * len(x) for row in x])
        return x if many(x) else self.b(rows * [1.0, 2.0, 3.0][x.shape[0]])


@pytest.mark.parametrize("kind", [ReadsByC, LedAstrayByC, LoopsBesideC])
def test_what_c_reads_is_found_out(kind: type[Three]) -> None:
    """Nobody sees a function that comes out of a dict. The check does, or that no target is reached; then all numbers
    are fixed.
    """
    model = kind()
    cut = truncate(model, "b", (X,))
    assert torch.equal(cut(X), capture(model, ["b"], X)["b"][-1])
    with pytest.raises(AssertionError, match="unlike the example|cut on an example"):
        cut(torch.randn(3, 4))


def test_imports_from_where_the_forward_is_written() -> None:
    source = "def forward(self, x):\n    from . import Counter\n    return self.b(self.a(x) * len(Counter('aab')))"
    names = {"__name__": "collections.written", "__package__": "collections"}
    exec(source, names)
    kind = type("Imports", (Three,), {"forward": names["forward"]})
    model = kind()
    for example in ({}, {"args": (X,)}):
        assert torch.equal(truncate(model, "b", **example)(X), capture(model, ["b"], X)["b"][-1])


def test_threads_that_meet_a_helper_at_once() -> None:
    """None of them sees a copy of a function that another one is about to make."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    wrong: list[object] = []

    def cut(model: nn.Module, barrier: threading.Barrier) -> None:
        barrier.wait()
        result = truncate(model, "b", (X,))
        x = torch.randn(3, 4)
        if not torch.equal(result(x), capture(model, ["b"], x)["b"][-1]):
            wrong.append(result)

    try:
        for turn in range(20):
            scope = dict(vars(helpers))
            code = "def other(x): return x * math.sqrt(x.shape[0] / 1)\ndef helper(x): return other(x)\n"
            exec(code, scope)
            forward = eval("lambda self, x: x if x.shape[0] > 90 else self.b(helper(self.a(x)))", scope)
            kind = type(f"Model{turn}", (Three,), {"forward": forward})
            models = [kind() for _ in range(4)]
            barrier = threading.Barrier(len(models))
            threads = [threading.Thread(target=cut, args=(model, barrier)) for model in models]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
