"""Fields to compare engines on: a user's, or drawn ones."""

from __future__ import annotations

from pathlib import Path

from detect.errors import DataError
from detect.types import Image


def fields_or_drawn(folder: Path | None, most: int) -> list[Image]:
    """Up to `most` fields of a folder that can be read, evenly spread; drawn fields where no folder is given."""
    if folder is None:
        from detect.data.sample import SLIDES, fields

        per_slide = -(-most // len(SLIDES))
        drawn = [pixels for i, mix in enumerate(SLIDES.values()) for pixels, _ in fields(per_slide, i + 1, mix)]
        return drawn[:most]
    from detect.images import decode
    from detect.images.folder import scan

    found = scan(folder).fields
    if not found:
        raise DataError("no images in it", where=str(folder), remedy="give a folder of fields")
    step = max(1, len(found) // most)
    return [decode.read(f.path) for f in found[::step][:most]]
