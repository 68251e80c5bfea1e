"""Fields to compare engines on: a user's, or drawn ones."""

from __future__ import annotations

from pathlib import Path

from detect.errors import DataError
from detect.types import Image

_PX_PER_UM, _SIDE = 11.0, 640  # cells of the size that released bundles were trained on


def fields_or_drawn(folder: Path | None, most: int) -> list[Image]:
    """Up to `most` fields of a folder that can be read, evenly spread; drawn fields where no folder is given."""
    if folder is None:
        from detect.data.smear.field import one_of_each
        from detect.data.smear.settings import load_smear

        return [drawn.pixels for drawn in one_of_each(load_smear("train").at(_PX_PER_UM), most, 1, _SIDE)]
    from detect.images import decode
    from detect.images.folder import scan

    found = scan(folder).fields
    if not found:
        raise DataError("no images in it", where=str(folder), remedy="give a folder of fields")
    step = max(1, len(found) // most)
    return [decode.read(f.path) for f in found[::step][:most]]
