"""Arguments that a cut does not read may be left out when it is called."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from truncate import freeze, layers, source, truncate


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.head = nn.Linear(4, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, image: Tensor, text: Tensor) -> Any:
        seen = self.image(image)
        return self.head(seen * self.text(text))


class Untyped(Siamese):
    def forward(self, image, text):  # type: ignore[no-untyped-def,override]
        seen = self.image(image)
        return self.head(seen * self.text(text))


class ByName(Siamese):
    def forward(self, *, image: Tensor, text: Tensor) -> Any:  # type: ignore[override]
        return super().forward(image, text)


IMAGE, TEXT = torch.ones(2, 4), torch.ones(2, 3)


@pytest.mark.parametrize("kind", [Siamese, Untyped])
@pytest.mark.parametrize("example", [None, (IMAGE, TEXT)])
def test_the_last_one(kind: Any, example: Any) -> None:
    model = kind()
    cut = truncate(model, "image", example)
    expected = model.image(IMAGE)
    for made in (cut, copy.deepcopy(cut), pickle.loads(pickle.dumps(cut)), torch.jit.script(cut)):
        for args, kwargs in (((IMAGE,), {}), ((IMAGE, TEXT), {}), ((), {"image": IMAGE}), ((IMAGE, None), {})):
            assert torch.equal(made(*args, **kwargs), expected)
    with pytest.raises(TypeError, match="image"):
        cut()
    assert list(inspect.signature(cut.forward).parameters)[:2] == ["image", "text"]
    assert torch.equal(torch.export.export(cut, (IMAGE,)).module()(IMAGE), expected)
    assert torch.equal(torch.compile(cut, backend="eager")(IMAGE), expected)
    assert torch.equal(fx.symbolic_trace(cut)(IMAGE, None), expected)


@pytest.mark.parametrize("kind", [Siamese, Untyped])
@pytest.mark.parametrize("example", [None, (IMAGE, TEXT)])
def test_the_first_one(kind: Any, example: Any) -> None:
    model = kind()
    cut = truncate(model, "text", example)
    expected = model.text(TEXT)
    for made in (cut, copy.deepcopy(cut), pickle.loads(pickle.dumps(cut)), torch.jit.script(cut)):
        for args, kwargs in (((IMAGE, TEXT), {}), ((), {"text": TEXT}), ((None, TEXT), {})):
            assert torch.equal(made(*args, **kwargs), expected)
    for made in (cut, pickle.loads(pickle.dumps(cut))):
        with pytest.raises(TypeError, match="this cut needs text, and it was not given. Only image may be left out"):
            made(IMAGE)
    program = torch.export.export(cut, (), {"text": TEXT})
    assert torch.equal(program.module()(text=TEXT), expected)


@pytest.mark.parametrize("live", [None, True])
def test_a_cut_of_it(live: bool | None) -> None:
    model = Siamese()
    cut = truncate(model, ["text", "image"])
    assert torch.equal(truncate(cut, "text", live=False)(text=TEXT), model.text(TEXT))
    second = truncate(model, before="text")
    again = truncate(nn.ModuleDict({"a": truncate(model, "text")})["a"], "text", live=live)
    assert torch.equal(again(text=TEXT), model.text(TEXT))
    assert torch.equal(again(IMAGE, TEXT), model.text(TEXT))
    assert torch.equal(second(text=TEXT), TEXT)
    assert "text" in str(layers(truncate(model, "text")))
    freeze(truncate(model, "text", copy=True), "text")
    space: dict[str, Any] = {}
    exec(source(truncate(model, "text")), space)
    space["model"].load_state_dict(truncate(model, "text").state_dict())
    assert torch.equal(space["model"](text=TEXT), model.text(TEXT))


def test_what_is_needed_stays_required() -> None:
    cut = truncate(Siamese(), "head")
    for parameter in inspect.signature(cut.forward).parameters.values():
        assert parameter.default is parameter.empty
    assert torch.equal(truncate(Siamese(), before="image")(IMAGE), IMAGE)


def test_by_keyword_alone() -> None:
    """These stay as they are: TorchScript takes none that has a default."""
    model = ByName()
    assert torch.equal(truncate(model, "text")(image=IMAGE, text=TEXT), model.text(TEXT))
    with pytest.raises(TypeError, match="image"):
        truncate(model, "text")(text=TEXT)


class MayBeNone(Siamese):
    """Takes None for an argument that it requires."""

    def forward(self, image: Tensor, text: Tensor | None) -> Any:  # type: ignore[override]
        return self.head(self.image(image) * self.text(text))


class Decides(Siamese):
    """Does something else where an argument is left out."""

    def forward(self, image: Tensor, text: Tensor | None = None) -> Any:  # type: ignore[override]
        if text is None:
            image = image * 2
        return self.head(self.image(image))


def test_what_may_be_none_cannot_be_told_from_what_is_missing() -> None:
    parameters = inspect.signature(truncate(MayBeNone(), "text").forward).parameters
    assert parameters["image"].default is parameters["image"].empty


def test_an_argument_with_a_default_of_its_own_stays_as_it_was() -> None:
    model = Decides()
    cut = truncate(model, "image", (IMAGE, TEXT))
    assert torch.equal(cut(IMAGE, TEXT), model.image(IMAGE))
    with pytest.raises(TypeError, match="cut on an example that gave text, so text cannot be left out"):
        cut(IMAGE)
    assert torch.equal(truncate(model, "image")(IMAGE), model.image(IMAGE * 2))


def test_a_saved_script_takes_one_side() -> None:
    model, file = Siamese(), io.BytesIO()
    torch.jit.save(torch.jit.script(truncate(model, "text")), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(text=TEXT), model.text(TEXT))
