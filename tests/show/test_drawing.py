"""A drawing shows every place, says of each what the cut really does with it, and works in a real browser."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from pages import parsed
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from truncate import TruncateError, draw, layers, truncate
from truncate._errors import printable
from truncate._show.tree import Diagram, Mark, TreeNode, folded, percent

PHOTO = (torch.empty(1, 3, 64, 64, device="meta"),)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(4, 8)
        self.act = nn.ReLU()
        self.down = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.lift(x)))


class Net(nn.Module):
    """Blocks that repeat, a layer that runs twice under two names, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.Sequential(*(Block() for _ in range(6)))
        self.again = self.stem
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.stem.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.blocks(self.stem(x))))


def marks(diagram: Diagram) -> dict[str, Mark | None]:
    return {item.path: item.mark for item in diagram.root.walk()}


# -- what it says ----------------------------------------------------------------------------------------------------


MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "alexnet": (torchvision.models.alexnet, "classifier.5"),
    "resnet18": (torchvision.models.resnet18, {"c3": "layer2", "inner": "layer3.1.conv1", "sum": "layer3.0.add"}),
    "googlenet": (lambda: torchvision.models.googlenet(init_weights=False), "inception4b.branch2.0"),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 3, 2, 2), 8), "features.denseblock2.denselayer2.conv1"),
    "vit": (lambda: torchvision.models.VisionTransformer(64, 16, 3, 2, 16, 32), "encoder.layers.encoder_layer_1.ln_2"),
    "timm_vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4), ["blocks.1", "blocks.2.mlp"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_marks_agree_with_the_cut(name: str) -> None:
    make, upto = MODELS[name]
    model = make().eval()
    picture = draw(model, upto).diagram
    found = marks(picture)
    assert {place.path for place in layers(model)} <= set(found)
    kept = set(truncate(model, upto).state_dict())
    compared = 0
    for path, module in model.named_modules():
        own = {f"{path}.{tensor}" for tensor in module.state_dict() if "." not in tensor}
        if own and path in found and not module._modules:
            assert own <= kept if found[path] in (Mark.KEPT, Mark.RETURNED) else not own & kept, path
            assert found[path] is not Mark.PARTLY
            compared += 1
    assert compared > 5
    targets = [upto] if isinstance(upto, str) else list(upto.values() if isinstance(upto, dict) else upto)
    assert {path for path, mark in found.items() if mark is Mark.RETURNED} == set(targets)
    assert picture.left_parameters == sum(p.numel() for p in truncate(model, upto).parameters())
    assert {Mark.KEPT, Mark.PARTLY, Mark.DROPPED, Mark.RETURNED} == set(picture.marks)


def test_tree_of_a_cut() -> None:
    drawing = draw(Net().eval(), "blocks.0.act", args=(torch.zeros(3, 4),))
    assert repr(drawing) == "<drawing of Net up to blocks.0.act>"
    lines = str(drawing).splitlines()
    assert [line for line in lines if "again" not in line and "head" not in line] == [
        "Net up to blocks.0.act",
        "parameters: 60 of 476 (12.6 %)",
        "multiply-adds: 144 of 1,296 (11.1 %)",
        "",
        "   target              type        output  parameters    share  multiply-adds    share",
        "◐  Net                 Net                        476  100.0 %          1,296  100.0 %",
        "●  ├── stem            Linear      3×4             20    4.2 %             96    7.4 %  2 calls",
        "◐  ├── blocks          Sequential  3×4            456   95.8 %          1,152   88.9 %",
        "◐  │   ├── 0           Block       3×4             76   16.0 %            192   14.8 %",
        "●  │   │   ├── lift    Linear      3×8             40    8.4 %             96    7.4 %",
        "◉  │   │   ├── act     ReLU        3×8                                                  output",
        "○  │   │   ├── down    Linear      3×4             36    7.6 %             96    7.4 %",
        "○  │   │   └── add     add         3×4                                                  from input and down",
        "○  │   └── 1 … 5  × 5  Block       3×4         5 × 76   79.8 %        5 × 192   74.1 %",
        "○  │       ├── lift    Linear      3×8             40    8.4 %             96    7.4 %",
        "○  │       ├── act     ReLU        3×8",
        "○  │       ├── down    Linear      3×4             36    7.6 %             96    7.4 %",
        "○  │       └── add     add         3×4                                                  from input and down",
        "",
        "◉ returned   ● kept   ◐ partly kept   ○ dropped",
    ]


