"""Every way to write a target, and what is said of one that cannot be had."""

from __future__ import annotations

import inspect
import pickle
import re
import warnings
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from oracle import capture, equal
from torch import Tensor, nn

from truncate import CannotFollowError, ContentWarning, NotReachedError, TruncateError, UnknownTargetError, truncate


class Block(nn.Module):
    """A residual block with one activation for both its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        return self.relu(x + y * self.scale)


class Net(nn.Module):
    """Holds what paths can lead through: Sequential, ModuleList, ModuleDict, and a module that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Block(), Block())
        self.bag = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Tanh()])
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2)})
        self.aux = nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        x = self.layer1(self.stem(x - self.mean))
        for module in self.bag:
            x = module(x)
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)
        if self.training:
            return self.heads["a"](x), self.aux(x)
        return self.heads["a"](x)


@pytest.fixture
def model() -> nn.Module:
    return Net().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8)


# -- spellings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "path", "call"),
    [
        ("layer1.1.conv2", "layer1.1.conv2", -1),
        ("layer1[1].conv2", "layer1.1.conv2", -1),
        ("layer1[-1].conv2", "layer1.1.conv2", -1),
        ("layer1.-1.conv2", "layer1.1.conv2", -1),
        ("layer1[-2]", "layer1.0", -1),
        ("layer1.-2", "layer1.0", -1),
        ("bag.0", "bag.0", -1),
        ("bag[0]", "bag.0", -1),
        ("bag[-1]", "bag.1", -1),
        ("bag.-2", "bag.0", -1),
        ("heads.a", "heads.a", -1),
        ("heads['a']", "heads.a", -1),
        ('heads["a"]', "heads.a", -1),
        (" stem ", "stem", -1),
        ("stem:0", "stem", 0),
        ("stem:-1", "stem", -1),
        ("layer1.0.relu", "layer1.0.relu", -1),
        ("layer1.0.relu:0", "layer1.0.relu", 0),
        ("layer1.0.relu:1", "layer1.0.relu", 1),
        ("layer1.0.relu:-1", "layer1.0.relu", 1),
        ("layer1[0].relu:-2", "layer1.0.relu", 0),
        ("layer1[0].relu: 0", "layer1.0.relu", 0),
    ],
)
def test_spellings(model: nn.Module, x: Tensor, written: str, path: str, call: int) -> None:
    assert equal(truncate(model, written)(x), capture(model, [path], x)[path][call])


@pytest.mark.parametrize("path", ["", "stem", "layer1", "layer1.0", "layer1.1.relu", "bag.1", "heads.a"])
def test_the_module_itself(model: nn.Module, x: Tensor, path: str) -> None:
    assert equal(truncate(model, model.get_submodule(path))(x), capture(model, [path], x)[path][-1])


def test_the_whole_model(model: nn.Module, x: Tensor) -> None:
    assert equal(truncate(model, "")(x), model(x))
    assert equal(truncate(model, model)(x), model(x))
    assert equal(truncate(model, ["", "stem"])(x), [model(x), model.stem(x)])


def test_operations(model: nn.Module, x: Tensor) -> None:
    def added(block: Any, given: Tensor) -> Tensor:
        return given + block.conv2(block.bn1(block.conv1(given)).relu()) * block.scale

    first = added(model.layer1[0], model.stem(x - model.mean))
    second = added(model.layer1[1], first.relu())
    pooled = nn.functional.adaptive_avg_pool2d(model.bag[1](model.bag[0](second.relu())), 1)
    for written, expected in {
        "sub": x - model.mean,
        "layer1.0.add": first,
        "layer1[0].add": first,
        "layer1[-1].add": second,
        "layer1.1.add:0": second,
        "layer1.1.add:-1": second,
        "flatten": pooled.flatten(1),
        "adaptive_avg_pool2d": pooled,
    }.items():
        assert equal(truncate(model, written)(x), expected), written


