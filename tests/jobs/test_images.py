"""Which files are images, and what is made of each, good or bad."""

from __future__ import annotations

import codecs
import contextlib
import os
import resource
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images
import numpy as np
import pytest
import timm
import torch
from PIL import Image

from truncate._errors import NotUsable
from truncate._jobs import images as _photos
from truncate._jobs.images import Undecodable, decode, find, path_of, path_text

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody who may not read everything, even if the tests are run by root."""
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        if not user:
            os.seteuid(user)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that others may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def pixels(path: Path) -> np.ndarray:
    image = decode(str(path))
    assert image.mode == "RGB"
    return np.asarray(image)


# -- decoding --------------------------------------------------------------------------------------------------------


def halves(mode: str = "RGB") -> Image.Image:
    """Red on the left, and blue on the right."""
    image = Image.new("RGB", (8, 4), RED)
    image.paste(BLUE, (4, 0, 8, 4))
    return image.convert(mode)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.ppm", "a.tga", "a.tiff", "a.JPG", "a.webp", "a.avif"])
def test_formats(name: str, tmp_path: Path) -> None:
    halves().save(tmp_path / name)
    assert find(str(tmp_path)).paths == [str(tmp_path / name)]
    got = pixels(tmp_path / name)
    assert got.shape == (4, 8, 3)
    assert got[2, 1, 0] > 200 > 100 > got[2, 1, 2]
    assert got[2, 6, 2] > 200 > 100 > got[2, 6, 0]


@pytest.mark.parametrize(("turn", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
def test_turned_pictures_stand_upright(turn: int, corner: tuple[int, int], tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), BLUE)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    got = pixels(tmp_path / "a.jpg")
    row, column = corner
    assert got[4 + 8 * row, 4 + 8 * column, 0] > 200
    assert got[12 - 8 * row, 4 + 8 * column, 0] < 50


def test_cmyk(tmp_path: Path) -> None:
    halves("CMYK").save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "CMYK"
    assert pixels(tmp_path / "a.jpg")[2, 1, 0] > 200


def test_16_bit(tmp_path: Path) -> None:
    """Their range is kept; Pillow's own conversion makes white of nearly all of it."""
    values = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values).save(tmp_path / "grey.tiff")
    (tmp_path / "grey.pgm").write_bytes(b"P5 4 4 65535\n" + values.astype(">u2").tobytes())
    for name in ["grey.png", "grey.tiff", "grey.pgm"]:
        assert np.array_equal(pixels(tmp_path / name)[:, :, 0], values >> 8), name
    rows = b"".join(b"\0" + np.stack([row, row, row], -1).astype(">u2").tobytes() for row in values)
    (tmp_path / "colour.png").write_bytes(images.png(4, 4, 16, 2, rows))
    assert np.array_equal(pixels(tmp_path / "colour.png")[:, :, 1], values >> 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tiff")
    with pytest.raises(Undecodable, match=rf"its values have no known range \(32-bit, mode {mode}\)"):
        decode(str(tmp_path / "a.tiff"))


def test_transparency_and_palettes(tmp_path: Path) -> None:
    halves("RGBA").save(tmp_path / "a.png")
    palette = halves("P")
    palette.info["transparency"] = bytes([0, 128])
    palette.save(tmp_path / "b.png", transparency=bytes([0, 128]))
    halves("LA").save(tmp_path / "c.png")
    halves("1").save(tmp_path / "d.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(tmp_path / "a.png")[0, 0].tolist() == list(RED)
        assert pixels(tmp_path / "b.png")[0, 0].tolist() == list(RED)
        assert pixels(tmp_path / "c.png").shape == pixels(tmp_path / "d.png").shape == (4, 8, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_animations_are_their_first_frame(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert pixels(tmp_path / name)[0, 0].tolist() == list(RED)


# -- what cannot be read ---------------------------------------------------------------------------------------------


def reason(path: Path) -> str:
    with pytest.raises(Undecodable) as caught:
        decode(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert reason(path) == "No such file or directory"
    path.write_bytes(b"")
    assert reason(path) == "the file is empty"
    path.write_text("This is no picture.")
    assert reason(path) == "not an image, or in an unsupported format"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    assert reason(path).startswith("image file is truncated")
    broken = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(broken)
    broken.write_bytes(broken.read_bytes()[:100] + b"garbage" * 20)
    assert reason(broken)


def test_a_picture_that_would_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(images.png(60_000, 60_000, 8, 2, b""))
    assert "exceeds limit" in reason(tmp_path / "a.png")


def transforms() -> dict[str, Any]:
    from torchvision import models
    from torchvision.transforms import v2

    return {
        "preset": models.ResNet18_Weights.DEFAULT.transforms(),
        "timm": timm.data.create_transform(input_size=(3, 224, 224), is_training=False),
        "by hand": v2.Compose([v2.Resize(300), v2.CenterCrop(200), v2.ToImage()]),
    }


@pytest.mark.parametrize("name", ["preset", "timm", "by hand"])
@pytest.mark.parametrize("size", [(20000, 1), (1, 20000), (90000, 300)])
def test_what_scaling_would_make_too_large(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """In a process that may take no more than 1 GB beside what it has."""
    path = str(tmp_path / "thin.png")
    Image.new("L", size).save(path)
    transform = transforms()[name]

    def prepare() -> int:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + 1_000_000_000,) * 2)
        found = _photos.prepared(path, transform)
        if 1 in size:
            assert isinstance(found, str)
            assert found.startswith(f"its size is {size[0]}×{size[1]}: scaled for the model it would be ")
        else:  # that one is long, and can be had
            assert isinstance(found, torch.Tensor)
        return 7

    assert images.ended(images.child(prepare)) == 7


def test_programs_are_not_run(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for these."""
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n")
    assert reason(tmp_path / "a.jpg") == "not an image, or in an unsupported format"


def test_a_file_that_may_not_be_read(public: Path) -> None:
    halves().save(public / "a.png")
    (public / "a.png").chmod(0)
    with unprivileged():
        assert reason(public / "a.png") == "Permission denied"


def test_a_transform_that_fails_is_told_from_a_broken_file(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")

    def refuse(image: Image.Image) -> torch.Tensor:
        raise ValueError("too\nsmall")

    assert _photos.prepared(str(tmp_path / "a.png"), refuse) == "cannot be prepared for the model: too small"


# -- finding ---------------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder: Path) -> list[str]:
    return [os.path.relpath(path, folder) for path in find(str(folder)).paths]


def test_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "B.JPEG", "é.png", "a/z.webp", "a.jpg", "a/b/c.tif", "notes.txt", "README", "z.jpg/x.gif")
    found = ["B.JPEG", "a.jpg", "a/b/c.tif", "a/z.webp", "b.jpg", "z.jpg/x.gif", "é.png"]
    assert names(tmp_path) == found
    assert find(str(tmp_path)).others == {".txt": 1, "": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no images in images, it is empty; their names end in .jpg, .png, .webp and the like"),
        (lambda folder: touch(folder, "a.txt", "b.txt", "c"), "no images in images (it holds 2 .txt, 1 without suff"),
        (lambda folder: (folder / "a.jpg").symlink_to("b"), "(it holds images/a.jpg: a link to nothing); their names"),
        (lambda folder: folder.rmdir(), "no folder images"),
        (lambda folder: (folder.rmdir(), folder.touch()), "images is a file and not a folder"),
    ],
)
def test_no_pictures(make, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    make(Path("images"))
    with pytest.raises(NotUsable) as caught:
        find("images")
    assert message in str(caught.value)


def test_loops_of_links(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/c.jpg")
    (tmp_path / "a/b/up").symlink_to("..")
    (tmp_path / "x.jpg").symlink_to("y.jpg")
    (tmp_path / "y.jpg").symlink_to("x.jpg")
    found = find(str(tmp_path))
    assert found.paths == [str(tmp_path / "a/b/c.jpg")]
    assert found.failures == {
        str(tmp_path / "a/b/up"): "a link to a folder that holds it",
        str(tmp_path / "x.jpg"): "cannot be inspected: Too many levels of symbolic links",
        str(tmp_path / "y.jpg"): "cannot be inspected: Too many levels of symbolic links",
    }


def test_links_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "there/a.jpg")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/folder").symlink_to(tmp_path / "there")
    (tmp_path / "here/file.jpg").symlink_to(tmp_path / "there/a.jpg")
    assert names(tmp_path / "here") == ["file.jpg", "folder/a.jpg"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    assert find(str(tmp_path)).failures == {str(tmp_path / "b.jpg"): "not a regular file"}


def test_folders_that_may_not_be_read(public: Path) -> None:
    touch(public, "a.jpg", "closed/b.jpg")
    (public / "closed").chmod(0)
    with unprivileged():
        found = find(str(public))
        assert found.paths == [str(public / "a.jpg")]
        assert found.failures == {str(public / "closed"): "cannot be listed: Permission denied"}
        with pytest.raises(NotUsable, match="closed: cannot be listed: Permission denied"):
            find(str(public / "closed"))
    (public / "closed").chmod(0o755)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"images/a b.jpg", "images/a b.jpg"),
        ("images/é.jpg".encode(), "images/é.jpg"),
        (b"images/caf\xe9.jpg", r"images/caf\xe9.jpg"),
        (rb"images/back\xe9slash.jpg", r"images/back\\xe9slash.jpg"),
        (b"\\\xff\\\\\x80", r"\\\xff\\\\\x80"),
    ],
)
def test_names_that_are_not_utf_8(name: bytes, text: str) -> None:
    assert path_text(os.fsdecode(name)) == text
    assert os.fsencode(path_of(text)) == name
    assert codecs.escape_decode(text.encode())[0] == name  # as the documentation says
    text.encode()