def test_blocks_that_repeat_are_one() -> None:
    picture = draw(Net().eval(), "blocks.3.lift").diagram
    blocks = next(branch for branch in picture.root.walk() if branch.path == "blocks")
    assert [(group.label, group.times) for group in folded(blocks.inside)] == [("0 … 2", 3), ("3", 1), ("4 … 5", 2)]
    whole = draw(Net()).diagram
    blocks = next(branch for branch in whole.root.walk() if branch.path == "blocks")
    assert [(group.label, group.times) for group in folded(blocks.inside)] == [("0 … 5", 6)]
    assert whole.share(folded(blocks.inside)[0], "parameters") == blocks.parameters / whole.root.parameters


def test_only_what_looks_alike_is_one() -> None:
    def leaf(name: str, **more: Any) -> TreeNode:
        return TreeNode(name, name, "Linear", 4, **more)

    def labels(*branches: TreeNode) -> list[str]:
        return [group.label for group in folded(branches)]

    assert labels(leaf("0"), leaf("1"), leaf("2")) == ["0 … 2"]
    assert labels(leaf("0"), leaf("1")) == ["0", "1"]  # as one they would take as much room
    assert labels(leaf("query"), leaf("key"), leaf("value")) == ["query", "key", "value"]
    assert labels(leaf("0"), leaf("1"), leaf("2", mark=Mark.DROPPED)) == ["0", "1", "2"]
    assert labels(leaf("0"), leaf("1"), leaf("2", shape="2×2")) == ["0", "1", "2"]
    blocks = [TreeNode(str(i), str(i), "Block", 4, inside=[leaf(inner)]) for i, inner in enumerate("aab")]
    assert labels(*blocks) == ["0 … 1", "2"]


def test_what_is_shared_is_said_and_counted_once() -> None:
    model = Net().eval()
    picture = layers(model).diagram()
    notes = {branch.path: branch.notes for branch in picture.root.walk()}
    first, second = sorted(("stem", "again"), key=[place.path for place in layers(model)].index)
    assert f"the same module as {first}" in notes[second]
    assert notes["head"] == f"shares parameters with {first}"
    again = next(branch for branch in picture.root.walk() if branch.path == second)
    assert picture.share(folded([again])[0], "parameters") is None


def test_an_operation_is_kept_where_it_is_needed() -> None:
    model = torchvision.models.alexnet()
    assert marks(draw(model, "classifier.5").diagram)["flatten"] is Mark.KEPT
    assert marks(draw(model, "avgpool").diagram)["flatten"] is Mark.DROPPED


@pytest.mark.parametrize("args", [None, (torch.zeros(1, 3, 64, 64),)])
def test_after_a_place(args: Any) -> None:
    """What was computed before it is dropped; where skip connections cross too, likewise."""
    model = torchvision.models.resnet18().eval()
    picture = draw(model, {"c4": "layer3"}, args, after="layer1").diagram
    found = marks(picture)
    assert picture.cut == "after layer1, up to layer3"
    assert [found[name] for name in ("conv1", "layer1", "layer2", "layer3", "layer4")] == [
        Mark.DROPPED, Mark.DROPPED, Mark.KEPT, Mark.RETURNED, Mark.DROPPED,
    ]  # fmt: skip
    held = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("layer2", "layer3")))
    assert picture.left_parameters == held and picture.left_work is None
    rest = marks(draw(model, args=args, after="layer3.0.conv1").diagram)
    assert rest["layer3.0.conv1"] is Mark.DROPPED and rest["layer3.0.conv2"] is Mark.KEPT
    assert rest["layer3"] is Mark.PARTLY and rest["fc"] is Mark.KEPT