def test_containers_keep_their_kind_and_order(model: nn.Module, x: Tensor) -> None:
    stem, block, output = model.stem(x), model.layer1(model.stem(x)), model(x)
    for upto, expected in (
        (["layer1", "stem", ""], [block, stem, output]),
        (("stem",), (stem,)),
        ({"out": "", "low": "stem"}, {"out": output, "low": stem}),
        (["stem", "stem"], [stem, stem]),
        ({"pair": ["stem", "layer1"], "out": ("",)}, {"pair": [stem, block], "out": (output,)}),
    ):
        got = truncate(model, upto)(x)
        assert type(got) is type(expected)
        assert not isinstance(got, dict) or list(got) == list(expected)
        assert equal(list(got.values()) if isinstance(got, dict) else got, expected)


# -- errors ----------------------------------------------------------------------------------------------------------

WHOLE = "stem, layer1, bag, heads, aux"
BLOCK = "conv1, bn1, relu, conv2, unused"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("stme", rf"no target 'stme': the model \(Net\) holds no 'stme'\. Did you mean 'stem'\? It holds: {WHOLE}"),
        ("layer2.0.conv1", r"the model \(Net\) holds no 'layer2'\. Did you mean 'layer1'\?"),
        ("layer1.0.convv1", rf"'layer1\.0' \(Block\) holds no 'convv1'\. Did you mean .*'layer1\.0\.conv1'.*: {BLOCK}"),
        ("layer1[0].addd", r"'layer1\.0' \(Block\) holds no 'addd'\. Did you mean 'layer1\.0\.add'\?"),
        ("layer1.7", r"'layer1' \(Sequential\) holds no '7'\..* It holds: 0, 1\."),
        ("layer1[-3]", r"'layer1' \(Sequential\) holds no '-3'\..* It holds: 0, 1\."),
        ("bag[2]", r"'bag' \(ModuleList\) holds no '2'\..* It holds: 0, 1\."),
        ("heads['z']", r"'heads' \(ModuleDict\) holds no 'z'\..* It holds: a\."),
        ("stem.weigth", r"'stem' \(Conv2d\) holds no 'weigth'"),
        ("layer1..0", r"'layer1\.\.0' is not a path: cannot read '\.\.0'\. Write it as 'features\.3'"),
        ("layer1[0", r"'layer1\[0' is not a path: cannot read '\[0'"),
        (".stem", r"'\.stem' is not a path"),
        ("stem:first", r"'stem:first': what follows the colon is the number of a call, such as 'stem:0'"),
        ("stem:", r"what follows the colon is the number of a call"),
    ],
)
def test_unknown(model: nn.Module, written: str, says: str) -> None:
    with pytest.raises(UnknownTargetError, match=says):
        truncate(model, written)
    with pytest.raises(UnknownTargetError, match=says):
        truncate(model, ["stem", written])


@pytest.mark.parametrize(
    ("written", "holder", "instead"),
    [
        ("stem.weight", r"'stem' \(Conv2d\)", "'stem'"),
        ("layer1.0.scale", r"'layer1\.0' \(Block\)", "'layer1.0'"),
        ("layer1[0].bn1.running_mean", r"'layer1\.0\.bn1' \(BatchNorm2d\)", "'layer1.0.bn1'"),
        ("mean", r"the model \(Net\)", ""),
    ],
)
def test_a_tensor_is_no_place(model: nn.Module, written: str, holder: str, instead: str) -> None:
    says = rf"'{re.escape(written)}' is a tensor of {holder}, not a layer or an operation\."
    says += rf" Stop at {re.escape(instead)} instead\.$" if instead else r" layers\(model\) lists every target\.$"
    with pytest.raises(UnknownTargetError, match=says):
        truncate(model, written)


