"""The bundles of the pipeline demo-leukemia, and what they reach on unseen slides of the generator's wider range.

    .venv/bin/python tools/demo_leukemia.py OUT [--cells 1200] [--epochs 8] [--slides 168] [--test 60] [--seed 700]
        [--release | --packaged]

Everything by the real commands, each step once: drawn slides on which every white cell is as frequent as any other, and
blasts more so, from ranges halfway between the training's and the test's, in the training's stains; two classifiers of
their cells, of white cells by type, then of lymphocytes, monocytes and blasts by their kind; drawn slides of the
training range, scored with these; a slide model learnt from that run; then slides of the test range, wider than all
that was learnt from and with stains that are in none of it, scored end to end with `smear score`. Test slides lie at
four magnifications, with as many fields as 100 white cells of a healthy slide need. Truth is the generator's. 95 %
intervals by bootstrap over slides.

What is learnt here knows drawn cells only. It shows the way that a lab trains its own, and says nothing of patients.
`--release` copies the bundles among the released ones, and the pipeline to `configs/pipelines/demo-leukemia.yaml`.
`--packaged` learns nothing, and measures that pipeline; `--seed` draws other test slides.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from steps import smear

from detect import assets
from detect.bundles.folder import open_bundle
from detect.classify.crops import at_border
from detect.config import load_yaml
from detect.data.cards import load_card
from detect.data.smear.settings import load_smear
from detect.data.typed import TypedCell, load_typed
from detect.evaluate.intervals import Interval, intervals, ratio, wilson
from detect.formats.tally import Tally
from detect.geometry import iou
from detect.score.store import Store

FAB = ("FAB L1", "FAB L2", "FAB L3")
# The second is asked of lymphocytes too, among which an L1 hides, and of monocytes, among which an L2 does. It answers
# as deep as it is certain: a cell that may be an L1 or an L2 is a lymphoblast, one that may be a myeloblast as well is
# a blast. One question of six kinds loses less than blast or not, its lineage and its FAB type in a row, each of which
# may stop a cell.
QUESTIONS = {"white": ("synthetic-white", ("WBC",)), "kinds": ("fab-lymphoblast", ("Lymphocyte", "Monocyte", "Blast"))}
# What the second question calls a drawn type.
KINDS = {k: k for k in (*FAB, "Myeloblast", "Monocyte", "Lymphocyte")} | {"Atypical lymphocyte": "Lymphocyte"}
LIMIT = "Learnt from drawn cells only: it shows how a lab trains its own, and says nothing of patients."
TITLE = "Demonstration on drawn cells: leukemia down the taxonomy"
HEAD = """# Down the taxonomy to what a slide resembles, with bundles that learnt from drawn cells only. It shows how
# a lab builds its own (tools/demo_leukemia.py makes all of it), and says nothing of patients."""
SIDE = 1024
MAGNIFICATIONS = (4.0, 6.0, 9.0, 13.0)  # pixels a micrometre of the test slides
AREA_UM2 = 800_000.0  # of a test slide: a healthy one has 0.6 to 3.5 white cells in 10,000 um2
ERROR = 0.08  # of the sets of likely types; of 0.02, 0.05, 0.08 and 0.12 the one with the highest F1 on dev
COUNTED = ("lobes", "nucleoli", "vacuoles")
EVEN = (10.0, 24.0)  # white cells in 10,000 um2 of the slides that classifiers learn from
HARD = ("Myeloblast", "FAB L1", "FAB L2", "FAB L3")  # two questions are asked of these
BLAST_PX = 128  # a side of a crop: the outline of its nucleus tells an L2 from a myeloblast
BLASTS = 3.0  # of each of them there are so many for one of any other type
LEARN_UM2, LEARN_PX, LEARN_NONE = 400_000.0, 5.0, (3.5, 5.0)  # a slide model learns from full slides, healthy ones too


def halfway(one: Any, other: Any, *, whole: bool = False) -> Any:
    """Between two ranges: the mean of their ends, of numbers that are counted to the next whole one outwards."""
    if isinstance(one, dict):
        return {k: halfway(v, other[k], whole=k in COUNTED) if k in other else v for k, v in one.items()}
    if isinstance(one, list):
        low, high = ((a + b) / 2 for a, b in zip(one, other, strict=True))
        return [math.floor(low), math.ceil(high)] if whole else [round(low, 4), round(high, 4)]
    return round((one + other) / 2, 4) if isinstance(one, int | float) else one


def ranges_of(out: Path, name: str, diseases: dict[str, Any], *, wider: bool = False) -> Path:
    """The training range with other diseases, as a file; or what lies halfway to the test range, in the same stains."""
    settings, test = (load_yaml(assets.ROOT / "configs" / "smear" / f"{n}.yaml") for n in ("train", "test"))
    known = settings["diseases"]
    if wider:
        settings |= {k: halfway(settings[k], test[k]) for k in ("optics", "reds", "whites", "debris")}
    path = out / f"{name}.yaml"
    kept = {k: known[k] | diseases[k] if k in known else diseases[k] for k in diseases}
    told = settings | {"name": name, "diseases": kept or known}
    path.write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")
    return path


