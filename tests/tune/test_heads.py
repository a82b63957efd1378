"""Fresh heads: of the right width, found without a trace, and trained at their own rate."""

from __future__ import annotations

import copy
import io
import pickle
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, swin_v2_t, vit_b_16

from truncate import TruncateError, truncate, with_head


class Small(nn.Module):
    """Draws random numbers, counts and normalises."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.drop(self.norm(self.conv(x)))
        return (x + torch.rand_like(x)).mean((2, 3))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)

    def forward(self, ids: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = self.embed(ids) * scale
        return x if mask is None else x * mask[..., None]


class Returns(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> object:
        return self.value


def images(batch: int = 2, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size)


@pytest.mark.parametrize(
    ("kind", "upto", "size", "width"),
    [
        (resnet18, "flatten", 32, 512),
        (lambda: vit_b_16(image_size=32), "encoder", 32, 768),
        (lambda: swin_v2_t(weights=None), "flatten", 32, 768),
    ],
    ids=["resnet", "vit", "swin"],
)
def test_width(kind: Callable[[], nn.Module], upto: str, size: int, width: int) -> None:
    backbone = truncate(kind(), upto)
    model = with_head(backbone, 5, args=(torch.empty(1, 3, size, size, device="meta"),))
    assert type(model) is nn.Sequential
    assert [name for name, _ in model.named_children()] == ["backbone", "head"]
    assert model.backbone is backbone
    assert type(model.head) is nn.Linear and model.head.in_features == width and model.head.out_features == 5


def test_leaves_no_trace() -> None:
    backbone = Small()
    backbone.norm.eval()
    backbone.conv.weight.grad = torch.ones_like(backbone.conv.weight)
    before, x = copy.deepcopy(backbone.state_dict()), images()
    torch.manual_seed(3)
    fresh = nn.Linear(6, 4)
    after, python = torch.get_rng_state(), random.getstate()
    torch.manual_seed(3)
    model = with_head(backbone, 4, args=(x,))
    assert torch.equal(torch.get_rng_state(), after) and random.getstate() == python
    assert torch.equal(model.head.weight, fresh.weight) and torch.equal(model.head.bias, fresh.bias)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert [m.training for m in backbone.modules()] == [True, True, False, True]
    assert torch.equal(backbone.conv.weight.grad, torch.ones_like(backbone.conv.weight))
    assert not any(m._forward_hooks for m in backbone.modules())


def test_one_image_is_enough_in_training() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3))
    assert with_head(backbone, 2, args=(images(1, 2),)).head.in_features == 3
    assert backbone.training


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6)])
def test_of_each_token(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert with_head(nn.Identity(), 3, args=(x,))(x).shape == (*shape[:-1], 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_dtype(dtype: torch.dtype) -> None:
    model = with_head(Small().to(dtype), 3, args=(images().to(dtype),))
    assert model.head.weight.dtype == dtype
    assert model(images().to(dtype)).dtype == dtype


def test_device_of_a_meta_example() -> None:
    backbone = Small()
    example = torch.empty(1, 3, 16, 16, device="meta")
    assert with_head(backbone, 3, args=(example,)).head.weight.device.type == "cpu"
    assert with_head(nn.Flatten(), 3, args=(example,)).head.weight.device.type == "cpu"
    two = nn.Sequential(nn.Linear(16, 4, device="meta"), nn.Flatten(), nn.Linear(192, 4))
    assert with_head(two, 3, args=(example,)).head.weight.device.type == "cpu"  # of what is last
    assert with_head(backbone.to("meta"), 3, args=(example,)).head.weight.device.type == "meta"


def test_any_arguments() -> None:
    ids, mask = torch.tensor([[1, 2, 3]]), torch.tensor([[1.0, 1, 0]])
    backbone = Words()
    model = with_head(backbone, 2, kwargs={"ids": ids, "mask": mask})
    assert [name for name, _ in model.named_children()] == ["backbone", "head"]
    expected = model.head(backbone(ids, mask, scale=3.0))
    assert torch.equal(model(ids, mask, scale=3.0), expected)
    assert torch.equal(model(ids=ids, mask=mask, scale=3.0), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(ids, mask, scale=3.0), expected)
    assert truncate(model, "backbone.embed")(ids).shape == (1, 3, 4)
    assert with_head(backbone, 2, args=(ids, mask))(ids, mask).shape == (1, 3, 2)
    assert with_head(backbone, 2, args=(ids,), kwargs={"mask": mask})(ids, mask=mask).shape == (1, 3, 2)


def test_learns_at_two_rates() -> None:
    """Both parts move, each by its own rate: the first step of plain gradient descent is rate times gradient."""
    x, y = images(8), torch.arange(8) % 2
    model = with_head(Small().eval(), 2, args=(x,))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(
        [{"params": model.backbone.parameters(), "lr": 0.01}, {"params": model.head.parameters(), "lr": 0.1}]
    )
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate = 0.01 if name.startswith("backbone.") else 0.1
        assert parameter.grad.abs().sum() > 0
        assert torch.equal(parameter, torch.add(before[name], parameter.grad, alpha=-rate)), name


# -- what one can do to it -------------------------------------------------------------------------------------------


def example() -> tuple[nn.Module, Tensor]:
    x = images(2, 32)
    return with_head(truncate(resnet18().eval(), "flatten"), 3, args=(x,)), x


def test_duplicates() -> None:
    model, x = example()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(twin(x), model(x))
        assert not set(map(id, twin.parameters())) & set(map(id, model.parameters()))


def test_script_export_compile() -> None:
    model, x = example()
    assert torch.equal(torch.jit.script(model)(x), model(x))
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    other = images(3, 32)
    assert torch.equal(program.module()(other), model(other))
    torch.compiler.reset()
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


def test_a_lazy_head_of_torch() -> None:
    x = images(2, 32)
    model = nn.Sequential(truncate(resnet18(), "flatten"), nn.LazyLinear(3))
    assert model(x).shape == (2, 3)
    assert model[1].in_features == 512
    model(x).sum().backward()
    assert model[0].conv1.weight.grad is not None


# -- errors ----------------------------------------------------------------------------------------------------------


def test_maps_are_to_be_pooled() -> None:
    with pytest.raises(TruncateError) as caught:
        with_head(truncate(resnet18(), "layer1"), 3, args=(images(2, 32),))
    assert str(caught.value) == (
        "the backbone returns maps of shape [2, 64, 8, 8], and a head takes (N, C) or (N, L, C). "
        "Pool and flatten them: truncate(..., pool='avg', flatten=True), or pool='mean' if channels are last"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            (torch.ones(2, 3),),
            "a head takes one tensor, but the backbone returns a tuple. Stop at a layer that returns",
        ),
        ({"x": torch.ones(2, 3)}, "the backbone returns a dict"),
        (torch.ones(3), r"the backbone returns a tensor of shape \[3\] and torch.float32, and a head takes \(N, C\)"),
        (torch.ones(2, 3).long(), r"a tensor of shape \[2, 3\] and torch.int64, .* of floating point numbers"),
    ],
    ids=["tuple", "dict", "rank", "integers"],
)
def test_another_output(value: object, text: str) -> None:
    with pytest.raises(TruncateError, match=text):
        with_head(Returns(value), 3, args=(images(),))


@pytest.mark.parametrize("n", [0, -1, 2.0, "2", True])
def test_a_wrong_number(n: object) -> None:
    with pytest.raises(TruncateError, match=f"an integer, 1 or more, not {n!r}"):
        with_head(Small(), n, args=(images(),))  # type: ignore[arg-type]


def test_other_mistakes() -> None:
    with pytest.raises(TruncateError, match="with_head takes a torch.nn.Module, but got 3 of type int"):
        with_head(3, 2, args=(images(),))  # type: ignore[arg-type]
    with pytest.raises(TruncateError, match=r"found on an example input: give args=\(x,\)"):
        with_head(Small(), 2)
    with pytest.raises(TruncateError, match=r"as a tuple: args=\(x,\), not Tensor"):
        with_head(Small(), 2, args=images())  # type: ignore[arg-type]
    with pytest.raises(TruncateError, match="the model does not run on the example: RuntimeError"):
        with_head(Small(), 2, args=(torch.randn(2, 5, 16, 16),))
    with pytest.raises(TruncateError, match="lazy parameters. Run it once on an example"):
        with_head(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), 2, args=(images(),))