@pytest.mark.parametrize(
    ("compile", "says"),
    [
        (torch.jit.script, "'0' lies inside the model, which was compiled by TorchScript: you can stop at it, but not"),
        (torch.compile, "the model was compiled by torch.compile. Cut what was compiled, which it holds as"),
    ],
)
def test_compiled_models(compile: Any, says: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(TruncateError, match=re.escape(says)):
        truncate(compile(model), "0" if compile is torch.jit.script else "_orig_mod.0")


def test_long_lists_are_shortened() -> None:
    model = nn.Sequential(*(nn.Identity() for _ in range(40)))
    with pytest.raises(UnknownTargetError, match=r"holds no '40'\..* It holds: 0, 1, .*11, … \(40 in all\)\."):
        truncate(model, "40")


def test_a_module_of_another_model(model: nn.Module) -> None:
    says = "the Conv2d given as a target is not part of this Net. Was it taken from a copy of the model"
    with pytest.raises(UnknownTargetError, match=says):
        truncate(model, Net().stem)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("layer1.0.unused", r"'layer1\.0\.unused' is never run: the forward of 'layer1\.0' \(Block\) does not call it"),
        ("layer1.0.unused", r"or only its parts or methods are used; layers\(model\) lists"),
        ("heads", r"'heads' is never run: it is a ModuleDict, which only holds layers\. Stop at one .* as 'heads\.a'$"),
        ("stem:1", r"'stem:1': the model \(Net\) runs it "),
        ("layer1.0.relu:2", r"'layer1\.0\.relu:2': 'layer1\.0' \(Block\) runs it 2 times, so its calls are :0 to :1"),
        ("layer1.0.relu:-3", r"'layer1\.0\.relu:-3': 'layer1\.0' \(Block\) runs it 2 times"),
        ("layer1.0.add:1", r"'layer1\.0\.add:1': 'layer1\.0' \(Block\) runs it "),
    ],
)
def test_never_run_or_not_that_often(model: nn.Module, written: str, says: str) -> None:
    for mode in (model.eval(), model.train()):
        with pytest.raises(NotReachedError, match=says):
            truncate(mode, written)


def test_a_single_call_is_said_to_be_one(model: nn.Module) -> None:
    with pytest.raises(NotReachedError) as caught:
        truncate(model, "stem:1")
    assert "1 times" not in str(caught.value)
    assert ":0" in str(caught.value)


@pytest.mark.parametrize("training", [False, True])
def test_the_other_mode(model: nn.Module, x: Tensor, training: bool) -> None:
    """It can be cut in either mode, works in the one that reaches it, and is an error in the other."""
    cut = truncate(model.train(training), "aux").train()
    torch.manual_seed(0)
    expected = capture(Net().train(), ["aux"], x)["aux"][-1]
    torch.manual_seed(0)
    assert equal(truncate(Net().train(), "aux")(x), expected)
    assert cut(x).shape == (2, 2)
    says = r"'aux' is never run: the forward of the model \(Net\) does not call it while training is False\."
    with pytest.raises(NotReachedError, match=says):
        cut.eval()(x)
    assert cut.train()(x).shape == (2, 2)


class Pyramid(NamedTuple):
    low: Any
    high: Any


def test_a_named_tuple_of_targets(model: nn.Module) -> None:
    wanted = Pyramid("stem", ["layer1", ""])
    x = torch.randn(2, 3, 8, 8)
    got = pickle.loads(pickle.dumps(truncate(model, wanted)))(x)
    assert type(got) is Pyramid
    seen = capture(model, ["stem", "layer1", ""], x)
    assert equal(got, Pyramid(seen["stem"][-1], [seen["layer1"][-1], seen[""][-1]]))
    assert type(truncate(model, before=Pyramid("layer1", "layer1"))(x)) is Pyramid


@pytest.mark.parametrize("written", [3, b"stem", torch.zeros(1), ["stem", 3], {"a": None}])
def test_wrong_type_of_target(model: nn.Module, written: Any) -> None:
    wrong = written[1] if isinstance(written, list) else written["a"] if isinstance(written, dict) else written
    with pytest.raises(TruncateError) as caught:
        truncate(model, written)
    assert str(caught.value) == (
        f"a target is a path such as 'layer1.0.conv1', a type or a module of the model, or a number if the model is an "
        f"nn.Sequential, but got {wrong!r} of type {type(wrong).__name__}"
    )


@pytest.mark.parametrize("upto", [[], (), {}, [[]]])
def test_no_target(model: nn.Module, upto: Any) -> None:
    with pytest.raises(TruncateError, match=re.escape(f"nothing to stop at: upto is {upto!r}, which holds no target")):
        truncate(model, upto)