def drawn(
    folder: Path, name: str, slides: int, px_per_um: float | None, area: float, seed: int, ranges: str | Path
) -> Path:
    """Slides of a magnification, with fields enough for an area; with none given, four small fields at any."""
    if not folder.is_dir():
        fields = 4 if px_per_um is None else math.ceil(area * px_per_um**2 / SIDE**2)
        size = ("--slides", slides, "--fields", fields, "--size", SIDE if px_per_um else 640, "--seed", seed)
        given = ("--px-per-um", px_per_um) if px_per_um else ()
        partial = folder.with_name(f"{folder.name}.partial")
        smear("data", "synthesize", "--out", partial, "--name", name, *size, *given, "--ranges", ranges)
        partial.rename(folder)
    return folder


def trained(out: Path, name: str, slides: Path, question: str, changed: dict[str, Any]) -> Path:
    """One network."""
    run, config = out / name / "run", out / f"{name}.yaml"
    settings = load_yaml(assets.ROOT / "configs" / "classifiers" / "demo-leukemia.yaml")
    config.write_text(yaml.safe_dump(settings | changed, sort_keys=False), "utf-8")
    if not (run / "run.yaml").is_file():
        begun = ("--resume",) if run.is_dir() else ()
        data = ("--data", slides / f"cells-{question}.yaml", "--split", slides / "split.csv")
        smear("train", "classifier", config, *data, "--out", run, *begun)
    return run


def card_of_kinds(slides: Path) -> None:
    """The card of the second question, beside those that drawn slides have."""
    known = load_yaml(slides / "cells-white.yaml")
    classes = list(dict.fromkeys(KINDS.values()))
    told = known | {"name": "cells-kinds", "classes": classes, "exhaustive_for": classes}
    told["class_map"] = {drawn: KINDS.get(drawn) for drawn in known["class_map"]}
    (slides / "cells-kinds.yaml").write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")


def classifier(out: Path, question: str, slides: Path, epochs: int) -> Path:
    """One bundle of cells."""
    name, ask = QUESTIONS[question]
    bundle = out / name / "bundle"
    changed: dict[str, Any] = {"routed_from": list(ask), "epochs": epochs}
    if question == "kinds":  # the harder one: larger crops, longer, and it begins with what knows white cells
        white = out / QUESTIONS["white"][0] / "run" / "weights.safetensors"
        changed |= {"image_size": BLAST_PX, "epochs": 3 * epochs, "turns": 4, "pretrained": str(white)}
    run = trained(out, name, slides, question, changed)
    if not (bundle / "bundle.yaml").is_file():
        shutil.rmtree(bundle, ignore_errors=True)  # of an export that was stopped
        about = ("--name", name, "--title", f"Drawn cells: {question}", "--limit", LIMIT)
        smear("bundle", "export", run, "--out", bundle, *about)
        smear("bundle", "pack", bundle, "--graph-only")  # now: the slide model learns from answers of this very bundle
    told = open_bundle(bundle, "classifier").card.classifier
    assert told is not None
    few = {t: len(s) for t, s in told.calibration.strange.items() if (len(s) + 1) * (1 - ERROR) > len(s)}
    if few:  # every set would hold these, and no cell could be named
        sys.exit(f"{name}: too few cells of part dev for an error rate of {ERROR}: {few}; draw more with --cells")
    return bundle


def told_of(detector: str, bundles: dict[str, str]) -> dict[str, Any]:
    """A pipeline of the two questions."""
    nodes = [{"ask": list(QUESTIONS[q][1]), "bundle": name} for q, name in bundles.items()]
    return {"title": TITLE, "detector": detector, "nodes": nodes, "error_rate": ERROR, "synthetic": True}


def released(bundles: dict[str, Path], slide: Path, detector: str, segmenter: str) -> None:
    """Copy bundles among the released ones, and write the packaged pipeline of them."""
    for path in (*bundles.values(), slide):
        target = assets.ROOT / "detect" / "bundles" / "released" / path.parent.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path, target)
    told = told_of(detector, {q: path.parent.name for q, path in bundles.items()})
    told |= {"slide": slide.parent.name, "fab": True, "morphology": segmenter}
    path = assets.ROOT / "configs" / "pipelines" / "demo-leukemia.yaml"
    path.write_text(f"{HEAD}\n{yaml.safe_dump(told, sort_keys=False)}", "utf-8")


