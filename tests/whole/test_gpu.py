"""On a GPU. The models of the gallery and of the collections run there with `TEST_DEVICE=cuda pytest`."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from oracle import capture, randomize
from torch import Tensor, nn

from truncate import extract, freeze, load_weights, split, truncate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
PLACE = "layer2"


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return randomize(torchvision.models.resnet18()).eval()


class MakesTensors(nn.Module):
    """Makes tensors on the device of its input, and branches on its size, so that it is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 8:
            return x
        x = self.a(x) + torch.arange(4, device=x.device)
        x = self.drop(x) @ torch.eye(4, device=x.device)
        return self.b(x + torch.zeros_like(x))


def seen(model: nn.Module, place: str, *args: Any) -> Tensor:
    torch.manual_seed(1)
    return capture(model, [place], *args)[place][-1]


def given(part: nn.Module, *args: Any) -> Any:
    torch.manual_seed(1)
    return part(*args)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("made_on", ["cpu", "cuda"])
def test_made_here_or_there(made_on: str, training: bool) -> None:
    """Cut before or after the model is moved, the result is that of the model on the GPU."""
    x = torch.randn(8, 3, 64, 64, device="cuda")
    part = truncate(resnet().to(made_on), PLACE).train(training).cuda()
    whole = resnet().train(training).cuda()
    assert torch.equal(given(part, x), seen(whole, PLACE, x))
    for name, buffer in part.named_buffers():
        assert buffer.is_cuda and torch.equal(buffer, whole.get_buffer(name))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("recorded_on", ["cpu", "meta", "cuda"])
def test_recorded_here_or_there(recorded_on: str, training: bool) -> None:
    """What a forward makes on the device of its input is made there, wherever it was recorded."""
    model = MakesTensors().train(training)
    example = torch.randn(2, 4, device=recorded_on)
    part = truncate(model.to("cuda" if recorded_on == "cuda" else "cpu"), "b", (example,)).cuda()
    x = torch.randn(5, 4, device="cuda")
    assert torch.equal(given(part, x), seen(model.cuda(), "b", x))


