"""Exported programs are cut as the models that they were made from: compared with hooks on these."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import equal, hooked
from torch import Tensor, nn

from truncate import NotReachedError, TruncateError, UnknownTargetError, layers, split, truncate


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(3, 2)
        self.register_buffer("shift", torch.ones(3))
        self.register_buffer("scale", torch.full((3,), 2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x).mean((2, 3)) * self.scale + self.shift
        return self.fc(torch.tanh(self.drop(x)))


def images(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def made(training: bool) -> nn.Module:
    torch.manual_seed(0)
    return Net().train(training)


def run(module: Any, *args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(1)
    return module(*args, **kwargs)


def program_of(training: bool, strict: bool = False, **options: Any) -> torch.export.ExportedProgram:
    return torch.export.export(made(training), (images(),), strict=strict, **options)


def seen_in(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """What hooks on all modules capture last."""
    with hooked(dict(model.named_modules())) as seen:
        run(model, x)
    return {path: values[-1] for path, values in seen.items() if values}


def nodes_of(program: torch.export.ExportedProgram, x: Tensor) -> dict[str, Tensor]:
    """What an interpreter of the program computes at each of its nodes."""
    seen: dict[str, Tensor] = {}

    class Noting(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            seen[n.name] = value.clone() if isinstance(value, Tensor) else value
            return value

    run(Noting(program.module()).run, x)
    return seen


BOTH_MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
STRICT = pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
COPY = pytest.mark.parametrize("as_copy", [False, True], ids=["shared", "copy"])
PATHS = [path for path in seen_in(made(False), images()) if path]
# Operations by their path here, and the nodes of the flat program that they are.
OPERATIONS = {"blocks.0.relu": "relu", "blocks.1.relu": "relu_1", "mean": "mean", "tanh": "tanh", "mul": "mul"}


@COPY
@STRICT
@BOTH_MODES
def test_every_module(training: bool, strict: bool, as_copy: bool) -> None:
    expected = seen_in(made(training), images())
    for path in PATHS:
        cut = truncate(program_of(training, strict), path, copy=as_copy)
        assert equal(run(cut, images()), expected[path]), path
        assert set(cut.state_dict()) <= set(made(training).state_dict())


@COPY
@STRICT
@BOTH_MODES
def test_operations(training: bool, strict: bool, as_copy: bool) -> None:
    expected = nodes_of(program_of(training, strict), images())
    for path, node in OPERATIONS.items():
        cut = truncate(program_of(training, strict), path, copy=as_copy)
        assert torch.equal(run(cut, images()), expected[node]), path


@BOTH_MODES
def test_lists_first_calls_and_what_is_given(training: bool) -> None:
    expected, program = seen_in(made(training), images()), program_of(training)
    found = run(truncate(program, ["blocks.0", "fc", "blocks.1.norm:0", ""]), images())
    assert equal(found, [expected[path] for path in ("blocks.0", "fc", "blocks.1.norm", "")])
    given = run(truncate(program_of(training), before="blocks.1.norm"), images())
    assert torch.equal(given, expected["blocks.1.conv"])


@BOTH_MODES
@pytest.mark.parametrize("at", ["blocks", "blocks.0", "tanh"])
def test_both_sides(training: bool, at: str) -> None:
    front, back = split(program_of(training), at)
    torch.manual_seed(1)
    assert torch.equal(back(front(images())), run(made(training), images()))


@BOTH_MODES
def test_gradients_and_statistics(training: bool) -> None:
    program, model, seen = program_of(training), made(training), []
    cut = truncate(program, "blocks.1")
    model.blocks[1].register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    run(cut, images()).square().sum().backward()
    run(model, images())
    seen[0].square().sum().backward()
    expected = dict(model.named_parameters())
    for name, parameter in cut.named_parameters():
        assert torch.equal(parameter.grad, expected[name].grad), name
    for name, buffer in cut.named_buffers():
        assert torch.equal(buffer, dict(model.named_buffers())[name]), name


def saved(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "deepcopy": copy.deepcopy,
    "saved": saved,
    "exported": lambda cut: torch.export.export(cut, (images(),)).module(),
    "compiled": lambda cut: torch.compile(cut, fullgraph=True, backend="eager"),
    "traced": lambda cut: torch.jit.trace(cut, (images(),)),
    "cut again": lambda cut: truncate(cut, ""),
}


@pytest.mark.parametrize("live", [None, True], ids=["followed", "live"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore")
def test_a_cut_of_it_is_an_ordinary_module(change: str, live: bool | None) -> None:
    torch._dynamo.reset()
    cut = truncate(program_of(False), "blocks.1.norm", live=live)
    assert torch.equal(CHANGES[change](cut)(images()), seen_in(made(False), images())["blocks.1.norm"])


def test_a_file_of_it(tmp_path: Path) -> None:
    torch.export.save(program_of(False), tmp_path / "net.pt2")
    cut = truncate(torch.export.load(tmp_path / "net.pt2"), "blocks.1.relu", copy=True)
    assert torch.equal(cut(images()), nodes_of(program_of(False), images())["relu_1"])


def test_what_it_lists() -> None:
    text = str(layers(program_of(False)))
    assert all(word in text for word in ("Conv2d", "BatchNorm2d", "tanh", "relu"))


# -- what it demands of its inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [None, True], ids=["followed", "live"])
def test_sizes_that_were_fixed_are_checked(live: bool | None) -> None:
    cut = truncate(program_of(False), "blocks.0", live=live)
    with pytest.raises(AssertionError, match=r"exported with x.shape\[0\] == 2"):
        cut(images(5))
    with pytest.raises(AssertionError, match="x has 4 dimensions"):
        cut(images()[0])


def test_sizes_that_were_left_free_stay_free() -> None:
    batch = torch.export.Dim("batch", min=3, max=16)
    model = made(False)
    program = torch.export.export(model, (images(4),), dynamic_shapes=({0: batch},))
    cut = truncate(program, "blocks.0.relu")
    for count in (3, 7, 16):
        block = model.blocks[0]
        assert torch.equal(cut(images(count)), torch.relu(block.norm(block.conv(images(count)))))
    for count, text in ((2, "x.shape[0] >= 3"), (17, "x.shape[0] <= 16")):
        with pytest.raises(AssertionError) as raised:
            cut(images(count))
        assert text in str(raised.value)


class Sizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, pair: Any, *, scale: Tensor, other: Any = None, factor: Any = None) -> Any:
        x = self.a(pair["x"]) * scale * (factor or 1)
        y = x.view(x.shape[0] // 2, 2, 4).sum(1)
        return {"y": self.b(y), "rest": (y + pair["more"][0], x)}


def test_nested_arguments_and_results_and_sizes_that_depend_on_others() -> None:
    n = torch.export.Dim("n", min=2, max=8)
    torch.manual_seed(0)
    model, scale = Sizes().eval(), torch.randn(4)
    make = lambda count: {"x": torch.randn(2 * count, 4), "more": [torch.randn(count, 4)]}  # noqa: E731
    sizes = {"pair": {"x": {0: 2 * n}, "more": [{0: n}]}, "scale": None, "other": None, "factor": None}
    given = {"scale": scale, "other": None, "factor": None}
    program = torch.export.export(model, (make(4),), given, dynamic_shapes=sizes)
    pair = make(3)
    assert equal(truncate(program, "", copy=True)(pair, **given), model(pair, **given))
    cut = truncate(program, ["a", "b", ""])
    assert equal(cut(pair, **given), [model.a(pair["x"]), model(pair, **given)["y"], model(pair, **given)])
    with pytest.raises(AssertionError, match="exported with"):
        cut({"x": torch.randn(6, 4), "more": [torch.randn(4, 4)]}, **given)


def test_numbers_that_were_fixed_are_checked() -> None:
    torch.manual_seed(0)
    model, pair = Sizes().eval(), {"x": torch.randn(4, 4), "more": [torch.randn(2, 4)]}
    given = {"scale": torch.randn(4), "other": None, "factor": 2}
    cut = truncate(torch.export.export(model, (pair,), given), "a")
    assert torch.equal(cut(pair, **given), model.a(pair["x"]))
    with pytest.raises(RuntimeError, match="to be equal to 2"):
        cut(pair, **{**given, "factor": 3})


def test_a_layer_that_the_trace_does_not_run() -> None:
    model = made(False)
    model.spare = nn.Linear(2, 2)
    with pytest.raises(NotReachedError, match="'spare' is never run"):
        truncate(torch.export.export(model, (images(),)), "spare")


class Branches(nn.Module):
    """Does something else for small inputs, so that each call of it has a graph of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return self.layer(x) * 2 if len(like) > 2 else self.layer(x) + 1


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.again, self.between, self.last = Branches(), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.between(self.again(x, x)), torch.ones(2, 1)))