def test_before_a_place() -> None:
    picture = draw(Net().eval(), before="blocks.3.down").diagram
    found = {branch.path: branch for branch in picture.root.walk()}
    assert found["blocks.3.down"].mark is Mark.DROPPED
    assert found["blocks.3.down"].returned_as == "output: what it is given"
    assert found["blocks.3.act"].mark is Mark.KEPT
    assert picture.cut == "before blocks.3.down"


def test_the_model_itself_and_several_calls() -> None:
    model = Net().eval()
    assert set(marks(draw(model, "").diagram).values()) == {Mark.KEPT, Mark.RETURNED}
    both = draw(model, ["", "blocks.0"]).diagram
    assert {path for path, mark in marks(both).items() if mark is Mark.RETURNED} == {"", "blocks.0"}
    assert Mark.DROPPED not in both.marks
    called = draw(torchvision.models.resnet18().eval(), "layer1.0.relu:0").diagram
    relu = next(branch for branch in called.root.walk() if branch.path == "layer1.0.relu")
    assert relu.returned_as == "output (call 0)"


def test_without_a_cut_nothing_is_marked() -> None:
    picture = draw(Net()).diagram
    assert picture.marks == []
    assert "kept" not in str(draw(Net()))
    assert picture.facts == [("parameters", "476")]


def test_a_truncated_module_draws_what_it_returns() -> None:
    cut = truncate(torchvision.models.alexnet(), {"low": "features.3", "fc6": "classifier.2"})
    found = marks(draw(cut).diagram)
    assert {path for path, mark in found.items() if mark is not None} == {"features.3", "classifier"}
    returned = {b.path: b.returned_as for b in draw(cut).diagram.root.walk() if b.returned_as}
    assert returned == {"features.3": "output['low']", "classifier": "output['fc6']"}
    assert cut._repr_html_() == draw(cut)._repr_html_()
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    console.print(cut)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "output['low']" in printed
    assert "\x1b[" in printed  # in colours


def test_an_operation_that_only_the_example_shows() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = y * 2 if x.shape[0] > 1 else y
            return self.second(y)

    found = marks(draw(Branching(), "mul", args=(torch.zeros(2, 4),)).diagram)
    assert found == {"": Mark.PARTLY, "first": Mark.KEPT, "second": Mark.DROPPED, "mul": Mark.RETURNED}


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "vit"])
def test_multiply_adds_are_half_of_what_torch_counts(name: str) -> None:
    model = MODELS[name][0]().eval()
    picture = layers(model, PHOTO).diagram()
    twin = MODELS[name][0]().eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(*PHOTO)
    expected = counter.get_flop_counts()
    assert picture.root.work == counter.get_total_flops() // 2 > 0
    compared = 0
    for branch in picture.root.walk():
        counts = expected.get(f"{type(model).__name__}.{branch.path}")
        if branch.path and branch.work and counts:
            assert branch.work == sum(counts.values()) // 2, branch.path
            compared += 1
    assert compared > 3


def test_what_cannot_be_counted_is_left_out() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x if x.sum() > 0 else x

    picture = draw(Counting(), args=(torch.ones(2, 2),)).diagram
    assert picture.root.work is None
    assert "multiply-adds" not in str(draw(Counting(), args=(torch.ones(2, 2),)))


def test_drawing_leaves_the_model_as_it_was() -> None:
    model = torchvision.models.resnet18()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    draw(model, "layer2", args=(torch.randn(2, 3, 32, 32, generator=torch.Generator()),))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_shares() -> None:
    assert [percent(share) for share in (None, 1, 0.5, 0.0001, 0.99999)] == [
        "",
        "100.0 %",
        "50.0 %",
        "< 0.1 %",
        "> 99.9 %",
    ]


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>&\"x"
    kind = type(evil, (nn.Linear,), {})
    model = nn.Sequential()
    model.add_module(evil, kind(2, 2))
    model.add_module("b", nn.Linear(2, 2))
    for suffix in ("svg", "html"):
        path = tmp_path / f"evil.{suffix}"
        drawing = draw(model, {evil: "b"}, to=path)
        text = path.read_text()
        assert "<script>alert" not in text
        ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert parsed(drawing._repr_html_()).targets == [evil, "b"]
    assert evil in str(drawing)
    console = Console(file=io.StringIO(), width=300)
    console.print(draw(nn.ModuleDict({"[bold]x[/nothing]": nn.ReLU()})))


