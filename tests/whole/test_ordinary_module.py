"""A cut is an ordinary module: whatever one does to modules can be done to it, and means the same."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchinfo
import torchvision
from oracle import capture, equal, randomize
from processes import in_two_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from truncate import truncate


class Recorded(nn.Module):
    """Loops as often as a shape says and branches on another, so it is cut on an example."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for i in range(x.shape[1] // 4):
            x = torch.relu(self.blocks[i](x))
            x = nn.functional.dropout(x, 0.2, self.training)
        if x.shape[-1] % 2:
            x = nn.functional.pad(x, (0, 1))
        return self.head(x.mean((2, 3)))


@dataclasses.dataclass(frozen=True)
class Case:
    kind: Callable[[], nn.Module]
    path: str
    size: int
    recorded: bool = False

    def model(self, training: bool = False) -> nn.Module:
        torch.manual_seed(0)
        return randomize(self.kind()).train(training)

    def cut(self, model: nn.Module, **options: Any) -> nn.Module:
        return truncate(model, self.path, (self.inputs(),) if self.recorded else None, **options)

    def inputs(self, batch: int = 2) -> Tensor:
        return torch.randn(batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(batch))

    def expected(self, model: nn.Module, x: Tensor) -> Any:
        torch.manual_seed(1)
        return capture(model, [self.path], x)[self.path][-1]


def run(module: Any, x: Tensor) -> Any:
    torch.manual_seed(1)
    return module(x)


CASES = {
    "alexnet": Case(torchvision.models.alexnet, "classifier.5", 64),
    "resnet": Case(torchvision.models.resnet18, "layer3.1.bn2", 64),
    "densenet": Case(
        lambda: torchvision.models.DenseNet(8, (2, 3, 2, 2), 8, drop_rate=0.1), "features.denseblock3", 64
    ),
    "googlenet": Case(lambda: torchvision.models.googlenet(init_weights=False), "inception4b.branch3", 64),
    "vit": Case(
        lambda: torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, 0.1), "encoder.layers.encoder_layer_1.mlp", 32
    ),
    "recorded": Case(Recorded, "blocks.1", 8, recorded=True),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
BOTH_MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


# -- copies ----------------------------------------------------------------------------------------------------------


