"""What a cut says of itself: when printed, and as attributes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn
from torchvision.models import resnet18

from truncate import freeze, split, truncate

X = torch.ones(2, 4)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x if x.shape[0] > 1 else -x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.block, self.b = nn.Linear(4, 4), Branches(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.block(self.a(x)))


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


ORIGIN = f"{__name__}.Net"


@pytest.mark.parametrize(
    ("asked", "targets", "line"),
    [
        ({"upto": "a"}, "a", "Net, up to 'a'"),
        ({"upto": ["a", "block.-1:0"]}, ["a", "block.second:0"], "Net, up to ['a', 'block.second:0']"),
        ({"upto": {"low": "a", "all": ("", "b")}}, {"low": "a", "all": ("", "b")}, None),
        ({"upto": Pair("a", "b")}, Pair("a", "b"), "Net, up to Pair(low='a', high='b')"),
        ({"before": "b"}, "before b", "Net, before 'b'"),
        ({"after": "a"}, "", "Net, after 'a'"),
        ({"after": "a", "upto": "b"}, "b", "Net, after 'a', up to 'b'"),
        ({"upto": "a", "pool": nn.Tanh()}, "a", "Net, up to 'a'"),
        ({"upto": "a", "live": True}, "a", "Net, up to 'a'"),
    ],
)
def test_what_was_asked(asked: Any, targets: Any, line: str | None) -> None:
    cut: Any = truncate(Net(), **asked)
    assert (cut.origin, cut.targets) == (ORIGIN, targets)
    assert type(cut.targets) is type(targets)
    assert line is None or str(cut).splitlines()[1].strip() == line


def test_a_module_as_a_target_is_its_path() -> None:
    model = Net()
    cut: Any = truncate(model, [model.a, "block.first"])
    assert cut.targets == ["a", "block.first"]


def test_how_each_module_was_rebuilt() -> None:
    recorded = str(truncate(Net(), "block.first", args=(X,))).splitlines()
    assert recorded[2].strip() == "followed; recorded: block"
    assert str(truncate(Net(), "block.first")).splitlines()[2].strip() == "followed; live: block"
    assert str(truncate(Branches(), "first", args=(X,))).splitlines()[2].strip() == (
        "recorded on the example, 1 fixed: see assumptions"
    )
    inside = str(truncate(resnet18(), "layer2.0.conv2"))
    assert inside.startswith("TruncatedResNet(\n  ResNet, up to 'layer2.0.conv2'\n  followed\n")
    assert inside.count("up to") == 1


def test_pieces_and_slices_and_the_whole() -> None:
    one, two, three = split(Net(), ["a", "block"])
    assert [part.targets for part in (one, two, three)] == ["a", "block", ""]
    assert str(two).splitlines()[1].strip() == "Net, after 'a', up to 'block'"
    assert str(three).splitlines()[1].strip() == "Net, after 'block'"
    chain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.ReLU())
    for cut in (truncate(chain, "1"), truncate(chain, ""), *split(chain, "1")):
        assert type(cut) is nn.Sequential and cut.origin == "torch.nn.modules.container.Sequential"
        assert str(cut).startswith("Sequential(\n  (") and repr(cut.targets) in ("'1'", "''")
    assert not hasattr(chain, "targets")


def test_hooks_of_the_model() -> None:
    model = Net()
    model.register_forward_hook(lambda module, args, output: output + 1)
    model.block.register_forward_pre_hook(lambda module, args: None)
    cut: Any = truncate(model, {"a": "block.first", "out": ""}, args=(X,))
    assert cut.targets == {"a": "block.first", "out": ""}
    again: Any = truncate(truncate(model, "block", args=(X,)), "block.first", args=(X,))
    assert (again.targets, str(again).count("up to")) == ("block.first", 1)


def saved(cut: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(cut, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda cut: pickle.loads(pickle.dumps(cut)), saved, freeze])
@pytest.mark.parametrize("live", [True, None])
def test_it_survives(how: Callable[[nn.Module], Any], live: bool | None) -> None:
    cut = truncate(Net(), ["a", "block.first"], live=live)
    made = how(cut)
    assert (made.origin, made.targets) == (ORIGIN, ["a", "block.first"])
    assert "Net, up to ['a', 'block.first']" in str(made)
    assert made.state_dict().keys() == cut.state_dict().keys() <= Net().state_dict().keys()


@pytest.mark.parametrize("live", [True, None])
def test_a_cut_of_a_cut(live: bool | None) -> None:
    whole = truncate(Net(), "block.first", args=(X,), live=live)
    cut: Any = truncate(whole, "a", live=live)
    assert (cut.origin, cut.targets) == (ORIGIN, "a")
    assert "Net, up to 'a'" in str(cut)
    chain: Any = truncate(truncate(nn.Sequential(nn.ReLU(), nn.Tanh()), "1"), "0")
    assert chain.targets == "0"


class Named(nn.Module):
    """Has children and data of its own by these names."""

    def __init__(self, needs: bool) -> None:
        super().__init__()
        self.targets, self.b, self.needs = nn.Linear(4, 4), nn.Linear(4, 4), needs
        self.origin = [1, 2]

    def forward(self, x: Tensor) -> Any:
        return self.b(self.targets(x))


@pytest.mark.parametrize("live", [True, None])
def test_what_the_model_has_under_these_names_is_the_model_s(live: bool | None) -> None:
    model = Named(True)
    cut: Any = truncate(model, "b", live=live)
    for made in (cut, copy.deepcopy(cut), truncate(cut, "targets", live=live)):
        assert made.origin == [1, 2]
        assert isinstance(made.targets, nn.Linear)
        assert "Named, up to '" in str(made)
    assert torch.equal(cut(X), model(X))


@pytest.mark.parametrize("upto", ["a", ["a", "block"], ("a", "block"), {"low": "a"}, Pair("a", "block")])
def test_it_scripts_and_exports(upto: Any) -> None:
    class Plain(Net):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(4, 4)

    cut = truncate(Plain(), upto)
    expected = cut(X)
    for made in (
        torch.jit.script(cut),
        torch.export.export(cut, (X,)).module(),
        torch.compile(cut, backend="eager"),
        fx.symbolic_trace(cut),
    ):
        got = made(X)
        assert torch.equal(torch.utils._pytree.tree_leaves(got)[0], torch.utils._pytree.tree_leaves(expected)[0])


def test_its_class_is_documented() -> None:
    for cut in (truncate(Net(), "a"), pickle.loads(pickle.dumps(truncate(Net(), "a")))):
        assert "`targets`" in str(type(cut).__doc__)
