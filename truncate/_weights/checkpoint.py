"""Checkpoints on the disk: a file of either kind, several with an index, or a folder.

Only what describes the tensors is read, until the pieces of one are asked for. The pieces are small, so that reading
takes no memory besides that of the result, and the kernel is told not to read ahead: what it would fetch after a
tensor belongs to another one, which may not be needed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truncate._errors import WeightsError
from truncate._weights.archive import Archive, records_of, span
from truncate._weights.safetensors import parsed, read_safetensors
from truncate._weights.stored import DAMAGED, LONGEST, Checkpoint, Stored, brief, opened, pieces_of_file


class NotTensorsError(WeightsError):
    """A checkpoint that was refused since it holds more than tensors, and reading it could run code."""


def open_checkpoint(path: Path, stack: contextlib.ExitStack) -> Checkpoint:
    """Opens a checkpoint, until the stack is closed.

    Raises:
        WeightsError: There is none, it is damaged, or nothing here reads it.
    """
    if os.path.isdir(path):
        path = _in_folder(path)
    if not os.path.isfile(path):  # unlike `Path.is_file` it takes any name
        raise WeightsError(f"no file {path}{_beside(path.parent)}")
    if path.name.endswith(".index.json"):
        return _read_index(path, stack)
    return _read_file(path, stack)


def _read_file(path: Path, stack: contextlib.ExitStack) -> Checkpoint:
    if path.suffix == ".safetensors":
        return read_safetensors(path, stack)
    if path.suffix in PICKLED:
        return _read_pickle(path, stack)
    raise WeightsError(
        f"cannot tell from {path.name!r} how to read it. What is read: .safetensors, {', '.join(PICKLED)}, the "
        f".index.json of a checkpoint in several files, and a folder with one of {', '.join(_IN_FOLDERS)}"
    )


PICKLED = (".pth", ".pt", ".bin", ".ckpt")  # what torch.save writes has no suffix of its own
SUFFIXES = (".safetensors", *PICKLED, ".index.json")
_IN_FOLDERS = (  # as the transformers library names them, and in the order in which it looks
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def _in_folder(folder: Path) -> Path:
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"the folder {folder} holds none of {', '.join(_IN_FOLDERS)}{_beside(folder)}")


def _beside(folder: Path) -> str:
    """What a user may have meant instead."""
    if not folder.is_dir():
        return f": there is no folder {folder}"
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".json", *PICKLED))
    where = "this folder" if folder == Path() else folder
    return f". In {where} there is {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""


# -- several files ---------------------------------------------------------------------------------------------------


def _read_index(path: Path, stack: contextlib.ExitStack) -> Checkpoint:
    """An index says which file holds which tensor. Files that hold nothing of use are not even looked for."""
    try:
        if path.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST} bytes")
        where = parsed(path.read_bytes())["weight_map"]
        files = {name: str(file) for name, file in where.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is not the index of a checkpoint, which has a 'weight_map' from names to files: {brief(error)}"
        ) from error

    @functools.cache
    def shard(file: str) -> Checkpoint:
        if Path(file).name != file:
            raise WeightsError(f"{path} names {file!r}, which is not the name of a file next to it")
        if not os.path.isfile(path.parent / file):
            raise WeightsError(f"{path.parent / file} is missing, but {path.name} names it. Was it downloaded?")
        return _read_file(path.parent / file, stack)

    def find(name: str) -> Stored:
        checkpoint = shard(files[name])
        if name not in checkpoint.names:
            raise WeightsError(
                f"{path.name} says that {name!r} is in {files[name]}, which holds no such tensor: they do not belong "
                f"together, or one of them is damaged"
            )
        return checkpoint.find(name)

    return Checkpoint(files.keys(), find)


# -- what torch.save wrote -------------------------------------------------------------------------------------------


def _read_pickle(path: Path, stack: contextlib.ExitStack) -> Checkpoint:
    file = opened(path, stack)
    try:
        records = records_of(path)
        archive = Archive(file, path, records) if records else None
        content, whole = _unpickled(path, archive)
    except WeightsError:
        raise
    except Exception as error:  # of many kinds, by what is wrong inside
        kind: type[WeightsError] = NotTensorsError if _global_in(error) else WeightsError
        raise kind(_refusal(path, error)) from error
    tensors, key = state_dict_in(content, path)
    notes = [f"found under {key!r}"] if key is not None else []
    notes += ["read whole, since its tensors cannot be read one by one (as before PyTorch 1.6)"] if whole else []

    def find(name: str) -> Stored:
        tensor = tensors[name]
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            raise WeightsError(f"{name!r} in {path} is not an ordinary tensor, and cannot be read")
        if archive is None or whole:
            pieces = functools.partial(_flat, tensor)
        else:
            pieces = functools.partial(_pieces_of_view, file, path, archive.offset(name, tensor), tensor)
        return Stored(tuple(tensor.shape), tensor.dtype, pieces)

    return Checkpoint(tensors.keys(), find, tuple(notes))


def _unpickled(path: Path, archive: Archive | None) -> tuple[Any, bool]:
    """What the file holds, with all tensors on the meta device, or, where that cannot be, with their numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they say what the errors here say
        if archive is not None:
            with contextlib.suppress(NotImplementedError):  # as for sparse tensors
                return archive.content(), False
        return torch.load(path, map_location="cpu", weights_only=True), True


