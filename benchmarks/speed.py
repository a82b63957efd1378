"""How fast truncate is: ``python -m benchmarks.speed``.

Every figure is a ratio of medians of times that were taken in turns in one process on one thread, so that whatever else
the machine does meets both sides alike.
"""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import track
from torch import Tensor, nn
from torchvision.models import alexnet, get_model, resnet50, vit_b_16
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.feature_extraction import create_feature_extractor

from benchmarks import drawing, extraction, loading, report
from benchmarks.memory import memory
from benchmarks.timing import ms, ratio, times
from truncate import truncate

PLACES = {
    "alexnet": "classifier.5",
    "vgg16": "features.9",
    "googlenet": "inception4b",
    "resnet50": "layer3.2",
    "densenet121": "features.denseblock3",
    "mobilenet_v3_large": "features.9",
    "efficientnet_b0": "features.5",
    "mnasnet1_0": "layers.10",
    "convnext_tiny": "features.5.3",
    "swin_t": "features.3",
    "vit_b_16": "encoder.layers.encoder_layer_6",
    "vit_h_14": "encoder.layers.encoder_layer_15",
}


def in_blocks(model: nn.Module, place: str) -> dict[str, Any]:
    """What the peer's documentation advises: its tracer shall not look into the blocks, here those at the place."""
    target = model.get_submodule(place)
    blocks = list(target.children()) if isinstance(target, nn.Sequential) else [target]
    kinds = {type(block) for block in blocks if list(block.children())}
    return {"tracer_kwargs": {"leaf_modules": list(kinds)}} if kinds else {}


def building(count: int) -> tuple[str, list[dict[str, Any]]]:
    rows, results = [], []

    def measure(name: str, place: str) -> None:
        with torch.device("meta"):
            model = get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {})).eval()
        advised = in_blocks(model, place)
        ours, plain, tuned = times(
            count,
            lambda: truncate(model, place),
            lambda: create_feature_extractor(model, [place]),
            lambda: create_feature_extractor(model, [place], **advised),
        )
        ratios = ratio(plain, ours), ratio(tuned, ours)
        rows.append((name, f"`{place}`", ms(ours), ms(plain), f"{ratios[0]:.1f}", ms(tuned), f"{ratios[1]:.1f}"))
        results.append({"model": name, "place": place, "plain": ratios[0], "blocks": ratios[1]})

    for name, place in track(PLACES.items(), "Building"):
        measure(name, place)

    def told(kind: str) -> str:
        ratios = [result[kind] for result in results]
        faster = sum(value < 1 for value in ratios)
        return (
            f"{min(ratios):.1f} to {max(ratios):.1f} times as long as truncate"
            f" (median {statistics.median(ratios):.1f}), less on {faster} of {len(rows)} models"
        )

    text = f"""### Building

`truncate` against torchvision's `create_feature_extractor`, as it is and with the blocks at the place given to it as
`leaf_modules`, as its documentation advises for what it should not look into (a user has to know their class). Models
on the meta device, times in milliseconds, medians of {count}. `×` says how many times as long the peer took.

{report.table(("model", "place", "truncate", "peer", "×", "peer, blocks as leaves", "×"), rows)}

- The peer as it is took {told("plain")}.
- With the blocks as leaves it took {told("blocks")}."""
    return text, results


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.relu(self.bn(self.conv(x)))


