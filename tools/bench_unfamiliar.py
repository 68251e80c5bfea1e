"""A type that was never learnt: does its distance from what was learnt give it away?

    .venv/bin/python tools/bench_unfamiliar.py [--config wbc-types] [--data bccd --data wbc-masks]
        [--split wbc-types-release] [--out DIR] [--type NAME ...]

For each type the classifier is trained and exported without its cells (its own part dev sets the limit), and asked of
the cells of part test, those of the type left out among them. AUROC of the distance for that type against the others,
the share of the type that is flagged as unfamiliar or has several types in its set, and the share of the others that
is; 95 % intervals by bootstrap over groups. What is in --out already is taken, a type after the other.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from detect import assets
from detect.bundles.card import CARD
from detect.bundles.draft import Description
from detect.bundles.folder import open_bundle
from detect.classify.bundled import BundleClassifier
from detect.classify.export import export
from detect.classify.train import train
from detect.data.cards import load_card
from detect.data.fingerprint import file_hash
from detect.data.splits import EXCLUDED, Split, cells_of, read_split
from detect.data.typed import load_typed
from detect.evaluate.intervals import intervals
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import cores


def auroc(weights: NDArray[np.float64], truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of every weighting, (rounds, 1); NaN where one side has no cell."""
    out = np.full((len(weights), 1), np.nan)
    for i, w in enumerate(weights):
        if w[truth].sum() and w[~truth].sum():
            out[i] = roc_auc_score(truth, scores, sample_weight=w)
    return out


def main() -> None:
    """A row a type."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", default="wbc-types")
    options.add_argument("--data", action="append")
    options.add_argument("--split", default="wbc-types-release")
    options.add_argument("--out", type=Path, default=Path("runs/unfamiliar"))
    options.add_argument("--type", action="append")
    asked = options.parse_args()
    data = asked.data or ["bccd", "wbc-masks"]
    cells = load_typed([load_card(d) for d in data], Tally())
    split, split_path = read_split(asked.split), assets.find(asked.split, "configs/splits", ".csv")
    test = cells_of(split, cells, "test")
    kind_of = {c.id: c.type for c in cells}
    print(f"{asked.config}, split {asked.split}, {len(test)} cells of part test, {cores()} cores")
    print("| type left out | its cells | groups | others | AUROC of the distance | of it held back | of the others |")
    print("| --- | ---: | ---: | ---: | --- | --- | --- |")
    for kind in asked.type or sorted({c.type for c in test}):
        place = asked.out / kind
        rests_on = {"config": asked.config, "data": data, "split": file_hash(split_path)}
        if (place / "key.json").is_file() and json.loads((place / "key.json").read_text()) != rests_on:
            sys.exit(f"{place}: trained on something else; name another --out")
        if not (place / "bundle" / CARD).is_file():
            place.mkdir(parents=True, exist_ok=True)
            (place / "key.json").write_text(json.dumps(rests_on))
            rows = tuple(replace(r, part=EXCLUDED) if kind_of.get(r.field) == kind else r for r in split.rows)
            Split(f"{split.name}-without-{kind}", rows).write(place / "split.csv")
            run = place / "run"
            if not (run / "run.yaml").is_file():
                train(asked.config, data, str(place / "split.csv"), run, resume=run.is_dir())
            shutil.rmtree(place / "bundle", ignore_errors=True)  # of an export that was stopped
            export(run, place / "bundle", Description(f"without-{kind}", f"without {kind}", "AGPL-3.0-or-later"))
        classifier = BundleClassifier(open_bundle(place / "bundle", "classifier"))
        if kind in classifier.classes.names:
            sys.exit(f"{place}: {kind} was learnt after all; its set's splits are of fields, not of cells")
        crops = [classifier.cut(classifier.ready(decode.read(c.path)), c.box, c.outline) for c in test]
        _, distances = classifier.told(crops)
        told = classifier.answer(crops)
        strange = np.array([c.type == kind for c in test])
        groups = [c.group for c in test]
        (area,) = intervals(lambda w, t=strange, d=distances: auroc(w, t, d), groups, rounds=500)
        held = (~told.sure).astype(float)
        both = np.stack([strange, ~strange], axis=1).astype(float)
        shares = intervals(lambda w, h=held, b=both: (w * h) @ b / np.maximum(w @ b, 1e-9), groups)
        n_groups = len({c.group for c in test if c.type == kind})
        print(
            f"| {kind} | {strange.sum()} | {n_groups} | {(~strange).sum()} | {area} | {shares[0]} | {shares[1]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
