"""Real passes of a model on an example: to record the forwards that cannot be followed, and to check the result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from truncate._errors import TruncateError
from truncate._graph import Observed, map_nested, observed_in, tensors_in
from truncate._sandbox.copies import fresh, parameters_kept, sandbox_copy
from truncate._sandbox.meta import Meta
from truncate._sandbox.randomness import random_state_kept
from truncate._target import Target


@dataclasses.dataclass
class Example:
    """The arguments of one call of a model, as in ``torch.export.export(mod, args, kwargs)``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    fixes_numbers: bool = False  # whether what is recorded on it takes no other sizes

    def __post_init__(self) -> None:
        self.meta = Meta((self.args, self.kwargs))
        self.args, self.kwargs = self.meta.arguments(self.args), self.meta.arguments(self.kwargs)


def example_of(model: nn.Module, args: Any, kwargs: Any) -> Example:
    """An example call of a model, if `args` and `kwargs` make one."""
    args, kwargs = args if args is not None else (), kwargs if kwargs is not None else {}
    if not isinstance(args, (tuple, list)):
        raise TruncateError(
            f"args are the positional arguments of an example, as a tuple: args=(x,), not {type(args).__name__}"
        )
    if not isinstance(kwargs, Mapping):
        raise TruncateError(f"kwargs are the keyword arguments of an example, as a dict, not {type(kwargs).__name__}")
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        signature = inspect.signature(model.forward)
        raise TruncateError(f"the example does not fit forward{signature} of {type(model).__name__}: {error}") from None
    return Example(tuple(args), dict(kwargs))


class _Seen(BaseException):
    """Ends a pass from which nothing more is wanted. No forward catches it as an error."""


def outputs_of(
    model: nn.Module, example: Example, targets: list[Target], training: bool = True, calls: list[int] | None = None
) -> list[list[Any]]:
    """What hooks on the targets capture in a pass of the model, each call cloned at once; in evaluation on demand.

    Where it is known how many `calls` of each there are, the pass ends with the last of them.
    """
    sandbox = sandbox_copy(model, example.meta.tensor)
    sandbox = sandbox if training else sandbox.eval()
    outputs: list[list[Any]] = [[] for _ in targets]

    def keep(t: int, value: Any) -> None:
        outputs[t].append(cloned(value))
        if calls is not None and all(len(kept) >= count for kept, count in zip(outputs, calls)):
            raise _Seen

    watch(targets, twins(model, sandbox), keep)
    with contextlib.suppress(_Seen):
        call_model(sandbox, example)
    return outputs


def watch(targets: list[Target], twins: dict[int, nn.Module], see: Callable[[int, Any], None]) -> None:
    """Tells what each call of each target returns, or is given."""
    for t, target in enumerate(targets):
        twin = twins[id(target.module)]
        if not can_be_watched(target):
            continue
        if target.before:
            twin.register_forward_pre_hook(
                lambda m, args, kwargs, t=t: see(t, (args, kwargs)), with_kwargs=True, prepend=True
            )
        else:
            twin.register_forward_hook(lambda m, args, output, t=t: see(t, output))


def can_be_watched(target: Target) -> bool:
    """Whether hooks see a target: no operation, and nothing that TorchScript has compiled."""
    return target.is_module and not isinstance(target.module, torch.jit.ScriptModule)


def twins(model: nn.Module, sandbox: nn.Module) -> dict[int, nn.Module]:
    """The modules of a sandbox copy by the ids of those whose place they take."""
    return dict(zip(map(id, model.modules()), sandbox.modules()))


def observe(model: nn.Module, example: Example, child: nn.Module) -> Observed:
    """What the calls of one module do to their arguments, in a pass of the model."""
    sandbox = sandbox_copy(model, example.meta.tensor)
    twin = twins(model, sandbox)[id(child)]
    given: list[list[tuple[torch.Tensor, int]]] = []
    seen: list[Observed] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        given.append([(tensor, tensor._version) for tensor in tensors_in((args, kwargs))])

    def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        seen.append(observed_in(given.pop(), result))

    twin.register_forward_pre_hook(enter, with_kwargs=True)
    twin.register_forward_hook(leave, with_kwargs=True)
    call_model(sandbox, example)
    return Observed(any(one.writes for one in seen), any(one.shares for one in seen))


@contextlib.contextmanager
def without_a_trace(model: nn.Module, example: Example) -> Iterator[None]:
    """Meanwhile a sandbox copy of a model may run on an example."""
    with random_state_kept(), example.meta.running, contextlib.ExitStack() as stack:
        if not example.meta.tensor:
            stack.enter_context(parameters_kept(model))
        yield


Made = TypeVar("Made")
Given = ParamSpec("Given")


def outside_inference_mode(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """What it makes may be used outside of it too; and inside of it, nobody sees whether a tensor was changed."""

    @functools.wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run


def call_model(model: nn.Module, example: Example) -> None:
    """Runs a sandbox copy on an example, which leaves no trace; an error of any kind is the model's."""
    try:
        with without_a_trace(model, example):
            model(*fresh(example.args), **fresh(example.kwargs))
    except TruncateError:
        raise
    except Exception as error:
        raise TruncateError(f"the model does not run on the example: {type(error).__name__}: {error}") from error


def cloned(value: Any) -> Any:
    return map_nested(value, lambda item: item.detach().clone() if isinstance(item, torch.Tensor) else item)