class Looped(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class Sequenced(Looped):
    def __init__(self, blocks: int) -> None:
        super().__init__(blocks)
        self.blocks = nn.Sequential(*self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def growth(count: int, few: int = 8, many: int = 512) -> tuple[str, list[dict[str, Any]]]:
    rows, results = [], []
    place = "blocks.3.bn"

    def measure(kind: type[Looped], label: str, name: str, cut: Callable[[nn.Module], Any], count: int) -> None:
        small, big = kind(few).eval(), kind(many).eval()
        before, after = times(count, lambda: cut(small), lambda: cut(big))
        rows.append((label, name, ms(before), ms(after), f"{ratio(after, before):.1f}"))
        results.append({"blocks": label, "extractor": name, "growth": ratio(after, before)})

    for kind, label in track([(Looped, "a loop over a `ModuleList`"), (Sequenced, "an `nn.Sequential`")], "Growth"):
        measure(kind, label, "truncate", lambda model: truncate(model, place), count)
        measure(kind, label, "create_feature_extractor", lambda model: create_feature_extractor(model, [place]), 2)
    text = f"""### Growth

The same place, the batch norm of the fourth residual block, in a net of {few} blocks and in one of {many}, in
milliseconds, medians of {count} (of 2 for the peer). `×` says how many times as long the larger net took.

{report.table(("blocks in", "extractor", f"{few} blocks", f"{many} blocks", "×"), rows)}"""
    return text, results


class HalfResNet(nn.Module):
    """ResNet-50 up to layer3, as one writes it by hand."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            setattr(self, name, getattr(model, name))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))


class HalfViT(nn.Module):
    """ViT-B/16 up to its sixth block, as one writes it by hand."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.conv_proj, self.class_token = model.conv_proj, model.class_token
        self.pos_embedding, self.dropout = model.encoder.pos_embedding, model.encoder.dropout
        self.blocks = model.encoder.layers[:6]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.blocks(self.dropout(x + self.pos_embedding))


def half_alexnet(model: nn.Module) -> nn.Module:
    return nn.Sequential(model.features, model.avgpool, nn.Flatten(), model.classifier[:6])


@torch.no_grad()
def running(count: int) -> tuple[str, list[dict[str, Any]]]:
    rows, results = [], []

    def measure(
        make: Callable[[], nn.Module], place: str, by_hand: Callable[[nn.Module], nn.Module], size: int
    ) -> None:
        model = make().eval()
        part, hand, again, x = truncate(model, place), by_hand(model), by_hand(model), torch.randn(1, 3, size, size)
        if not torch.equal(part(x), hand(x)):
            raise AssertionError(f"{make.__name__}: the cut by hand is another one")
        ours, theirs, same = times(count, lambda: part(x), lambda: hand(x), lambda: again(x))
        more, noise = 100 * (ratio(ours, theirs) - 1), 100 * (ratio(same, theirs) - 1)
        shape = f"1×3×{size}×{size}"
        rows.append((make.__name__, f"`{place}`", shape, ms(ours), ms(theirs), f"{more:+.2f} %", f"{noise:+.2f} %"))
        results.append({"model": make.__name__, "place": place, "percent": more, "noise": noise})

    cuts = [
        (alexnet, "classifier.5", half_alexnet, 224),
        (resnet50, "layer3", HalfResNet, 96),
        (vit_b_16, "encoder.layers.encoder_layer_5", HalfViT, 224),
    ]
    for cut in track(cuts, "Running"):
        measure(*cut)
    columns = ("model", "place", "input", "truncate", "by hand", "difference", "by hand, against itself")
    text = f"""### Running

One pass in evaluation of the result, against the same cut written by hand and holding the same layers, in
milliseconds, medians of {count}. The last column is a second instance of the cut by hand against the first: noise.

{report.table(columns, rows)}"""
    return text, results


def _bert() -> nn.Module:
    import transformers

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 1000}
    return transformers.BertModel(transformers.BertConfig(num_hidden_layers=12, num_attention_heads=4, **sizes))


def _mask_rcnn() -> nn.Module:
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5, min_size=128, max_size=160)


