"""Loading what a part of a model needs from a checkpoint of the whole: the same as loading all and cutting."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import FORMATS, Net, State, Tied, in_shards, meta, pth, safetensors, save_safely
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from truncate import load_weights, truncate
from truncate._weights.stored import PIECE


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
    reader = torch._C.PyTorchFileReader(str(path))
    with open(path, "rb+") as file:  # numbers of our own, so that it matters from where they are read
        for record, (size, value) in enumerate([(3, 1.0), (9, 3.0), (4, 2.0)]):
            file.seek(reader.get_record_offset(f"data/{record}"))
            file.write(torch.full((size,), value).numpy().tobytes())
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