@pytest.mark.parametrize("live", [None, True], ids=["followed", "live"])
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # of torch, for the signature
@pytest.mark.parametrize("preserved", [(), ("again",)], ids=["flat", "signature"])
def test_a_module_with_a_graph_for_each_of_its_calls(preserved: tuple[str, ...], live: bool | None) -> None:
    torch.manual_seed(0)
    model, x = CalledTwice().eval(), torch.randn(3, 4)
    program = torch.export.export(model, (x,), preserve_module_call_signature=preserved)
    with hooked({path: model.get_submodule(path) for path in ("again", "between", "last")}) as seen:
        model(x)
    wanted = {"again:0": seen["again"][0], "again@1": seen["again"][1]}
    for path, value in {**wanted, "between": seen["between"][0], "last": seen["last"][0]}.items():
        cut = truncate(program, path, live=live)
        for _ in range(3):
            assert torch.equal(cut(x), value), path
    for path in ("again", "again.layer", "again:1"):
        with pytest.raises(UnknownTargetError, match="a graph for each of several calls of 'again'"):
            truncate(program, path, live=live)


@pytest.mark.parametrize("function", [truncate, split, layers])
def test_the_module_of_a_program_is_refused_for_the_program(function: Any) -> None:
    program = program_of(training=False)
    given = () if function is layers else ("relu",)
    instead = re.escape(f"Give the exported program itself: {function.__name__}(program, ...)")
    with pytest.raises(TruncateError, match=instead):
        function(program.module(), *given)
