"""Files that are none or not whole, disks that fail, and indexes of shards."""

from __future__ import annotations

import argparse
import copy
import errno
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import FORMATS, Net, State, in_shards, pth, refused, safetensors, save_safely, unchanged, values
from torch import Tensor, nn

from truncate import WeightsError, load_weights, truncate

# -- files that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["safetensors", "pth", "old pth"])
@pytest.mark.parametrize("kept", [0, 4, 8, 40, 0.5, -1])
def test_a_file_that_is_not_whole(part: nn.Module, style: str, kept: float, tmp_path: Path) -> None:
    path = FORMATS[style](Net().state_dict(), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    assert "damaged or incomplete" in refused(part, path)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: bytes, rest: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


@pytest.mark.parametrize(
    "damage",
    [
        lambda header, rest: with_header(b"{" + b" " * 40, rest),
        lambda header, rest: with_header(b"[]", rest),
        lambda header, rest: with_header(b"\xff\xfe\xfd", rest),
        lambda header, rest: with_header(b'{"stem.weight": 3}', rest),
        lambda header, rest: with_header(b'{"stem.weight": {"data_offsets": []}}', rest),
        lambda header, rest: with_header(json.dumps(header).encode(), rest + b"more"),
        lambda header, rest: b"\xff" * 8 + json.dumps(header).encode() + rest,
        lambda header, rest: b"<html>404 Not Found</html>",
    ],
)
def test_a_header_that_is_none(part: nn.Module, damage: Callable[..., bytes], tmp_path: Path) -> None:
    path = safetensors(Net().state_dict(), tmp_path)
    path.write_bytes(damage(*header_of(path.read_bytes())))
    assert f"{path} is damaged or incomplete: " in refused(part, path)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"dtype": "F64"}, "its header contradicts itself about 'stem.bias'"),
        ({"shape": [5]}, "its header contradicts itself about 'stem.bias'"),
        ({"shape": "four"}, "its header contradicts itself about 'stem.bias'"),
        ({"data_offsets": [-16, 0]}, "its header contradicts itself about 'stem.bias'"),
        ({"data_offsets": [16, 0]}, "its header contradicts itself about 'stem.bias'"),
        ({"data_offsets": [0.5, 16.5]}, "its header contradicts itself about 'stem.bias'"),
        ({"dtype": "F4"}, "'stem.bias' in "),
        ({"dtype": ["F32"]}, "its header contradicts itself about 'stem.bias'"),
    ],
)
def test_an_entry_that_cannot_be(part: nn.Module, entry: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = safetensors(Net().state_dict(), tmp_path)
    header, rest = header_of(path.read_bytes())
    header["stem.bias"] |= entry
    path.write_bytes(with_header(json.dumps(header).encode(), rest))
    assert text in refused(part, path)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_a_pickle_that_runs_code(part: nn.Module, new: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = {**Net().state_dict(), "evil": Evil(marker)}
    path = pth(content, tmp_path, _use_new_zipfile_serialization=new)
    text = refused(part, path)
    assert "holds more than tensors: posix.mkdir. Reading it could run code, so it was refused" in text
    assert "weights_only" not in text
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"model": Net().state_dict(), "args": argparse.Namespace(lr=1)}, "more than tensors: argparse.Namespace. "),
        (nn.Linear(2, 2), "more than tensors: torch.nn.modules.linear.Linear. "),
        ({"generator": {"a": torch.ones(1)}, "critic": {"a": torch.ones(1)}}, "several state dicts, 'generator', 'cr"),
        ({"epoch": 3, "loss": 0.5}, "holds no state dict, but a dict of 'epoch', 'loss'"),
        ({}, "holds no state dict, but a dict of nothing"),
        ([torch.ones(3)], "holds no state dict, but list"),
        (torch.ones(3), "holds no state dict, but Tensor"),
    ],
)
def test_a_file_with_something_else(part: nn.Module, content: Any, text: str, tmp_path: Path) -> None:
    assert text in refused(part, pth(content, tmp_path))


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (torch.empty(4, device="meta"), "'stem.bias' in .* has no values: it was on the meta device when it was"),
        (torch.ones(4).to_sparse(), "'stem.bias' in .* is not an ordinary tensor, and cannot be read"),
    ],
)
def test_a_tensor_without_ordinary_numbers(part: nn.Module, weight: Tensor, text: str, tmp_path: Path) -> None:
    before = values(part)
    with pytest.raises(WeightsError, match=text):
        load_weights(part, pth({**Net().state_dict(), "stem.bias": weight}, tmp_path))
    assert unchanged(part, before)