def pipeline(out: Path, detector: str, bundles: dict[str, Path], slide: Path | None, segmenter: str) -> Path:
    """The pipeline of these bundles."""
    told = told_of(detector, {q: f"./{path.relative_to(out)}" for q, path in bundles.items()})
    if slide is not None:
        told |= {"slide": f"./{slide.relative_to(out)}", "fab": True, "morphology": segmenter}
    path = out / ("pipeline.yaml" if slide is not None else "cells.yaml")
    path.write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")
    return path


def scored(folder: Path, slides: Path, given: str | Path) -> Path:
    """A finished run."""
    done = folder.with_name(f"{folder.name}.done")
    if not done.is_file():
        more = ("--resume",) if (folder / "run.yaml").is_file() else ("--overwrite",)
        smear("score", slides / "images", "--out", folder, "--pipeline", given, *more)
        done.touch()
    return folder


class Answer(NamedTuple):
    """What became of a drawn cell; or of one that was found and is none, with the truth 'nothing'."""

    slide: str
    true: str
    told: str | None
    """None where it was not found."""
    cut: bool
    """By the border of its field."""


def answers_of(run: Path, truth: list[TypedCell]) -> list[Answer]:
    """Of every drawn cell of a run, and of every cell that was found beside them."""
    store = Store(run)
    sizes = {r["field"]: (r["width"], r["height"]) for r in store.fields().to_pylist()}
    here: dict[str, list[TypedCell]] = {}
    for cell in truth:
        here.setdefault(cell.field, []).append(cell)
    found: dict[str, list[dict[str, Any]]] = {}
    for table in store.cells(("slide", "field", "x0", "y0", "x1", "y1", "label", "type", "flags")):
        for row in table.to_pylist():
            if row["label"] == "WBC":
                found.setdefault(row["field"], []).append(row)
    out: list[Answer] = []
    for field in sorted(here.keys() | found.keys()):
        cells, rows = here.get(field, []), found.get(field, [])
        overlap = iou(
            np.array([c.box for c in cells], np.float32).reshape(-1, 4),
            np.array([[r[k] for k in ("x0", "y0", "x1", "y1")] for r in rows], np.float32).reshape(-1, 4),
        )
        taken: set[int] = set()
        slide = field.split("/")[0]
        for i, cell in enumerate(cells):
            free = [j for j in range(len(rows)) if j not in taken and overlap[i, j] >= 0.5]
            best = max(free, key=lambda j: overlap[i, j], default=None)
            if best is not None:
                taken.add(best)
            told = None if best is None else rows[best]["type"]
            out.append(Answer(slide, cell.type, told, at_border(cell.box, *sizes[field])))
        over = (r for j, r in enumerate(rows) if j not in taken)
        out += [Answer(slide, "nothing", r["type"], "border" in r["flags"]) for r in over]
    return out


def fab_f1(cells: list[Answer]) -> dict[str, Interval]:
    """F1 of each FAB type and their mean; a cell that was not found, or not named so far, is missed."""
    truth, told = np.array([c.true for c in cells]), np.array([str(c.told) for c in cells])
    hits = np.stack([(truth == k) & (told == k) for k in FAB], axis=1).astype(float)
    true, called = (np.stack([v == k for k in FAB], axis=1).astype(float) for v in (truth, told))

    def figures(weights: Any) -> Any:
        f1 = ratio(2 * (weights @ hits), weights @ true + weights @ called)
        return np.concatenate([f1, f1.mean(axis=1, keepdims=True)], axis=1)

    found = intervals(figures, [c.slide for c in cells], rounds=1000, seed=1)
    return dict(zip((*FAB, "macro F1"), found, strict=True))


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def learnt(out: Path, asked: argparse.Namespace) -> tuple[dict[str, Path], Path]:
    """The bundles of cells by question, and that of slides."""
    whites = list(load_smear("train").whites)
    parts = {w: BLASTS if w in HARD else 1.0 for w in whites}
    shares = {w: round(part / sum(parts.values()), 4) for w, part in parts.items()}
    even = {"even": {"white_per_field": list(EVEN), "differential": shares}}
    cells = drawn(out / "cells", "cells", asked.cells, None, 0.0, 320, ranges_of(out, "even", even, wider=True))
    card_of_kinds(cells)
    bundles = {q: classifier(out, q, cells, asked.epochs) for q in QUESTIONS}
    print("classifiers are made", flush=True)
    full = {name: {} for name in load_smear("train").diseases} | {"none": {"white_per_field": list(LEARN_NONE)}}
    learn = drawn(out / "learn", "learn", asked.slides, LEARN_PX, LEARN_UM2, 400, ranges_of(out, "full", full))
    run = scored(out / "scored-learn", learn, pipeline(out, asked.detector, bundles, None, asked.segmenter))
    slide = out / "slide-disease" / "bundle"
    if not (slide / "bundle.yaml").is_file():
        truth = ("--truth", learn / "slides.csv", "--name", "slide-disease", "--limit", LIMIT)
        shutil.rmtree(slide, ignore_errors=True)
        smear("train", "slide", "slide-disease", "--run", run, *truth, "--out", slide)
    print("slide model is made", flush=True)
    return bundles, slide


