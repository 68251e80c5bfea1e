"""Hashes of files, and of what was learnt from or measured on: pixels and labels alike."""

from __future__ import annotations

import hashlib
from pathlib import Path

from detect.errors import DataError
from detect.types import Dataset


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="get the file again") from error


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over field ids, image files, boxes and labels, in the order of the ids."""
    total = hashlib.sha256()
    for labelled in sorted(dataset.fields, key=lambda f: f.field.id):
        total.update(f"{labelled.field.id}\0{file_hash(labelled.field.path)}\0".encode())
        total.update(labelled.annotations.boxes.tobytes())
        total.update(labelled.annotations.labels.tobytes())
    total.update("\0".join(dataset.classes.names).encode())
    return total.hexdigest()
