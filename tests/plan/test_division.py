"""Both sides of a cut: what a place is given, what follows it, and a model in pieces.

Every model of the gallery is divided at each place, all that crosses handed on, and the pieces compared with the model.
"""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
import torchvision
from gallery import GALLERY, Specimen
from oracle import cloned, equal, randomize, tensors_in
from places import ALL, ARGUMENTS, prepared, refused, run
from rebuilt import truncate
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_map

from truncate import CannotFollowError, CrossingError, NotReachedError, TruncateError, split

# -- every place of every hostile model ------------------------------------------------------------------------------


def given_to(model: nn.Module, spec: Specimen, path: str, call: int) -> tuple[Any, Any] | None:
    """What a pre-hook on the untouched model captures at one call of a place."""
    seen: list[Any] = []
    module = model.get_submodule(path)
    if isinstance(module, torch.jit.ScriptModule):
        return None
    with module.register_forward_pre_hook(
        lambda m, a, k: seen.append((cloned(a), cloned(k))), with_kwargs=True, prepend=True
    ):
        run(model, spec)
    return seen[call] if len(seen) > call else None


SURE = [place for place in ALL if not refused(place.values[0], place.values[1])]

# Where a model of the gallery cannot be divided, and the words that say why.
UNDIVIDED = {
    "ChildChangesArgument-adds.fc": "'adds' changes its input in place, and later operations read that",
    "InplaceOnInput-drop": "several values that share memory",  # dropout returns its argument in evaluation
    "AppendsToChildsList-body.fc": "several values that share memory",
    "ReadsChildsAttribute-attention.fc": "'attention.weights' is set by a forward that would be cut",
    "ReadsAttributeOfDeadCall-attention.fc": "'attention.weights' is set by a forward that would be cut",
    "HookedChildren-block.": "'block' has hooks",
    "HookedChildren-chain.": "'chain' has hooks",
    "HookedSharedBlock-block.": "'block' has hooks",
    "HookedItself-": "the model itself has hooks",
    "CountsAnew-block.act": "'block.count' is assigned again in each call",
    "CountsBeforeAndBehind-block.act": "several values that share memory",
    "SharedBlock-block.fc:1": "'block' is also needed whole",
    "SharedBlock-block.norm:1": "'block' is also needed whole",
    "SharedBlock-block.act:1": "'block' is also needed whole",
}


