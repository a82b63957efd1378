"""Checkpoints that do not fit, or say too little: refused, with the module as it was."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import Net, State, meta, pth, refused, safetensors, values
from torch import nn

from truncate import WeightsError, load_weights, truncate


def test_a_missing_tensor(part: nn.Module, style: Callable[[State, Path], Path], tmp_path: Path) -> None:
    state = Net().state_dict()
    del state["body.0.bias"]
    path = style(state, tmp_path)
    assert refused(part, path) == (
        f"{path} does not fit the module (TruncatedNet), and nothing was loaded\n"
        "missing in the checkpoint: 1 (body.0.bias)\n"
        "strict=False loads what fits, leaves the rest as it is, and reports it"
    )
    before = values(part)
    report = load_weights(part, path, strict=False)
    assert report.missing == ("body.0.bias",)
    assert report.unset == (("body.0.bias",) if before["body.0.bias"].is_meta else ())
    assert torch.equal(part.stem.weight, state["stem.weight"])
    assert part.body[0].bias.is_meta == before["body.0.bias"].is_meta
    assert part.body[0].bias.is_meta or torch.equal(part.body[0].bias, before["body.0.bias"])
    assert "missing in the checkpoint: 1 (body.0.bias)" in str(report)


def test_another_shape(part: nn.Module, style: Callable[[State, Path], Path], tmp_path: Path) -> None:
    state = Net().state_dict() | {"stem.weight": torch.zeros(4, 1, 3, 3)}
    path = style(state, tmp_path)
    how = "(4, 1, 3, 3) in the checkpoint, (4, 3, 3, 3) in the module"
    assert f"\ndifferent: 1 (stem.weight ({how}))\n" in refused(part, path)
    old = part.stem.weight.detach().clone()
    report = load_weights(part, path, strict=False)
    assert dict(report.mismatched) == {"stem.weight": how}
    assert "stem.weight" not in (*report.loaded, *report.missing, *report.unexpected)
    assert part.stem.weight.is_meta or torch.equal(part.stem.weight, old)
    assert torch.equal(part.stem.bias, state["stem.bias"])


def test_numbers_that_the_type_cannot_hold(tmp_path: Path) -> None:
    module = nn.Module()
    module.register_buffer("index", torch.arange(3))
    path = safetensors({"index": torch.tensor([0.5, 1.5, 2.5])}, tmp_path)
    assert "index (torch.float32 in the checkpoint, torch.int64 in the module)" in refused(module, path)


def test_nothing_fits(part: nn.Module, tmp_path: Path) -> None:
    """Not even `strict=False` passes over that: the names are another model's."""
    path = pth({"a": torch.ones(3)}, tmp_path)
    for strict in (True, False):
        text = refused(part, path, strict=strict)
        assert "missing in the checkpoint: 9 (scale, stem.weight, stem.bias, bn.weight, …)" in text
        assert "strict=False" not in text
    assert load_weights(nn.ReLU(), path).loaded == ()


