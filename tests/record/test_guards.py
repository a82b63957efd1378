"""What stays free of a recording, what is fixed and checked when the result runs, and what is refused."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from oracle import equal
from rebuilt import truncate
from recorded import (
    EXAMPLE,
    FREE,
    WIDE,
    Forward,
    branches_on_content,
    content_may_decide,
    drawn,
    grew,
    hooked,
    model_of,
    outcome,
)
from torch import Tensor, nn

from truncate import CannotFollowError, ContentWarning

# -- what stays free -------------------------------------------------------------------------------------------------

FIXED: list[Any] = []
REFUSED: list[Any] = []


def fixed(*others: Tensor, match: str = "unlike the example|cut on an example") -> Any:
    """A forward of which something was fixed, with inputs that are unlike the example in that."""

    def add(forward: Forward) -> Forward:
        FIXED.append(pytest.param(forward, others, match, id=forward.__name__))
        return forward

    return add


def refused(match: str) -> Any:
    def add(forward: Forward) -> Forward:
        REFUSED.append(pytest.param(forward, match, id=forward.__name__))
        return forward

    return add


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("forward", FREE)
def test_sizes_stay_free(forward: Forward, batch: int) -> None:
    """Another batch size than the example's, and other content."""
    model = model_of(forward)
    cut = truncate(model, "b", args=(EXAMPLE,))
    expected = hooked(model, drawn(batch, 4))
    assert isinstance(expected, Tensor) and equal(outcome(lambda: cut(drawn(batch, 4))), expected)


# -- what is fixed, and checked when the result runs -----------------------------------------------------------------


fixed(-torch.ones(2, 4), torch.ones(2, 4))(branches_on_content)


@fixed(WIDE)
def branches_on_a_size(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x.shape[0] < 3 else x)


@fixed(WIDE)
def joins_answers(self: Any, x: Tensor) -> Tensor:
    """And hands what comes out to a function that takes nothing but a bool, which a helper calls."""
    causal = x.shape[0] > 2 and x.shape[1] > 2
    return x if grew(x) else self.b(HELPERS["attend"](self.a(x)[None, None], causal)[0, 0])


HELPERS = {"attend": lambda y, causal: nn.functional.scaled_dot_product_attention(y, y, y, is_causal=causal)}


@fixed(WIDE)
def prints_a_shape(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * len(f"{x.shape} {x.shape[0]}".replace("2", "")))


@fixed(WIDE)
def writes_a_number_in_binary(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * len(bin(x.shape[0])))


@fixed(WIDE)
def compares_shapes(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x.shape == (2, 4) else x)


@fixed(WIDE)
def loops_over_a_size(self: Any, x: Tensor) -> Tensor:
    for _ in range(x.shape[0]):
        x = self.a(x)
    return self.b(x)


@fixed(WIDE)
def loops_over_rows(self: Any, x: Tensor) -> Tensor:
    return self.b(torch.stack([self.a(row) * i for i, row in enumerate(x)]))


@fixed(WIDE)
def splits_into_rows(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(torch.cat([part * i for i, part in enumerate(self.a(x).split(1))]))


@fixed(drawn(2, 3, 4))
def counts_dimensions(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if len(x.shape) == 2 else x)


@fixed(drawn(2, 4).double())
def asks_for_a_type(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x.dtype == torch.float32 else x.float())


@fixed(drawn(2, 4).sort().values, drawn(2, 4).sort(descending=True).values)
def branches_on_a_number_out_of_a_tensor(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x[0, 0].item() > x[0, 3].item() else x)


@fixed(EXAMPLE.flip(1), EXAMPLE.flip(0))
def indexes_with_a_tensor(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * self.table[x.argmax()])


@fixed(torch.ones(2, 4))
def loops_over_a_count(self: Any, x: Tensor) -> Tensor:
    for _ in range(int((x > 0).sum())):
        x = self.a(x)
    return self.b(x)


@fixed(drawn(2, 4).t().contiguous().t())
def asks_for_strides(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) if x.is_contiguous() else x)


@fixed(drawn(2, 4).long())
def asks_whether_it_is_floating(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) if x.is_floating_point() else x.float())


@fixed(drawn(2, 4).requires_grad_())
def asks_for_gradients(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) if x.requires_grad else x)


@fixed(WIDE)
def measures_the_text_of_a_shape(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * len(str(x.shape)))


@fixed(drawn(2, 4) * 1e6)
def measures_the_text_of_a_number(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * len(f"{x.sum().item():.1f}"))


@fixed(WIDE)
def indexes_a_list(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * self.table[x.shape[0]])


@fixed(WIDE)
def compares_a_fraction_with_a_size(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * max(2.5, x.shape[0]))


@fixed(WIDE)
def counts_with_c(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * sum(itertools.islice(self.table, x.shape[0])) + x.shape.numel())


@fixed(WIDE)
def computes_a_complex_number(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * abs(1j * x.shape[0]))


@fixed(WIDE)
def repeats_a_list(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * sum([1] * x.shape[0]))


@fixed(WIDE)
def looks_a_size_up(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * {5: 2}.get(x.shape[0], 1))


@fixed(EXAMPLE * -5, EXAMPLE * 5)
def asks_what_it_does_not_use(self: Any, x: Tensor) -> Tensor:
    return self.b(-x if self.a(x).sum() > 0 else x)


