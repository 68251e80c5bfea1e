"""Do blasts hide as normal cells? Drawn blasts and real normal cells, asked by a bundle of white cell types.

    .venv/bin/python tools/bench_blasts.py [--bundle wbc-types] [--slides DIR] [--draw 60] [--seed 900]
        [--data bccd --data wbc-masks] [--split wbc-types-apart] [--part test] [--error-rate 0.1]

The bundle knows no blast. Its answer for one is held back where its set of types holds several, or the cell is flagged
as unfamiliar: both are told, and both together. The price stands beside it: what it does to normal cells, drawn ones
from the same slides, and real ones of the held-out part. Drawn cells may be flagged for being drawn: the rate of drawn
normal cells says how far. 95 % intervals by bootstrap over slides, or over groups of near copies.

Slides are drawn from the generator's wider range (`configs/smear/test.yaml`) unless a folder of them is given.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detect.bundles.folder import open_bundle
from detect.classify.bundled import BundleClassifier
from detect.data.cards import load_card
from detect.data.smear.settings import load_smear
from detect.data.smear.write import Asked, synthesize
from detect.data.splits import cells_of, read_split
from detect.data.typed import TypedCell, load_typed
from detect.evaluate.intervals import intervals
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import cores
from detect.taxonomy import taxonomy

BLAST = "Blast"


def row(title: str, classifier: BundleClassifier, cells: Sequence[TypedCell]) -> str:
    """What the bundle does to some cells, as a line of the table."""
    crops = [classifier.cut(classifier.ready(decode.read(c.path)), c.box, c.outline) for c in cells]
    told = classifier.answer(crops)
    several = told.likely.sum(axis=1) != 1
    held = np.stack([~told.sure, several, told.unfamiliar], axis=1).astype(float)
    figures = intervals(lambda w: w @ held / w.sum(axis=1, keepdims=True), [c.group for c in cells])
    sure = Counter(classifier.classes.names[i] for i in told.probabilities[told.sure].argmax(axis=1))
    named = ", ".join(f"{name} {n}" for name, n in sure.most_common()) or "none"
    groups = len({c.group for c in cells})
    return f"| {title} | {len(cells)} | {groups} | " + " | ".join(map(str, figures)) + f" | {named} |"


def drawn(folder: Path) -> list[TypedCell]:
    """Typed cells of drawn slides, grouped by slide."""
    (card,) = folder.glob("*-types.yaml")
    return load_typed([load_card(str(card))], Tally())


def main() -> None:
    """The table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", default="wbc-types")
    options.add_argument("--slides", type=Path)
    options.add_argument("--draw", type=int, default=60)
    options.add_argument("--seed", type=int, default=900)
    options.add_argument("--data", action="append")
    options.add_argument("--split", default="wbc-types-apart")
    options.add_argument("--part", default="test")
    options.add_argument("--error-rate", type=float, default=0.1)
    asked = options.parse_args()
    bundle = open_bundle(asked.bundle, "classifier")
    classifier = BundleClassifier(bundle, error=asked.error_rate)
    data = asked.data or ["bccd", "wbc-masks"]
    real = cells_of(read_split(asked.split), load_typed([load_card(d) for d in data], Tally()), asked.part)
    print(f"{bundle.card.name}, error rate {asked.error_rate}, {cores()} cores")
    print("| cells | n | groups | held back | of these: several types | of these: unfamiliar | named, where it was |")
    print("| --- | ---: | ---: | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        folder = asked.slides
        if folder is None:
            folder = Path(place) / "slides"
            synthesize(load_smear("test"), Asked(folder, asked.draw, 5, asked.seed, 640, 480, cores()))
        every = drawn(folder)
        is_a, known = taxonomy().is_a, classifier.classes.names
        for kind in sorted({c.type for c in every if is_a(c.type, BLAST)}):
            print(row(f"drawn {kind}", classifier, [c for c in every if c.type == kind]), flush=True)
        print(row("drawn blasts, all", classifier, [c for c in every if is_a(c.type, BLAST)]))
        normal = [c for c in every if any(is_a(c.type, name) for name in known)]
        print(row("drawn cells of types that it knows", classifier, normal))
    for kind in known:
        print(row(f"real {kind}", classifier, [c for c in real if c.type == kind]))
    print(row(f"real, all of part {asked.part}", classifier, real))


if __name__ == "__main__":
    main()