def test_names_behind_a_prefix(part: nn.Module, tmp_path: Path) -> None:
    source = Net()
    path = pth({f"a.net.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path)
    assert refused(part, path).endswith(
        "\nAll these names are there with the prefix 'a.net.': load_weights(module, path, prefix='a.net.')"
    )
    load_weights(part, path, prefix="a.net.")
    assert torch.equal(part.stem.weight, source.stem.weight)


@pytest.mark.parametrize(("before", "given"), [("a.net.", "a.net"), ("module.net.", "net."), ("module.", "")])
def test_a_prefix_that_is_given(part: nn.Module, before: str, given: str, tmp_path: Path) -> None:
    source = Net()
    state = {f"{before}{name}": tensor for name, tensor in source.state_dict().items()}
    other = "module.other" if before.startswith("module.") else "stem.weight"  # the first is no part of the prefix
    report = load_weights(part, pth({**state, other: torch.zeros(1)}, tmp_path), prefix=given)
    assert torch.equal(part.stem.weight, source.stem.weight)
    assert len(report.loaded) == len(part.state_dict())
    assert other.removeprefix("module.") in report.unexpected
    assert f"{before.removeprefix('module.')}head.weight" in report.unexpected


def test_a_prefix_that_is_not_there(part: nn.Module, tmp_path: Path) -> None:
    path = pth({f"backbone.{name}": tensor for name, tensor in Net().state_dict().items()}, tmp_path)
    with pytest.raises(WeightsError, match="prefix 'backbone.': load_weights.module, path, prefix='backbone.'"):
        load_weights(part, path, prefix="backbon")
    with pytest.raises(WeightsError, match="prefix is text"):
        load_weights(part, path, prefix=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_tensor_beside_the_state_dict(part: nn.Module, key: str, tmp_path: Path) -> None:
    """As the training script of PyTorch's ImageNet example leaves it there."""
    source = Net()
    path = pth({"epoch": 3, "best_acc1": torch.tensor(71.3), key: source.state_dict()}, tmp_path)
    assert load_weights(part, path).notes == (f"found under {key!r}",)
    assert torch.equal(part.stem.weight, source.stem.weight)


def test_a_wrapped_module_keeps_its_prefix(tmp_path: Path) -> None:
    source = Net()
    path = pth({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path)
    wrapped = nn.ModuleDict({"module": truncate(Net(), "stem")})
    assert load_weights(wrapped, path).notes == ()
    assert torch.equal(wrapped["module"].stem.weight, source.stem.weight)


def test_what_was_done_is_said(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in Net().state_dict().items()}
    report = load_weights(truncate(Net(), "stem"), pth({"state_dict": state}, tmp_path))
    assert str(report) == (
        "loaded: 3 tensors, 0.0 MB\n"
        "unexpected, and not read: 11 (bn.weight, bn.bias, bn.running_mean, bn.running_var, …)\n"
        "note: found under 'state_dict'\n"
        "note: 'module.' begins all names of the checkpoint, and was removed"
    )
    old = pth(Net().state_dict(), tmp_path, _use_new_zipfile_serialization=False)
    assert "note: read whole" in str(load_weights(truncate(Net(), "stem"), old))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("ids", torch.arange(3), persistent=False)


def test_a_buffer_without_values_that_no_checkpoint_holds(tmp_path: Path) -> None:
    path = safetensors(Positions().state_dict(), tmp_path)
    module = meta(Positions)
    text = refused(module, path)
    assert "on the meta device, and in no checkpoint, since they are not saved: 1 (ids)" in text
    assert "Give them the values that they have in a model on another device: module.ids = ..." in text
    report = load_weights(module, path, strict=False)
    assert report.unset == ("ids",)
    assert not module.fc.weight.is_meta
    module = meta(Positions)
    module.ids = torch.arange(3)
    assert load_weights(module, path).unset == load_weights(Positions(), path).unset == ()


class WithExtraState(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"scale": 2}

    def set_extra_state(self, state: Any) -> None:
        raise AssertionError("not called")


def test_extra_state_is_not_passed_over(tmp_path: Path) -> None:
    module = WithExtraState(2, 2)
    path = pth(module.state_dict(), tmp_path)
    assert "missing in the checkpoint: 1 (_extra_state)" in refused(module, path)
    report = load_weights(module, path, strict=False)
    assert report.missing == ("_extra_state",)
    assert "1 (_extra_state) is not a tensor of the module: load_state_dict can load it" in str(report)


def test_lazy_modules(tmp_path: Path) -> None:
    module = nn.LazyLinear(2)
    with pytest.raises(WeightsError, match=r"without a shape yet: 2 \(weight, bias\)\. Run the module once"):
        load_weights(module, safetensors(nn.Linear(3, 2).state_dict(), tmp_path))


def test_what_cannot_be_written_to(tmp_path: Path) -> None:
    path = safetensors({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path)
    module = nn.Module()
    module.register_buffer("a", torch.zeros(3))
    module.register_buffer("b", torch.zeros(1).expand(3))
    assert "'b' of the module cannot be written to: it is expanded" in refused(module, path)
    with torch.inference_mode():
        module.b = torch.zeros(3)
    assert "it is made in inference mode" in refused(module, path)
    module.b = torch.zeros(3).to_sparse()
    with pytest.raises(WeightsError, match="'b' of the module cannot be written to: it is a Tensor that is not"):
        load_weights(module, path)
    assert not module.a.any()


def test_what_is_on_the_meta_device_and_in_use(tmp_path: Path) -> None:
    """The first tensors have got their values by then, and give them back."""
    module = meta(Net)
    reference = weakref.ref(module.head.weight)
    assert "is in use elsewhere (as a view" in refused(module, safetensors(Net().state_dict(), tmp_path))
    del reference
    load_weights(module, tmp_path / "all.safetensors")
