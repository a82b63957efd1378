"""A drawing shows every place, says of each what the cut really does with it, and works in a real browser."""

from __future__ import annotations

import io
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from folders import ROOT
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from truncate import TruncateError, draw, layers, truncate
from truncate._show.svg import page as svg
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
    assert {Mark.KEPT, Mark.PARTLY, Mark.CUT, Mark.RETURNED} == set(picture.marks)


def test_tree_of_a_cut() -> None:
    lines = str(draw(Net().eval(), "blocks.0.act", args=(torch.zeros(3, 4),))).splitlines()
    assert [line for line in lines if "again" not in line and "head" not in line] == [
        "Net up to blocks.0.act",
        "parameters: 60 of 476 (12.6 %)",
        "multiply-adds: 144 of 1,296 (11.1 %)",
        "",
        "   place               type        output  parameters    share  multiply-adds    share",
        "◐  Net                 Net                        476  100.0 %          1,296  100.0 %",
        "●  ├── stem            Linear      3×4             20    4.2 %             96    7.4 %  2 calls",
        "◐  ├── blocks          Sequential  3×4            456   95.8 %          1,152   88.9 %",
        "◐  │   ├── 0           Block       3×4             76   16.0 %            192   14.8 %",
        "●  │   │   ├── lift    Linear      3×8             40    8.4 %             96    7.4 %",
        "◉  │   │   ├── act     ReLU        3×8                                                  output",
        "○  │   │   ├── down    Linear      3×4             36    7.6 %             96    7.4 %",
        "○  │   │   └── add     add         3×4",
        "○  │   └── 1 … 5  × 5  Block       3×4         5 × 76   79.8 %        5 × 192   74.1 %",
        "○  │       ├── lift    Linear      3×8             40    8.4 %             96    7.4 %",
        "○  │       ├── act     ReLU        3×8",
        "○  │       ├── down    Linear      3×4             36    7.6 %             96    7.4 %",
        "○  │       └── add     add         3×4",
        "",
        "◉ returned   ● kept   ◐ partly kept   ○ cut away",
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
    assert labels(leaf("0"), leaf("1"), leaf("2", mark=Mark.CUT)) == ["0", "1", "2"]
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
    assert marks(draw(model, "avgpool").diagram)["flatten"] is Mark.CUT


@pytest.mark.parametrize("args", [None, (torch.zeros(1, 3, 64, 64),)])
def test_after_a_place(args: Any) -> None:
    """What was computed in front of it is cut away; where skip connections cross too, likewise."""
    model = torchvision.models.resnet18().eval()
    picture = draw(model, {"c4": "layer3"}, args, after="layer1").diagram
    found = marks(picture)
    assert picture.cut == "after layer1, up to layer3"
    assert [found[name] for name in ("conv1", "layer1", "layer2", "layer3", "layer4")] == [
        Mark.CUT, Mark.CUT, Mark.KEPT, Mark.RETURNED, Mark.CUT,
    ]  # fmt: skip
    held = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("layer2", "layer3")))
    assert picture.left_parameters == held and picture.left_work is None
    rest = marks(draw(model, args=args, after="layer3.0.conv1").diagram)
    assert rest["layer3.0.conv1"] is Mark.CUT and rest["layer3.0.conv2"] is Mark.KEPT
    assert rest["layer3"] is Mark.PARTLY and rest["fc"] is Mark.KEPT


def test_before_a_place() -> None:
    picture = draw(Net().eval(), before="blocks.3.down").diagram
    found = {branch.path: branch for branch in picture.root.walk()}
    assert found["blocks.3.down"].mark is Mark.CUT
    assert found["blocks.3.down"].returned_as == "output: what it is given"
    assert found["blocks.3.act"].mark is Mark.KEPT
    assert picture.cut == "before blocks.3.down"


def test_the_model_itself_and_several_calls() -> None:
    model = Net().eval()
    assert set(marks(draw(model, "").diagram).values()) == {Mark.KEPT, Mark.RETURNED}
    both = draw(model, ["", "blocks.0"]).diagram
    assert {path for path, mark in marks(both).items() if mark is Mark.RETURNED} == {"", "blocks.0"}
    assert Mark.CUT not in both.marks
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
    assert found == {"": Mark.PARTLY, "first": Mark.KEPT, "second": Mark.CUT, "mul": Mark.RETURNED}


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


# -- files -----------------------------------------------------------------------------------------------------------