@pytest.mark.parametrize(ARGUMENTS, SURE)
def test_what_a_place_is_given(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    model = spec.make()
    result = truncate(model, before=f"{path}:{call}")
    for training in modes:
        expected = given_to(copy.deepcopy(model).train(training), spec, path, call)
        if expected is not None:
            value = run(copy.deepcopy(result).train(training), spec)
            assert equal(list(tensors_in(value)), list(tensors_in(expected)))


@pytest.mark.parametrize(ARGUMENTS, SURE)
def test_pieces_are_the_model(
    request: pytest.FixtureRequest, spec: Specimen, path: str, call: int, modes: tuple[bool, ...]
) -> None:
    model = spec.make()
    for place, words in UNDIVIDED.items():
        if request.node.callspec.id.startswith(place):
            with pytest.raises((CrossingError, CannotFollowError), match=re.escape(words)):
                split(model, f"{path}:{call}", crossing="pass")
            return
    pieces = split(model, f"{path}:{call}", crossing="pass")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for training in modes:
        whole, parts = copy.deepcopy(model).train(training), copy.deepcopy(pieces)
        assert equal(run_in_turn(parts, spec, training), run(whole, spec))
        held = {id(value): value for part in parts for value in part.state_dict().values()}
        assert all(any(equal(value, other) for other in whole.state_dict().values()) for value in held.values())
    assert all(equal(value, before[name]) for name, value in model.state_dict().items())


def run_in_turn(parts: tuple[nn.Module, ...], spec: Specimen, training: bool) -> Any:
    args, kwargs = prepared(spec)
    value = parts[0].train(training)(*args, **kwargs)
    for part in parts[1:]:
        value = part.train(training)(value)
    return value


@pytest.mark.parametrize("name", sorted(GALLERY))
def test_three_pieces(name: str) -> None:
    """Divided at two places that run one after the other, as far as two such can be had."""
    places = [place.values for place in SURE if place.id.startswith(f"{name}-")]
    if not places or any(name.startswith(place.partition("-")[0]) for place in UNDIVIDED):
        pytest.skip("cannot be divided everywhere")
    spec = places[0][0]
    order = [f"{path}:{call}" for path, call in order_of(spec)]
    known = [f"{path}:{call}" for _, path, call, modes in places if False in modes]
    running = [place for place in order if place in known]
    if len(running) < 2:
        pytest.skip("runs one place only")
    model = spec.make().eval()
    first, last = running[len(running) // 3], running[-1]
    if first == last:
        first = running[0]
    pieces = split(model, [first, last], crossing="pass")
    assert len(pieces) == 3
    assert equal(run_in_turn(copy.deepcopy(pieces), spec, False), run(copy.deepcopy(model), spec))


def order_of(spec: Specimen) -> list[tuple[str, int]]:
    """All calls of a pass in the order in which they return."""
    model, calls = spec.make().eval(), list[tuple[str, int]]()
    counts: dict[str, int] = {}

    def note(path: str) -> None:
        calls.append((path, counts.get(path, 0)))
        counts[path] = counts.get(path, 0) + 1

    for path, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_hook(lambda m, args, output, path=path: note(path))
    run(model, spec)
    return calls


# -- what a division is ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return randomize(torchvision.models.resnet18(num_classes=10)).eval()


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_both_sides(resnet: nn.Module, photos: Tensor) -> None:
    front, back = split(resnet, at="layer3")
    assert torch.equal(back(front(photos)), resnet(photos))
    assert [name for name, _ in back.named_children()] == ["layer4", "avgpool", "fc"]
    assert back.layer4 is resnet.layer4
    held = {*front.state_dict(), *back.state_dict()}
    assert held == set(resnet.state_dict())
    assert not set(front.state_dict()) & set(back.state_dict())
    assert torch.equal(truncate(resnet, after="layer3")(front(photos)), resnet(photos))


def test_a_sliced_sequential_is_one() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.Linear(4, 1))
    front, back = split(model, at="1")
    assert type(front) is type(back) is nn.Sequential
    assert list(front._modules) == ["0", "1"] and list(back._modules) == ["2", "3"]
    middle = truncate(model, after="0", upto="2")
    assert type(middle) is nn.Sequential and list(middle._modules) == ["1", "2"]


def test_before_is_the_embedding(resnet: nn.Module, photos: Tensor) -> None:
    embed = truncate(resnet, before="fc")
    assert torch.equal(resnet.fc(embed(photos)), resnet(photos))
    assert "fc.weight" not in embed.state_dict()
    both = truncate(resnet, before={"deep": "fc", "early": "layer2"})(photos)
    assert torch.equal(both["deep"], embed(photos))
    assert torch.equal(both["early"], truncate(resnet, "layer1")(photos))


def test_before_an_operation(resnet: nn.Module, photos: Tensor) -> None:
    block, identity = truncate(resnet, before="layer1.0.add")(photos)
    assert torch.equal(identity, truncate(resnet, "maxpool")(photos))
    assert torch.equal(block, truncate(resnet, "layer1.0.bn2")(photos))


def test_a_stretch(resnet: nn.Module, photos: Tensor) -> None:
    stretch = truncate(resnet, after="layer1", upto={"c3": "layer2", "c4": "layer3.0.bn1", "logits": ""})
    outputs = stretch(truncate(resnet, "layer1")(photos))
    assert torch.equal(outputs["c3"], truncate(resnet, "layer2")(photos))
    assert torch.equal(outputs["c4"], truncate(resnet, "layer3.0.bn1")(photos))
    assert torch.equal(outputs["logits"], resnet(photos))
    assert not any(name.startswith(("conv1", "layer1")) for name in stretch.state_dict())
    given = truncate(resnet, after="layer1", before="layer3.1.conv2")(truncate(resnet, "layer1")(photos))
    assert torch.equal(given, truncate(resnet, before="layer3.1.conv2")(photos))


def test_what_crosses_is_listed(resnet: nn.Module) -> None:
    with pytest.raises(CrossingError) as caught:
        split(resnet, at="layer2.0.conv1")
    assert str(caught.value) == (
        "the model cannot be divided after 'layer2.0.conv1', since more than its output crosses there:\n"
        "    'layer2.0.conv1', needed by 'layer2.0.bn1'\n"
        "    'layer1', needed by 'layer2.0.downsample'\n"
        "After 'layer1', which runs earlier, and after 'layer2.0.add', which runs later, nothing but its own output "
        "crosses: divide there. "
        "Or crossing='pass' passes all of it on, as a tuple"
    )
    for place in ("layer1", "layer2.0.add"):
        split(resnet, at=place)


def test_all_that_crosses_is_passed(resnet: nn.Module, photos: Tensor) -> None:
    front, back = split(resnet, at="layer2.0.conv1", crossing="pass")
    crossing = front(photos)
    assert len(crossing) == 2
    assert torch.equal(crossing[0], truncate(resnet, "layer2.0.conv1")(photos))
    assert torch.equal(crossing[1], truncate(resnet, "layer1")(photos))
    kept = [value.clone() for value in crossing]
    assert torch.equal(back(crossing), resnet(photos))
    assert all(map(torch.equal, crossing, kept)), "in-place work is not done on what the caller holds"


@pytest.mark.parametrize("at", ["layer3", "layer2.0.conv1", ["layer1", "layer2.0.conv1", "avgpool"]])
def test_pieces_are_ordinary_modules(resnet: nn.Module, photos: Tensor, at: Any) -> None:
    """Trained, scripted, exported, compiled and pickled, piece by piece."""
    pieces = split(resnet, at, crossing="pass", copy=True)
    value: Any = photos
    for piece in pieces:
        expected = piece(value)
        for twin in (
            copy.deepcopy(piece),
            pickle.loads(pickle.dumps(piece)),
            torch.jit.script(piece),
            torch.export.export(piece, (value,)).module(),
            torch.compile(piece, fullgraph=True, backend="eager"),
        ):
            assert equal(twin(value), expected)
        value = tree_map(Tensor.detach, expected)
    whole = copy.deepcopy(resnet).train()
    value = photos
    for piece in pieces:
        value = piece.train()(value)
    assert torch.equal(value, whole(photos))
    value.sum().backward()
    whole(photos).sum()
    assert all(p.grad is not None for piece in pieces for p in piece.parameters())


def test_inputs_are_not_overwritten() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    features = torch.randn(2, 4)
    kept = features.clone()

    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            y += 1
            return y

    back = truncate(Adds(), after="body")
    back(features)
    assert torch.equal(features, kept)


def test_a_parameter_on_both_sides_is_one_object() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.fc(x)))

    model = Tied()
    front, back = split(model, "act")
    assert front.fc.weight is back.fc.weight is model.fc.weight
    front, back = split(model, "act", copy=True)
    assert front.fc.weight is back.fc.weight is not model.fc.weight