def test_random_numbers_go_on_as_if_nothing_were() -> None:
    model, x = MakesTensors().cuda(), torch.randn(2, 4, device="cuda")
    torch.manual_seed(3)
    before = torch.cuda.get_rng_state()
    truncate(model, "b", (x,))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_memory_is_that_of_the_part() -> None:
    """A cut of a model on the CPU, moved, takes what its own tensors take, and nothing of the rest."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    part = truncate(torchvision.models.vgg16(), "features.16").cuda()
    own = sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())
    assert own <= torch.cuda.memory_allocated() - before <= own + 512 * len(part.state_dict())


def test_gradients() -> None:
    x = torch.randn(4, 3, 64, 64, device="cuda")
    part, whole = truncate(resnet().cuda(), PLACE), resnet().cuda()
    given(part, x).square().sum().backward()
    outputs: list[Tensor] = []
    whole.get_submodule(PLACE).register_forward_hook(lambda module, args, output: outputs.append(output))
    given(whole, x)
    outputs[-1].square().sum().backward()
    for name, parameter in part.named_parameters():
        expected = whole.get_parameter(name).grad
        assert parameter.grad is not None and expected is not None
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 64, 64, device="cuda")
    part, whole = truncate(resnet().cuda(), PLACE), resnet().cuda()
    with torch.autocast("cuda", dtype):
        got, expected = given(part, x), seen(whole, PLACE, x)
    assert got.dtype is dtype and torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore")  # of what compiles
@pytest.mark.parametrize("way", ["script", "export", "compile", "compiled for few launches", "graph"])
def test_tools(way: str) -> None:
    x = torch.randn(4, 3, 64, 64, device="cuda")
    part, whole = truncate(resnet().cuda(), PLACE), resnet().cuda()
    expected = seen(whole, PLACE, x)
    with torch.no_grad():
        if way == "graph":
            recorded = torch.cuda.make_graphed_callables(part, (torch.zeros_like(x),), allow_unused_input=True)
            assert torch.equal(recorded(x), expected)
            return
        made: Any = {
            "script": lambda: torch.jit.script(part),
            "export": lambda: torch.export.export(part, (x,)).module(),
            "compile": lambda: torch.compile(part, fullgraph=True),
            "compiled for few launches": lambda: torch.compile(part, fullgraph=True, mode="reduce-overhead"),
        }[way]()
        for _ in range(3):
            got = made(x)
        if way.startswith("compile"):  # other kernels, with other roundings
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        else:
            assert torch.equal(got, expected)


def test_copies_and_pickles() -> None:
    x = torch.randn(4, 3, 64, 64, device="cuda")
    part = truncate(resnet().cuda(), PLACE)
    expected = part(x)
    assert torch.equal(copy.deepcopy(part)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(part))(x), expected)


def test_both_sides_on_two_devices() -> None:
    """The front on the CPU and the back on the GPU, or the other way round."""
    x = torch.randn(2, 3, 64, 64)
    for here, there in (("cpu", "cuda"), ("cuda", "cpu")):
        front, back = split(resnet(), PLACE)
        value = front.to(here)(x.to(here)).to(there)
        whole = resnet().to(there)
        torch.testing.assert_close(back.to(there)(value), whole(x.to(there)), rtol=1e-2, atol=1e-2)


def test_frozen() -> None:
    model = freeze(resnet(), PLACE).cuda().train()
    x = torch.randn(4, 3, 64, 64, device="cuda")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(x).sum().backward()
    optimizer.step()
    held = set(truncate(resnet(), PLACE).state_dict())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not changed & held


@pytest.mark.parametrize("on_meta", [False, True])
def test_weights_go_to_the_gpu(on_meta: bool, tmp_path: Path) -> None:
    model = resnet()
    torch.save(model.state_dict(), tmp_path / "resnet.pt")
    with torch.device("meta" if on_meta else "cpu"):
        part = truncate(torchvision.models.resnet18(), PLACE)
    part = part.to_empty(device="cuda") if on_meta else part.cuda()
    load_weights(part, tmp_path / "resnet.pt")
    x = torch.randn(2, 3, 64, 64, device="cuda")
    assert torch.equal(part.eval()(x), seen(model.cuda(), PLACE, x))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_extract(dtype: torch.dtype | None) -> None:
    """Copies run beside the computing: each batch, of sizes of their own, has its own values in the end."""
    part = truncate(resnet(), {"map": PLACE, "stem": "relu"}).cuda()
    batches = [torch.randn(1 + number % 7, 3, 64, 64) for number in range(60)]
    found = extract(part, batches, dtype=dtype, progress=False).features
    row = 0
    with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype is not None):
        for batch in batches:
            expected = part(batch.cuda().contiguous(memory_format=torch.channels_last))
            for name, values in expected.items():
                assert torch.equal(torch.from_numpy(found[name][row : row + len(batch)]), values.float().cpu())
            row += len(batch)
    assert row == len(found["map"])


def test_threads() -> None:
    """Others serve the model on the GPU while it is cut, with and without an example."""
    model, x = MakesTensors().eval().cuda(), torch.randn(2, 4, device="cuda")
    expected, wrong, done = model(x), [], threading.Event()

    def serve() -> None:
        while not done.is_set():
            if not torch.equal(model(x), expected):
                wrong.append(1)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            part = truncate(model, "b", (x,))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong and torch.equal(part(x), expected)


def test_distributed(tmp_path: Path) -> None:
    """One process with NCCL, which meets through a file."""
    where = (tmp_path / "meeting").as_uri()
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("nccl", init_method=where, rank=0, world_size=1)
    try:
        x = torch.randn(4, 3, 64, 64, device="cuda")
        part = truncate(resnet().cuda(), PLACE)
        expected = part(x)
        wrapped = nn.parallel.DistributedDataParallel(part, device_ids=[0])
        result = wrapped(x)
        result.sum().backward()
        assert torch.equal(result, expected) and all(p.grad is not None for p in part.parameters())
    finally:
        torch.distributed.destroy_process_group()
