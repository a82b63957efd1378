"""The plain data of a model that a cut carries over, for those who read it there."""

from __future__ import annotations

import copy
import dataclasses
import enum
import gc
import io
import pickle
import threading
import weakref
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torchvision
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from truncate import split, truncate
from truncate._build.data import is_data


class Size(NamedTuple):
    height: int
    width: int


class Kind(enum.Enum):
    SMALL = "small"


@dataclasses.dataclass
class Config:
    width: int = 4
    names: Any = dataclasses.field(default_factory=lambda: {"a": [1, None], "size": Size(1, 2)})


class Registry:
    """What leads to a model."""

    def __init__(self, model: nn.Module) -> None:
        self.models = [model]


class Slotted:
    __slots__ = ("value",)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.num_features, self.rate, self.version, self.nothing = 4, 0.5, "1.0", None
        self.size, self.kind, self.config = Size(3, 4), Kind.SMALL, Config()
        self.pretrained_cfg = self.default_cfg = {"mean": (0.5, 0.5), "layers": ["a", "b"], "dtype": torch.float16}
        self.ordered, self.classes = OrderedDict(a=1), {"x", "y"}
        self.seen: list[Tensor] = []
        self.dtype, self.device, self._private = torch.float32, torch.device("cpu"), 1  # and these are not

    def forward(self, x: Tensor) -> Any:
        return self.b(self.a(x))


DATA = {
    *("num_features", "rate", "version", "nothing", "size", "kind", "config", "pretrained_cfg", "default_cfg"),
    *("ordered", "classes", "seen"),
}


def carried(cut: nn.Module) -> set[str]:
    ours = {"origin", "targets", "assumptions"}
    return {name for name in vars(cut).keys() - vars(nn.Module()).keys() - ours if not name.startswith("_")}


def test_plain_data_is_carried_over_and_nothing_else() -> None:
    model = Net()
    cut: Any = truncate(model, "a")
    assert carried(cut) == DATA
    for name in DATA:
        assert getattr(cut, name) == getattr(model, name), name
    assert list(cut.state_dict()) == ["a.weight", "a.bias"]


def local() -> Any:
    return type("Local", (), {})()


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2), nn.Linear, nn.Tanh(), len, local, Net().forward, Registry(Net()), threading.Lock(), Slotted(),
        weakref.ref(Kind.SMALL), torch.ones(1).numpy(), local(), io.BytesIO(), type("Odd", (Config,), {})(),
    ],
)  # fmt: skip
def test_what_is_no_plain_data(value: Any) -> None:
    assert not is_data(value, set())
    assert not is_data({"a": [(1, value)]}, set())


def test_what_holds_itself_is_data() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert is_data(cycle, set())
    assert not is_data([cycle, len], set())


def test_it_is_the_cut_s_own_as_it_was_then() -> None:
    model = Net()
    cut: Any = truncate(model, "a")
    assert cut.pretrained_cfg is cut.default_cfg
    cut.pretrained_cfg["mean"] = ()
    cut.config.width = 8
    model.seen.append(model(torch.ones(1, 4)))
    assert model.pretrained_cfg["mean"] == (0.5, 0.5) and model.config.width == 4
    copy.deepcopy(cut)  # a tensor with a history would refuse this
    assert cut.seen == []


@pytest.mark.parametrize("how", [copy.deepcopy, lambda cut: pickle.loads(pickle.dumps(cut)), lambda cut: saved(cut)])
def test_it_survives(how: Any) -> None:
    for part in (truncate(Net(), "a"), truncate(truncate(Net(), "b"), "a"), *split(Net(), "a")):
        made = how(part)
        assert carried(made) == DATA
        assert made.config == Config()


def saved(cut: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(cut, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def test_no_model_is_kept_alive() -> None:
    model = Net()
    cut, gone = truncate(model, "a", copy=True), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert carried(cut) == DATA


class Reads(nn.Module):
    """A forward that reads data, and a child by the name of data elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.config = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale, self.then = [2.0], 3

    def forward(self, x: Tensor) -> Any:
        return self.b(self.config(self.a(x) * self.scale[0]))


def test_what_a_forward_reads_stays() -> None:
    model, x = Reads(), torch.ones(1, 4)
    cut: Any = truncate(model, "config", pool=nn.Tanh())
    assert torch.equal(cut(x), model.config(model.a(x) * 2).tanh())
    assert cut.config is model.config
    assert cut.then == 3


class Refuses(Config):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("not to be copied")


def test_what_cannot_be_copied_is_left_out() -> None:
    model = Net()
    model.config = Refuses()
    assert carried(truncate(model, "a")) == DATA - {"config"}


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "efficientnet_b0", "convnext_atto"])
def test_timm_reads_the_same_preprocessing_of_a_cut(name: str) -> None:
    model: Any = timm.create_model(name).eval()
    target = next(path for path, module in model.named_modules() if path and "." not in path and "norm" not in path)
    cut: Any = truncate(model, target)
    assert resolve_model_data_config(cut) == resolve_model_data_config(model)
    assert cut.num_features == model.num_features
    torch.jit.script(cut)


@pytest.mark.parametrize("name", ["alexnet", "densenet121", "mobilenet_v3_small", "vit_b_16"])
def test_torchvision_s_cuts_script_with_their_data(name: str) -> None:
    model = getattr(torchvision.models, name)(weights=None).eval()
    target = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)][-1]
    target = next(iter(dict(model.named_children()))) if name in ("vit_b_16",) else target
    cut, x = truncate(model, target), torch.randn(1, 3, 224, 224)
    assert torch.equal(torch.jit.script(cut)(x), cut(x))


def test_a_configuration_of_transformers() -> None:
    small = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    model, ids = BertModel(small).eval(), torch.tensor([[1, 2, 3]])
    cut: Any = truncate(model, "encoder.layer.0", args=(ids,))
    assert cut.config.hidden_size == 8
    assert cut.config.to_dict() == model.config.to_dict()
    assert torch.equal(pickle.loads(pickle.dumps(cut))(ids), cut(ids))
