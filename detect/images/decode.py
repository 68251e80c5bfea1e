"""The only decoder. Whatever the file, out comes uint8 RGB (H, W, 3), EXIF applied, or ImageError with a reason.

- Alpha is laid over white, the colour of an empty slide.
- Deep images (16-bit integers, floats) are scaled to 8 bits by the depth that they use: 10, 12, 14 or 16 bits.
- An image above `MAX_PIXELS` is refused before it is unpacked.
- JPEGs, nearly all fields, take the fast way through libjpeg-turbo, which says where it had to guess: that is a damaged
  file, not a picture. Flipped bits that still make sense no decoder can tell. A JPEG without its end marker goes the
  slow way through Pillow, which tells a truncated file from a merely untidy one.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageOps, UnidentifiedImageError

from detect.errors import ImageError
from detect.types import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 89_478_485  # Pillow's own warning level: a quarter of a gigabyte as RGB
MAX_BYTES = 2**30  # of a file: none within `MAX_PIXELS` is so large
# Picture formats that are not read: such a file is a field all the same, so that it is missed and not overlooked.
UNREAD = frozenset({".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".raw", ".nef", ".cr2", ".dng"}) | frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".czi", ".lif", ".nd2", ".vsi", ".bif", ".dcm"}
)
_STANDARD_TABLE = bytes.fromhex("0002010303020403050504040000017d")  # code lengths of JPEG's own luminance AC table
_ZEROS = bytes(512)
_ORIENTATION = 0x0112
_GUESSED = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")  # what libjpeg says of a damaged scan
_HARMLESS = "bad ICC marker"
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP")
_TIFF_BITS, _PNG_DEPTH_AT = 258, 24
_DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L"}
_UPRIGHT = {3: 2, 6: -1, 8: 1}  # EXIF orientation to quarter turns of numpy.rot90
_LYING = (5, 6, 7, 8)  # EXIF orientations whose rows are columns


Shrink = Callable[[int, int], int]


def whole(width: int, height: int) -> int:
    """A `Shrink` that leaves images as they are."""
    del width, height
    return 1


# Our own limit is the one that counts; filters cannot be set and put back while several threads decode.
warnings.filterwarnings("ignore", category=PilImage.DecompressionBombWarning)


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are unpacked. Width and height after EXIF rotation."""

    width: int
    height: int
    format: str
    mode: str
    deep: bool
    orientation: int


def read(path: Path) -> Image:
    """The pixels of an image file."""
    with _named(path):
        return decode(raw(path))


def levels(path: Path) -> NDArray[np.integer]:
    """The grey levels of a mask image as they were written, integers (h, w): no scaling to 8 bits, no EXIF.

    Raises:
        ImageError: it cannot be decoded, or its channels differ, so that it holds colours and no levels.
    """
    with _named(path):
        data = raw(path)
        header(data)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            pixels = np.asarray(_slow(data))
        if pixels.ndim == 3:
            if not (pixels[:, :, :1] == pixels[:, :, 1:3]).all():
                raise ImageError(
                    "a coloured picture, not a mask of grey levels", remedy="export the mask as grey levels"
                )
            pixels = pixels[:, :, 0]
        if not np.issubdtype(pixels.dtype, np.integer):
            raise ImageError("its levels are no integers", remedy="export the mask as 8 or 16 bit grey levels")
        return np.ascontiguousarray(pixels)


def size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file after EXIF rotation, from its header alone."""
    with _named(path):
        found = header(raw(path))
    return found.width, found.height


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ImageError(error.problem, where=str(path), remedy=error.remedy) from error


def raw(path: Path) -> bytes:
    """What the file holds; ImageError where it is none that can be read, from the OSError where there was one."""
    try:
        if path.suffix.lower() in UNREAD:
            what = f"{path.suffix.lower()} files are not read"
            raise ImageError(what, remedy="export its fields as JPEG, PNG or TIFF")
        if path.is_dir():
            raise ImageError("a folder that cannot be opened", remedy="check its permissions")
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise ImageError("cannot be read: not a regular file", remedy="put an image file there")
        if (length := path.stat().st_size) > MAX_BYTES:
            raise ImageError(f"too large: {length / 1e9:.1f} GB in one file", remedy="cut it into fields")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # the latter: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read: {why}", remedy="check the file and its permissions") from error


def _check_scan(data: bytes) -> None:
    """Refuse a JPEG of which a stretch was overwritten with zeros, as broken copies leave it.

    The decoders say nothing and fill the rest with grey. With the standard tables, which nearly all cameras use, no
    picture encodes to so many zeros; with tables of its own a flat picture can, and is let through.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":  # segment by segment to the scan
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    if _STANDARD_TABLE in data[:at] and _ZEROS in data[at:].rstrip(b"\x00\r\n"):
        raise ImageError("damaged image: a stretch of the file is zeros", remedy="copy the image again")


