"""What `extract` leaves as it was while it computes, and on which device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from extracted import INPUTS, Net, Returns, batches, expected, mixed
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from truncate import ExtractError, extract
from truncate._extract import compute as _compute
from truncate._extract.batches import Batch


def test_modes_are_restored() -> None:
    net = mixed()
    assert np.array_equal(extract(net, batches()).features, expected(mixed_like(net)))
    assert [net.training, net.one.training, net.drop.training, net.two.training] == [True, True, True, False]


def mixed_like(net: Net) -> Net:
    other = Net()
    other.load_state_dict(net.state_dict())
    return other


def fail(x: Tensor) -> Tensor:
    torch.rand(1)
    raise ValueError("no")


def test_everything_is_restored_after_an_error(tmp_path: Path) -> None:
    net = mixed()
    net.two = Returns(fail)  # type: ignore[assignment]
    net.two.eval()
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(ValueError, match="no") as caught:
        extract(net, batches(), to=tmp_path / "features.parquet")
    assert caught.value.__notes__ == ["This was batch 0 of `extract`, counted from 0."]
    assert [net.training, net.one.training, net.two.training] == [True, True, False]
    assert torch.equal(before[0], torch.get_rng_state())
    assert not list(tmp_path.iterdir())
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_the_random_state_is_kept() -> None:
    before = torch.get_rng_state(), random.getstate()
    extract(Returns(torch.rand_like), DataLoader(TensorDataset(INPUTS), batch_size=4, shuffle=True))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_the_batches_are_made_outside_of_inference_mode() -> None:
    seen = []

    def source() -> Iterator[Tensor]:
        for batch in INPUTS.split(5):
            seen.append(torch.is_inference_mode_enabled() or not torch.is_grad_enabled())
            yield batch

    extract(Net(), source())
    assert seen == [False] * 5


def test_the_forward_runs_without_gradients() -> None:
    seen = []
    extract(Returns(lambda x: seen.append(torch.is_inference_mode_enabled()) or x), [INPUTS])
    assert seen == [True]


def test_autocast() -> None:
    net = Net().eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wanted = net(INPUTS)
    assert wanted.dtype is torch.bfloat16
    got = extract(net, [INPUTS], dtype=torch.bfloat16).features
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted.float())
    assert np.array_equal(extract(net, [INPUTS], dtype=torch.float32).features, extract(net, [INPUTS]).features)


def test_pictures_are_channels_last_where_there_are_convolutions() -> None:
    class Sees(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.layer(x)

    seen: list[bool] = []
    pictures = torch.rand(4, 3, 5, 5)
    conv = nn.Conv2d(3, 2, 3)
    got = extract(Sees(conv), [pictures]).features
    assert np.allclose(got, conv(pictures).detach(), atol=1e-6)
    assert got.flags.c_contiguous
    extract(Sees(nn.Identity()), [pictures])
    assert seen == [True, False]


def test_a_forward_that_needs_the_usual_layout_gets_it() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).view(len(x), -1)

    net, pictures = Views(), torch.rand(6, 3, 5, 5)
    with torch.no_grad():
        assert np.array_equal(extract(net, pictures.split(3)).features, torch.cat([net(x) for x in pictures.split(3)]))


def test_another_device_gets_a_copy() -> None:
    net = Net()
    with pytest.raises(ExtractError, match=r"device='cuda(:7)?'|device='nowhere'"):
        extract(net, batches(), device="nowhere")
    meta, at = _compute_placed(net, "meta")
    assert at.type == "meta"
    assert meta is not net
    assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}


def _compute_placed(net: nn.Module, device: str) -> tuple[nn.Module, torch.device]:
    from truncate._extract.features import _placed

    return _placed(net, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ExtractError, match="cannot compute on device='cuda'"):
        extract(Net(), batches(), device="cuda")


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_the_pipeline_for_an_accelerator_hands_out_every_batch_in_order(count: int) -> None:
    """On the CPU, where streams do nothing: this checks the order of things, and not that they overlap."""
    given = [Batch((torch.full((2, 2), float(i)),), {}, 2, i, None) for i in range(count)]
    forward = _compute.Forward(Returns(lambda x: [x + 1, x * 2]), torch.device("cpu"), None)
    got = list(_compute.overlapped(forward, iter(given), torch.device("cpu")))
    assert [batch.labels for batch, _ in got] == list(range(count))
    assert [int(one[0, 0]) for _, (one, _) in got] == [i + 1 for i in range(count)]
    assert [int(two[0, 0]) for _, (_, two) in got] == [i * 2 for i in range(count)]


def test_the_pipeline_reads_one_batch_ahead() -> None:
    """While a batch is computed the next is read, and no more: memory does not grow with the source."""
    events: list[str] = []

    def source() -> Iterator[Batch]:
        for i in range(4):
            events.append(f"read {i}")
            yield Batch((torch.zeros(1),), {}, 1, None, None)

    def forward(batch: Batch) -> Tensor:
        events.append(f"compute {sum(event.startswith('compute') for event in events)}")
        return batch.args[0]

    for i, _ in enumerate(_compute.overlapped(forward, source(), torch.device("cpu"))):
        events.append(f"out {i}")
    assert events == [
        *["read 0", "compute 0", "read 1", "compute 1", "read 2", "out 0", "compute 2", "read 3", "out 1"],
        *["compute 3", "out 2", "out 3"],
    ]