def _pieces_of_view(file: io.FileIO, path: Path, offset: int, tensor: Tensor, buffer: Tensor) -> Iterator[Tensor]:
    pieces = pieces_of_file(file, path, offset, span(tensor) * tensor.dtype.itemsize, tensor.dtype, buffer)
    if tensor.is_contiguous():
        yield from pieces
    else:  # as one that was saved transposed
        values = torch.cat([piece.clone() for piece in pieces])
        yield values.as_strided(tensor.shape, tensor.stride()).reshape(-1)


def _flat(tensor: Tensor, buffer: Tensor) -> Iterator[Tensor]:
    yield tensor.detach().reshape(-1)


def state_dict_in(content: Any, path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors by name, and the key under which they were found if they were not at the top."""
    inside = (
        {key: tensors for key, value in content.items() if (tensors := _tensors(value))}
        if isinstance(content, Mapping)
        else {}
    )
    for key in ("state_dict", "model", "model_state_dict"):
        if key in inside:  # whatever else is at the top, as the best accuracy may be, a tensor
            return inside[key], key
    if tensors := _tensors(content):
        return tensors, None
    if len(inside) == 1:
        key, tensors = inside.popitem()
        return tensors, key
    if inside:
        raise WeightsError(
            f"{path} holds several state dicts, {', '.join(map(repr, inside))}, and it is not clear which is meant: "
            f"save the one that you need to a file of its own"
        )
    holds = (
        f"a dict of {', '.join(map(repr, content)) or 'nothing'}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    raise WeightsError(f"{path} holds no state dict, but {holds}")


def _tensors(value: Any) -> dict[str, Tensor]:
    return (
        {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if isinstance(value, Mapping)
        else {}
    )


def _refusal(path: Path, error: Exception) -> str:
    """Why torch did not read a file, without its advice to let the file run code."""
    if name := _global_in(error):
        return (
            f"{path} holds more than tensors: {name}. Reading it could run code, so it was refused, and no "
            f"code was run. Save only the state_dict(), or, if you trust its author, see "
            f"torch.serialization.safe_globals"
        )
    if isinstance(error, pickle.UnpicklingError):
        return f"cannot read {path}, which is {DAMAGED}, or not a checkpoint of torch.save"
    return f"cannot read {path}, which is {DAMAGED}, or not a checkpoint: {brief(error)}"


def _global_in(error: Exception) -> str:
    """What a file holds that is no tensor, if torch refused it for that."""
    _, found, rest = str(error).partition(" GLOBAL ")
    return rest.split()[0] if isinstance(error, pickle.UnpicklingError) and found else ""