def saved_and_loaded(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded],
    ids=["copy", "pickle", "save"],
)
@BOTH_MODES
@EACH
def test_duplicates(case: Case, training: bool, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    """A twin keeps values and modes, one frozen layer too, and shares nothing with the cut or the model."""
    model, untouched = case.model(training), case.model(training)
    for whole in (model, untouched):
        next(m for m in whole.modules() if not m._modules).eval()
    cut = case.cut(model)
    twin = duplicate(cut)
    assert [(n, m.training) for n, m in twin.named_modules()] == [(n, m.training) for n, m in cut.named_modules()]
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in cut.named_parameters()]
    assert not {*twin.parameters()} & {*model.parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x = case.inputs()
    assert equal(run(twin, x), case.expected(untouched, x))


@EACH
def test_weights_fit_into_a_fresh_cut(case: Case) -> None:
    """The state dict is a part of the model's, and loads into another cut."""
    torch.manual_seed(7)
    model, other = case.model(), case.kind().eval()
    state = case.cut(model).state_dict()
    assert set(state) < set(model.state_dict())
    cut = case.cut(other)
    assert not any(cut.load_state_dict(state))
    x = case.inputs()
    assert equal(run(cut, x), case.expected(model, x))


# -- devices, types and layouts --------------------------------------------------------------------------------------


@EACH
def test_to_meta(case: Case) -> None:
    model, x = case.model(), case.inputs()
    cut = case.cut(model, copy=True).to("meta")
    assert all(tensor.is_meta for tensor in cut.state_dict().values())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    output = cut(x.to("meta"))
    assert output.is_meta
    assert output.shape == case.expected(model, x).shape


@EACH
def test_made_on_meta(case: Case) -> None:
    """A model without weights is cut without computing anything, and gets its weights later."""
    with torch.device("meta"):
        model = case.kind().eval()
    if case.recorded:
        cut = truncate(model, case.path, (case.inputs().to("meta"),))
    else:
        cut = case.cut(model)
    full = case.model()
    cut = cut.to_empty(device="cpu")
    cut.load_state_dict(full.state_dict(), strict=False)
    x = case.inputs()
    assert equal(run(cut, x), case.expected(full, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@EACH
def test_to_another_type(case: Case, dtype: torch.dtype) -> None:
    x = case.inputs().to(dtype)
    output = run(case.cut(case.model()).to(dtype), x)
    assert output.dtype is dtype
    assert equal(output, case.expected(case.model().to(dtype), x))


@EACH
def test_channels_last(case: Case) -> None:
    x = case.inputs().to(memory_format=torch.channels_last)
    output = run(case.cut(case.model()).to(memory_format=torch.channels_last), x)
    expected = case.expected(case.model().to(memory_format=torch.channels_last), x)
    assert equal(output, expected)
    assert output.stride() == expected.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@EACH
def test_cut_without_gradients(case: Case, dtype: torch.dtype) -> None:
    """Some operations choose another way to compute when no gradients are needed."""
    with torch.no_grad():
        model = case.model().to(dtype)
        x = case.inputs().to(dtype)
        cut = truncate(model, case.path, (x,))
        assert equal(run(cut, x), case.expected(model, x))


# -- learning --------------------------------------------------------------------------------------------------------


def loss_of(output: Tensor) -> Tensor:
    return (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum() / 100


@EACH
def test_learns_as_the_model_does(case: Case) -> None:
    """Three steps of an optimizer end where those of the hooked whole model end, statistics too."""
    model, whole = case.model(True), case.model(True)
    cut = case.cut(model)
    seen: list[Tensor] = []
    handle = whole.get_submodule(case.path).register_forward_hook(lambda m, args, out: seen.append(out.clone()))
    steps = [torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9) for module in (cut, whole)]
    for batch in (2, 3, 4):
        x = case.inputs(batch)
        loss = loss_of(run(cut, x))
        run(whole, x)
        expected = loss_of(seen.pop())
        assert torch.equal(loss, expected)
        for optimizer, value in zip(steps, (loss, expected)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    handle.remove()
    changed = whole.state_dict()
    assert all(torch.equal(tensor, changed[name]) for name, tensor in cut.state_dict().items())
    assert all(parameter.grad is not None for parameter in cut.parameters())


def _in_parallel(rank: int) -> None:
    """One of two processes: every parameter is used, and gradients are the mean over both."""
    for name, case in CASES.items():
        mine = case.cut(case.model(True))
        parallel = DistributedDataParallel(mine)
        for _ in range(2):  # parameters that the first pass did not use make the second fail
            parallel.zero_grad()
            loss_of(run(parallel, case.inputs(2 + rank))).backward()
        expected: list[Tensor] = []
        for other in range(2):
            alone = case.cut(case.model(True))
            loss_of(run(alone, case.inputs(2 + other))).backward()
            expected = expected or [torch.zeros_like(p) for p in alone.parameters()]
            for total, parameter in zip(expected, alone.parameters()):
                total += parameter.grad / 2
        for parameter, gradient in zip(mine.parameters(), expected):
            assert parameter.grad is not None, name
            assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-4), name


def test_distributed() -> None:
    in_two_processes(_in_parallel)


# -- compilers -------------------------------------------------------------------------------------------------------

IN_A_FRESH_PROCESS = """
import sys, torch
torch.set_num_threads(1)
for path in sys.argv[1:]:
    script = torch.jit.load(path)
    x, expected = torch.load(path + ".values")
    for mode, value in expected.items():
        torch.manual_seed(1)
        assert torch.equal(script.train(mode)(x), value), (path, mode)
assert "truncate" not in sys.modules and "torchvision" not in sys.modules
"""


@EACH
def test_scripts(case: Case) -> None:
    """In both modes, and whatever mode it was made in."""
    x = case.inputs()
    expected = {mode: case.expected(case.model(mode), x) for mode in (False, True)}
    for made_in in (False, True):
        script = torch.jit.script(case.cut(case.model(made_in)))
        assert script.training is made_in
        assert equal(run(script, x), expected[made_in])
        for mode, value in expected.items():
            fresh = torch.jit.script(case.cut(case.model(made_in)))
            assert equal(run(fresh.train(mode), x), value)


def test_scripts_run_where_nothing_of_this_is_installed(tmp_path: Path) -> None:
    files = []
    for case in CASES.values():
        x = case.inputs()
        expected = {mode: case.expected(case.model(mode), x) for mode in (False, True)}
        for made_in in (False, True):
            files.append(str(tmp_path / f"{case.path}-{made_in}.pt"))
            torch.jit.save(torch.jit.script(case.cut(case.model(made_in))), files[-1])
            torch.save((x, expected), f"{files[-1]}.values")
    assert len(set(files)) == 2 * len(CASES)
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", IN_A_FRESH_PROCESS, *files], check=True, timeout=120)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@EACH
def test_traces(case: Case) -> None:
    model, x = case.model(), case.inputs()
    # Tracing twice, which is the check, gives two graphs of torch's own attention, which has a fast path.
    traced = torch.jit.trace(case.cut(model), x, check_trace=False)
    assert equal(traced(x), case.expected(model, x))


@EACH
def test_exports(case: Case) -> None:
    """With any batch size."""
    model = case.model()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(case.cut(model), (case.inputs(),), dynamic_shapes=({0: batch},))
    for x in (case.inputs(), case.inputs(5)):
        assert torch.allclose(program.module()(x), case.expected(model, x), rtol=1e-4, atol=1e-5)
    assert set(program.state_dict) <= set(model.state_dict())


@EACH
def test_compiles(case: Case) -> None:
    """As one graph, in both modes."""
    x = case.inputs()
    for training in (False, True):
        torch._dynamo.reset()
        compiled = torch.compile(case.cut(case.model(training)), fullgraph=True, backend="aot_eager")
        expected = case.expected(case.model(training), x)
        assert torch.allclose(run(compiled, x), expected, rtol=1e-3, atol=1e-4)


def test_compiles_to_native_code() -> None:
    case = CASES["recorded"]
    torch._dynamo.reset()
    model, x = case.model(), case.inputs()
    compiled = torch.compile(case.cut(model), fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), case.expected(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@EACH
def test_onnx(case: Case, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = case.model(), case.inputs()
    torch.onnx.export(case.cut(model), (x,), tmp_path / "cut.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "cut.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(output), case.expected(model, x), rtol=1e-3, atol=1e-3)


@EACH
def test_summary(case: Case) -> None:
    model, x = case.model(), case.inputs()
    cut = case.cut(model)
    summary = torchinfo.summary(cut, input_data=x, verbose=0)
    assert summary.total_params == sum(parameter.numel() for parameter in cut.parameters())
    assert summary.total_params < torchinfo.summary(model, input_data=x, verbose=0).total_params
    assert type(cut).__name__ in str(summary)