def measure(out: Path, given: str | Path, n_slides: int, seed: int) -> None:
    """What a pipeline reaches on unseen slides: `result.json`, and a table."""
    found: list[Answer] = []
    calls: list[dict[str, str]] = []
    for number, px in enumerate(MAGNIFICATIONS):
        n = n_slides // len(MAGNIFICATIONS) + (number < n_slides % len(MAGNIFICATIONS))
        slides = drawn(out / f"test-{px:g}", "test", n, px, AREA_UM2, seed + number, "test")
        run = scored(out / f"scored-{px:g}", slides, given)
        truth_cells = load_typed([load_card(slides / "test-types.yaml")], Tally())
        found += [a._replace(slide=f"{px:g}/{a.slide}") for a in answers_of(run, truth_cells)]
        diseases = {r["slide"]: r["disease"] for r in rows_of(slides / "slides.csv")}
        calls += [
            row | {"slide": f"{px:g}/{row['slide']}", "truth": diseases[row["slide"]]}
            for row in rows_of(run / "patterns.csv")
        ]
        print(f"test slides at {px:g} pixels a micrometre are scored", flush=True)
    whole_cells = [a for a in found if not a.cut]
    told, told_whole = fab_f1(found), fab_f1(whole_cells)
    disease = [c for c in calls if c["question"] == "disease"]
    right = sum(c["pattern"] == c["truth"].split("-")[0] for c in disease)
    types = [c for c in calls if c["question"] == "FAB" and c["truth"].startswith("ALL-")]
    right_types = sum(c["pattern"] == f"FAB {c['truth'][4:]}" for c in types)
    none = sum(c["pattern"] != "" for c in calls if c["question"] == "FAB" and not c["truth"].startswith("ALL-"))
    told_slides = fab_f1(
        [
            Answer(c["slide"], c["truth"].replace("ALL-", "FAB "), c["pattern"], cut=False)
            for c in calls
            if c["question"] == "FAB"
        ]
    )
    result = {
        "cells": {name: asdict(v) for name, v in told.items()},
        "cells that no border cuts": {name: asdict(v) for name, v in told_whole.items()},
        "slides": asdict(wilson(right, len(disease))) | {"n": len(disease)},
        "FAB of ALL slides": asdict(wilson(right_types, len(types))) | {"n": len(types)},
        "FAB called of other slides": none,
        "FAB of slides, F1": {name: asdict(v) for name, v in told_slides.items()},
        "wrong or not called": [c for c in disease if c["pattern"] != c["truth"].split("-")[0]],
    }
    (out / "result.json").write_text(json.dumps(result, indent=1), "utf-8")
    n, n_whole = (Counter(a.true for a in cells) for cells in (found, whole_cells))
    print("\n| cells, found and named end to end | drawn | F1 | no border cuts | F1 |")
    print("| --- | ---: | --- | ---: | --- |")
    for name in FAB:
        print(f"| {name} | {n[name]} | {told[name]} | {n_whole[name]} | {told_whole[name]} |")
    total, total_whole = (sum(c[k] for k in FAB) for c in (n, n_whole))
    print(f"| macro F1 | {total} | {told['macro F1']} | {total_whole} | {told_whole['macro F1']} |")
    print(f"\nslide disease right: {right} of {len(disease)}, {wilson(right, len(disease))}")
    print(f"FAB of ALL slides right: {right_types} of {len(types)}, {wilson(right_types, len(types))}; ", end="")
    print(f"called on other slides: {none}; F1 ", end="")
    print(", ".join(f"{name} {v}" for name, v in told_slides.items()))
    for c in result["wrong or not called"]:
        print(f"- {c['slide']}, {c['truth']}: {c['said']} ({c['counted']} cells)")


def main() -> None:
    """All steps, and a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--cells", type=int, default=1200)
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--slides", type=int, default=168)
    options.add_argument("--test", type=int, default=60)
    options.add_argument("--seed", type=int, default=700)
    options.add_argument("--detector", default="cells-robust")
    options.add_argument("--segmenter", default="wbc-parts")
    options.add_argument("--release", action="store_true")
    options.add_argument("--packaged", action="store_true")
    asked = options.parse_args()
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if asked.packaged:
        measure(out, "demo-leukemia", asked.test, asked.seed)
        return
    bundles, slide = learnt(out, asked)
    measure(out, pipeline(out, asked.detector, bundles, slide, asked.segmenter), asked.test, asked.seed)
    if asked.release:
        released(bundles, slide, asked.detector, asked.segmenter)


if __name__ == "__main__":
    main()