def header(data: bytes) -> Header:
    """Read and check the header; ImageError where the file is empty, no image, or too large."""
    if not data:
        raise ImageError("empty file (0 bytes)", remedy="copy the image again")
    try:
        image = PilImage.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ImageError("not an image, or a damaged header", remedy="open it in a viewer, export it again") from None
    except PilImage.DecompressionBombError:
        raise ImageError(
            _too_large(f"more than {2 * MAX_PIXELS / 1e6:.0f} million"), remedy="cut it into fields"
        ) from None
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them meet
        raise ImageError(f"damaged header: {error}", remedy="export the image again") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(f"{width} x {height}"), remedy="cut it into fields")
    kind = image.format or ""
    pages = getattr(image, "n_frames", 1) if kind in ("TIFF", "WEBP") else 1
    if pages > 1:
        raise ImageError(f"{pages} pages in one file", remedy="export each as an image of its own")
    try:
        turned = int(image.getexif().get(_ORIENTATION, 1) or 1)
    except Exception:  # a damaged EXIF block says nothing about orientation
        turned = 1
    if kind == "TIFF":  # Pillow turns the size of a TIFF when it opens it, other formats when asked to
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        width, height = int(tags.get(256, width)), int(tags.get(257, height))
    if turned in _LYING:
        width, height = height, width
    return Header(width, height, kind, image.mode, _is_deep(image, data, kind), turned)


def _too_large(found: str) -> str:
    return f"too large: {found} pixels, the limit is {MAX_PIXELS / 1e6:.0f} million"


def _is_deep(image: PilImage.Image, data: bytes, kind: str) -> bool:
    if kind == "PNG":
        return len(data) > _PNG_DEPTH_AT and data[_PNG_DEPTH_AT] == 16
    if kind == "TIFF":
        bits = image.tag_v2.get(_TIFF_BITS, (8,))  # type: ignore[attr-defined]
        return any(b > 8 for b in (bits if isinstance(bits, tuple) else (bits,)))
    return image.mode in _DEEP_MODES


def decode(data: bytes) -> Image:
    """The pixels of an encoded image, uint8 RGB (H, W, 3), EXIF applied.

    Raises:
        ImageError: with a reason fit for a results table.
    """
    return sized(data)[0]


def sized(data: bytes, shrink: Shrink = whole) -> tuple[Image, int, int]:
    """See `decode`; also (width, height) of the whole image.

    Args:
        shrink: given its width and height, how many times smaller it may come out: 1, 2, 4 or 8, sides rounded up.
            Only JPEGs do: they are unpacked at once as averages over so many pixels, in a fraction of the time.
    """
    found = header(data)
    times = shrink(found.width, found.height)
    return _pixels(data, found, times), found.width, found.height


def _pixels(data: bytes, found: Header, times: int) -> Image:
    if found.format == "JPEG" and found.mode in ("RGB", "L") and data.rstrip(b"\x00\r\n").endswith(b"\xff\xd9"):
        _check_scan(data)
        pixels = _jpeg(data, found, times)
        if pixels is not None and pixels.shape[:2] == (-(-found.height // times), -(-found.width // times)):
            return pixels
    if found.deep:
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is not None and deep.dtype != np.uint8:
            # OpenCV sets a TIFF upright by itself, whatever the flags.
            upright = _from_deep(deep)
            return upright if found.format == "TIFF" else _upright(upright, found)
    return _slow(data)


def _jpeg(data: bytes, found: Header, times: int) -> Image | None:
    """A JPEG so many times smaller; None where it is one of a rare kind. ImageError where its data are damaged."""
    least: dict[str, int] = {}
    if times > 1:
        sides = (found.width, found.height) if found.orientation in _LYING else (found.height, found.width)
        least = dict(zip(("min_height", "min_width"), (-(-side // times) for side in sides), strict=True))
    try:
        return _upright(simplejpeg.decode_jpeg(data, "RGB", **least), found)
    except ValueError as error:
        told = str(error)
        if told.startswith(_GUESSED) and _HARMLESS not in told:
            raise ImageError(f"damaged image: {told}", remedy="copy or export the image again") from error
        return None


def _slow(data: bytes) -> Image:
    try:
        image: PilImage.Image = PilImage.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode in _DEEP_MODES:
            return _from_deep(np.asarray(image))
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            image = PilImage.alpha_composite(PilImage.new("RGBA", clear.size, (255, 255, 255, 255)), clear)
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # Pillow's plugins raise many kinds; each is this file's fault
        reason = str(error) or type(error).__name__
        raise ImageError(f"damaged image: {reason}", remedy="copy or export the image again") from error


def _from_deep(pixels: NDArray[np.generic]) -> Image:
    """Deep pixels as OpenCV gives them (BGR order) to uint8 RGB."""
    values = pixels.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, 0)
    top = float(values.max(initial=0))
    if np.issubdtype(pixels.dtype, np.floating) and top <= 1.0:
        scale = 255.0
    else:
        depth = next((bits for bits in (8, 10, 12, 14, 16, 32) if top < 2**bits), 32)
        scale = 255.0 / (2**depth - 1)
    small = np.clip(values * scale + 0.5, 0, 255).astype(np.uint8)
    if small.ndim == 2:
        return np.ascontiguousarray(np.repeat(small[:, :, None], 3, axis=2))
    if small.shape[2] == 4:
        alpha = small[:, :, 3:].astype(np.float32) / 255
        small = (small[:, :, :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(small[:, :, ::-1] if small.shape[2] >= 3 else np.repeat(small[:, :, :1], 3, axis=2))


def _upright(pixels: Image, found: Header) -> Image:
    # imdecode with IMREAD_UNCHANGED leaves the orientation alone.
    if found.orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    turns = {**_UPRIGHT, 4: 2, 5: 1, 7: -1}.get(found.orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels, turns))
