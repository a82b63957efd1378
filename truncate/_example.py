"""Real passes of a model on an example: to record the forwards that cannot be followed, and to check the result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import nn

from truncate._call import Call
from truncate._errors import CannotFollowError, TruncateError
from truncate._explain import explain
from truncate._ghost import UNCHANGING, fresh, ghost_of, parameters_kept
from truncate._graph import Body, Kind, Node, Observed, descend, join, map_nested, observed_in, tensors_in
from truncate._hollow import Hollow
from truncate._objects import PLAIN
from truncate._randomness import random_state_kept
from truncate._record import Recording
from truncate._spine import Spine
from truncate._target import Target

if TYPE_CHECKING:
    from truncate._forwards import Forwards


@dataclasses.dataclass
class Example:
    """The arguments of one call of a model, as in ``torch.export.export(mod, args, kwargs)``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    fixes_numbers: bool = False  # whether what is recorded on it takes no other sizes

    def __post_init__(self) -> None:
        self.hollow = Hollow((self.args, self.kwargs))
        self.args, self.kwargs = self.hollow.arguments(self.args), self.hollow.arguments(self.kwargs)


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


class Pass:
    """One pass of a model on an example, with a recording of each forward that cannot be followed."""

    def __init__(
        self, model: nn.Module, example: Example, spine: Spine, forwards: Forwards, flip: bool, fixes_numbers: bool
    ) -> None:
        self.recorded: dict[tuple[int, str], Body] = {}
        self._forwards = forwards
        self._fixes_numbers = fixes_numbers
        self._calls: list[_Calls] = []
        self._next: tuple[nn.Module, str, Call] | None = (model, "", forwards.entry)
        ghost = ghost_of(model, example.hollow.tensor)
        for original, module in zip(model.modules(), ghost.modules()):
            module.training ^= flip
            if spine.holds(original) or original is model:
                self._take_over(original, module)
        self.calls = [0] * len(spine.targets)  # of each target
        _watch(spine.targets, _twins(model, ghost), self._count)
        self._found_before = _tensors_of(ghost)
        call_model(ghost, example)

    def _count(self, t: int, value: Any) -> None:
        self.calls[t] += 1

    def _take_over(self, original: nn.Module, ghost: nn.Module) -> None:
        """From now on a call of this module of the spine is seen, and recorded if need be."""
        own = ghost.__dict__.get("forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            entered = self._entered(original)
            if own is None:
                del ghost.__dict__["forward"]
            else:
                ghost.__dict__["forward"] = own
            try:
                return ghost.forward(*args, **kwargs) if entered is None else self._run(*entered, ghost, args, kwargs)
            finally:
                ghost.__dict__["forward"] = forward

        ghost.__dict__["forward"] = forward

    def _entered(self, original: nn.Module) -> tuple[nn.Module, str, Call] | None:
        """Where and how a module of the spine was just called: its parent announced it, or the parent's graph tells."""
        if self._next is not None and self._next[0] is original:
            entered, self._next = self._next, None
            return entered
        return self._calls[-1].next_of(original) if self._calls else None

    def _run(self, module: nn.Module, path: str, call: Call, ghost: nn.Module, args: Any, kwargs: Any) -> Any:
        try:
            bodies = self._forwards.follow(module, path, call)
        except CannotFollowError:
            return self._record(module, path, call, ghost, args, kwargs)
        taken = next(body for body in bodies if _is_taken(body, ghost))
        if taken.failure is not None:
            return self._record(module, path, call, ghost, args, kwargs)
        self._calls.append(_Calls(self._forwards, module, path, taken))
        try:
            return ghost.forward(*args, **kwargs)
        finally:
            self._calls.pop()

    def _record(self, module: nn.Module, path: str, call: Call, ghost: nn.Module, args: Any, kwargs: Any) -> Any:
        def is_wanted(name: str) -> bool:
            return self._forwards.spine.reaches(descend(module, name))

        def call_child(name: str, node: Node | None, args: Any, kwargs: Any) -> Any:
            if node is None:  # behind all targets
                return descend(ghost, name)(*args, **kwargs)
            self._next = (
                descend(module, name),
                join(path, name),
                self._forwards.call(module, path, node),
            )
            try:
                return descend(ghost, name)(*args, **kwargs)
            finally:
                self._next = None

        recording = Recording(ghost, path, call_child, is_wanted, self._found_before, self._fixes_numbers)
        self._calls.append(_Calls(self._forwards, module, path, Body([], None, {})))
        try:
            body, result = recording.run(call, args, kwargs)
        except CannotFollowError:  # a child's
            raise
        except Exception as error:
            raise explain(recording.open_end or error, module, path, recorded=True) from error
        finally:
            self._calls.pop()
        if recording.open_end is not None:
            body.open_end = str(explain(recording.open_end, module, path, recorded=True))
        known = self.recorded.setdefault((id(module), call.key), body)
        if doing(known) != doing(body):
            raise CannotFollowError(
                f"{path!r} ({type(module).__name__}) runs several times in the example and not always the same "
                f"operations, so one rebuilt module cannot serve all its calls. Stop at {path!r} or beside it"
            )
        return result


def doing(body: Body) -> list[Any]:
    """What a recording does, to be compared with another of the same forward."""

    def known(value: Any) -> Any:
        return value.index if type(value) is Node else value if type(value) in PLAIN else type(value)

    def given(node: Node) -> Any:
        return node.args[:1] if node.target is torch._assert else (node.args, node.kwargs)  # not the text of a check

    return [(node.kind, node.target, map_nested(given(node), known)) for node in body.nodes]


def _is_taken(body: Body, module: nn.Module) -> bool:
    """Whether a module as it is now goes that way."""
    return all(descend(module, flag.rpartition(".")[0]).training is value for flag, value in body.modes.items())


class _Calls:
    """The calls of children that the graph of a running forward announces, in order."""

    def __init__(self, forwards: Forwards, module: nn.Module, path: str, body: Body) -> None:
        self._forwards = forwards
        self._module = module
        self._path = path
        self._nodes: dict[int, Iterator[Node]] = {}
        calls: dict[int, list[Node]] = {}
        for node in body.nodes:
            if node.kind is Kind.CHILD:
                calls.setdefault(id(descend(module, node.target)), []).append(node)
        self._nodes = {child: iter(nodes) for child, nodes in calls.items()}

    def next_of(self, child: nn.Module) -> tuple[nn.Module, str, Call] | None:
        node = next(self._nodes.get(id(child), iter(())), None)
        if node is None:
            return None
        path = join(self._path, node.target)
        return child, path, self._forwards.call(self._module, self._path, node)


def _tensors_of(ghost: nn.Module) -> dict[int, torch.Tensor]:
    """The tensors that a forward may find when a pass begins, by id: in attributes and globals, lists and dicts there.

    What is found there later, and was not there before, belongs to this pass, and another one would have another.
    """
    modules = list(ghost.modules())
    files = {type(module).__module__ for module in modules if not type(module).__module__.startswith("torch.")}
    places = [*map(vars, modules), *(vars(sys.modules[name]) for name in files if name in sys.modules)]
    held = [value for place in places for value in list(place.values()) if type(value) not in UNCHANGING]
    return {id(tensor): tensor for tensor in tensors_in(held)}


class _Seen(BaseException):
    """Ends a pass from which nothing more is wanted. No forward catches it as an error."""


def outputs_of(
    model: nn.Module, example: Example, targets: list[Target], training: bool = True, calls: list[int] | None = None
) -> list[list[Any]]:
    """What hooks on the targets capture in a pass of the model, each call cloned at once; in evaluation on demand.

    Where it is known how many `calls` of each there are, the pass ends with the last of them.
    """
    ghost = ghost_of(model, example.hollow.tensor)
    ghost = ghost if training else ghost.eval()
    outputs: list[list[Any]] = [[] for _ in targets]

    def keep(t: int, value: Any) -> None:
        outputs[t].append(cloned(value))
        if calls is not None and all(len(kept) >= count for kept, count in zip(outputs, calls)):
            raise _Seen

    _watch(targets, _twins(model, ghost), keep)
    with contextlib.suppress(_Seen):
        call_model(ghost, example)
    return outputs


def _watch(targets: list[Target], twins: dict[int, nn.Module], see: Callable[[int, Any], None]) -> None:
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


def _twins(model: nn.Module, ghost: nn.Module) -> dict[int, nn.Module]:
    """The modules of a ghost by the ids of those whose place they take."""
    return dict(zip(map(id, model.modules()), ghost.modules()))


def observe(model: nn.Module, example: Example, child: nn.Module) -> Observed:
    """What the calls of one module do to their arguments, in a pass of the model."""
    ghost = ghost_of(model, example.hollow.tensor)
    twin = _twins(model, ghost)[id(child)]
    given: list[list[tuple[torch.Tensor, int]]] = []
    seen: list[Observed] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        given.append([(tensor, tensor._version) for tensor in tensors_in((args, kwargs))])

    def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        seen.append(observed_in(given.pop(), result))

    twin.register_forward_pre_hook(enter, with_kwargs=True)
    twin.register_forward_hook(leave, with_kwargs=True)
    call_model(ghost, example)
    return Observed(any(one.writes for one in seen), any(one.shares for one in seen))


@contextlib.contextmanager
def without_a_trace(model: nn.Module, example: Example) -> Iterator[None]:
    """Meanwhile a ghost of a model may run on an example."""
    with random_state_kept(), example.hollow.running, contextlib.ExitStack() as stack:
        if not example.hollow.tensor:
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
    """Runs a ghost on an example, which leaves no trace; an error of any kind is the model's."""
    try:
        with without_a_trace(model, example):
            model(*fresh(example.args), **fresh(example.kwargs))
    except TruncateError:
        raise
    except Exception as error:
        raise TruncateError(f"the model does not run on the example: {type(error).__name__}: {error}") from error


def cloned(value: Any) -> Any:
    return map_nested(value, lambda item: item.detach().clone() if isinstance(item, torch.Tensor) else item)
