"""Images in a folder: finding them in a stable order, decoding them, and batches of them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from truncate._errors import Broken, NotUsable, brief, is_passing

if TYPE_CHECKING:
    from truncate._jobs.reading import Reading

# Formats of images and nothing else; Pillow reads more, among them programs (EPS) and scientific data.
_FORMATS = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PNG": (".png", ".apng"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm"),
    "TGA": (".tga",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_SUFFIXES = frozenset(suffix for suffixes in _FORMATS.values() for suffix in suffixes)


# -- finding ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    """What lies under a folder."""

    paths: list[str] = dataclasses.field(default_factory=list)  # by their bytes, in order
    failures: dict[str, str] = dataclasses.field(default_factory=dict)  # what cannot be looked at, and why
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # left out, by suffix


def find(folder: str) -> Found:
    """All images under a folder, known by the ends of their names; links are followed.

    Raises:
        NotUsable: There is no such folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise NotUsable(f"{folder} is a file and not a folder" if os.path.exists(folder) else f"no folder {folder}")
    found = Found()
    _walk(folder, (), found)
    if folder in found.failures:
        raise NotUsable(f"{folder}: {found.failures[folder]}")
    found.paths.sort(key=os.fsencode)
    if not found.paths:
        besides = [f"{count} {suffix or 'without suffix'}" for suffix, count in found.others.most_common(5)]
        besides += [f"{path_text(path)}: {reason}" for path, reason in list(found.failures.items())[:3]]
        held = f" (it holds {', '.join(besides)})" if besides else ", it is empty"
        raise NotUsable(f"no images in {folder}{held}; their names end in .jpg, .png, .webp and the like")
    return found


def _walk(folder: str, above: tuple[tuple[int, int], ...], found: Found) -> None:
    """Lists a folder, which lies in those `above`, each given by device and inode."""
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            found.failures[folder] = "a link to a folder that holds it"
            return
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError as error:
        found.failures[folder] = f"cannot be listed: {error.strerror}"
        return
    for entry in entries:
        try:
            if entry.is_dir():
                _walk(entry.path, (*above, here), found)
            elif not is_image(entry.name):
                found.others[os.path.splitext(entry.name)[1].lower()] += 1
            elif entry.is_file():
                found.paths.append(entry.path)
            else:  # to open a pipe would wait for ever
                found.failures[entry.path] = "a link to nothing" if entry.is_symlink() else "not a regular file"
        except OSError as error:  # a loop of links, or a folder whose entries cannot be looked at
            found.failures[entry.path] = f"cannot be inspected: {error.strerror}"


def is_image(name: str) -> bool:
    """Whether a file has a name as images have it."""
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def path_text(path: str) -> str:
    r"""A path as text that any table can hold: bytes that are not UTF-8 as ``\xff``, and a backslash as ``\\``."""
    escaped = path.replace("\\", "\\\\")
    return re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", escaped)


def path_of(text: str) -> str:
    r"""The path that `path_text` made the text of."""
    return re.sub(
        r"\\(\\|x(..))", lambda escape: chr(0xDC00 + int(escape[2], 16)) if escape[2] else "\\", text, flags=re.DOTALL
    )


# -- decoding --------------------------------------------------------------------------------------------------------


class Undecodable(Exception):
    """A file that cannot be read as an image. The message says why, in one line, and does not repeat the path."""


