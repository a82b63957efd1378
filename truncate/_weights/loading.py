"""Loading from a checkpoint of a whole model what a part of it needs, and no more."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import swap_tensors

from truncate._errors import WeightsError, require_module
from truncate._weights.checkpoint import open_checkpoint
from truncate._weights.stored import PIECE, Checkpoint, Stored


@dataclasses.dataclass(frozen=True, repr=False)
class LoadReport:
    """What `load_weights` did. It prints as a few lines; its attributes have the names of all tensors."""

    loaded: tuple[str, ...]  #: tensors that now have the values of the checkpoint
    missing: tuple[str, ...]  #: tensors that are not in the checkpoint; they are unchanged
    unexpected: tuple[str, ...]  #: tensors that are not in the module, such as the rest of the model; they are not read
    mismatched: Mapping[str, str]  #: tensors of another shape or kind, and how they differ; they are unchanged
    unset: tuple[str, ...]  #: tensors that are still on the meta device, and so have no values
    notes: tuple[str, ...]  #: other remarks, as text
    nbytes: int  #: the number of bytes that were loaded from the checkpoint

    def __repr__(self) -> str:
        lines = [f"loaded: {len(self.loaded)} tensors, {self.nbytes / 1e6:,.1f} MB"]
        lines += problems_of(self)
        lines += [f"unexpected, and not read: {listed(self.unexpected)}"] if self.unexpected else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def load_weights(
    module: nn.Module, path: str | os.PathLike[str], *, prefix: str = "", strict: bool = True
) -> LoadReport:
    """Reads from a checkpoint, by name, the tensors that a module holds, and no others.

    A part that was cut from a model keeps the model's names, so a checkpoint of the whole model also fits the part. A
    model on the meta device can be cut first, so that the dropped part never needs memory.

    Either everything is loaded or nothing: all names, shapes and dtypes are compared before any tensor is read, and all
    tensors are read before the module is changed. Tensors that have values are overwritten in place, and keep their
    dtype and device. Tensors on the meta device get values on the CPU, and keep their dtype. All of them stay the same
    objects, for optimizers, for tied names, and for the model that the part was cut from.

    Args:
        module: Any module.
        path: A ``.safetensors`` file; a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file of `torch.save`, with a state
            dict at the top or under a key such as ``"state_dict"`` (it is read with ``weights_only=True``, so no code
            in it runs); the ``.index.json`` of a checkpoint in several files; or a folder that holds one of these under
            its name in transformers. If all names start with ``module.`` or ``_orig_mod.``, as DataParallel and
            `torch.compile` write them, that prefix is removed.
        prefix: The prefix of the module's names in the checkpoint, such as ``"backbone."``, if the module is a part of
            the saved model. The dot at the end may be left out.
        strict: Whether it is an error if a tensor of the module is missing, or has another shape or kind, or stays on
            the meta device. Otherwise the report says so. But if no tensor fits at all, it is always an error, since
            the names are those of another model. (The ``num_batches_tracked`` of batch norms may always be missing, as
            for `load_state_dict`.)

    Raises:
        WeightsError: The checkpoint cannot be read, or does not fit. The module is unchanged.
    """
    require_module("load_weights", module, WeightsError)
    if not isinstance(path, (str, os.PathLike)):
        raise WeightsError(
            f"load_weights reads a file or a folder, but got {type(path).__name__}. For a state dict in memory, "
            "use module.load_state_dict(state, strict=False)"
        )
    if not isinstance(prefix, str):
        raise WeightsError(f"prefix is text, such as 'backbone.', not {prefix!r}")
    prefix += "." if prefix and not prefix.endswith(".") else ""
    with contextlib.ExitStack() as stack, torch.inference_mode(False), torch.no_grad():
        checkpoint = open_checkpoint(Path(path), stack)
        plan, report = _plan(module, checkpoint, prefix)
        problems = problems_of(report)
        if problems and (strict or not report.loaded):
            head = f"{path} does not fit the module ({type(module).__name__}), and nothing was loaded"
            raise WeightsError("\n".join([head, *problems, *_hints(report, checkpoint)]))
        buffer = torch.empty(PIECE, dtype=torch.uint8, device="cpu")
        _put([(tensor, _read(stored, tensor, buffer)) for tensor, stored in plan])
    return report


# -- what goes where -------------------------------------------------------------------------------------------------


def _plan(
    module: nn.Module, checkpoint: Checkpoint, prefix: str
) -> tuple[list[tuple[Tensor, Stored | None]], LoadReport]:
    """Which tensors get which values (None: zeros), and the report of what will then have been done."""
    held, foreign = _held(module)
    wrapper = wrapping(checkpoint.names, [prefix + name for name in held])
    names = [name.removeprefix(wrapper) for name in checkpoint.names]
    available = frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    plan: list[tuple[Tensor, Stored | None]] = []
    loaded, missing, mismatched = list[str](), list[str](foreign), dict[str, str]()
    counters = list[str]()
    for tied in _by_tensor(held):
        tensor, present = held[tied[0]], [name for name in tied if name in available]
        found = {name: checkpoint.find(wrapper + prefix + name) for name in present}
        wrong = {name: how for name, stored in found.items() if (how := _difference(stored, tensor))}
        if wrong:
            mismatched.update(wrong)
        elif present:
            _check_writable(tied[0], tensor)
            loaded += tied
            plan.append((tensor, found[present[-1]]))  # the last one, as `load_state_dict` leaves them
        elif tied[0].rpartition(".")[2] == "num_batches_tracked":
            counters += tied
            plan += [(tensor, None)] if tensor.is_meta else []
        else:
            missing += tied
    notes = list(checkpoint.notes)
    notes += [f"{wrapper!r} begins all names of the checkpoint, and was removed"] if wrapper else []
    notes += [f"{listed(foreign)} is not a tensor of the module: load_state_dict can load it"] if foreign else []
    notes += [f"{len(counters)} batch norms have no num_batches_tracked in the checkpoint"] if counters else []
    expected = frozenset(prefix + name for name in held)
    unexpected = tuple(name for name in names if name not in expected)
    planned = {id(tensor) for tensor, _ in plan}
    unset = tuple(n for n, tensor in _tensors_of(module).items() if tensor.is_meta and id(tensor) not in planned)
    nbytes = sum(stored.nbytes for _, stored in plan if stored)
    return plan, LoadReport(tuple(loaded), tuple(missing), unexpected, mismatched, unset, tuple(notes), nbytes)


def _held(module: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a module under the names of its state dict; and the names of what else is in there."""
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    own = {id(tensor) for tensor in _tensors_of(module).values()}
    held = {name: value for name, value in state.items() if id(value) in own}
    lazy = [name for name, tensor in held.items() if is_lazy(tensor)]
    if lazy:
        raise WeightsError(f"without a shape yet: {listed(lazy)}. Run the module once on an example first")
    return held, [name for name in state if name not in held]


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _by_tensor(held: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """The names, those of one and the same tensor together."""
    groups: dict[int, list[str]] = {}
    for name, tensor in held.items():
        groups.setdefault(id(tensor), []).append(name)
    return groups.values()


def wrapping(names: Collection[str], held: Collection[str]) -> str:
    """The prefix that the usual wrappers for training put before all names of a checkpoint."""
    prefix, longer = "", None
    while names and longer != prefix:
        longer = prefix
        for wrapper in ("module.", "_orig_mod."):
            here = any(name.startswith(wrapper) for name in held)
            if not here and all(name.startswith(prefix + wrapper) for name in names):
                prefix += wrapper
    return prefix


def _difference(stored: Stored, tensor: Tensor) -> str | None:
    if stored.shape != tensor.shape:
        return f"{stored.shape} in the checkpoint, {tuple(tensor.shape)} in the module"
    if not torch.can_cast(stored.dtype, tensor.dtype):  # as 0.5 to an integer
        return f"{stored.dtype} in the checkpoint, {tensor.dtype} in the module"
    return None


def _check_writable(name: str, tensor: Tensor) -> None:
    """Refuses a tensor that cannot be written to, before anything is written."""
    why = None
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__ or tensor.layout is not torch.strided:
        why = f"a {type(tensor).__name__} that is not stored as an ordinary one"
    elif tensor.is_inference():
        why = "made in inference mode"
    elif not tensor.is_meta and any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape)):
        why = "expanded, so that several of its elements share memory"
    if why:
        raise WeightsError(f"{name!r} of the module cannot be written to: it is {why}. Give it a tensor of its own")


