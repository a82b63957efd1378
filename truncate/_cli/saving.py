"""Writing a module to a file, in the format that the suffix names. It is written and read back, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truncate._build import same
from truncate._errors import NotUsable, explained, need
from truncate._files import whole_path
from truncate._graph import tensors_in
from truncate._target import about


def check(path: Path) -> None:
    """Refuses a file that cannot be written, before any work is done for it."""
    if path.suffix not in _FORMATS:
        raise NotUsable(f"cannot tell from {path.name!r} what to write: it has to end in {' or '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise NotUsable(f"no folder {path.parent} to write {path.name} to")
    if path.is_dir():
        raise NotUsable(f"{path} is a folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise NotUsable(f"cannot write to {path.parent}: {os.strerror(errno.EACCES)}")
    for module in _FORMATS[path.suffix][3]:
        need(module, f"writing {path.suffix}", "torch-truncate[export]")


def save(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    """Writes a module and compares what comes back with it on an example input. Says what was written.

    Raises:
        NotUsable: It cannot be written, or comes back as something else. A file that was there is as before.
    """
    kind, write, read, _ = _FORMATS[path.suffix]
    with whole_path(path) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporters, about alternatives that a user cannot choose
        with explained(f"cannot write {path} as {kind}{_INSTEAD.get(path.suffix, '')}"):
            remark = write(module, temporary, args)
        with explained(f"cannot read back {path} as {kind}"):
            verdict = read(module, temporary, args)
        size = temporary.stat().st_size
    return f"{path}: {kind}, {size / 1e6:,.1f} MB{remark}; read back: {verdict}"


# -- the formats -----------------------------------------------------------------------------------------------------


def _write_script(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    torch.jit.script(module).save(str(path))
    return ""


def _read_script(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    return _compare(module, torch.jit.load(str(path)), args)


def _export(module: nn.Module, args: tuple[Any, ...]) -> tuple[torch.export.ExportedProgram, str]:
    """Exports with a free batch size if the module lets it be free, and says which.

    Not in strict mode, the default of torch 2.6, where Dynamo has to compile what leaves a forward at the target.
    """
    if all(isinstance(arg, torch.Tensor) and arg.ndim for arg in args):
        two = tuple(torch.cat([arg, arg]) for arg in args)  # an example of one would fix it at one
        free = tuple({0: torch.export.Dim.AUTO} for _ in args)
        with contextlib.suppress(Exception):
            program = torch.export.export(module, two, dynamic_shapes=free, strict=False)
            inputs = [n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs]
            if not any(isinstance(node.meta["val"].shape[0], int) for node in inputs):
                return program, ", for any batch size"
    return torch.export.export(module, args, strict=False), ", for the batch size of the example alone"


def _write_program(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    program, remark = _export(module, args)
    torch.export.save(program, path)
    return remark


def _read_program(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    return _compare(module, torch.export.load(path).module(), args)


def _write_onnx(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    program, remark = _export(module, args)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    made = torch.onnx.export(program, verbose=False)
    assert made is not None
    _name_outputs(made.model.graph, module, args)
    made.save(path, external_data=False)  # one file
    return remark


def _name_outputs(graph: Any, module: nn.Module, args: tuple[Any, ...]) -> None:
    """Names the outputs of a graph after their targets: torch names them after its operations."""
    targets, outputs = about(module).get("targets", ""), module(*args)
    several = isinstance(targets, list)
    names: list[str] = []
    for name, output in zip(targets, outputs) if several else [(targets, outputs)]:
        count = sum(1 for _ in tensors_in(output))
        names += [f"{name or 'output'}_{number}" for number in range(count)] if count > 1 else [name or "output"]
    wanted = dict(zip(names, graph.outputs))
    taken = {value.name for value in graph.inputs} | graph.initializers.keys()
    for value in [value for node in graph for value in node.outputs if value.name in wanted]:
        value.name += "_inside"
    for name, value in wanted.items():
        if name not in taken and value.name not in taken:  # an input may be returned as it is
            value.name = name


def _read_onnx(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    try:
        import onnxruntime
    except ImportError:
        need("onnx", "reading .onnx", "torch-truncate[export]").checker.check_model(str(path))
        return "well-formed (not run: onnxruntime is not installed)"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {slot.name: tensor.numpy() for slot, tensor in zip(session.get_inputs(), tensors_in(args))}
    got = [torch.from_numpy(array) for array in session.run(None, given)]
    expected = list(tensors_in(module(*args)))
    if [tensor.shape for tensor in got] != [tensor.shape for tensor in expected]:
        raise NotUsable("it returns other shapes in onnxruntime")
    largest = max(((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item() for a, b in zip(got, expected))
    if not largest < 1e-2:
        raise NotUsable(f"it differs in onnxruntime by {largest:.1e} of the largest value")
    return f"in onnxruntime equal to {largest:.0e} of the largest value"


def _write_weights(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    need("safetensors.torch", "writing .safetensors", "torch-truncate[export]").save_file(state, path)
    return f" in {len(state)} tensors"


def _read_weights(module: nn.Module, path: Path, args: tuple[Any, ...]) -> str:
    state = need("safetensors.torch", "reading .safetensors", "torch-truncate[export]").load_file(path)
    if not same(dict(sorted(state.items())), dict(sorted(module.state_dict().items()))):
        raise NotUsable("it holds other values")
    return "equal"


def _compare(module: nn.Module, other: Callable[..., Any], args: tuple[Any, ...]) -> str:
    if not same(module(*args), other(*args)):
        raise NotUsable("it returns something else")
    return "equal"


_INSTEAD = {".pt": " (an exported program, .pt2, takes more models)"}

# suffix: what is written, how, how it is read back, and what has to be installed for it
_FORMATS: dict[str, tuple[str, Callable[..., str], Callable[..., str], tuple[str, ...]]] = {
    ".pt": ("scripted module", _write_script, _read_script, ()),
    ".pt2": ("exported program", _write_program, _read_program, ()),
    ".onnx": ("ONNX", _write_onnx, _read_onnx, ("onnx", "onnxscript")),
    ".safetensors": ("weights", _write_weights, _read_weights, ("safetensors",)),
}