@content_may_decide
@pytest.mark.parametrize(("forward", "others", "match"), FIXED)
def test_another_way_raises(forward: Forward, others: tuple[Tensor, ...], match: str) -> None:
    """Wherever the model would go another way than on the example, the result raises; elsewhere it is equal."""
    model = model_of(forward)
    cut = truncate(model, "b", args=(EXAMPLE,))
    assert equal(outcome(lambda: cut(EXAMPLE.clone())), hooked(model, EXAMPLE.clone()))
    raised = 0
    for other in others:
        got, expected = outcome(lambda x=other: cut(x.clone())), hooked(model, other.clone())
        if isinstance(got, Exception):
            raised += 1
            assert isinstance(got, AssertionError) and re.search(match, str(got)), got
        else:
            assert equal(got, expected)
    assert raised


def skips_a_mask(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    return self.b(x) if mask.all() else self.b(x * mask)


def asks_a_buffer(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    return self.b(x) if self.count.sum() == 0 else self.b(x * mask)


@content_may_decide
@pytest.mark.parametrize("forward", [skips_a_mask, asks_a_buffer])
def test_a_question_for_what_is_not_used_is_checked(forward: Forward) -> None:
    """An argument or a buffer that matters for nothing but the way that was taken, as a mask of ones."""
    model = model_of(forward)
    cut = truncate(model, "b", args=(EXAMPLE, torch.ones(2, 4)))
    model.count += 1
    with pytest.raises(AssertionError, match="unlike the example"):
        cut(EXAMPLE, torch.zeros(2, 4))


# -- what is refused -------------------------------------------------------------------------------------------------


@refused("computes with numpy")
def makes_an_array(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(torch.as_tensor(np.asarray(self.a(x).detach()) + 1))


@refused("numpy|out of sight")
def computes_in_numpy(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(torch.from_numpy(self.a(x).detach().numpy() + 1))


@refused("random numbers outside of torch")
def draws_in_python(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * random.random())


@refused("random numbers outside of torch")
def draws_in_numpy(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * np.random.rand())


@refused("seeds the random numbers")
def sets_the_seed(self: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return x if grew(x) else self.b(self.drop(self.a(x)))


@refused("out of sight|vmap|cannot be seen")
def maps_over_rows(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(torch.vmap(lambda row: row * 2)(x))


@refused("keeps something in its attribute 'calls' from call to call")
def counts_in_python(self: Any, x: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    return x if grew(x) else self.b(self.a(x) * self.calls)


@refused("meets an error of torch: shape")
def goes_on_after_an_error(self: Any, x: Tensor) -> Tensor:
    with contextlib.suppress(RuntimeError):
        x = x + x.view(10, 4).sum()
    return x if grew(x) else self.b(self.a(x))


@refused("keeps something in its attribute 'table' from call to call")
def grows_a_list_of_its_own(self: Any, x: Tensor) -> Tensor:
    self.table.append(1.0)
    return x if grew(x) else self.b(self.a(x) * len(self.table))


@pytest.mark.parametrize(("forward", "match"), REFUSED)
def test_refuses(forward: Forward, match: str) -> None:
    with pytest.raises(CannotFollowError, match=match) as caught:
        truncate(model_of(forward), "b", args=(EXAMPLE,))
    assert __file__ in str(caught.value) and "This cannot be recorded. Stop before it." in str(caught.value)


# -- what the result says of it --------------------------------------------------------------------------------------


@content_may_decide
def test_assumptions_say_what_was_fixed() -> None:
    cut = truncate(model_of(branches_on_content), "b", args=(EXAMPLE,))
    (found,) = cut.assumptions
    file, line = branches_on_content.__code__.co_filename, branches_on_content.__code__.co_firstlineno + 1
    assert (found.module, found.file, found.line, found.value) == ("", file, line, bool(EXAMPLE.sum() > 0))
    assert found.code == "return self.b(self.a(x) if x.sum() > 0 else x)"
    assert str(found) == (
        f"a branch on the content of a tensor was {found.value}: {found.code} "
        f"({file}, line {line}, in the forward of the model itself)"
    )


@content_may_decide
def test_assumptions_name_the_module_and_come_once() -> None:
    model = nn.Sequential(model_of(branches_on_content), nn.ReLU(), model_of(loops_over_a_size))
    cut = truncate(model, "2.b", args=(EXAMPLE,))
    assert [found.module for found in cut.assumptions] == ["2"]
    assert [found.module for found in truncate(model, ["0.b", "2.b"], args=(EXAMPLE,)).assumptions] == ["0", "2"]


def test_a_block_that_runs_twice_says_it_once() -> None:
    block = model_of(branches_on_a_size)
    assert len(truncate(nn.Sequential(block, block), ["0.b:0", "1.b"], args=(EXAMPLE,)).assumptions) == 1


def test_branches_on_content_warn_once_for_each_module() -> None:
    """By name; and not where only sizes decide."""
    model = nn.Sequential(*(model_of(f) for f in (branches_on_content, branches_on_a_size, indexes_with_a_tensor)))
    with pytest.warns(ContentWarning) as caught:
        truncate(model, ["0.b", "1.b", "2.b"], args=(EXAMPLE,))
    said = [str(warning.message).partition(" branches")[0] for warning in caught]
    assert said == ["the forward of 0", "the forward of 2"]
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("forward", [branches_on_a_number_out_of_a_tensor, loops_over_a_count])
def test_branches_on_items_warn_too(forward: Forward) -> None:
    with pytest.warns(ContentWarning):
        truncate(model_of(forward), "b", args=(EXAMPLE,))


def test_holds_only_what_is_needed() -> None:
    cut = truncate(model_of(branches_on_a_size), "b", args=(EXAMPLE,))
    assert set(cut.state_dict()) == {"a.weight", "a.bias", "b.weight", "b.bias"}
