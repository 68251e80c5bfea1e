"""Tiny inputs with deliberate faults: pictures, image files of every odd kind, label sets wrong on purpose.

Everything is made from a seed, so the same call gives the same bytes.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from detect.types import Image
from tests.label_sets import (
    Faulty,
    coco_row,
    faulty_coco,
    faulty_voc,
    faulty_yolo,
    fields_in,
    voc_file,
    voc_object,
)
from tests.pictures import HEIGHT, STORED, WIDTH, deep, encode, jpeg, smear

__all__ = [
    "HEIGHT",
    "ODD_SIZES",
    "STORED",
    "WIDTH",
    "Faulty",
    "bad_files",
    "chunk",
    "coco_row",
    "deep",
    "encode",
    "encoded_files",
    "faulty_coco",
    "faulty_voc",
    "faulty_yolo",
    "fields_in",
    "jpeg",
    "png_claiming",
    "smear",
    "voc_file",
    "voc_object",
    "with_alpha",
]

# Files of `encoded_files` that are not WIDTH x HEIGHT.
ODD_SIZES = {"one-pixel.png": (1, 1), "wide.png": (3000, 8)}
_Array = NDArray[Any]


def _converted(mode: str, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(smear()).convert(mode).save(out, kind, **options)
    return out.getvalue()


def _by_opencv(pixels: _Array, suffix: str) -> bytes:
    done, out = cv2.imencode(suffix, pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]])
    assert done
    return bytes(out)


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of pixels do not have."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def with_alpha(pixels: Image) -> Image:
    """RGBA: clear on the left, solid on the right."""
    ramp = np.linspace(0, 255, pixels.shape[1]).round().astype(np.uint8)
    alpha = np.broadcast_to(ramp, pixels.shape[:2])[:, :, None]
    return np.concatenate([pixels, alpha], axis=2)


def _unusual() -> dict[str, bytes]:
    plain = smear()
    grey = cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY)
    palette = PilImage.fromarray(plain).quantize(16)
    clear = io.BytesIO()
    palette.save(clear, "PNG", transparency=3)
    files = {f"exif-{o}.jpg": jpeg(plain, orientation=o) for o in STORED}
    files |= {f"exif-6.{kind.lower()}": encode(plain, kind, orientation=6) for kind in ("PNG", "TIFF", "WEBP")}
    files |= {
        "exif-garbage.jpg": jpeg(plain, exif=b"Exif\0\0MM\0*\0\0\xff\xffgarbage"),
        "deep-grey.png": encode(deep(grey), "PNG"),
        "deep-exif-6.png": encode(deep(grey), "PNG", orientation=6),
        "deep-rgb.png": _by_opencv(deep(plain), ".png"),
        "deep-rgba.png": _by_opencv(deep(with_alpha(plain)), ".png"),
        "deep-grey.tif": encode(deep(grey), "TIFF"),
        "deep-exif-6.tif": encode(deep(grey), "TIFF", orientation=6),
        "deep-rgb.tif": _by_opencv(deep(plain), ".tiff"),
        "float.tif": encode(grey.astype(np.float32) / 255, "TIFF"),
        "grey.jpg": jpeg(grey),
        "rgba.png": encode(with_alpha(plain), "PNG"),
        "rgba.webp": encode(with_alpha(plain), "WEBP", lossless=True),
        "la.png": _converted("LA", "PNG"),
        "palette-clear.png": clear.getvalue(),
        "palette.bmp": _converted("P", "BMP"),
        "bit.png": _converted("1", "PNG"),
        "bit.tif": _converted("1", "TIFF", compression="group4"),
        "two-frames.jpg": _converted("RGB", "MPO", save_all=True, append_images=[PilImage.new("RGB", (96, 64))]),
        "cmyk.jpg": _converted("CMYK", "JPEG"),
        "UPPER.JPG": jpeg(plain),
        "Zählkammer 1 µm.jpg": jpeg(plain),
        "progressive.jpg": jpeg(plain, progressive=True),
        "tail.jpg": jpeg(plain) + b"trailing garbage" * 20,
        "padded.jpg": jpeg(plain) + b"\0" * 512,
        "lzw.tif": encode(plain, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encode(plain, "TIFF", compression="jpeg"),
        "plain.bmp": encode(plain, "BMP"),
        "plain.webp": encode(plain, "WEBP"),
        "png-inside.jpg": encode(plain, "PNG"),
        "one-pixel.png": encode(plain[:1, :1], "PNG"),
        "wide.png": encode(smear(3000, 8), "PNG"),
    }
    return files


def _flipped(data: bytes, start: int, count: int) -> bytes:
    broken = bytearray(data)
    for i in range(start, start + count):
        broken[i] ^= 0xA5
    return bytes(broken)


def _pages() -> bytes:
    """Two pictures in one file."""
    out = io.BytesIO()
    PilImage.new("RGB", (WIDTH, HEIGHT)).save(out, "TIFF", save_all=True, append_images=[PilImage.new("RGB", (10, 10))])
    return out.getvalue()


def _broken() -> dict[str, tuple[bytes, str]]:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    jpg, png, bmp = jpeg(noise), encode(noise, "PNG"), encode(noise, "BMP")
    tif, webp = encode(noise, "TIFF"), encode(noise, "WEBP")
    deep_png, deep_tif = encode(deep(noise[:, :, 0]), "PNG"), encode(deep(noise[:, :, 0]), "TIFF")
    vast_bmp = bmp[:18] + struct.pack("<ii", 50_000, 50_000) + bmp[26:]
    return {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"field 3 was not photographed\n", "not an image"),
        "half.jpg": (jpg[: len(jpg) // 2], "truncated"),
        "ninety.jpg": (jpg[: len(jpg) * 9 // 10], "truncated"),
        "zeroed.jpg": (jpg[: len(jpg) // 2] + bytes(1500) + jpg[len(jpg) // 2 + 1500 :], "zeros"),
        "pages.tif": (_pages(), "2 pages"),
        "scan.svs": (tif, ".svs files are not read"),
        "phone.HEIC": (b"\0\0\0\x18ftypheic", ".heic files are not read"),
        "no-end.jpg": (jpg[:-2000], "truncated"),
        "header.jpg": (jpg[:20], "header"),
        "start.jpg": (b"\xff\xd8", "header"),
        "zeros.jpg": (b"\0" * 4096, "not an image"),
        "random.jpg": (np.random.default_rng(2).bytes(2000), "not an image"),
        "page.png": (b"<!DOCTYPE html><html><body>404 not found</body></html>", "not an image"),
        "document.jpg": (b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n", "not an image"),
        "postscript.jpg": (encode(noise, "EPS"), "not an image"),
        "half.png": (png[: len(png) // 2], "truncated"),
        "header.png": (png[:33], "damaged"),
        "crc.png": (_flipped(png, 29, 4), "header"),
        "pixels.png": (_flipped(png, len(png) // 2, 60), "damaged image"),
        "bomb.png": (png_claiming(60_000, 60_000), "too large"),
        "large.png": (png_claiming(10_000, 10_000), "too large"),
        "vast.bmp": (vast_bmp, "too large"),
        "short.bmp": (bmp[: len(bmp) // 2], "truncated"),
        "short.tif": (tif[: len(tif) // 2], "truncated"),
        "directory.tif": (tif[:4] + struct.pack("<I", len(tif) + 999) + tif[8:], "header"),
        "short.webp": (webp[: len(webp) // 2], "header"),
        "deep-half.png": (deep_png[: len(deep_png) // 2], "truncated"),
        "deep-short.tif": (deep_tif[: len(deep_tif) // 2], "truncated"),
        "deep-pixels.png": (_flipped(deep_png, len(deep_png) // 2, 60), "damaged image"),
    }


@cache
def encoded_files() -> dict[str, tuple[bytes, str]]:
    """File name to its bytes and what is expected: "ok", or a part of the reason for the failure."""
    return {name: (data, "ok") for name, data in _unusual().items()} | _broken()


def bad_files(folder: Path) -> dict[str, str]:
    """Write every kind of unusual and broken image file, and a folder named `folder.jpg`, which is no field.

    Returns:
        File name to "ok" (unusual, but it must decode) or a part of the reason for its failure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, (content, outcome) in encoded_files().items():
        (folder / name).write_bytes(content)
        expected[name] = outcome
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    expected["dangling.jpg"] = "cannot be read"
    if hasattr(os, "geteuid") and os.geteuid() != 0:  # root reads everything
        (folder / "forbidden.jpg").write_bytes(jpeg(smear()))
        (folder / "forbidden.jpg").chmod(0)
        expected["forbidden.jpg"] = "cannot be read"
    return expected
