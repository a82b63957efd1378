"""Types and patterns that name several layers, numbers, items of what layers return, and the last layer."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from oracle import capture, equal
from torch import Tensor, nn
from torchvision.models import alexnet, resnet18, vit_b_16

from truncate import TruncateError, UnknownTargetError, freeze, split, truncate


class Recurrent(nn.Module):
    """Layers that return several, under names that are also children elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.attention = nn.LSTM(4, 4, batch_first=True), nn.MultiheadAttention(4, 2, batch_first=True)
        self.named, self.fc = Named(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        y, (h, _) = self.lstm(x)
        y, _ = self.attention(y, y, y)
        first, second = y.split(2, dim=2)
        return self.fc(self.named(y)["out"] + first.sum() + second.sum()), h


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.inner(x), "in": x}


X = torch.randn(2, 3, 4)


def item(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value[key]
    return value


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # of torch.export, about any LSTM
@pytest.mark.parametrize("how", [{}, {"live": True}, {"args": (X,)}])
@pytest.mark.parametrize(
    ("written", "path", "keys"),
    [
        ("lstm[0]", "lstm", (0,)),
        ("lstm[1][0]", "lstm", (1, 0)),
        ("lstm[-1][1]:0", "lstm", (-1, 1)),
        ("attention[0]", "attention", (0,)),
        ("named['out']", "named", ("out",)),
        ('named["in"]', "named", ("in",)),
        ("[0]", "", (0,)),
        ("[-1]", "", (-1,)),
    ],
)
def test_an_item(how: Any, written: str, path: str, keys: Any) -> None:
    model = Recurrent().eval()
    expected = item(model(X) if not path else capture(model, [path], X)[path][-1], *keys)
    cut = truncate(model, written, **how)
    for made in (cut, copy.deepcopy(cut), pickle.loads(pickle.dumps(cut)), truncate(model, [written], **how)):
        got = made(X)
        assert torch.equal(got[0] if isinstance(got, list) else got, expected)
    assert torch.equal(truncate(model, written, pool=nn.Tanh(), **how)(X), expected.tanh())
    if how != {"live": True} and path != "":
        assert torch.equal(torch.jit.script(cut)(X), expected)
        assert torch.equal(torch.export.export(cut, (X,)).module()(X), expected)
    assert truncate(model, cut.targets, **how)(X).equal(expected)  # type: ignore[operator]


def test_items_with_others_and_of_operations() -> None:
    model = Recurrent().eval()
    seen = capture(model, ["lstm", "attention"], X)
    y = seen["attention"][-1][0]
    cut = truncate(model, {"a": "lstm[0]", "h": "lstm[1][0]", "both": "lstm", "part": "split[1]", "all": "[0]"})
    got = cut(X)
    assert equal([got["a"], got["h"]], [seen["lstm"][-1][0], seen["lstm"][-1][1][0]])
    assert equal(got["both"], seen["lstm"][-1])
    assert torch.equal(got["part"], y[:, :, 2:])
    assert torch.equal(got["all"], model(X)[0])
    model.register_forward_hook(lambda module, args, output: (output[0] + 1, output[1]))
    assert equal(truncate(model, ["[0]", "lstm[0]"])(X), [model(X)[0], seen["lstm"][-1][0]])


@pytest.mark.parametrize("how", [{}, {"live": True}])
def test_a_tensor_has_no_items(how: Any) -> None:
    cut = truncate(Recurrent().eval(), "fc[0]", **how)
    with pytest.raises((AssertionError, TruncateError), match="this one returns a tensor. Leave it out"):
        cut(X)


def test_a_path_that_names_a_child_is_the_child() -> None:
    class Child(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.fc = nn.Linear(4, 4), nn.Linear(4, 4)
            self.add_module("0", nn.Linear(4, 4))
            self.add_module("before fc", nn.Tanh())

        def forward(self, x: Tensor) -> Any:
            return self.fc(self.get_submodule("0")(getattr(self, "before fc")(self.last(x))))

    model = Child()
    for written, path in {"[0]": "0", "last": "last", "before fc": "before fc"}.items():
        assert truncate(model, written).targets == path  # type: ignore[attr-defined]
    with pytest.raises(UnknownTargetError, match="holds no '7'"):
        truncate(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.ReLU()), "0[7]")


def test_numbers() -> None:
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 4), b=nn.Tanh(), c=nn.ReLU()))
    for number, path in {0: "a", 1: "b", -1: "c", -2: "b"}.items():
        assert truncate(model, number).targets == path  # type: ignore[attr-defined]
    assert truncate(model, [0, 1]).targets == ["a", "b"]  # type: ignore[attr-defined]
    assert [len(part) for part in split(model, 0)] == [1, 2]  # type: ignore[arg-type]
    with pytest.raises(UnknownTargetError, match="'3'"):
        truncate(model, 3)
    for wrong in (True, 1.5):
        with pytest.raises(TruncateError, match=f"but got {wrong}"):
            truncate(model, wrong)
    with pytest.raises(TruncateError, match="a number if the model is an nn.Sequential"):
        truncate(resnet18(), 3)


