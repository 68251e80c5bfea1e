"""The tables of a scoring run: every column with its type, its unit and what it says, in one place.

Each Parquet file carries its descriptions with it, as metadata of its columns (`about`) and of the whole; `smear runs
schema` tells them. Columns of names and numbers (`map`) have one entry for each name that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from detect.score import manifest

ABOUT = b"about"  # key of the metadata

_TEXT, _TEXTS, _WHOLE = pa.string(), pa.list_(pa.string()), pa.int32()
_NUMBERS, _COUNTS = pa.map_(pa.string(), pa.float32()), pa.map_(pa.string(), pa.int32())

_Columns = Sequence[tuple[str, pa.DataType, str]]
# What a lab's manifest tells of a slide: beside every row, empty where nothing is known.
_SPECIMEN: _Columns = tuple((n, _TEXT, f"{n}, as the manifest says; null where it does not") for n in manifest.COLUMNS)
_SLIDE = ("slide", _TEXT, "name of the slide: the folder of its fields, or the file of a whole slide")
_FIELD = ("field", _TEXT, "field of view: its path below the input folder; of a whole slide with its region")
_LEARNT = ("trained_on", _TEXT, "what the models learnt from: real, synthetic (drawn cells), real and synthetic")


def _table(about: str, columns: _Columns) -> pa.Schema:
    told = [pa.field(name, kind, metadata={ABOUT: text.encode()}) for name, kind, text in columns]
    return pa.schema(told, metadata={ABOUT: about.encode()})


CELLS = _table(
    "one row a cell that was found, in parts",
    (
        _SLIDE,
        _FIELD,
        ("cell", _WHOLE, "number of the cell in its field, from 0"),
        ("x0", pa.float32(), "left edge of its box, pixels: of the field, or of the whole slide at full resolution"),
        ("y0", pa.float32(), "upper edge, as x0"),
        ("x1", pa.float32(), "right edge, as x0"),
        ("y1", pa.float32(), "lower edge, as x0"),
        ("label", _TEXT, "class that the detector gave it: WBC, RBC, Platelet or a name of the bundle"),
        ("score", pa.float32(), "the detector's score, 0 to 1"),
        ("type", _TEXT, "the classifiers' answer, or 'unidentified'; null where none was asked"),
        ("type_score", pa.float32(), "calibrated probability of that answer, 0 to 1; null without one"),
        ("probabilities", _NUMBERS, "calibrated probability of each type that was asked about, down the route"),
        ("candidates", _TEXTS, "types that it may be, likeliest first, where it could not be told which"),
        ("attributes", _NUMBERS, "form, where the pipeline measures it; each name tells its unit"),
        ("fab", _TEXT, "FAB criteria of a lymphoblast in words; empty for other cells"),
        ("flags", _TEXTS, "what a reader should know: border, unfamiliar, synthetic and the like"),
        ("mask", _TEXT, "outline: height, width and COCO's compressed run lengths, by spaces; null without masks"),
        *_SPECIMEN,
    ),
)
FIELDS = _table(
    "one row a field of view, read or not, in parts",
    (
        _SLIDE,
        _FIELD,
        ("status", _TEXT, "ok, failed or skipped"),
        ("reason", _TEXT, "why it failed or was skipped; empty where it was read"),
        ("x", _WHOLE, "where the field begins in its whole slide, pixels; 0 for an image of its own"),
        ("y", _WHOLE, "as x, downwards"),
        ("width", _WHOLE, "pixels; null where it was not read"),
        ("height", _WHOLE, "pixels; null where it was not read"),
        ("quality", _NUMBERS, "focus, brightness, contrast (grey levels), clipped (share), saturation, sharpness"),
        ("scale", pa.float32(), "median diameter of its whole red cells, pixels; null with too few"),
        ("scale_used", pa.float32(), "that diameter as the detector was told it, pixels; null where it was told none"),
        ("counts", _COUNTS, "cells of each label"),
        ("flags", _TEXTS, "what is worth a second look: blurred, dark, clipped, no cells, capped, unsure scale, ..."),
        _LEARNT,
        *_SPECIMEN,
    ),
)
SLIDES = _table(
    "one row a slide and kind of cell: the differential, then cells that are not in it",
    (
        _SLIDE,
        ("cell", _TEXT, "kind of cell"),
        ("count", pa.int64(), "cells of it, each counted once"),
        ("share", pa.float64(), "part of the white cells counted, 0 to 1; null beside the differential"),
        ("low", pa.float64(), "lower 95 % limit of the share (Wilson)"),
        ("high", pa.float64(), "upper 95 % limit of the share (Wilson)"),
        ("white_cells_counted", pa.int64(), "white cells of the slide's differential"),
        ("fields_ok", pa.int64(), "fields of the slide that were read"),
        ("fields_failed", pa.int64(), "fields that could not be read"),
        ("fields_skipped", pa.int64(), "fields that were left out, each with its reason in the table of fields"),
        ("fields_blurred", pa.int64(), "fields that are flagged as blurred"),
        ("cells_repeated", pa.int64(), "cells that stand in two fields which overlap, and are counted in the other"),
        ("red_cell_px", pa.float64(), "median diameter of red cells over the fields, pixels; null where unknown"),
        ("scale_spread", pa.float64(), "half the interquartile range of that, as a part of it"),
        ("scale_unsure", pa.bool_(), "whether the size of the cells was unsure in any field"),
        _LEARNT,
        *_SPECIMEN,
    ),
)
PATTERNS = _table(
    "one row a slide and question: what a slide resembles. No diagnosis",
    (
        _SLIDE,
        ("question", _TEXT, "disease or FAB"),
        ("pattern", _TEXT, "what it resembles; null where that is not called"),
        ("said", _TEXT, "the same in words, or why nothing is called"),
        (
            "share",
            pa.float64(),
            "probability of the pattern; of FAB its part of the lymphoblasts; null if not called",
        ),
        ("low", pa.float64(), "lower 95 % limit of a share; null for a probability"),
        ("high", pa.float64(), "upper 95 % limit of a share; null for a probability"),
        ("candidates", _TEXT, "patterns that it may be, joined by ' or '"),
        ("counted", pa.int64(), "cells that the answer rests on"),
        ("by", _TEXT, "bundle or rule that answered"),
        _LEARNT,
        ("cells", _TEXTS, "cells that decided, as field#cell"),
        *_SPECIMEN,
    ),
)
REPEATS = _table(
    "one row a cell that is counted in another field, which overlaps its own",
    (
        _SLIDE,
        _FIELD,
        ("cell", _WHOLE, "number of the cell in its field"),
        ("same_field", _TEXT, "field in which it is counted"),
        ("same_cell", _WHOLE, "its number there"),
    ),
)
PLAN = _table(
    "one row a field that was to be done, written before anything is scored",
    (
        ("part", _WHOLE, "part of the results that the field goes into"),
        _SLIDE,
        _FIELD,
        ("path", pa.binary(), "below the input folder, in the bytes of the file system"),
        ("region", pa.list_(_WHOLE, 4), "x0, y0, x1, y1 in a whole slide, pixels; null for an image of its own"),
        ("bytes", pa.int64(), "size of the file"),
        ("hash", _TEXT, "SHA-256 of it (of a large one, of both ends and its size); empty where it was not read"),
        ("reason", _TEXT, "why it is left out; empty where it is not"),
    ),
)

# By the file, or folder of parts, in a run folder.
TABLES: Mapping[str, pa.Schema] = {
    "cells/": CELLS,
    "fields/": FIELDS,
    "slides.parquet": SLIDES,
    "patterns.parquet": PATTERNS,
    "repeats.parquet": REPEATS,
    "plan.parquet": PLAN,
}


def about(told: pa.Schema | pa.Field) -> str:
    """What a table, or a column, says of itself."""
    return bytes((told.metadata or {}).get(ABOUT, b"")).decode()