# -- values ----------------------------------------------------------------------------------------------------------


def _read(stored: Stored | None, like: Tensor, buffer: Tensor) -> Tensor:
    """A new tensor with the values of the checkpoint, of the type of the other one."""
    if stored is None:
        return torch.zeros(like.shape, dtype=like.dtype, device="cpu")
    fresh = torch.empty(like.shape, dtype=like.dtype, device="cpu")
    flat, begin = fresh.view(-1), 0
    for piece in stored.pieces(buffer):
        flat[begin : begin + piece.numel()].copy_(piece)
        begin += piece.numel()
    return fresh


def _put(values: list[tuple[Tensor, Tensor]]) -> None:
    """Writes the values. Only what is on the meta device can fail, and so it comes first and can be taken back."""
    swapped: list[tuple[Tensor, Tensor]] = []
    try:
        for tensor, fresh in values:
            if tensor.is_meta:
                twin = _twin(tensor, fresh)
                swap_tensors(tensor, twin)
                swapped.append((tensor, twin))
    except RuntimeError as error:
        for tensor, twin in swapped:
            swap_tensors(tensor, twin)
        raise WeightsError(
            f"a tensor of the module on the meta device is in use elsewhere (as a view, in a graph of autograd, or by "
            f"a weak reference), so it cannot get values. Build the module again, and load before using it: {error}"
        ) from error
    done = {id(tensor) for tensor, _ in swapped}
    for tensor, fresh in values:
        if id(tensor) not in done:
            tensor.copy_(fresh)