def test_a_type() -> None:
    model, x = resnet18().eval(), torch.randn(1, 3, 32, 32)
    paths = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    cut: Any = truncate(model, nn.Conv2d)
    seen = capture(model, paths, x)
    assert cut.targets == paths
    assert equal(cut(x), [seen[path][-1] for path in paths])
    assert truncate(model, {"fc": nn.Linear, "stem": "conv1"}).targets == {"fc": ["fc"], "stem": "conv1"}  # type: ignore
    assert truncate(model, before=nn.Linear).targets == ["before fc"]  # type: ignore[attr-defined]
    with pytest.raises(UnknownTargetError, match=r"no layer of this ResNet is a Conv1d. Did you mean Conv2d\?"):
        truncate(model, nn.Conv1d)
    with pytest.raises(TruncateError, match="of type type"):
        truncate(model, int)


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("layer*.0.conv1", [f"layer{n}.0.conv1" for n in range(1, 5)]),
        ("layer?[0].conv1", [f"layer{n}.0.conv1" for n in range(1, 5)]),
        ("layer?", [f"layer{n}" for n in range(1, 5)]),
        ("layer?.0.relu:0", [f"layer{n}.0.relu:0" for n in range(1, 5)]),
        ("*pool", ["maxpool", "avgpool"]),
        ("before *fc", ["before fc"]),
    ],
)
def test_a_pattern(pattern: str, paths: list[str]) -> None:
    model, x = resnet18().eval(), torch.randn(1, 3, 32, 32)
    cut: Any = truncate(model, pattern)
    assert cut.targets == paths
    assert equal(cut(x), truncate(model, paths)(x))


def test_a_pattern_for_nothing() -> None:
    with pytest.raises(UnknownTargetError, match=r"like 'layer\*.conv7'. Near it are 'layer4.*layers\(model\)"):
        truncate(resnet18(), "layer*.conv7")
    held = nn.Sequential(OrderedDict({"a*": nn.Linear(4, 4), "ab": nn.Tanh()}))
    assert truncate(held, "a*").targets == "a*"  # type: ignore[attr-defined]


def test_where_one_layer_is_meant() -> None:
    model = resnet18().eval()
    assert [part.targets for part in split(model, "layer?")] == ["layer1", "layer2", "layer3", "layer4", ""]
    for wrong in ("layer*", nn.Conv2d, "layer1.0[0]", "before fc"):
        with pytest.raises(TruncateError, match="a model is divided after one layer"):
            truncate(model, after=wrong)
    with pytest.raises(TruncateError, match="before= cannot select items"):
        truncate(Recurrent(), before="lstm[0]")


def test_freezing_several() -> None:
    model = freeze(resnet18(), "layer?.0.bn1")
    assert not model.layer4[0].conv1.weight.requires_grad
    assert model.layer4[0].conv2.weight.requires_grad


@pytest.mark.parametrize(
    ("model", "path"),
    [(resnet18, "fc"), (alexnet, "classifier.6"), (vit_b_16, "heads.head")],
)
def test_the_last_layer(model: Any, path: str) -> None:
    network = model(weights=None).eval()
    assert truncate(network, before="last").targets == f"before {path}"  # type: ignore[attr-defined]
    assert truncate(network, ["last"]).targets == [path]  # type: ignore[attr-defined]


class Late(nn.Module):
    """Registers its head first, and has a norm and a softmax after it."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.head, self.norm, self.end, self.body = nn.Linear(4, 4), nn.LayerNorm(4), nn.Softmax(1), nn.Linear(4, 4)
        self.unused, self.branches = nn.Linear(4, 4), branches

    def forward(self, x: Tensor) -> Any:
        x = self.body(-x if self.branches and x.shape[0] > 1 else x)
        return self.end(self.norm(self.head(x)))


def test_the_last_is_the_last_that_runs() -> None:
    x = torch.randn(2, 4)
    assert truncate(Late(False), "last").targets == "head"  # type: ignore[attr-defined]
    assert truncate(Late(True), "last", args=(x,)).targets == "head"  # type: ignore[attr-defined]
    with pytest.raises(TruncateError, match=r"runs last depends on values: give an example, args=\(x,\)"):
        truncate(Late(True), "last")
    with pytest.raises(TruncateError, match="runs no layer with weights"):
        truncate(nn.Sequential(nn.ReLU()), "last")


def test_the_last_layer_is_parametrized() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2)))
    assert truncate(model, before="last").targets == "before 2"


def test_a_type_beside_a_scripted_child() -> None:
    model = nn.Sequential(torch.jit.script(nn.ReLU()), nn.Linear(4, 4))
    assert truncate(model, nn.Linear).targets == ["1"]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.a(x), x


def test_an_item_that_is_not_there() -> None:
    with pytest.raises(TruncateError, match="has no item 2: it is a tuple"):
        truncate(Pair(), "[2]")


def test_a_cut_of_all_of_a_cut_says_what_it_is() -> None:
    cut = truncate(Pair(), "a")
    assert (truncate(cut, "").targets, truncate(cut, "").origin) == (cut.targets, cut.origin)