def test_beside_a_sparse_tensor_the_others_are_read(tmp_path: Path) -> None:
    source = nn.Linear(2, 2)
    report = load_weights(
        module := nn.Linear(2, 2), pth({**source.state_dict(), "mask": torch.eye(2).to_sparse()}, tmp_path)
    )
    assert torch.equal(module.weight, source.weight)
    assert "note: read whole" in str(report)
    torch.load(pth(source.state_dict(), tmp_path, "other.pth"))  # nothing is left behind that this stumbles over


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED], ids=["compressed", "stored"])
def test_an_archive_that_was_packed_again(compression: int, tmp_path: Path) -> None:
    """Each record may lie elsewhere than before: where that is, its index says."""
    state = {name: torch.randn(100) for name in "ab"}
    path, packed = pth(state, tmp_path), tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for entry in reversed(old.infolist()):
            new.writestr(entry.filename, old.read(entry))
    module = nn.ParameterDict({name: torch.zeros(100) for name in state})
    if compression == zipfile.ZIP_STORED:
        load_weights(module, packed)
        assert all(torch.equal(module[name], value) for name, value in state.items())
    else:
        assert "was compressed after torch.save" in refused(module, packed)


def repacked(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The same archive with other contents in it."""
    with zipfile.ZipFile(path) as old:
        records = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in records.items():
            if (changed := change(name.partition("/")[2], content)) is not None:
                new.writestr(name, changed)
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda name, content: None if name == "data/0" else content, "does not hold the values of 'scale'"),
        (lambda name, content: content[:-4] if name == "data/0" else content, "does not hold the values of 'scale'"),
        (lambda name, content: b"big" if name == "byteorder" else content, "in the byte order of another kind of mach"),
        (lambda name, content: None if name == "data.pkl" else content, "damaged or incomplete"),
    ],
)
def test_an_archive_that_contradicts_itself(
    change: Callable[[str, bytes], bytes | None], text: str, tmp_path: Path
) -> None:
    assert text in refused(Net(), repacked(pth(Net().state_dict(), tmp_path), change))


def test_an_index_that_points_elsewhere(tmp_path: Path) -> None:
    """The numbers of another tensor of the same size are not taken for those of this one."""
    path = pth({name: torch.randn(100) for name in "ab"}, tmp_path)
    module = nn.ParameterDict({name: torch.zeros(100) for name in "ab"})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"all/data/{number}").header_offset for number in range(2))
    index = content.rindex(b"all/data/0") - 4  # the offset ends the entry's fixed part, before its name
    assert int.from_bytes(content[index : index + 4], "little") == first
    path.write_bytes(content[:index] + second.to_bytes(4, "little") + content[index + 4 :])
    assert "'all/data/0' in it is not where its index says" in refused(module, path)


def test_an_archive_without_checksums(tmp_path: Path) -> None:
    source, module = nn.Linear(5, 5), nn.Linear(5, 5)
    torch.serialization.set_crc32_options(False)
    try:
        path = pth(source.state_dict(), tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    load_weights(module, path)
    assert torch.equal(module.weight, source.weight)


def test_a_scripted_file(part: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "part.pt"
    torch.jit.script(truncate(Net(), "stem")).save(path)
    assert f"{path} is a scripted module and no checkpoint" in refused(part, path)


def test_no_such_file(part: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(part, str(tmp_path / "a.pth")) == f"no file {tmp_path}/a.pth"
    safetensors(Net().state_dict(), tmp_path)
    assert refused(part, tmp_path / "a.pth") == f"no file {tmp_path}/a.pth. In {tmp_path} there is all.safetensors"
    assert refused(part, tmp_path / "b" / "a.pth") == f"no file {tmp_path}/b/a.pth: there is no folder {tmp_path}/b"
    monkeypatch.chdir(tmp_path)
    assert refused(part, "a.pth") == "no file a.pth. In this folder there is all.safetensors"


def test_a_folder_without_weights(part: nn.Module, tmp_path: Path) -> None:
    pth(Net().state_dict(), tmp_path)
    assert refused(part, tmp_path) == (
        f"the folder {tmp_path} holds none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, "
        f"pytorch_model.bin.index.json. In {tmp_path} there is all.pth"
    )


@pytest.mark.parametrize("name", ["weights.h5", "weights", "config.json"])
def test_an_unknown_suffix(part: nn.Module, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"{}")
    text = refused(part, tmp_path / name)
    assert f"cannot tell from {name!r} how to read it. What is read: .safetensors, .pth, .pt, .bin, .ckpt, " in text


def test_no_module(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"load_weights takes a torch\.nn\.Module, but got 'resnet18' of type str"):
        load_weights("resnet18", tmp_path)  # type: ignore[arg-type]


def test_a_state_dict_in_place_of_a_path(part: nn.Module) -> None:
    with pytest.raises(
        WeightsError, match=r"but got OrderedDict\. For a state dict in memory, use module\.load_state_dict\("
    ):
        load_weights(part, part.state_dict())  # type: ignore[arg-type]


class Failing(io.FileIO):
    """A disk that fails in the middle of the third tensor."""

    reads = 0

    def readinto(self, buffer: Any) -> int | None:
        Failing.reads += 1
        if Failing.reads > 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)


class Shrinking(Failing):
    def readinto(self, buffer: Any) -> int | None:
        Shrinking.reads += 1
        return 0 if Shrinking.reads > 2 else super(Failing, self).readinto(buffer)


class Slow(io.FileIO):
    """Gives less than it is asked for."""

    def readinto(self, buffer: Any) -> int | None:
        return super().readinto(memoryview(buffer)[:7])


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Failing, "cannot read {}: Input/output error"), (Shrinking, "{} became shorter while it was read")],
)
def test_a_disk_that_fails(
    part: nn.Module,
    style: Callable[[State, Path], Path],
    kind: type[Failing],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = style(Net().state_dict(), tmp_path)
    monkeypatch.setattr(io, "FileIO", kind)
    kind.reads = 0
    assert refused(part, path) == text.format(path)
    assert kind.reads == 3


def test_a_disk_that_gives_less_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, module = nn.Linear(5, 5), nn.Linear(5, 5)
    path = safetensors(source.state_dict(), tmp_path)
    monkeypatch.setattr(io, "FileIO", Slow)
    load_weights(module, path)
    assert torch.equal(module.weight, source.weight)


# -- indexes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return in_shards(Net().state_dict(), tmp_path, ".safetensors", save_safely)


def changed(index: Path, name: str, file: str) -> None:
    content = json.loads(index.read_text())
    content["weight_map"][name] = file
    index.write_text(json.dumps(content))


def test_a_missing_shard(part: nn.Module, index: Path) -> None:
    (index.parent / "part-1.safetensors").unlink()
    assert refused(part, index) == (
        f"{index.parent}/part-1.safetensors is missing, but model.safetensors.index.json names it. Was it downloaded?"
    )


def test_a_shard_that_is_not_whole(part: nn.Module, index: Path) -> None:
    shard = index.parent / "part-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard} is damaged or incomplete" in refused(part, index.parent)


def test_an_index_that_names_what_its_shard_lacks(part: nn.Module, index: Path) -> None:
    where = json.loads(index.read_text())["weight_map"]["stem.weight"]
    other = next(f"part-{shard}.safetensors" for shard in range(3) if f"part-{shard}.safetensors" != where)
    changed(index, "stem.weight", other)
    assert f"model.safetensors.index.json says that 'stem.weight' is in {other}, which holds no such tensor" in refused(
        part, index
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": 3}', "\x00"])
def test_an_index_that_is_none(part: nn.Module, index: Path, content: str) -> None:
    index.write_text(content)
    assert "is not the index of a checkpoint, which has a 'weight_map' from names to files" in refused(part, index)


def test_an_index_leads_nowhere_else(part: nn.Module, index: Path, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    copy_of_index = tmp_path / "inside" / index.name
    copy_of_index.write_text(index.read_text())
    changed(copy_of_index, "stem.weight", "../part-0.safetensors")
    changed(copy_of_index, "scale", "../part-0.safetensors")
    assert "names '../part-0.safetensors', which is not the name of a file next to it" in refused(part, copy_of_index)


def test_a_report_can_be_kept(tmp_path: Path) -> None:
    report = load_weights(truncate(Net(), "stem"), safetensors(Net().state_dict(), tmp_path))
    assert copy.deepcopy(report) == report
    assert repr(report) == str(report)