def _twin(tensor: Tensor, fresh: Tensor) -> Tensor:
    """The values as a tensor that differs from one on the meta device in nothing else."""
    if not tensor.is_contiguous():  # as in the memory format channels_last
        fresh = torch.empty_like(tensor, device="cpu").copy_(fresh)
    twin = nn.Parameter(fresh, False) if isinstance(tensor, nn.Parameter) else fresh
    twin.requires_grad_(tensor.requires_grad)
    twin.__class__ = type(tensor)
    twin.__dict__.update(tensor.__dict__)
    return twin


# -- the report ------------------------------------------------------------------------------------------------------


def problems_of(report: LoadReport) -> list[str]:
    lines = [f"missing in the checkpoint: {listed(report.missing)}"] if report.missing else []
    lines += [f"different: {listed([f'{name} ({how})' for name, how in report.mismatched.items()])}"] * bool(
        report.mismatched
    )
    if unsaved := _unsaved(report):
        lines.append(f"on the meta device, and in no checkpoint, since they are not saved: {listed(unsaved)}")
    return lines


def _unsaved(report: LoadReport) -> list[str]:
    return [name for name in report.unset if name not in report.missing and name not in report.mismatched]


def _hints(report: LoadReport, checkpoint: Checkpoint) -> Iterator[str]:
    needed = [*report.loaded, *report.missing, *report.mismatched]
    first = "." + needed[0] if needed else None
    available = frozenset(checkpoint.names)
    prefixes = [name.removesuffix(first[1:]) for name in available if first and name.endswith(first)]
    prefixes = sorted(prefix for prefix in prefixes if all(prefix + name in available for name in needed))
    if prefixes:
        found = prefixes[0]
        which = f"{len(prefixes)} prefixes, such as" if len(prefixes) > 1 else "the prefix"
        yield f"All these names are there with {which} {found!r}: load_weights(module, path, prefix={found!r})"
    if unsaved := _unsaved(report):
        yield f"Give them the values that they have in a model on another device: module.{unsaved[0]} = ..."
    if report.loaded:
        yield "strict=False loads what fits, leaves the rest as it is, and reports it"


def listed(names: Collection[str]) -> str:
    """How many, and the first of them."""
    shown = ", ".join(list(names)[:4])
    return f"{len(names)} ({shown}{', …' if len(names) > 4 else ''})"
