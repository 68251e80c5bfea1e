"""Preprocessed pictures on disk, for a library that reads its pictures by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from detect.formats.labels import stem_of
from detect.images import decode, preprocess
from detect.images.preprocess import Step
from detect.types import LabelledField


def prepared(fields: Sequence[LabelledField], steps: Sequence[Step], folder: Path) -> Sequence[LabelledField]:
    """The fields with the pictures that the steps make of theirs, kept in a folder; as they are where there are none.

    A picture that lies there already is not made again, so that a training goes on at once.
    """
    if not steps:
        return fields
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for labelled in fields:
        path = folder / f"{stem_of(labelled.field.id)}.png"
        if not path.is_file():
            pixels = preprocess.apply(decode.read(labelled.field.path), steps)
            _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            partial = path.with_suffix(".partial")
            partial.write_bytes(data.tobytes())
            partial.replace(path)
        out.append(replace(labelled, field=replace(labelled.field, path=path)))
    return out
