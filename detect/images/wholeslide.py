"""Whole slides as scanners write them: SVS, NDPI, MRXS, SCN, BIF, DICOM, pyramids of TIFF, read through OpenSlide, or
tiffslide where that is not there. A slide becomes fields: regions of it in which cells lie side by side.

Coordinates are pixels of the full resolution. Each region is read with a margin around it, so that a cell on the border
between two of them is seen whole. It belongs to the region that holds its centre; right on a border to both, and is
counted in one (`score.overlaps`): the two see it a little apart, and one would be lost, or counted twice, by chance.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.errors import ImageError, MissingExtraError
from detect.types import Field, Image

# Files that are always whole slides, and those that may be.
DICOM = ".dcm"
ALWAYS = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", DICOM})
MAYBE = frozenset({".tif", ".tiff"})

Series = tuple[Path, str]  # folder and name of what DICOM files have in common that are one slide

_SIDE = 2048  # pixels of a region
BORDER = 12  # pixels beyond its border where a region's cells are kept: the two sights of one may differ by a few
# Around it: micrometres, more than a white cell is wide; pixels where these are unknown.
_MARGIN_UM, _MARGIN = 25.0, 128
PIXELS = (_SIDE + 4 * _MARGIN) ** 2  # of a region with its margin, about
_LOOK_UM = 1.2  # micrometres a pixel at which regions are judged: a red cell is about six of these
_LOOK_PX = 8.0  # full pixels for one, where the scale is unknown
_THUMB = 2048  # pixels of the longer side at which empty ground is told
_MOST = 60_000_000  # pixels that are unpacked for it
_EMPTY = 0.02  # share of a region that anything covers, below which it is not looked at closer
_THIN, _THICK = 0.1, 0.62  # of a monolayer cells cover this share; more is thick or piled up, less is the edge
_PILED = 1.5  # times the density that cells of this slide usually have: they lie on one another
_BODY = 0.06  # optical density of green above which there is something


class WholeSlide:
    """One slide, open. `read` may be called from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._slide: Any = _open(path)
        self.width, self.height = (int(v) for v in self._slide.dimensions)
        self.mpp = _mpp(self._slide.properties)
        self.series: str | None = self._slide.properties.get("dicom.SeriesInstanceUID")
        self._downsamples = [float(v) for v in self._slide.level_downsamples]

    @property
    def levels(self) -> int:
        """Resolutions that are kept in the file."""
        return len(self._downsamples)

    def read(self, region: tuple[int, int, int, int]) -> Image:
        """A region (x0, y0, x1, y1) in full resolution, uint8 RGB; empty ground where nothing was scanned."""
        x0, y0, x1, y1 = region
        return self._pixels((x0, y0), 0, (x1 - x0, y1 - y0))

    def seen_from(self, region: tuple[int, int, int, int], downsample: float) -> Image:
        """A region, a pixel for about `downsample` pixels of the full resolution."""
        fitting = [k for k, d in enumerate(self._downsamples) if d <= downsample * 1.01]
        level = max(fitting, key=lambda k: self._downsamples[k], default=0)
        own = self._downsamples[level]
        x0, y0, x1, y1 = region
        found = self._pixels((x0, y0), level, (max(1, round((x1 - x0) / own)), max(1, round((y1 - y0) / own))))
        wanted = (max(1, round((x1 - x0) / downsample)), max(1, round((y1 - y0) / downsample)))
        if wanted == (found.shape[1], found.shape[0]):
            return found
        return np.ascontiguousarray(cv2.resize(found, wanted, interpolation=cv2.INTER_AREA))

    def thumbnail(self) -> Image:
        """All of it, its longer side `_THUMB` pixels at most."""
        width, height = self._slide.level_dimensions[-1]
        if width * height > _MOST:
            raise ImageError("kept in one resolution only", remedy="export it as a pyramid")
        try:
            with self._lock:
                small = self._slide.get_thumbnail((_THUMB, _THUMB))
        except Exception as error:
            raise ImageError(f"damaged: {error}", remedy="copy the slide again") from error
        return np.ascontiguousarray(np.asarray(small.convert("RGB"), np.uint8))

    def _pixels(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image:
        try:
            with self._lock:
                found = np.asarray(self._slide.read_region(corner, level, size))
        except Exception as error:  # both libraries raise kinds of their own
            raise ImageError(f"cannot be read at {corner}: {error}", remedy="copy the slide again") from error
        if found.shape[2] == 4:
            clear = found[:, :, 3:].astype(np.float32) / 255
            found = (found[:, :, :3] * clear + 255 * (1 - clear) + 0.5).astype(np.uint8)
        return np.ascontiguousarray(found)


@lru_cache(maxsize=4)
def opened(path: Path) -> WholeSlide:
    """A slide that stays open while its regions are read."""
    return WholeSlide(path)


def series_of(path: Path) -> Series | None:
    """What the DICOM files of one slide have in common; None of any other file, and of one that cannot be read."""
    if path.suffix.lower() != DICOM:
        return None
    try:
        name = WholeSlide(path).series
    except (ImageError, MissingExtraError):
        return None
    return None if name is None else (path.parent, name)


def taken_apart(field: Field) -> tuple[Series | None, list[Field]]:
    """The fields of a slide, and of a DICOM file what its slide's files have in common. One that is no whole slide, or
    has none, is the field that it was."""
    suffix = field.path.suffix.lower()
    whole = suffix in ALWAYS or (suffix in MAYBE and is_whole(field.path))
    return series_of(field.path), _fields(field) if whole else [field]


def is_whole(path: Path) -> bool:
    """Whether a TIFF is a whole slide: kept in several resolutions."""
    try:
        return WholeSlide(path).levels > 1
    except (ImageError, MissingExtraError):
        return False


def at_borders(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether points of a slide, full pixels, lie where two regions may both have kept a cell."""
    near = [np.abs((v + _SIDE / 2) % _SIDE - _SIDE / 2) <= 2 * BORDER for v in (x, y)]
    return np.asarray(near[0] | near[1])


def is_region(field: str, slide: str) -> bool:
    """Whether a field, by its id, is a region of a whole slide."""
    whole, mark, _ = field.rpartition("#")
    return bool(mark) and whole == slide


def read_field(field: Field) -> Image:
    """The pixels of a region with its margin; ImageError with a reason for a slide that has no regions."""
    return read_placed(field)[0]


def read_placed(field: Field) -> tuple[Image, tuple[int, int]]:
    """See `read_field`; also left and top of these pixels in the slide."""
    if field.region is None:
        raise ImageError(why_not(field.path))
    try:
        whole = with_margin(field)
        return opened(field.path).read(whole), whole[:2]
    except ImageError:
        # A library keeps the error of one region for all that come after; the next one gets the slide opened anew.
        opened.cache_clear()
        raise


def with_margin(field: Field) -> tuple[int, int, int, int]:
    """What is read of a slide for a region of it."""
    assert field.region is not None
    slide = opened(field.path)
    margin = _MARGIN if slide.mpp is None else round(_MARGIN_UM / slide.mpp)
    x0, y0, x1, y1 = field.region
    return max(0, x0 - margin), max(0, y0 - margin), min(slide.width, x1 + margin), min(slide.height, y1 + margin)


def why_not(path: Path) -> str:
    """Why a slide gave no fields."""
    try:
        WholeSlide(path)
    except (ImageError, MissingExtraError) as error:
        return error.problem if error.remedy is None else f"{error.problem}: {error.remedy}"
    return "no part of this slide shows cells side by side"


def monolayer(slide: WholeSlide) -> list[tuple[int, int, int, int]]:
    """Regions (x0, y0, x1, y1) where cells lie side by side: neither empty ground nor the thin edge nor piled up.

    By how much of a region cells cover, and by how dense they are against those of the whole slide: cells that lie on
    one another are seen through twice.
    """
    small = slide.thumbnail()
    ground = np.percentile(small.reshape(-1, 3), 95, axis=0).clip(1, 255)
    factor = slide.width / small.shape[1]
    something = _density(small, ground) > _BODY / 2
    candidates: list[tuple[tuple[int, int, int, int], float, float]] = []
    downsample = _LOOK_PX if slide.mpp is None else max(1.0, _LOOK_UM / slide.mpp)
    for y0 in range(0, slide.height, _SIDE):
        for x0 in range(0, slide.width, _SIDE):
            region = (x0, y0, min(slide.width, x0 + _SIDE), min(slide.height, y0 + _SIDE))
            a, b, c, d = (int(v / factor) for v in region)
            if not something[b : max(b + 1, d), a : max(a + 1, c)].mean() > _EMPTY:
                continue
            density = _density(slide.seen_from(region, downsample), ground)
            body = density > _BODY
            covered = float(body.mean())
            if covered > 0:
                candidates.append((region, covered, float(np.median(density[body]))))
    side_by_side = [dense for _, covered, dense in candidates if _THIN <= covered <= _THICK]
    if not side_by_side:
        return []
    usual = float(np.median(side_by_side))
    return [r for r, covered, dense in candidates if _THIN <= covered <= _THICK and dense <= _PILED * usual]


def _density(pixels: Image, ground: Any) -> Any:
    """Optical density of green, against the slide's own ground."""
    return np.log10(ground[1] / pixels[:, :, 1].clip(1).astype(np.float32)).clip(0)


def _fields(field: Field) -> list[Field]:
    try:
        slide = WholeSlide(field.path)
        regions = monolayer(slide)
    except (ImageError, MissingExtraError):
        return [field]
    if not regions:
        return [field]
    name = field.id
    return [replace(field, id=f"{name}#{r[0]:06d},{r[1]:06d}", slide=name, region=r) for r in regions]


def _open(path: Path) -> Any:
    """A slide through whichever library is there."""
    if not path.is_file():  # a pipe would be waited for without end
        raise ImageError("cannot be read: not a regular file", remedy="put a slide there")
    try:
        import openslide

        try:
            return openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise ImageError(f"no whole slide that OpenSlide reads: {error}", remedy="copy it again") from error
    except ImportError:
        pass
    try:
        import tiffslide
    except ImportError:
        raise MissingExtraError("a whole slide", "wsi") from None
    try:
        return tiffslide.TiffSlide(path)
    except Exception as error:  # it raises whatever its TIFF reader does
        raise ImageError(f"no whole slide that tiffslide reads: {error}", remedy="install openslide-python") from error


def _mpp(properties: Any) -> float | None:
    """Micrometres a pixel, where the file tells something believable."""
    told = []
    for kind in ("openslide", "tiffslide"):
        for axis in ("x", "y"):
            try:
                told.append(float(properties.get(f"{kind}.mpp-{axis}")))
            except (TypeError, ValueError):
                continue
    mean = float(np.mean(told)) if told else 0.0
    return mean if 0.02 <= mean <= 5 else None
