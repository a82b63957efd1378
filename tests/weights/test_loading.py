"""Loading what a part of a model needs from a checkpoint of the whole: the same as loading all and cutting."""

from __future__ import annotations

import argparse
import copy
import errno
import io
import json
import os
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from truncate import WeightsError, load_weights, truncate
from truncate._weights.checkpoint import PIECE

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


# -- the ways in which checkpoints are written -----------------------------------------------------------------------


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


@pytest.fixture(params=FORMATS)
def write(request: pytest.FixtureRequest) -> Callable[[State, Path], Path]:
    return FORMATS[request.param]


@pytest.mark.parametrize("on_meta", [True, False], ids=["meta", "cpu"])
@pytest.mark.parametrize("place", ["stem", "body.0", ["bn", "body.1"], ""])
def test_the_same_as_loading_all_and_cutting(
    write: Callable[[State, Path], Path], on_meta: bool, place: Any, tmp_path: Path
) -> None:
    source = Net()
    path = write(source.state_dict(), tmp_path)
    part = truncate(meta(Net) if on_meta else Net(), place).eval()
    report = load_weights(part, path)
    expected = truncate(source.eval(), place)
    x = torch.randn(2, 3, 6, 6)
    got, wanted = part(x), expected(x)
    assert all(map(torch.equal, got, wanted)) if isinstance(place, list) else torch.equal(got, wanted)
    held, rest = part.state_dict().keys(), source.state_dict().keys() - part.state_dict().keys()
    assert set(report.loaded) == held
    assert set(report.unexpected) == rest
    assert (report.missing, report.mismatched, report.unset) == ((), {}, ())
    assert report.nbytes == sum(tensor.nbytes for tensor in part.state_dict().values())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in part.parameters())


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=5),
    kind=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]),
    needed=st.sets(st.integers(0, 4)),
    style=st.sampled_from(["safetensors", "pth", "shards", "shards of torch.save"]),
    on_meta=st.booleans(),
)
def test_any_shapes_and_types(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[list[int]],
    kind: torch.dtype,
    needed: set[int],
    style: str,
    on_meta: bool,
) -> None:
    state = {f"p{index}": torch.randn(shape).to(kind) for index, shape in enumerate(shapes)}
    path = FORMATS[style](state, tmp_path_factory.mktemp("any"))
    chosen = [name for index, name in enumerate(state) if index in needed]
    module = nn.Module()
    for name in chosen:
        module.register_parameter(name, nn.Parameter(torch.zeros_like(state[name], device="meta" if on_meta else None)))
    assert set(load_weights(module, path).loaded) == set(chosen)
    assert all(torch.equal(module.get_parameter(name), state[name]) for name in chosen)


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz]
DTYPES += [torch.float8_e5m2, torch.float8_e5m2fnuz, torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8]
DTYPES += [torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("style", ["safetensors", "pth"])
def test_each_type(dtype: torch.dtype, style: str, tmp_path: Path) -> None:
    stored = torch.randint(0, 2, (5, 8), dtype=torch.uint8).view(dtype if dtype is not torch.bool else torch.uint8)
    stored = stored.to(dtype)
    module = nn.Module()
    module.register_buffer("b", torch.zeros(stored.shape, dtype=dtype))
    load_weights(module, FORMATS[style]({"a": torch.ones(3), "b": stored}, tmp_path))
    assert torch.equal(module.get_buffer("b").view(torch.uint8), stored.view(torch.uint8))


@pytest.mark.parametrize("style", ["safetensors", "pth", "old pth"])
def test_larger_than_one_piece(style: str, tmp_path: Path) -> None:
    count = PIECE // 4 * 2 + 5
    state = {"before": torch.randn(3), "large": torch.randn(count), "after": torch.randn(3)}
    module = nn.ParameterDict({"large": torch.zeros(count), "after": torch.zeros(3)})
    load_weights(module, FORMATS[style](state, tmp_path))
    assert all(torch.equal(module[name], state[name]) for name in module)


def test_views_in_a_file_of_torch_save(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    state = {"t": base.t(), "rows": base[2:4], "column": base[:, 1], "expanded": torch.ones(1, 3).expand(4, 3)}
    path = pth({**state, "last": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last)}, tmp_path)
    state = torch.load(path, weights_only=True)
    module = nn.ParameterDict({name: torch.zeros(tensor.shape) for name, tensor in state.items()})
    load_weights(module, path)
    assert all(torch.equal(module[name], state[name]) for name in state)


# -- only what is needed ---------------------------------------------------------------------------------------------

HUGE = 1 << 40  # bytes; a file of this length that consists of a hole takes no space


def test_a_safetensors_file_larger_than_memory(tmp_path: Path) -> None:
    weight, entries, begin = torch.randn(4, 3), {}, 0
    for name, shape, size in [("huge", [HUGE // 4], HUGE), ("fc.weight", [4, 3], 48), ("fc.bias", [4], 16)]:
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    header = json.dumps(entries).encode()
    path = tmp_path / "huge.safetensors"
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + begin)
        file.seek(8 + len(header) + HUGE)
        file.write(weight.numpy().tobytes())
    module = nn.ModuleDict({"fc": nn.Linear(3, 4)})
    assert load_weights(module, path).unexpected == ("huge",)
    assert torch.equal(module["fc"].weight, weight)
    assert not module["fc"].bias.any()


def test_a_file_of_torch_save_larger_than_memory(tmp_path: Path) -> None:
    """Which `torch.load` cannot map."""
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(HUGE)
    huge = torch.from_file(str(tmp_path / "hole"), shared=True, size=HUGE // 4)
    state = {"before": torch.zeros(3), "huge": huge, "after": torch.zeros(4), "tied": huge[5:9]}
    path = tmp_path / "huge.pth"
    with torch.serialization.skip_data():  # writes holes where the numbers belong
        torch.save(state, path)
    stored = torch.load(path, map_location="meta", weights_only=True)
    with open(path, "rb+") as file:  # numbers of our own, so that it matters from where they are read
        for name, value in [("before", 1.0), ("after", 2.0), ("huge", 3.0)]:
            file.seek(stored[name].untyped_storage()._checkpoint_offset)
            file.write(torch.full((9,) if name == "huge" else stored[name].shape, value).numpy().tobytes())
    module = nn.ParameterDict({"before": torch.zeros(3), "after": torch.zeros(4), "tied": torch.zeros(4)})
    load_weights(module, path)
    assert [module[name].tolist() for name in ("before", "after", "tied")] == [[1.0] * 3, [2.0] * 4, [3.0] * 4]


def bytes_asked_for() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="only Linux counts what a process reads")
@pytest.mark.parametrize("style", ["safetensors", "shards", "pth", "after state_dict"])
def test_bytes_are_read_once_and_no_others(style: str, tmp_path: Path) -> None:
    state = {f"layer{index}": torch.randn(1000, 500) for index in range(5)}
    path = FORMATS[style](state, tmp_path)
    module = nn.ParameterDict({"layer3": torch.zeros(1000, 500), "layer1": torch.zeros(1000, 500)})
    load_weights(module, path)
    before = bytes_asked_for()
    report = load_weights(module, path)
    assert report.nbytes == 4_000_000
    assert report.nbytes <= bytes_asked_for() - before < 1.02 * report.nbytes


def test_shards_that_hold_nothing_needed_may_be_missing(tmp_path: Path) -> None:
    source = Net()
    path = in_shards(source.state_dict(), tmp_path, ".safetensors", save_safely)
    where = json.loads(path.read_text())["weight_map"]
    module = nn.ModuleDict({"head": nn.Linear(5, 2)})
    needed = {where["head.weight"], where["head.bias"]}
    assert len(needed) == 2
    for shard in set(where.values()) - needed:
        (tmp_path / shard).unlink()
    load_weights(module, path)
    assert torch.equal(module["head"].weight, source.head.weight)


# -- what stays what it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_meta", [True, False], ids=["meta", "cpu"])
def test_tensors_stay_the_same_objects(on_meta: bool, tmp_path: Path) -> None:
    path = safetensors(Net().state_dict(), tmp_path)
    model = meta(Net) if on_meta else Net()
    model.stem.bias.requires_grad_(False)
    model.stem.weight.note = "mine"
    model.bn.eval()
    part = truncate(model, "body.0")
    before = dict(part.named_parameters()) | dict(part.named_buffers())
    optimizer = torch.optim.SGD((p for p in part.parameters() if p.requires_grad), lr=0.1)
    load_weights(part, path)
    after = dict(part.named_parameters()) | dict(part.named_buffers())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert not part.stem.bias.requires_grad
    assert part.stem.weight.requires_grad
    assert part.stem.weight.note == "mine"
    assert type(part.stem.weight) is nn.Parameter
    assert not part.bn.training
    assert part.stem.training
    old = part.stem.weight.detach().clone()
    part(torch.randn(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    assert not torch.equal(part.stem.weight, old)


@pytest.mark.parametrize("on_meta", [True, False], ids=["meta", "cpu"])
def test_the_model_that_was_cut_has_the_values_too(on_meta: bool, tmp_path: Path) -> None:
    source = Net()
    path = pth(source.state_dict(), tmp_path)
    model = meta(Net) if on_meta else Net()
    head = model.head.weight.detach().clone()
    load_weights(truncate(model, "body.0"), path)
    for name in ("scale", "stem.weight", "body.0.bias"):
        assert torch.equal(model.get_parameter(name), source.get_parameter(name))
    assert torch.equal(model.bn.running_var, source.bn.running_var)
    assert model.head.weight.is_meta if on_meta else torch.equal(model.head.weight, head)
    load_weights(model, path)  # the rest
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(model.eval()(x), source.eval()(x))


@pytest.mark.parametrize("on_meta", [True, False], ids=["meta", "cpu"])
@pytest.mark.parametrize("left_out", [(), ("out.weight",), ("embed.weight",)], ids=["both", "first", "second"])
@pytest.mark.parametrize("style", ["safetensors", "pth"])
def test_tied_parameters_stay_one(on_meta: bool, left_out: tuple[str, ...], style: str, tmp_path: Path) -> None:
    """Files of safetensors hold a tied tensor once, under whichever name came first."""
    source = Tied()
    state = {name: tensor for name, tensor in source.state_dict().items() if name not in left_out}
    part = truncate(meta(Tied) if on_meta else Tied(), "out")
    report = load_weights(part, FORMATS[style](state, tmp_path))
    assert {"embed.weight", "out.weight"} <= set(report.loaded)
    assert part.embed.weight is part.out.weight
    assert len(list(part.parameters())) == 3
    tokens = torch.arange(7)
    assert torch.equal(part(tokens), truncate(source, "out")(tokens))
    assert report.nbytes == sum(parameter.nbytes for parameter in part.parameters())


def test_tied_parameters_that_were_not_tied_when_saved(tmp_path: Path) -> None:
    state = Tied().state_dict() | {"out.weight": torch.randn(7, 4)}
    module, plain = Tied(), Tied()
    load_weights(module, pth(state, tmp_path))
    plain.load_state_dict(state)
    assert torch.equal(module.embed.weight, plain.embed.weight)


@pytest.mark.parametrize("style", ["safetensors", "pth"])
@pytest.mark.parametrize("on_meta", [True, False], ids=["meta", "cpu"])
def test_the_module_says_the_type(style: str, on_meta: bool, tmp_path: Path) -> None:
    state = {"weight": torch.randn(3, 3, dtype=torch.bfloat16), "bias": torch.randn(3, dtype=torch.float64)}
    path = FORMATS[style](state, tmp_path)
    plain = nn.Linear(3, 3)
    plain.load_state_dict(state)
    module = nn.Linear(3, 3, device="meta" if on_meta else None)
    report = load_weights(module, path)
    assert module.weight.dtype == module.bias.dtype == torch.float32
    assert torch.equal(module.weight, plain.weight)
    assert torch.equal(module.bias, plain.bias)
    assert report.nbytes == 9 * 2 + 3 * 8  # as large as in the file


@pytest.mark.parametrize("on_meta", [True, False], ids=["meta", "cpu"])
def test_the_memory_format_stays(on_meta: bool, tmp_path: Path) -> None:
    source = nn.Conv2d(3, 4, 3)
    module = nn.Conv2d(3, 4, 3, device="meta" if on_meta else None).to(memory_format=torch.channels_last)
    strides = module.weight.stride()
    load_weights(module, safetensors(source.state_dict(), tmp_path))
    assert module.weight.stride() == strides != source.weight.stride()
    assert torch.equal(module.weight, source.weight)


def test_under_a_default_device_and_in_inference_mode(tmp_path: Path) -> None:
    source = Net()
    for style in ("safetensors", "pth"):
        path = FORMATS[style](source.state_dict(), tmp_path)
        with torch.device("meta"):
            part = truncate(Net(), "stem")
            load_weights(part, path)
        assert torch.equal(part.stem.weight, source.stem.weight)
        part = truncate(meta(Net), "stem")
        with torch.inference_mode():
            load_weights(part, path)
        part(torch.randn(1, 3, 5, 5)).sum().backward()
        assert part.stem.weight.grad is not None


def test_an_example_on_the_meta_device(tmp_path: Path) -> None:
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.shape[-1] > 4 else x.repeat(1, 1, 2, 2))

    source, x = Branching().eval(), torch.randn(2, 3, 6, 6)
    part = truncate(meta(Branching).eval(), "body.0", (torch.empty(2, 3, 6, 6, device="meta"),))
    load_weights(part, pth(source.state_dict(), tmp_path))
    assert torch.equal(part(x), truncate(source, "body.0", (x,))(x))


def test_a_scripted_module(tmp_path: Path) -> None:
    source = Net()
    script = torch.jit.script(truncate(Net(), "body.0"))
    load_weights(script, safetensors(source.state_dict(), tmp_path))
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(script(x), truncate(source, "body.0")(x))


def test_counters_of_batch_norms_may_be_missing(tmp_path: Path) -> None:
    """As in files of before PyTorch 0.4.1; `load_state_dict` lets them be missing too."""
    source = Net()
    state = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    path = pth(state, tmp_path)
    on_meta, ordinary = truncate(meta(Net), "bn"), truncate(Net(), "bn")
    ordinary.bn.num_batches_tracked.fill_(7)
    for part, count in [(on_meta, 0), (ordinary, 7)]:
        report = load_weights(part, path)
        assert "note: 1 batch norms have no num_batches_tracked in the checkpoint" in str(report)
        assert part.bn.num_batches_tracked.item() == count
        assert part.bn.num_batches_tracked.dtype == torch.int64


# -- what does not fit -----------------------------------------------------------------------------------------------


def refused(module: nn.Module, path: Path | str, **options: Any) -> str:
    """The text of the error, having seen that the module is bit for bit as it was."""
    before, objects = values(module), [*module.parameters(), *module.buffers()]
    with pytest.raises(WeightsError) as caught:
        load_weights(module, path, **options)
    assert unchanged(module, before)
    assert all(one is other for one, other in zip(objects, [*module.parameters(), *module.buffers()]))
    return str(caught.value)


@pytest.fixture(params=["meta", "cpu"])
def part(request: pytest.FixtureRequest) -> nn.Module:
    return truncate(meta(Net) if request.param == "meta" else Net(), "body.0")


@pytest.fixture(params=["safetensors", "pth"])
def style(request: pytest.FixtureRequest) -> Callable[[State, Path], Path]:
    return FORMATS[request.param]


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
    wrapped = "nn.ModuleDict({'a': nn.ModuleDict({'net': module})})"
    assert refused(part, path).endswith(f"\nAll these names are there after 'a.net.': load_weights({wrapped}, path)")
    load_weights(eval(wrapped, {"nn": nn, "module": part}), path)
    assert torch.equal(part.stem.weight, source.stem.weight)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_tensor_beside_the_state_dict(part: nn.Module, key: str, tmp_path: Path) -> None:
    """As the training script of PyTorch's ImageNet example leaves it there."""
    source = Net()
    path = pth({"epoch": 3, "best_acc1": torch.tensor(71.3), key: source.state_dict()}, tmp_path)
    assert load_weights(part, path).notes == (f"found after {key!r}",)
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
        "note: found after 'state_dict'\n"
        "note: 'module.' begins all names of the checkpoint, and was taken off"
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
    assert "Give them the values that they have when the model is built elsewhere: module.ids = ..." in text
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
    with pytest.raises(WeightsError, match=r"without a shape as yet: 2 \(weight, bias\)\. Run the module once"):
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
    with pytest.raises(WeightsError, match="'b' of the module cannot be written to: it is a Tensor with ways of its"):
        load_weights(module, path)
    assert not module.a.any()


def test_what_is_on_the_meta_device_and_in_use(tmp_path: Path) -> None:
    """The first tensors have got their values by then, and give them back."""
    module = meta(Net)
    reference = weakref.ref(module.head.weight)
    assert "is in use elsewhere (as a view" in refused(module, safetensors(Net().state_dict(), tmp_path))
    del reference
    load_weights(module, tmp_path / "all.safetensors")


# -- files that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["safetensors", "pth", "old pth"])
@pytest.mark.parametrize("kept", [0, 4, 8, 40, 0.5, -1])
def test_a_file_that_is_not_whole(part: nn.Module, style: str, kept: float, tmp_path: Path) -> None:
    path = FORMATS[style](Net().state_dict(), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    assert "damaged or not whole" in refused(part, path)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: bytes, rest: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


@pytest.mark.parametrize(
    "damage",
    [
        lambda header, rest: with_header(b"{" + b" " * 40, rest),
        lambda header, rest: with_header(b"[]", rest),
        lambda header, rest: with_header(b"\xff\xfe\xfd", rest),
        lambda header, rest: with_header(b'{"stem.weight": 3}', rest),
        lambda header, rest: with_header(b'{"stem.weight": {"data_offsets": []}}', rest),
        lambda header, rest: with_header(json.dumps(header).encode(), rest + b"more"),
        lambda header, rest: b"\xff" * 8 + json.dumps(header).encode() + rest,
        lambda header, rest: b"<html>404 Not Found</html>",
    ],
)
def test_a_header_that_is_none(part: nn.Module, damage: Callable[..., bytes], tmp_path: Path) -> None:
    path = safetensors(Net().state_dict(), tmp_path)
    path.write_bytes(damage(*header_of(path.read_bytes())))
    assert f"{path} is damaged or not whole: " in refused(part, path)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"dtype": "F64"}, "its header contradicts itself about 'stem.bias'"),
        ({"shape": [5]}, "its header contradicts itself about 'stem.bias'"),
        ({"shape": "four"}, "its header contradicts itself about 'stem.bias'"),
        ({"data_offsets": [-16, 0]}, "its header contradicts itself about 'stem.bias'"),
        ({"data_offsets": [16, 0]}, "its header contradicts itself about 'stem.bias'"),
        ({"data_offsets": [0.5, 16.5]}, "its header contradicts itself about 'stem.bias'"),
        ({"dtype": "F4"}, "'stem.bias' in "),
        ({"dtype": ["F32"]}, "its header contradicts itself about 'stem.bias'"),
    ],
)
def test_an_entry_that_cannot_be(part: nn.Module, entry: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = safetensors(Net().state_dict(), tmp_path)
    header, rest = header_of(path.read_bytes())
    header["stem.bias"] |= entry
    path.write_bytes(with_header(json.dumps(header).encode(), rest))
    assert text in refused(part, path)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_a_pickle_that_runs_code(part: nn.Module, new: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = {**Net().state_dict(), "evil": Evil(marker)}
    path = pth(content, tmp_path, _use_new_zipfile_serialization=new)
    text = refused(part, path)
    assert "holds more than tensors: posix.mkdir. To read that could run code, so it was refused" in text
    assert "weights_only" not in text
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"model": Net().state_dict(), "args": argparse.Namespace(lr=1)}, "more than tensors: argparse.Namespace. "),
        (nn.Linear(2, 2), "more than tensors: torch.nn.modules.linear.Linear. "),
        ({"generator": {"a": torch.ones(1)}, "critic": {"a": torch.ones(1)}}, "several state dicts, 'generator', 'cr"),
        ({"epoch": 3, "loss": 0.5}, "holds no state dict, but a dict of 'epoch', 'loss'"),
        ({}, "holds no state dict, but a dict of nothing"),
        ([torch.ones(3)], "holds no state dict, but list"),
        (torch.ones(3), "holds no state dict, but Tensor"),
    ],
)
def test_a_file_with_something_else(part: nn.Module, content: Any, text: str, tmp_path: Path) -> None:
    assert text in refused(part, pth(content, tmp_path))


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (torch.empty(4, device="meta"), "'stem.bias' in .* has no numbers: it was on the meta device when it was"),
        (torch.ones(4).to_sparse(), "'stem.bias' in .* is no ordinary tensor, and nothing here reads it"),
    ],
)
def test_a_tensor_without_ordinary_numbers(part: nn.Module, weight: Tensor, text: str, tmp_path: Path) -> None:
    before = values(part)
    with pytest.raises(WeightsError, match=text):
        load_weights(part, pth({**Net().state_dict(), "stem.bias": weight}, tmp_path))
    assert unchanged(part, before)