def on_example(count: int) -> tuple[str, list[dict[str, Any]]]:
    rows, results = [], []

    def measure(name: str, make: Callable[[], nn.Module], place: str, ends: tuple[str, str], *args: Any) -> None:
        model = make().eval()
        runs = Counter[str]()  # no list: a pass on an example runs a copy of the model, its hooks and their lists
        hooks = [model.get_submodule(end).register_forward_hook(_counting(runs, end)) for end in ends]
        truncate(model, place, args)
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            once, checked, unchecked = times(
                count,
                lambda: model(*args),
                lambda: truncate(model, place, args),
                lambda: truncate(model, place, args, check=False),
            )
        ratios = ratio(checked, once), ratio(unchecked, once)
        rows.append(
            (name, f"`{place}`", ms(once), ms(checked), *(f"{value:.2f}" for value in ratios), *map(runs.get, ends))
        )
        results.append(
            {"model": name, "place": place, "checked": ratios[0], "unchecked": ratios[1], "runs": dict(runs)}
        )

    ids, images = torch.randint(1000, (2, 128)), [torch.rand(3, 128, 160), torch.rand(3, 120, 150)]
    ends_of_bert = "embeddings.word_embeddings", "pooler.dense"
    ends_of_rcnn = "backbone.body.conv1", "roi_heads.box_predictor.cls_score"
    cases = [
        ("ResNet-50", resnet50, "layer3.2", ("conv1", "fc"), torch.randn(2, 3, 96, 96)),
        ("BERT, 12 layers, 2×128 tokens", _bert, "encoder.layer.9.output", ends_of_bert, ids),
        ("the same, 2×16 tokens", _bert, "encoder.layer.9.output", ends_of_bert, ids[:, :16]),
        ("Mask R-CNN", _mask_rcnn, "roi_heads.box_head", ends_of_rcnn, images),
    ]
    for case in track(cases, "Building on an example"):
        measure(*case)
    columns = ("model", "place", "one pass", "building", "×", "`check=False` ×", "passes begun", "passes ended")
    text = f"""### Building on an example

`truncate(model, place, args)` against one pass of the whole model on that example, both under `torch.no_grad()`, in
milliseconds, medians of {count}; and how often the first layer of the model ran meanwhile, and its last one (with the
check that is the default).

{report.table(columns, rows)}"""
    return text, results


def _counting(runs: Counter[str], name: str) -> Callable[..., None]:
    def count(module: nn.Module, args: Any, output: Any) -> None:
        runs[name] += 1

    return count


MEASURES = {"building": building, "growth": growth, "running": running, "example": on_example, "memory": memory}
# How often each takes its turn; of memory, which does not vary, the number of pictures.
COUNTS = {"building": 15, "growth": 15, "running": 101, "example": 15, "memory": 8}
# Whose tables stand on the page of what they measure; each is a command of its own, too.
ELSEWHERE = {"loading": loading, "extraction": extraction, "drawing": drawing}


@click.command()
@click.option(
    "--only",
    type=click.Choice([*MEASURES, *ELSEWHERE]),
    multiple=True,
    help="Measure these alone, and write nothing.",
)
@click.option("--write/--no-write", default=True, help="Put the tables into the docs.")
@click.option("--json", "path", type=Path, help="Where to write what was measured as JSON.")
def main(only: tuple[str, ...], write: bool, path: Path | None) -> None:
    """How fast truncate builds, runs, loads, extracts and draws."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    chosen = only or (*MEASURES, *ELSEWHERE)
    facts = report.surroundings("transformers")
    measured = {name: MEASURES[name](COUNTS[name]) for name in chosen if name in MEASURES}
    if measured:
        text = "\n\n".join([report.sentence(facts), *(text for text, _ in measured.values())])
        click.echo(text)
        if write and not only:
            report.write("speed", text)
    for name in chosen:
        if name in ELSEWHERE:
            measured[name] = text, _ = ELSEWHERE[name].measured()
            click.echo(text)
            if write and not only:
                report.write(name, text, ELSEWHERE[name].PAGE)
    if path is not None:
        report.save(path, facts, {name: results for name, (_, results) in measured.items()})


if __name__ == "__main__":
    main()
