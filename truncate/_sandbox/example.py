"""Real passes of a model on an example: to record forwards that cannot be followed, and to verify the result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    fixes_numbers: bool = False  # whether a recording on it holds for its sizes only

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
    """Ends a pass early. It is no `Exception`, so that no forward catches it as an error."""


def outputs_of(
    model: nn.Module, example: Example, targets: list[Target], training: bool = True, calls: list[int] | None = None
) -> list[list[Any]]:
    """What hooks on the targets see in a pass of the model: a list of cloned outputs for each target, one per call.

    Without `training`, the pass is in evaluation mode. If `calls` gives the number of calls of each target, the pass
    ends after the last of them.
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
    """Calls `see` with the number of a target and what a call of it returns, or is given."""
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
    """Whether hooks see a target: it is a module, and not one that TorchScript compiled."""
    return target.is_module and not isinstance(target.module, torch.jit.ScriptModule)


def twins(model: nn.Module, sandbox: nn.Module) -> dict[int, nn.Module]:
    """The modules of a sandbox copy, by the ids of their originals."""
    return dict(zip(map(id, model.modules()), sandbox.modules()))


def observe(model: nn.Module, example: Example, children: Iterable[nn.Module], other_mode: bool) -> dict[int, Observed]:
    """What the calls of some modules do to their arguments in a pass of the model, by the ids of the modules.

    With `other_mode`, each module of the model is in the mode in which it is not.
    """
    sandbox = sandbox_copy(model, example.meta.tensor)
    for module in sandbox.modules():
        module.training ^= other_mode
    twin_of = twins(model, sandbox)
    seen: dict[int, Observed] = {}

    def watch(key: int) -> None:
        given: list[list[tuple[torch.Tensor, int]]] = []

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            given.append([(tensor, tensor._version) for tensor in tensors_in((args, kwargs))])

        def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            one, before = observed_in(given.pop(), result), seen.get(key, Observed(False, False))
            seen[key] = Observed(one.mutates or before.mutates, one.aliases or before.aliases)

        twin_of[key].register_forward_pre_hook(enter, with_kwargs=True)
        twin_of[key].register_forward_hook(leave, with_kwargs=True)

    for child in children:
        watch(id(child))
    call_model(sandbox, example)
    return seen


@contextlib.contextmanager
def isolated(model: nn.Module, example: Example) -> Iterator[None]:
    """Within this context, a sandbox copy can run on an example without changing parameters or random states."""
    with random_state_kept(), example.meta.running, contextlib.ExitStack() as stack:
        if not example.meta.tensor:
            stack.enter_context(parameters_kept(model))
        yield


Made = TypeVar("Made")
Given = ParamSpec("Given")


def outside_inference_mode(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Leaves inference mode for a call: there, tensors have no versions, and new ones cannot be used outside."""

    @functools.wraps(function)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return wrapped


def call_model(model: nn.Module, example: Example) -> None:
    """Runs a sandbox copy on an example, isolated; any error is reported as one of the model."""
    try:
        with isolated(model, example):
            model(*fresh(example.args), **fresh(example.kwargs))
    except TruncateError:
        raise
    except Exception as error:
        raise TruncateError(f"the model does not run on the example: {type(error).__name__}: {error}") from error


def cloned(value: Any) -> Any:
    return map_nested(value, lambda item: item.detach().clone() if isinstance(item, torch.Tensor) else item)