def test_beside_a_sparse_tensor_the_others_are_read(tmp_path: Path) -> None:
    source = nn.Linear(2, 2)
    report = load_weights(
        module := nn.Linear(2, 2), pth({**source.state_dict(), "mask": torch.eye(2).to_sparse()}, tmp_path)
    )
    assert torch.equal(module.weight, source.weight)
    assert "note: read whole" in str(report)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED], ids=["compressed", "stored"])
@pytest.mark.parametrize("names", ["a", "ab"])
def test_an_archive_that_was_packed_again(compression: int, names: str, tmp_path: Path) -> None:
    """Then the numbers may lie elsewhere than torch computes from where the first ones lie."""
    state = {name: torch.randn(100) for name in names}
    path, packed = pth(state, tmp_path), tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    module = nn.ParameterDict({name: torch.zeros(100) for name in names})
    if names == "a" and compression == zipfile.ZIP_STORED:
        load_weights(module, packed)
        assert torch.equal(module["a"], state["a"])
    else:
        assert "was packed again" in refused(module, packed)


def test_a_scripted_file(part: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "part.pt"
    torch.jit.script(truncate(Net(), "stem")).save(path)
    assert f"{path} is a scripted module and no checkpoint" in refused(part, path)


def test_no_such_file(part: nn.Module, tmp_path: Path) -> None:
    assert refused(part, str(tmp_path / "a.pth")) == f"no file {tmp_path}/a.pth"
    safetensors(Net().state_dict(), tmp_path)
    assert refused(part, tmp_path / "a.pth") == f"no file {tmp_path}/a.pth. In {tmp_path} there is all.safetensors"
    assert refused(part, tmp_path / "b" / "a.pth") == f"no file {tmp_path}/b/a.pth: there is no folder {tmp_path}/b"


def test_a_folder_without_weights(part: nn.Module, tmp_path: Path) -> None:
    pth(Net().state_dict(), tmp_path)
    assert refused(part, tmp_path) == (
        f"the folder {tmp_path} holds none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, "
        f"pytorch_model.bin.index.json. In {tmp_path} there is all.pth"
    )


@pytest.mark.parametrize("name", ["weights.h5", "weights", "config.json"])
def test_an_unknown_suffix(part: nn.Module, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"{}")
    text = refused(part, tmp_path / name)
    assert f"cannot tell from {name!r} how to read it. What is read: .safetensors, .pth, .pt, .bin, .ckpt, " in text


def test_no_module(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"load_weights takes a torch\.nn\.Module, but got 'resnet18' of type str"):
        load_weights("resnet18", tmp_path)  # type: ignore[arg-type]


def test_a_state_dict_in_place_of_a_path(part: nn.Module) -> None:
    with pytest.raises(WeightsError, match=r"but got OrderedDict\. For what is in memory .* module\.load_state_dict\("):
        load_weights(part, part.state_dict())  # type: ignore[arg-type]


class Failing(io.FileIO):
    """A disk that fails in the middle of the third tensor."""

    reads = 0

    def readinto(self, buffer: Any) -> int | None:
        Failing.reads += 1
        if Failing.reads > 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)