def test_one_mode_may_be_divided_where_the_other_is_not() -> None:
    """The auxiliary outputs of GoogLeNet are computed in training only, and cross."""
    model = torchvision.models.googlenet(init_weights=False, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    front, back = split(model, "inception4d")
    assert torch.equal(back(front(images)), model(images))
    with pytest.raises(NotReachedError, match=r"would cross while training is True:\n    'inception4d'"):
        back.train()(front(images))


def test_an_example() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, times: int = 1) -> Tensor:
            x = self.a(x)
            if x.shape[1] > 2:
                x = x * times
            return self.b(x) + x.shape[0]

    model = Branches()
    with pytest.raises(CannotFollowError):
        split(model, "a")
    front, back = split(model, "a", args=(torch.randn(2, 4),), crossing="pass")
    x = torch.randn(5, 4)
    assert torch.equal(back(front(x)), model(x))
    assert truncate(model, before="b", args=(x,)).assumptions


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "say where to stop, for example upto='layer3'. print(layers(model)) lists all targets"),
        ({"upto": "fc", "before": "fc"}, "upto='fc' and before='fc' both say where to stop; give only one of them"),
        ({"before": ""}, "before='' stops at what the model itself is given, where nothing has been computed yet"),
        ({"before": []}, "nothing to stop at: before is [], which holds no target"),
        ({"after": ""}, "'' is the model itself, and nothing follows it"),
        ({"after": "fc", "crossing": "all"}, "crossing is 'refuse' or 'pass', not 'all'"),
        (
            {"after": "layer3", "upto": "layer2"},
            "'layer2' does not run after the layer where this module begins",
        ),
        ({"after": "layer3", "upto": "layer3"}, "'layer3' does not run after the layer where"),
        ({"after": "layer5"}, "no target 'layer5'"),
    ],
)
def test_bad_requests(resnet: nn.Module, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(TruncateError, match=re.escape(says)):
        truncate(resnet, **arguments)


def test_bad_divisions(resnet: nn.Module) -> None:
    with pytest.raises(TruncateError, match="nothing to divide at: `at` holds no target"):
        split(resnet, at=[])
    with pytest.raises(TruncateError, match="does not run after the layer where"):
        split(resnet, at=["layer3", "layer2"])
    with pytest.raises(TruncateError, match="^split takes a torch.nn.Module, but got 'resnet18' of type str$"):
        split("resnet18", at="layer3")  # type: ignore[arg-type]


class RunsTheStageTwice(nn.Module):
    """Of the second run nothing is read, and it counts nevertheless."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.ReLU(), parametrizations.spectral_norm(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.first(x)
            y: Tensor = self.norm(x)
            return y

    def __init__(self) -> None:
        super().__init__()
        self.stage = self.Stage()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.stage(x)
        self.stage(y)
        return y


@pytest.mark.parametrize("training", [False, True])
def test_a_call_that_counts_is_not_made_in_two_pieces(training: bool) -> None:
    model = RunsTheStageTwice().train(training)
    with pytest.raises(CrossingError, match="'stage' is also needed whole.* It changes its own state"):
        split(model, at="stage.first", crossing="pass")


def test_nothing_follows_a_dead_end() -> None:
    class DeadEnd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.aside = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.aside(x)
            return self.a(torch.ones(2, 2))

    with pytest.raises(TruncateError, match="nothing after 'aside' uses what is computed up to there"):
        split(DeadEnd(), "aside")
