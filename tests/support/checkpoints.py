"""Ways in which checkpoints are written, and modules to load parts of them into."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from truncate import WeightsError, load_weights

State = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3, 1, 1))
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1))
        self.head = nn.Linear(5, 2)
        with torch.no_grad():
            self.bn.running_mean.uniform_()
            self.bn.running_var.uniform_(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x * self.scale))
        return self.head(self.body(x).mean((2, 3)))


class Tied(nn.Module):
    """Reads tokens and predicts them with one and the same matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.step = nn.Linear(4, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight
        self.last = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.out(self.step(self.embed(x))))


def meta(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return kind()


def values(module: nn.Module) -> State:
    """What a module holds, to be compared after something was tried with it."""
    everything = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in everything.items()}


def unchanged(module: nn.Module, before: State) -> bool:
    now = values(module)
    return now.keys() == before.keys() and all(
        now[name].is_meta == before[name].is_meta
        and now[name].dtype == before[name].dtype
        and (now[name].is_meta or torch.equal(now[name].view(-1).view(torch.uint8), old.view(-1).view(torch.uint8)))
        for name, old in before.items()
    )


def in_shards(state: State, folder: Path, suffix: str, save: Callable[[State, Path], None]) -> Path:
    names, where = list(state), {}
    for shard in range(3):
        part = {name: state[name] for name in names[shard::3]}
        save(part, folder / f"part-{shard}{suffix}")
        where.update(dict.fromkeys(part, f"part-{shard}{suffix}"))
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def save_safely(state: State, path: Path) -> None:
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path, {"format": "pt"})


def safetensors(state: State, folder: Path) -> Path:
    save_safely(state, folder / "all.safetensors")
    return folder / "all.safetensors"


def pth(content: Any, folder: Path, name: str = "all.pth", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def transformers_folder(state: State, folder: Path) -> Path:
    save_safely(state, folder / "model.safetensors")
    torch.save({"learning_rate": 1}, folder / "training_args.bin")
    return folder


FORMATS: dict[str, Callable[[State, Path], Path]] = {
    "safetensors": safetensors,
    "shards": lambda state, folder: in_shards(state, folder, ".safetensors", save_safely),
    "folder": transformers_folder,
    "folder of shards": lambda state, folder: in_shards(state, folder, ".safetensors", save_safely).parent,
    "pth": pth,
    "shards of torch.save": lambda state, folder: in_shards(state, folder, ".bin", torch.save),
    "folder of bin": lambda state, folder: pth(state, folder, "pytorch_model.bin").parent,
    "old pth": lambda state, folder: pth(state, folder, _use_new_zipfile_serialization=False),
    "parameters": lambda state, folder: pth({name: nn.Parameter(t, False) for name, t in state.items()}, folder),
    "after state_dict": lambda state, folder: pth({"state_dict": state, "epoch": 3}, folder, "all.ckpt"),
    "after model": lambda state, folder: pth({"model": state, "ema": state}, folder, "all.pt"),
    "after some key": lambda state, folder: pth({"net": state, "epoch": 3, "optimizer": {"state": {}}}, folder),
    "DataParallel": lambda state, folder: pth({f"module.{name}": t for name, t in state.items()}, folder),
    "compiled, in parallel": lambda state, folder: safetensors(
        {f"module._orig_mod.{name}": t for name, t in state.items()}, folder
    ),
}


def refused(module: nn.Module, path: Path | str, **options: Any) -> str:
    """The text of the error, having seen that the module is bit for bit as it was."""
    before, objects = values(module), [*module.parameters(), *module.buffers()]
    with pytest.raises(WeightsError) as caught:
        load_weights(module, path, **options)
    assert unchanged(module, before)
    assert all(one is other for one, other in zip(objects, [*module.parameters(), *module.buffers()]))
    return str(caught.value)