class Strict(HTMLParser):
    """Fails on tags that do not match; collects what may be searched, and copied."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.targets: list[str] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "button" and "data-target" in given:
            self.targets.append(str(given["data-target"]))
            assert given["aria-label"]
        if tag == "li" and "data-find" in given:
            self.found.append(str(given["data-find"]))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Strict:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def deep() -> nn.Module:
    return torchvision.models.resnet152().eval()


def test_html_holds_every_place_and_stands_by_itself(deep: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "cut.html"
    draw(deep, "layer3.20.conv2", to=path)
    text = path.read_text()
    assert sorted(parsed(text).targets) == sorted(place.path for place in layers(deep))
    assert len(parsed(text).found) == len(layers(deep))
    ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))  # it is XML too
    assert not re.search(r"(?:https?:)?//(?!<!\[CDATA|\]\])[a-z]|@import|url\(|\bsrc=|\bhref=", text)


def test_the_picture_of_the_readme_is_what_is_drawn() -> None:
    drawn = draw(torchvision.models.alexnet(), "classifier.5", args=(torch.empty(1, 3, 224, 224, device="meta"),))
    assert svg(drawn.diagram) == (ROOT / "docs" / "alexnet.svg").read_text()


def test_svg_draws_a_repeated_block_once(deep: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "cut.svg"
    draw(deep, "layer3.20.conv2", to=path)
    text = path.read_text()
    root = ET.fromstring(text)
    rows = root.findall(".//{*}g[@class]/{*}title")
    paths = [str(title.text).split(",")[0] for title in rows]
    assert "layer3.1 … layer3.19" in paths
    assert "layer3.20.conv2" in paths
    assert "layer3.21 … layer3.35" in paths
    assert not [path for path in paths if path.startswith(("layer3.2.", "layer3.30"))]
    assert len(rows) < 130
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"@import|url\(|href|<script|<image", text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.findall(".//{*}text"):
        assert 0 <= float(element.attrib["x"]) < width
        assert 0 < float(element.attrib["y"]) < height


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


def test_a_notebook_shows_the_same_twice_over() -> None:
    text = layers(Net(), args=(torch.zeros(1, 4),))._repr_html_()
    assert parsed(text).targets == [place.path for place in layers(Net())]
    assert parsed(text + text).open == []
    assert " id=" not in text  # two on one page do not meet


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TruncateError, match=r"a drawing is written as \.svg or \.html, and '.*cut\.png' ends in neither"
    ):
        draw(Net(), "blocks", to=tmp_path / "cut.png")
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
    with pytest.raises(TruncateError, match="give one of them"):
        draw(Net(), "blocks", before="head")
    with pytest.raises(TruncateError, match="nothing to stop at"):
        draw(Net(), [])


# -- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with api.sync_playwright() as playwright:
        path = found or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: install the package `chromium`, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, deep: nn.Module, tmp_path: Path) -> Iterator[Any]:
    draw(deep, "layer3.20.conv2", to=tmp_path / "cut.html")
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    errors: list[Any] = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto((tmp_path / "cut.html").as_uri())
    yield page
    assert errors == []
    context.close()


def button(page: Any, path: str) -> Any:
    return page.locator(f'button[data-target="{path}"]')


def test_it_folds_and_unfolds(page: Any) -> None:
    assert button(page, "layer3.20.conv2").is_visible()  # where it is cut is unfolded at first
    assert not button(page, "layer3.5.conv2").is_visible()
    fold = page.locator("summary", has=page.locator("code", has_text="1 … 19"))
    fold.click()
    assert button(page, "layer3.5").is_visible()
    fold.focus()
    page.keyboard.press("Enter")
    assert not button(page, "layer3.5").is_visible()
    page.get_by_text("unfold all").click()
    assert button(page, "layer3.5.conv2").is_visible()
    page.get_by_text("fold all", exact=True).click()
    assert not button(page, "conv1").is_visible()


def test_search_finds_a_layer(page: Any) -> None:
    search = page.get_by_label("Find a layer")
    search.fill("layer3.17.conv3")
    assert button(page, "layer3.17.conv3").is_visible()
    assert not button(page, "fc").is_visible()
    assert page.locator(".said").inner_text() == "1 place"
    search.fill("LAYER4 batchnorm")
    assert page.locator(".said").inner_text() == "10 places"
    search.fill("nothing like it")
    assert page.locator(".said").inner_text() == "0 places"
    search.press("Escape")
    assert button(page, "layer3.20.conv2").is_visible()
    assert not button(page, "layer3.17.conv3").is_visible()


@pytest.mark.parametrize("clipboard", ["there", "refused"])
def test_a_click_copies_the_target(page: Any, clipboard: str) -> None:
    if clipboard == "refused":
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    button(page, "layer3.20.bn1").click()
    page.wait_for_function("document.querySelector('.said').textContent !== ''")
    assert page.locator(".said").inner_text() == "copied layer3.20.bn1"
    assert page.evaluate("navigator.clipboard.readText()") == "layer3.20.bn1"
    assert button(page, "layer3.20.conv2").is_visible()  # the row around it did not fold
    button(page, "layer3").press("Enter")
    page.wait_for_function("document.querySelector('.said').textContent === 'copied layer3'")
    assert page.evaluate("navigator.clipboard.readText()") == "layer3"
    assert button(page, "layer3.20").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_dark(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 900, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for path in ("layer3.20.conv1", "fc"):  # one that is kept, one that is cut away
        assert _contrast(*page.evaluate(_COLOURS, path)) >= 4.5


_COLOURS = """path => {
  const button = document.querySelector(`button[data-target="${path}"]`);
  return [getComputedStyle(button).color, getComputedStyle(button.closest(".truncate-picture")).backgroundColor];
}"""


def _contrast(first: str, second: str) -> float:
    """How far apart the luminances of two colours are, as the guidelines for accessible pages count it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
