"""What is put after a cut: each pooling against torch's own, and what one can do to it."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from truncate import TruncateError
from truncate._build.pool import POOLS, pooling

# name and rank: what torch has for it
SAME_AS: dict[tuple[str, int], Callable[[Tensor], Tensor]] = {
    ("avg", 3): nn.AdaptiveAvgPool1d(1),
    ("avg", 4): nn.AdaptiveAvgPool2d(1),
    ("avg", 5): nn.AdaptiveAvgPool3d(1),
    ("max", 3): nn.AdaptiveMaxPool1d(1),
    ("max", 4): nn.AdaptiveMaxPool2d(1),
    ("max", 5): nn.AdaptiveMaxPool3d(1),
    ("mean", 3): lambda x: x.mean(1),
    ("mean", 4): lambda x: x.mean((1, 2)),
    ("mean", 5): lambda x: x.mean((1, 2, 3)),
    ("cls", 3): lambda x: x[:, 0],
}
EACH = pytest.mark.parametrize(("name", "rank"), SAME_AS, ids=[f"{name}-{rank}" for name, rank in SAME_AS])


def example(rank: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 6, *(5, 4, 3)[: rank - 2])


def made(name: str, flatten: bool = True) -> nn.Sequential:
    return nn.Sequential(OrderedDict(pooling(name, flatten)))


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_is_what_torch_has(name: str, rank: int, dtype: torch.dtype) -> None:
    x = example(rank).to(dtype).clamp(max=0.5).requires_grad_()  # with ties, of which a maximum has to pick one
    twin = x.detach().clone().requires_grad_()
    pooled, expected = made(name, flatten=False)(x), SAME_AS[name, rank](twin)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, expected)
    weights = torch.randn_like(pooled)
    pooled.backward(weights)
    expected.backward(weights)
    assert torch.equal(x.grad, twin.grad)


@EACH
def test_shape(name: str, rank: int) -> None:
    channels = 6 if name in ("avg", "max") else (5, 4, 3)[rank - 3]
    assert made(name)(example(rank)).shape == (2, channels)
    if name in ("avg", "max"):
        assert made(name, flatten=False)(example(rank)).shape == (2, 6, *[1] * (rank - 2))


def test_every_name_is_tested() -> None:
    assert {name for name, _ in SAME_AS} == set(POOLS)


def test_in_order() -> None:
    pool = nn.Conv2d(6, 2, 1)
    assert pooling(None, False) == {}
    assert list(pooling("avg", True)) == ["pool", "flatten"]
    assert pooling(pool, False)["pool"] is pool
    assert list(pooling(None, True)) == ["flatten"]
    assert nn.Sequential(OrderedDict(pooling(pool, True)))(example(4)).shape == (2, 2 * 5 * 4)


@EACH
def test_duplicates(name: str, rank: int) -> None:
    module, x = made(name), example(rank)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))


@EACH
def test_script(name: str, rank: int) -> None:
    x = example(rank)
    assert torch.equal(torch.jit.script(made(name))(x), made(name)(x))


@EACH
def test_export_with_free_sizes(name: str, rank: int) -> None:
    free = {i: torch.export.Dim.DYNAMIC for i in range(rank) if i != 1}
    if name not in ("avg", "max"):
        free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(made(name), (example(rank),), dynamic_shapes=(free,))
    sizes = [size + (i + 1) * (i in free) for i, size in enumerate(example(rank).shape)]
    other = torch.randn(*sizes)
    assert torch.equal(program.module()(other), made(name)(other))


@EACH
def test_compile(name: str, rank: int) -> None:
    torch.compiler.reset()  # it counts how often it has compiled any nn.Sequential
    x = example(rank)
    assert torch.equal(torch.compile(made(name), fullgraph=True, backend="aot_eager")(x), made(name)(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.onnx uses
@EACH
def test_onnx(name: str, rank: int, tmp_path: Path) -> None:
    import onnxruntime

    x = example(rank)
    program = torch.export.export(made(name), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.onnx.export(program, verbose=False).save(tmp_path / "pool.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "pool.onnx")
    other = example(rank, batch=3)
    (given,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(given), made(name)(other))


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["average", "", 3, nn.MaxPool2d])
def test_unknown(pool: object) -> None:
    with pytest.raises(TruncateError) as caught:
        pooling(pool, False)
    text = str(caught.value)
    assert repr(pool) in text
    for name in POOLS:
        assert f"    {name!r}: The " in text
    assert ("pool=MaxPool2d(...)" in text) == isinstance(pool, type)


def test_flatten_is_no_number() -> None:
    with pytest.raises(TruncateError, match="flatten is True or False, not 2"):
        pooling("avg", 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shape"), [("avg", (2, 3)), ("max", (2, 3)), ("mean", (2, 3)), ("cls", (2, 3)), ("cls", (2, 3, 4, 5))]
)
def test_wrong_rank(name: str, shape: tuple[int, ...]) -> None:
    said = rf"pool='{name}' takes [^.]*but got shape \[{', '.join(map(str, shape))}\]"
    with pytest.raises(TruncateError, match=said):
        made(name)(torch.randn(shape))
    with pytest.raises(torch.jit.Error, match=said):
        torch.jit.script(made(name))(torch.randn(shape))


@EACH
def test_no_tensor(name: str, rank: int) -> None:
    with pytest.raises(TruncateError, match=f"pool='{name}' takes one tensor, but .* returns a tuple. Stop at"):
        made(name)((example(rank),))