NAMES = ["[cls]", "[/]", "[link=https://a]x[/link]", ":smile:", "\x1b[31mred", "a\nb", "a\x00", "\ud800", "\u202ex"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_shown_and_does_nothing(name: str, tmp_path: Path) -> None:
    """As one that comes from data: of a child, of a class, or a key of the result."""
    allowed = "\x00" not in name and name.isascii()
    kind = type(name if allowed else "Linear", (nn.Linear,), {})

    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of = nn.ModuleDict({name: kind(2, 2)})
            self.end = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.of[name](x))

    listed, drawing = layers(Holding()), draw(Holding(), {name: "end"})
    texts = [str(listed), listed.table(), str(drawing), listed._repr_html_(), drawing._repr_html_()]
    for suffix in ("svg", "html"):
        draw(Holding(), {name: "end"}, to=tmp_path / f"drawn.{suffix}")
        texts.append((tmp_path / f"drawn.{suffix}").read_text())
        ET.fromstring(texts[-1].removeprefix("<!DOCTYPE html>\n"))
    console = Console(file=io.StringIO(), width=300)
    console.print(listed, drawing)
    texts.append(console.file.getvalue())
    for text in texts:
        assert text.count(printable(name)) >= (2 if allowed else 1)
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert not any(line.startswith("b") for line in text.splitlines())  # what stood after a line break


def test_a_notebook_shows_the_same_twice_over() -> None:
    text = layers(Net(), args=(torch.zeros(1, 4),))._repr_html_()
    assert parsed(text).targets == [place.path for place in layers(Net())]
    assert parsed(text + text).open == []
    assert " id=" not in text  # two on one page do not meet


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TruncateError, match=r"a drawing is written as \.svg, \.html, \.png, but '.*cut\.gif' ends in none of these"
    ):
        draw(Net(), "blocks", to=tmp_path / "cut.gif")
    missing = tmp_path / "no" / "cut.svg"
    with pytest.raises(
        TruncateError, match=r"cannot write .*no/cut\.svg: No such file or directory\. Nothing was written"
    ):
        draw(Net(), "blocks", to=missing)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cut.svg"
    draw(Net(), "blocks", to=path)
    before = path.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TruncateError, match="No space left on device"):
        draw(Net(), "stem", to=path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["cut.svg"]


def test_mistakes_are_named() -> None:
    with pytest.raises(TruncateError, match="draw takes a torch.nn.Module, but got 'resnet18' of type str"):
        draw("resnet18")  # type: ignore[arg-type]
    with pytest.raises(TruncateError, match="Did you mean 'blocks'"):
        draw(Net(), "block")
    with pytest.raises(TruncateError, match="give only one of them"):
        draw(Net(), "blocks", before="head")
    with pytest.raises(TruncateError, match="nothing to stop at"):
        draw(Net(), [])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        for block in self.blocks:
            x = block(x)
        return x


def test_blocks_that_a_live_cut_runs_to_their_end_are_kept_with_their_operations() -> None:
    marks = {item.path: item.mark for item in draw(Branching(), "blocks.1").diagram.root.walk()}
    assert marks[""] == marks["blocks"] == Mark.PARTLY
    assert {marks["blocks.0"], marks["blocks.0.add"], marks["blocks.1.act"], marks["blocks.1.add"]} == {Mark.KEPT}
    assert marks["blocks.1"] == Mark.RETURNED
    assert {marks["blocks.2"], marks["blocks.2.lift"], marks["blocks.2.add"]} == {Mark.DROPPED}
    inside = {item.path: item.mark for item in draw(Branching(), "blocks.1.act").diagram.root.walk()}
    assert inside["blocks.0"] == Mark.KEPT
    assert inside["blocks.1"] == Mark.PARTLY