class Shrinking(Failing):
    def readinto(self, buffer: Any) -> int | None:
        Shrinking.reads += 1
        return 0 if Shrinking.reads > 2 else super(Failing, self).readinto(buffer)


class Slow(io.FileIO):
    """Gives less than it is asked for."""

    def readinto(self, buffer: Any) -> int | None:
        return super().readinto(memoryview(buffer)[:7])


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Failing, "cannot read {}: Input/output error"), (Shrinking, "{} became shorter while it was read")],
)
def test_a_disk_that_fails(
    part: nn.Module,
    style: Callable[[State, Path], Path],
    kind: type[Failing],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = style(Net().state_dict(), tmp_path)
    monkeypatch.setattr(io, "FileIO", kind)
    kind.reads = 0
    assert refused(part, path) == text.format(path)
    assert kind.reads == 3


def test_a_disk_that_gives_less_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, module = nn.Linear(5, 5), nn.Linear(5, 5)
    path = safetensors(source.state_dict(), tmp_path)
    monkeypatch.setattr(io, "FileIO", Slow)
    load_weights(module, path)
    assert torch.equal(module.weight, source.weight)


# -- indexes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return in_shards(Net().state_dict(), tmp_path, ".safetensors", save_safely)


def changed(index: Path, name: str, file: str) -> None:
    content = json.loads(index.read_text())
    content["weight_map"][name] = file
    index.write_text(json.dumps(content))


def test_a_missing_shard(part: nn.Module, index: Path) -> None:
    (index.parent / "part-1.safetensors").unlink()
    assert refused(part, index) == (
        f"{index.parent}/part-1.safetensors is missing, which model.safetensors.index.json names. Was it downloaded?"
    )


def test_a_shard_that_is_not_whole(part: nn.Module, index: Path) -> None:
    shard = index.parent / "part-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard} is damaged or not whole" in refused(part, index.parent)


def test_an_index_that_names_what_its_shard_lacks(part: nn.Module, index: Path) -> None:
    where = json.loads(index.read_text())["weight_map"]["stem.weight"]
    other = next(f"part-{shard}.safetensors" for shard in range(3) if f"part-{shard}.safetensors" != where)
    changed(index, "stem.weight", other)
    assert f"model.safetensors.index.json says that 'stem.weight' is in {other}, which holds no such tensor" in refused(
        part, index
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": 3}', "\x00"])
def test_an_index_that_is_none(part: nn.Module, index: Path, content: str) -> None:
    index.write_text(content)
    assert "is no index of a checkpoint, which has a 'weight_map' of names to files" in refused(part, index)


def test_an_index_leads_nowhere_else(part: nn.Module, index: Path, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    copy_of_index = tmp_path / "inside" / index.name
    copy_of_index.write_text(index.read_text())
    changed(copy_of_index, "stem.weight", "../part-0.safetensors")
    changed(copy_of_index, "scale", "../part-0.safetensors")
    assert "names '../part-0.safetensors', which is no file outside it" in refused(part, copy_of_index)


def test_a_report_can_be_kept(tmp_path: Path) -> None:
    report = load_weights(truncate(Net(), "stem"), safetensors(Net().state_dict(), tmp_path))
    assert copy.deepcopy(report) == report
    assert repr(report) == str(report)
