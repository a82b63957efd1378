"""The listing names every place, and only places, where one can stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from oracle import equal, hooked
from torch import Tensor, nn

from truncate import TruncateError, UnknownTargetError, draw, layers, truncate


class Block(nn.Module):
    """A shared activation, an operation, and a module that runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.act = nn.ReLU()
        self.second = nn.Linear(4, 4)
        self.noise = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.act(self.first(x)))
        if self.training:
            y = self.noise(y)
        return self.act(x + y)


class Unfollowable(nn.Module):
    """Goes as often around as its input says."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps[: 1 + int(x.sum() > -1)]:
            x = step(x)
        return x


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.inner = Unfollowable()
        self.again = self.block.second
        self.bag = nn.ModuleDict({"a": nn.Identity()})

    def forward(self, x: Tensor) -> Tensor:
        x = self.bag["a"](self.again(self.inner(self.block(x))))
        return self.block(x).relu()


def test_running_order_calls_and_notes() -> None:
    places = layers(Around().eval())
    assert [(p.path, p.type, p.calls, p.notes) for p in places] == [
        ("inner", "Unfollowable", 1, "forward not followed"),
        ("inner.steps.0", "Linear", None, "perhaps not run"),
        ("inner.steps.1", "Linear", None, "perhaps not run"),
        ("inner.steps.2", "Linear", None, "perhaps not run"),
        ("again", "Linear", 3, "3 calls"),
        ("bag.a", "Identity", 1, ""),
        ("block", "Block", 2, "2 calls"),
        ("block.first", "Linear", 2, "2 calls"),
        ("block.second", "Linear", 3, "3 calls, the same module as again"),
        ("block.noise", "Linear", 2, "2 calls, only in training"),
        ("block.add", "add", 2, "from input and second, 2 calls"),
        ("block.act", "ReLU", 4, "4 calls"),
        ("relu", "relu", 1, ""),
    ]
    assert [p.after for p in places if p.path.startswith("inner.")] == ["inner"] * 3


def test_the_present_mode_decides() -> None:
    model = Block()
    assert [p.path for p in layers(model.train())] == ["first", "second", "noise", "add", "act"]
    assert not any(p.mode for p in layers(model))
    assert {p.path: p.mode for p in layers(model.eval()) if p.mode} == {"noise": "training"}


def test_tree() -> None:
    model = Around().eval()
    assert str(layers(model)) == "\n".join(
        [
            "Around                        140",
            "├── inner       Unfollowable   60    forward not followed",
            "│   └── steps",
            "│       ├── 0   Linear         20    perhaps not run",
            "│       ├── 1   Linear         20    perhaps not run",
            "│       └── 2   Linear         20    perhaps not run",
            "├── again       Linear         20    3 calls",
            "├── bag",
            "│   └── a       Identity",
            "├── block       Block          80    2 calls",
            "│   ├── first   Linear         20    2 calls",
            "│   ├── second  Linear         20    3 calls, the same module as again",
            "│   ├── noise   Linear         20    2 calls, only in training",
            "│   ├── add     add                  from input and second, 2 calls",
            "│   └── act     ReLU                 4 calls",
            "└── relu        relu",
        ]
    )
    assert layers(model).tree(depth=1).splitlines()[-1] == "└── relu   relu"
    assert "steps.0" not in layers(model).tree(depth=2)


def test_table_and_sequence() -> None:
    places = layers(Block().eval(), args=(torch.zeros(3, 4),))
    assert places.table() == "\n".join(
        [
            "target  type    parameters  output",
            "first   Linear          20  3×4",
            "second  Linear          20  3×4",
            "noise   Linear          20          only in training",
            "add     add                 3×4     from input and second",
            "act     ReLU                3×4     2 calls",
        ]
    )
    assert len(places) == 5
    assert places[0].path == "first"
    assert [p.path for p in places[-2:]] == ["add", "act"]
    assert repr(places) == "<5 layers and operations of Block>"


def test_down_to_a_depth() -> None:
    places = layers(Around().eval())
    everything = [place.path for place in places]
    for depth in (1, 2, 3):
        shown = [line.split()[0] for line in places.table(depth).splitlines()[1:]]
        assert shown == [path for path in everything if path.count(".") < depth]
    assert places.table(3) == places.table()
    for depth in (0, -3, "2"):
        for show in (places.tree, places.table):
            with pytest.raises(TruncateError, match=f"depth is a number of levels, 1 or more, .* not {depth!r}"):
                show(depth)  # type: ignore[arg-type]


def test_an_example_tells_what_really_ran() -> None:
    model = Around().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    found = {p.path: p for p in layers(model, kwargs={"x": torch.ones(2, 4)})}
    assert found["inner.steps.0"].calls == 1
    assert found["inner.steps.0"].shape == (2, 4)
    assert found["inner.steps.2"].calls == 0
    assert found["inner.steps.2"].notes == "not run"
    assert found["inner.steps.2"].shape is None
    assert found["again"].calls == 3
    assert torch.equal(torch.get_rng_state(), state)
    assert not model._forward_hooks
    assert not model.block._forward_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_shapes_of_nested_outputs() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 5, batch_first=True)
            self.fc = nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0]).sum()

    found = {p.path: p for p in layers(Nested(), args=(torch.zeros(2, 3, 4),))}
    assert found["lstm"].shape == ((2, 3, 5), ((1, 2, 5), (1, 2, 5)))
    assert found["sum"].shape == ()
    text = layers(Nested(), args=(torch.zeros(2, 3, 4),)).table()
    assert "(2×3×5, (1×2×5, 1×2×5))" in text
    assert "scalar" in text


@pytest.mark.parametrize("function", [layers, draw])
def test_an_example_on_which_the_model_does_not_run(function: Callable[..., Any]) -> None:
    """The same error as that of `truncate`."""
    net, example = nn.Sequential(nn.Linear(3, 4)), (torch.zeros(1, 7),)
    with pytest.raises(TruncateError) as expected:
        truncate(net, "0", args=example)
    with pytest.raises(TruncateError, match="^the model does not run on the example: RuntimeError: ") as caught:
        function(net, args=example)
    assert str(caught.value) == str(expected.value)


def test_a_wrong_type_is_named() -> None:
    with pytest.raises(TruncateError, match="layers takes a torch.nn.Module, but got 'resnet18' of type str"):
        layers("resnet18")  # type: ignore[arg-type]


MODELS: dict[str, tuple[Any, int]] = {
    "resnet18": (lambda: torchvision.models.resnet18(), 64),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32), 32),
    "googlenet": (lambda: torchvision.models.googlenet(init_weights=False), 64),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 3, 2, 2), 8), 64),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(), 64),
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4]), 32),
    "timm_resnet": (lambda: timm.create_model("resnet10t"), 64),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_listed_place_is_accepted_and_right(name: str) -> None:
    torch.manual_seed(0)
    make, size = MODELS[name]
    model = make().eval()
    x = torch.randn(1, 3, size, size)
    places = [p for p in layers(model) if p.after is None and not p.mode]
    assert len({p.path for p in places}) == len(places)
    modules = [p for p in places if p.is_module]
    with torch.no_grad(), hooked({p.path: model.get_submodule(p.path) for p in modules}) as seen:
        model(x)
    assert {p.path: p.calls for p in modules} == {path: len(outputs) for path, outputs in seen.items()}
    # Nothing that runs is left out, but for what only runs inside something that could not be followed.
    listed, unfollowed = {p.path for p in modules}, [p.path for p in layers(model) if not p.followed]
    with torch.no_grad(), hooked(dict(model.named_modules())) as ran:
        model(x)
    missed = {path for path, outputs in ran.items() if outputs and path} - listed
    assert not [path for path in missed if not path.startswith(tuple(f"{u}." for u in unfollowed))]
    for place in places:
        with torch.no_grad():
            output = truncate(model, place.path)(x)
        if place.is_module:
            assert equal(output, seen[place.path][-1]), place.path


def test_operations_stand_where_they_run() -> None:
    """Each operation is listed between the modules that run before and after it."""
    paths = [p.path for p in layers(torchvision.models.resnet18())]
    assert paths.index("layer1.0.bn2") < paths.index("layer1.0.add") < paths.index("layer1.0.relu")
    assert paths.index("avgpool") < paths.index("flatten") < paths.index("fc")


def test_googlenet_marks_its_auxiliary_heads() -> None:
    model = torchvision.models.googlenet(init_weights=False)
    training, evaluation = layers(model.train()), layers(model.eval())
    assert sorted(p.path for p in training) == sorted(p.path for p in evaluation)
    assert {p.path for p in evaluation if p.mode == "training"} >= {"aux1", "aux1.conv.conv", "aux2.fc2"}
    assert not any(p.mode for p in training)
    assert [p.path for p in evaluation].index("aux1") > [p.path for p in evaluation].index("inception4a.cat")


def test_a_row_by_its_path() -> None:
    rows = layers(torchvision.models.resnet18())
    assert rows["layer3"] is next(row for row in rows if row.path == "layer3")
    assert rows["layer1[0].conv1"].path == rows[" layer1.0.conv1 "].path == "layer1.0.conv1"
    with pytest.raises(UnknownTargetError, match="no row 'layer9'.* of ResNet has this path. Did you mean 'layer"):
        rows["layer9"]
    with pytest.raises(LookupError, match="print"):
        rows["zzz"]


class OutOfOrder(nn.Module):
    """Registered in another order than it runs; branches on a size of its input in a way that is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.idle, self.first = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if len(x.unbind()) > 1:
            x = x.neg()
        return self.last(x)


class Doubting(OutOfOrder):
    """Goes on after an error, so that it cannot be recorded."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum().item() < 1e9 else x


def test_an_example_tells_in_which_order_a_forward_ran() -> None:
    model, x = OutOfOrder().eval(), torch.ones(2, 4)
    found = layers(model, (x,))
    assert [row.path for row in layers(model)] == ["last", "idle", "idle.0", "first"]
    assert [(row.path, row.calls, row.shape) for row in found] == [
        ("first", 1, (2, 4)),
        ("neg", 1, (2, 4)),
        ("last", 1, (2, 4)),
        ("idle", 0, None),
        ("idle.0", 0, None),
    ]
    assert {row.after for row in found} == {""}
    assert torch.equal(truncate(model, "neg", (x,))(x), -model.first(x))


def test_an_example_tells_in_which_order_children_ran_where_nothing_is_recorded() -> None:
    found = [row for row in layers(Doubting().eval(), (torch.ones(2, 4),)) if row.is_module]
    assert [(row.path, row.calls) for row in found] == [("first", 1), ("last", 1), ("idle", 0), ("idle.0", 0)]