@pytest.mark.parametrize("given", ["resnet18", None, torchvision.models.resnet18, nn.Linear])
def test_wrong_type_of_model(given: Any) -> None:
    says = f"truncate takes a torch.nn.Module, but got {given!r} of type {type(given).__name__}"
    with pytest.raises(TruncateError, match=re.escape(says)):
        truncate(given, "fc")


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ({"args": torch.zeros(1)}, r"as a tuple: args=\(x,\), not Tensor"),
        ({"kwargs": [1]}, r"kwargs are the keyword arguments of an example, as a dict, not list"),
        ({"args": (1, 2)}, r"the example does not fit forward\(x: .*\) -> .* of Net: too many positional arguments"),
        ({"args": ()}, r"of Net: missing a required argument: 'x'"),
        ({"kwargs": {"y": 1}}, r"of Net: missing a required argument: 'x'"),
        ({"args": (1,), "kwargs": {"y": 1}}, r"of Net: got an unexpected keyword argument 'y'"),
    ],
)
def test_wrong_example(model: nn.Module, example: dict[str, Any], says: str) -> None:
    with pytest.raises(TruncateError, match=says):
        truncate(model, "stem", **example)


def test_every_error_is_one_of_ours(model: nn.Module) -> None:
    for error in (UnknownTargetError, NotReachedError, CannotFollowError):
        assert issubclass(error, TruncateError)
    assert issubclass(UnknownTargetError, LookupError)


# -- a forward that cannot be followed -------------------------------------------------------------------------------


class Branching(nn.Module):
    """Cannot be followed: looks at a value."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # this line
            x = -x
        return self.fc(x)


class Counting(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * int(x.max()))  # this line


class Raising(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x[{}.popitem()])  # this line


class Looping(Branching):
    def forward(self, x: Tensor) -> Tensor:
        for row in range(x.shape[0]):  # this line
            x = x + row
        return self.fc(x)


@pytest.mark.parametrize("kind", [Branching, Counting, Raising, Looping])
def test_cannot_follow(kind: type[nn.Module]) -> None:
    """The error names the module, its class, the file, the line and what it says, and what to do."""
    model = nn.Sequential(nn.Identity(), nn.ModuleDict({"m": kind()})["m"])
    with pytest.raises(CannotFollowError) as caught:
        truncate(model, "1.fc", live=False)
    first, place, line, remedy = str(caught.value).splitlines()
    source, start = inspect.getsourcelines(kind)
    offset, quoted = next((i, text) for i, text in enumerate(source) if "# this line" in text)
    assert first.startswith(f"cannot follow the forward of '1' ({kind.__name__}): it ")
    assert place.strip() == f"{__file__}, line {start + offset}, in forward"
    assert line.strip() == quoted.strip()
    assert "Give an example input, args=(x,) or kwargs={...}: then this forward is recorded on it." in remedy
    assert "Or stop at '1'" in remedy


def test_cannot_follow_inside_torch() -> None:
    """A line of torch is quoted where the forward is torch's own."""
    with pytest.raises(UnknownTargetError, match="'0.running_var' is a tensor of '0'"):
        truncate(nn.Sequential(nn.BatchNorm1d(4)), "0.running_var")
    with pytest.raises(TruncateError) as caught:
        truncate(nn.Sequential(nn.BatchNorm1d(4)), "0.nothing")
    assert "truncate/_" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:the forward of:UserWarning", "ignore:.*content of a tensor")
@pytest.mark.parametrize("kind", [Branching, Counting, Looping])
def test_stopping_elsewhere_needs_no_following(kind: type[nn.Module]) -> None:
    """What the remedy proposes works: stopping at the module, or on an example."""
    model, x = nn.Sequential(nn.Linear(4, 4), kind(), nn.ReLU()), torch.ones(3, 4)
    assert equal(truncate(model, "1")(x), model[1](model[0](x)))
    assert equal(truncate(model, "2")(x), model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ContentWarning)
        assert equal(truncate(model, "1.fc", args=(x,))(x), model[1](model[0](x)))


def test_an_example_that_the_model_refuses() -> None:
    with pytest.raises(CannotFollowError, match="does the model itself run on it"):
        truncate(nn.Sequential(Raising()), "0.fc", args=(torch.zeros(1, 4),), live=False)
    for live in (None, True):
        with pytest.raises(TruncateError, match="^the model does not run on the example: KeyError: "):
            truncate(nn.Sequential(Raising()), "0.fc", args=(torch.zeros(1, 4),), live=live)
