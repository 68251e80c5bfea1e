"""Drawn cells of three types, as typed cells on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detect.data.typed import TypedCell
from tests import drawn as sample
from tests.data import encode

TYPES = ("Neutrophil", "Lymphocyte", "Eosinophil")


def typed_cells(folder: Path, n: int, seed: int = 0) -> list[TypedCell]:
    """Each cell in a field of its own, groups of two."""
    out = []
    for i in range(n):
        kind = TYPES[i % len(TYPES)]
        pixels, truth = sample.field(900 + seed + i, [kind])
        cell = next(t for t in truth if t.name == kind)
        path = folder / f"{seed}-{i:03d}.png"
        path.write_bytes(encode(pixels, "PNG"))
        x0, y0, x1, y1 = (float(np.float32(v)) for v in cell.box)
        out.append(TypedCell(f"drawn/{path.name}", path, (x0, y0, x1, y1), kind, "drawn", f"g{i // 2}"))
    return out


@pytest.fixture(scope="session")
def drawn_cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[TypedCell], list[TypedCell]]:
    """30 cells to learn from, 12 of dev."""
    folder = tmp_path_factory.mktemp("typed")
    return typed_cells(folder, 30), typed_cells(folder, 12, 500)
