"""Lists and dicts that a child fills for its parent, on an example that tells only what it does there."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import CannotFollowError, split, truncate


class Filling(nn.Module):
    """Puts something into a list or dict, depending on its mode, on content or on a size."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.fc, self.drop, self.act, self.how = nn.Linear(4, 4), nn.Dropout(0.5), nn.Tanh(), how

    def forward(self, x: Tensor, found: Any) -> Tensor:
        y = self.fc(x)
        if self.how == "in training":
            if self.training:
                _put(found, y)
        elif self.how == "for some content":
            if x.max() > 5:
                _put(found, y)
        elif self.how == "for some sizes":
            if x.shape[0] > 3:
                _put(found, y)
        elif self.how == "its input":
            _put(found, x)
            if self.training:
                _put(found, y)
        elif self.how == "dropout":
            _put(found, self.drop(x))
        elif self.how == "in place of an item":
            if isinstance(found, list) and found:
                found[0] = x if x.max() < 5 else x.clamp(max=5.0)
            _put(found, y)
        return self.act(y)


def _put(found: Any, value: Tensor) -> None:
    if isinstance(found, dict):
        found[f"{len(found)}"] = value
    else:
        found.append(value)


class Reading(nn.Module):
    """Reads what its child has put there."""

    def __init__(self, how: str, kind: type, filled: bool, form: str) -> None:
        super().__init__()
        self.child, self.head, self.kind, self.filled, self.form = Filling(how), nn.Linear(4, 4), kind, filled, form

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        found = self.kind()
        if self.filled:
            _put(found, x)
        h = self.child(x, found)
        items = list(found.values()) if isinstance(found, dict) else found
        if self.form == "loop":
            for item in items:
                h = h + item
        elif self.form == "count":
            h = h * (1 + len(items))
        elif self.form == "last" and items:
            h = h + items[-1]
        return self.head(h)


@pytest.mark.parametrize(
    "how",
    ("in training", "for some content", "for some sizes", "its input", "dropout", "in place of an item"),
)
@pytest.mark.parametrize("kind", (list, dict))
@pytest.mark.parametrize("filled", (False, True))
@pytest.mark.parametrize("form", ("loop", "count", "last"))
@pytest.mark.filterwarnings("ignore::truncate.ContentWarning")
def test_what_is_there_is_read(how: str, kind: type, filled: bool, form: str) -> None:
    torch.manual_seed(0)
    model, x = Reading(how, kind, filled, form).eval(), torch.randn(3, 4)
    cut = truncate(model, "head", args=(x,))
    assert torch.equal(cut(x), model(x))
    for given, training in ((x, True), (x * 9, False), (torch.randn(5, 4), False)):
        _compare((cut,), model, given, training)
    try:
        pieces = split(model, "child.fc", args=(x,), crossing="pass")
    except CannotFollowError as error:
        assert "changes a list or dict that it is given" in str(error)
        return
    for given, training in ((x, False), (x, True), (x * 9, False), (torch.randn(5, 4), False)):
        _compare(pieces, model, given, training)


def _compare(pieces: Any, model: nn.Module, given: Tensor, training: bool) -> None:
    """The pieces give what the model gives, or say that they do not."""
    torch.manual_seed(1)
    value = given.clone()
    try:
        for piece in pieces:
            value = piece.train(training)(value)
    except AssertionError as error:
        assert "cut on" in str(error)
        return
    torch.manual_seed(1)
    assert torch.equal(value, copy.deepcopy(model).train(training)(given.clone()))