def decode(path: str) -> Any:
    """An image in colours, upright, as Pillow has it: the first frame, and without transparency.

    It refuses to be scaled to more than `_MOST_PIXELS`.

    Raises:
        Undecodable: It cannot be read, and that is its own fault.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken metadata, which does not matter here, and of large images
            with Image.open(path, formats=list(_FORMATS)) as opened:
                image = ImageOps.exif_transpose(opened)
                return _bounded(_in_colours(image, str(opened.format)))
    except UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        raise Undecodable("the file is empty" if empty else "not an image, or in an unsupported format") from None
    except Undecodable:
        raise
    except Exception as error:  # decoders of broken files raise of all kinds
        if is_passing(error):
            raise
        raise Undecodable((isinstance(error, OSError) and error.strerror) or brief(error)) from error


def _in_colours(image: Any, kind: str) -> Any:
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        # Converting clips everything above 255 to white, so the upper byte is taken
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise Undecodable(f"its values have no known range (32-bit, mode {image.mode})")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


_MOST_PIXELS = 1 << 26  # of an image that is scaled: 200 MB, and 800 MB as a tensor


def _bounded(image: Any) -> Any:
    """The image with a bound on what scaling makes of it: that of a line is as long as the model's images are high."""
    image.__class__ = _bounded_class()
    return image


@functools.cache
def _bounded_class() -> Any:
    from PIL import Image

    class Bounded(Image.Image):
        def resize(self, size: Any, *args: Any, **options: Any) -> Any:
            if size[0] * size[1] > _MOST_PIXELS:
                here, there = ("×".join(map(str, sizes)) for sizes in (self.size, size))
                raise Undecodable(
                    f"its size is {here}: scaled for the model it would be {there}, more than {_MOST_PIXELS:,} "
                    "pixels; crop it"
                )
            return super().resize(size, *args, **options)

    return Bounded


# -- batches ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Loaded:
    """A batch of consecutive files: some are images, and some are not."""

    start: int
    stop: int
    kept: list[int]  # the numbers of those that are
    images: Tensor | None  # of these
    failures: dict[int, str]


class _Files(Dataset[tuple[int, "Tensor | str"]]):
    """The prepared image of each file, or why there is none."""

    def __init__(self, paths: Sequence[str], transform: Callable[[Any], Tensor], reading: Reading) -> None:
        self._paths, self._transform, self._reading = paths, transform, reading

    def __getitem__(self, number: int) -> tuple[int, Tensor | str]:
        return number, self._reading.prepared(number, self._paths[number], self._transform)


class Passing(str):
    """Why an image could not be read now, which is not its fault."""


def prepared(path: str, transform: Callable[[Any], Tensor]) -> Tensor | str:
    """An image as a model takes it, or why there is none."""
    told = ""
    try:
        image = decode(path)
        told = "cannot be prepared for the model: "
        return transform(image)
    except Undecodable as error:
        return str(error)
    except Exception as error:  # of many kinds, for images of one pixel and the like
        if is_passing(error):
            return Passing(f"{path_text(path)}: {brief(error)}")
        return f"{told}{brief(error)}"


def load(
    paths: Sequence[str],
    transform: Callable[[Any], Tensor],
    batches: Iterable[range],
    workers: int,
    reading: Reading,
) -> Iterator[Loaded]:
    """Reads the files whose numbers are in each batch, in `workers` processes."""
    loader: DataLoader[Any] = DataLoader(
        _Files(paths, transform, reading),
        batch_sampler=list(batches),  # type: ignore[arg-type]  # any sequences of numbers will do
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_begin if workers else None,
    )
    for loaded in loader:
        if isinstance(loaded, Passing):
            raise Broken(loaded)
        if isinstance(loaded, str):
            raise NotUsable(loaded)
        yield loaded


def _begin(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt ends the parent, which ends its workers


def _collate(items: list[tuple[int, Tensor | str]]) -> Loaded | str:
    for _, item in items:
        if isinstance(item, Passing):
            return item
    images = [item for _, item in items if isinstance(item, Tensor)]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:  # told as a value, since an error would come with the trace of another process
        one, other, *_ = ("×".join(map(str, shape)) for shape in sorted(shapes))
        return (
            f"the model's own transform leaves images at different sizes ({one} and {other}), which cannot form a "
            "batch: use --batch-size 1, and --pool avg for rows of one length"
        )
    return Loaded(
        start=items[0][0],
        stop=items[-1][0] + 1,
        kept=[number for number, item in items if isinstance(item, Tensor)],
        images=default_collate(images) if images else None,
        failures={number: item for number, item in items if isinstance(item, str)},
    )
