"""`smear explain`: where a classifier looks in the cells of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detect.cli.output import DRAWN_ONLY, print_table
from detect.cli.output import out as console

if TYPE_CHECKING:
    from detect.bundles.folder import Bundle
    from detect.classify.crops import Box
    from detect.types import Image, Rle

Method = Annotated[Literal["grad-cam", "score-cam", "attention"], typer.Option("--method", help="How maps are made.")]


def explain(
    bundle: Annotated[str, typer.Argument(help="Classifier bundle of one network.")],
    image: Annotated[Path, typer.Argument(help="A field, or a picture of one cell.")],
    out: Annotated[Path, typer.Option("--out", help="Picture to write.")] = Path("explained.png"),
    box: Annotated[
        list[str] | None, typer.Option("--box", help="x0,y0,x1,y1 of a cell; may be repeated; else cells are found.")
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", help="Detector bundle that finds the cells; by default that of 'smear score'."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="Micrometres a pixel; by default told from the red cells.")
    ] = None,
    error: Annotated[
        float, typer.Option("--error-rate", min=0.001, max=0.5, help="Share of cells whose set may lack their type.")
    ] = 0.1,
    method: Method = "grad-cam",
) -> None:
    """Draw what the network looked at in each cell, and whether its answer hangs on that."""
    import cv2

    from detect.bundles.folder import open_bundle
    from detect.classify.bundled import BundleClassifier
    from detect.classify.explain import Explainer
    from detect.classify.explained import explain as run
    from detect.classify.explained import sheet
    from detect.errors import ConfigError, DataError, StoreError
    from detect.images import decode
    from detect.pipeline.settings import load_pipeline

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"--out {out}: no kind of picture that can be written", remedy="name a .png or a .jpg")
    opened = open_bundle(bundle, "classifier")
    opened.check_names()
    explainer = Explainer(opened, method)
    cutter = BundleClassifier(opened, error=error)
    field = decode.read(image)
    given = [_box(text, field.shape[1], field.shape[0]) for text in box or []]
    if mpp is not None and mpp <= 0:
        raise ConfigError(f"--mpp {mpp}: no size of a pixel", remedy="give micrometres a pixel, such as 0.1")
    finder = detector or load_pipeline("default").detector
    places = [(b, None) for b in given] if given else _found(finder, opened, field, mpp)
    if not places:
        raise DataError(
            "no cell was found that this bundle is asked of", where=str(image), remedy="give one with --box"
        )
    ready = cutter.ready(field)
    crops = [cutter.cut(ready, b, mask) for b, mask in places]
    cells = run(explainer, crops, cutter.classes.names)
    told = cutter.answer(crops)
    out.parent.mkdir(parents=True, exist_ok=True)
    may_be = [" or ".join(n for n, yes in zip(cutter.classes.names, row, strict=True) if yes) for row in told.likely]
    held = [
        "" if sure else "unfamiliar" if strange else f"unidentified: {names}" if names else "unidentified"
        for sure, strange, names in zip(told.sure, told.unfamiliar, may_be, strict=True)
    ]
    page = sheet(cells, min(4, len(cells)), held, DRAWN_ONLY if opened.card.trained_on == "synthetic" else "")
    if not cv2.imwrite(str(out), cv2.cvtColor(page, cv2.COLOR_RGB2BGR)):
        raise StoreError("cannot be written", where=str(out), remedy="name another place")
    heads = ("cell", "box", "likeliest", "probability", "may be", "unfamiliar", "deletion", "random maps")
    rows = (
        (
            i, ",".join(f"{v:.0f}" for v in places[i][0]), c.answer, f"{told.probabilities[i].max():.2f}",
            may_be[i],
            "yes" if told.unfamiliar[i] else "", f"{c.area:.2f}", f"{c.random:.2f}",
        )
        for i, c in enumerate(cells)
    )  # fmt: skip
    print_table(f"{opened.card.name}, {method}", heads, rows)
    console.print(f"may be: its set of types, at an error rate of {error:g}; with several, or unfamiliar: unidentified")
    console.print("deletion: mean probability of the answer while what the map marks is blurred away; lower is better")
    if opened.card.trained_on == "synthetic":
        console.print(DRAWN_ONLY, style="bold red")
    console.print(f"written to {out}", soft_wrap=True)


def _box(text: str, width: int, height: int) -> tuple[float, float, float, float]:
    from detect.errors import ConfigError

    try:
        x0, y0, x1, y1 = (float(v) for v in text.split(","))
    except ValueError:
        raise ConfigError(f"--box {text}: expected x0,y0,x1,y1", remedy="such as --box 120,40,260,190") from None
    if not (x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < width and y0 < height):
        what = f"--box {text}: not a box within the picture of {width} x {height} pixels"
        raise ConfigError(what, remedy="give left, top, right, bottom in pixels")
    return x0, y0, x1, y1


def _found(detector: str, classifier: Bundle, field: Image, mpp: float | None) -> list[tuple[Box, Rle | None]]:
    """Cells of the classes that the classifier is asked of, as scoring finds them, with their masks if any."""
    from detect.bundles.folder import open_bundle
    from detect.detectors.opened import open_detector
    from detect.detectors.scale import estimate
    from detect.images.magnification import given
    from detect.pipeline.route import box
    from detect.runtime.base import EngineSettings

    assert classifier.card.classifier is not None
    bundle = open_bundle(detector, "detector")
    opened = open_detector(bundle, EngineSettings())
    (found,) = opened.predict([field], [given(mpp=mpp) or estimate(opened, [field])])
    wanted, masks = classifier.card.classifier.routed_from, found.masks or (None,) * len(found)
    names = bundle.names
    return [(box(found, j), masks[j]) for j in range(len(found)) if names[found.labels[j]] in wanted]
