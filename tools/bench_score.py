"""The one benchmark of scoring: ours against `yolo predict`, FiftyOne, SAHI and the rate of the model alone.

    .venv/bin/python tools/bench_score.py predict IMAGES --out DIR [--repeat 4] [--wide 640 --small 320]
    .venv/bin/python tools/bench_score.py sizes   IMAGES --out DIR [--fields 300 3000 30000] [--precision bf16]
    .venv/bin/python tools/bench_score.py mosaic  IMAGES --out DIR [--side 4000] [--slice 320]
    .venv/bin/python tools/bench_score.py ray     IMAGES --out DIR [--repeat 4]

Same weights, same images, same run, batch 16. `predict` times whole processes from disk to results, in turn, after
every file was read once. "Model alone" is the rate of the engine that scoring took, with batches that lie in memory
already; for FiftyOne and SAHI, which start slowly, only the loop is counted, not the start of their process: the
ratio is in their favour. Both are left out where they are not installed. ultralytics keeps its defaults, which save a
drawn picture of each field; a second row turns that off and writes text files, which is nearest to what we write.
Those are also compared box by box with ours.

Quote the ratios of medians of one run of this script, not the rates. DIR gets `bench-<what>.json` and `.png`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import yaml
from contenders import BATCH, BIN, CONF, SHARED, Contender, alone, checkpoint, classified_alone, linked, offered, ours
from numpy.typing import NDArray

from detect import geometry
from detect.bundles.folder import Bundle, open_bundle
from detect.images import decode
from detect.images.folder import scan
from detect.runtime.base import EngineSettings, cores
from detect.types import Image

INNER = str(Path(__file__).with_name("contenders.py"))
SAME_IOU, SAME_SCORE = 0.99, 0.01
ACCURACY = "txl-pbc:val"  # where two ways are compared that do not find the same boxes
PRECISIONS = ("fp32", "bf16", "int8")

# Nodes of one core each on this machine, as many as it is told; ends when its input does.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
for _ in range(int(sys.argv[1]) - 1):
    cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def same_boxes(out: Path, labels: Path, images: Path, classes: Sequence[str]) -> tuple[float, int]:
    """Share of `yolo predict`'s boxes that we have too, at IoU and score as near as above; and how many there are."""
    cells = ds.dataset(out / "cells", format="parquet").to_table().to_pylist()
    mine: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        mine.setdefault(Path(cell["field"]).stem, []).append(cell)
    met = total = 0
    for found in scan(images).fields:
        path = labels / f"{found.path.stem}.txt"
        if not path.is_file():
            continue
        width, height = decode.size(found.path)
        rows = np.loadtxt(path, ndmin=2)
        middle, half = rows[:, 1:3], rows[:, 3:5] / 2
        theirs = np.concatenate([middle - half, middle + half], axis=1) * [width, height, width, height]
        own = mine.get(found.path.stem, [])
        boxes = np.array([[c["x0"], c["y0"], c["x1"], c["y1"]] for c in own], np.float32).reshape(-1, 4)
        near = geometry.iou(theirs.astype(np.float32), boxes) >= SAME_IOU
        kinds = np.array([classes.index(c["label"]) for c in own])
        scores = np.array([c["score"] for c in own])
        total += len(rows)
        if len(own):
            alike = near & (rows[:, 0][:, None] == kinds) & (abs(rows[:, 5][:, None] - scores) <= SAME_SCORE)
            met += int(alike.any(axis=1).sum())
    return met / max(1, total), total


def cells_asked(out: Path, classifier: Bundle) -> int:
    """How many cells of a run the classifier was asked about."""
    told = classifier.card.classifier
    assert told is not None
    kinds = pc.field("label").isin(told.routed_from)
    return int(ds.dataset(out / "cells", format="parquet").count_rows(filter=kinds))


def accuracy(bundle: Bundle, size: int, precision: str) -> float:
    """mAP50-95 of a bundle's weights at an input of so many pixels, by pycocotools."""
    with tempfile.TemporaryDirectory() as out:
        data, _, part = ACCURACY.partition(":")
        words = [BIN / "smear", "evaluate", "detector", bundle.path, "--data", data, "--split", part, "--out", out]
        words += ["--image-size", size, "--precision", precision, "--bootstrap", "10"]
        subprocess.run([str(w) for w in words], check=True, capture_output=True)
        told = json.loads((Path(out) / "metrics.json").read_text("utf-8"))
    return float(told["map50_95"]["value"])


def predict(asked: argparse.Namespace) -> dict[str, Any]:
    """Disk to results on fields."""
    bundle, runs = open_bundle(asked.bundle, "detector"), asked.runs
    size = bundle.detector.image_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = linked(asked.images, folder / "images", asked.repeat * len(scan(asked.images).fields))
        found = scan(images).fields
        n = len(found)
        for one in found:  # into the disk cache, so that the first way is not the slowest for it
            one.path.read_bytes()
        weights = folder / "bench.pt"
        checkpoint(bundle, weights)
        fit = ("--scale", "fit", "--classifier", "none", "--min-score", CONF)
        contenders = [
            Contender(f"smear score {p}: detect, store, report", ours(images, folder / p, asked.bundle, p, *fit), n)
            for p in offered(bundle)
        ]
        both = ours(images, folder / "both", asked.bundle, "fp32", "--scale", "fit", "--classifier", asked.classifier)
        contenders.append(Contender("smear score fp32: and type the white cells", both, n))
        fastest = offered(bundle)[-1]
        small = f"smear score {fastest} at {asked.small} px"
        if asked.small:
            less = ours(images, folder / "small", asked.bundle, fastest, *fit, "--image-size", asked.small)
            contenders.append(Contender(small, less, n))
        if asked.others:
            threads = ours(images, folder / "threads", asked.bundle, "fp32", *fit, "--workers", 1)
            contenders.append(Contender("smear score fp32 in one process of threads", threads, n))
        words = [BIN / "yolo", "predict", f"model={weights}", f"source={images}/*/*", f"batch={BATCH}", "device=cpu"]
        words += [f"imgsz={size}", f"conf={CONF}", f"project={folder}", "exist_ok=True", "verbose=False"]
        yolo = [str(w) for w in words]
        if asked.others:
            contenders.append(Contender("yolo predict, defaults: detect, drawn pictures", [*yolo, "name=drawn"], n))
        text = [*yolo, "name=text", "save=False", "save_txt=True", "save_conf=True"]
        contenders.append(Contender("yolo predict, text only: detect, text files", text, n))
        if asked.wide:
            other = folder / "other.pt"
            checkpoint(open_bundle(asked.against or asked.bundle, "detector"), other)
            wide = [w if not w.startswith("imgsz") else f"imgsz={asked.wide}" for w in yolo]
            wide[2] = f"model={other}"
            wide += ["name=wide", "save=False", "save_txt=True", "save_conf=True"]
            contenders.append(
                Contender(f"yolo predict, text only: {asked.against or asked.bundle} at {asked.wide} px", wide, n)
            )
        if find_spec("fiftyone") is not None and asked.others:
            inner = [sys.executable, INNER, "fiftyone", str(images), str(weights), str(size)]
            contenders.append(Contender("FiftyOne apply_model: detect, database (its loop only)", inner, n, tells=True))
        rounds(contenders, runs)
        share, boxes = same_boxes(folder / "fp32", folder / "text" / "labels", images, bundle.card.classes)
        steady = {p: yaml.safe_load((folder / p / "run.yaml").read_text()) for p in (*offered(bundle), "both")}
        typed = cells_asked(folder / "both", open_bundle(asked.classifier, "classifier"))
    rates = {p: alone(bundle, asked.images, p) for p in offered(bundle)}
    crops = classified_alone(open_bundle(asked.classifier, "classifier"), 4000)
    combined = 1 / (1 / rates["fp32"] + typed / n / crops)
    out = {
        "bundle": bundle.card.name,
        "input": size,
        "fields": n,
        "rows": [asdict(c) | {"rate": c.rate} for c in contenders],
        "model_alone": rates,
        "crops_alone": crops,
        "both_alone": combined,
        "inside": {p: about["fields_per_second"] for p, about in steady.items()},
        "cells_typed": typed,
        "same_boxes": share,
        "boxes": boxes,
    }
    print(
        f"{bundle.card.name}, {n} fields, input {size} px, batch {BATCH}, {cores()} cores, {runs} counted runs each\n"
    )
    text_only = next(c for c in contenders if "text only" in c.name)
    print("| from disk to results | fields/s | min to max | against yolo predict, text | MiB | busy cores |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for c in contenders:
        span = f"{n / max(c.seconds):.1f} to {n / min(c.seconds):.1f}"
        ratio = f"{c.rate / text_only.rate:.2f}"
        print(f"| {c.name} | {c.rate:.1f} | {span} | {ratio} | {max(c.memory):.0f} | {max(c.busy):.2f} |")
    print(f"\nthe model alone, fields/s: {', '.join(f'{p} {r:.1f}' for p, r in rates.items())}")
    for c, p in zip(contenders, rates, strict=False):
        told = f"{out['inside'][p] / rates[p]:.0%}"  # type: ignore[index]
        print(f"{p}: whole process {c.rate / rates[p]:.0%} of it, without start and report {told}")
    two = next(c for c in contenders if "type the white" in c.name)
    told = f"{out['inside']['both'] / combined:.0%}"  # type: ignore[index]
    print(f"both models alone, {typed} cells at {crops:.0f} a second: {combined:.1f} fields/s; ", end="")
    print(f"whole process {two.rate / combined:.0%} of it, without start and report {told}")
    if asked.wide:
        wide_ = next(c for c in contenders if c.name.endswith(f"at {asked.wide} px"))
        found_ = {p: accuracy(bundle, bundle.detector.image_size, p) for p in offered(bundle)}
        theirs = accuracy(open_bundle(asked.against or asked.bundle, "detector"), asked.wide, "fp32")
        out["accuracy"] = {"ours": found_, "wide": theirs}
        if asked.small:
            reached = accuracy(bundle, asked.small, fastest)
            out["accuracy"]["small"] = reached  # type: ignore[index]
            one = next(c for c in contenders if c.name == small)
            told = f"{reached:.4f} mAP50-95 on {ACCURACY}, there {theirs:.4f}"
            print(f"{one.name} is {one.rate / wide_.rate:.2f} times as fast as {wide_.name}: {told}")
        for c, p in zip(contenders, rates, strict=False):
            told = f"{found_[p]:.4f} mAP50-95 on {ACCURACY}, there {theirs:.4f}"
            print(f"{p} at {size} px is {c.rate / wide_.rate:.2f} times as fast as {wide_.name}: {told}")
    print(f"boxes of yolo predict that are ours too (IoU {SAME_IOU}, score {SAME_SCORE}): {share:.2%} of {boxes}")
    return out


def rounds(contenders: Sequence[Contender], runs: int) -> None:
    """All in turn."""
    for round_ in range(runs):
        for contender in contenders:
            contender.run()
            print(f"round {round_}: {contender.name}", file=sys.stderr, flush=True)


def sizes(asked: argparse.Namespace) -> dict[str, Any]:
    """Time and memory against the number of fields, and how large the report becomes; a slide has those of `images`."""
    rows = []
    heads = ("fields", "slides", "seconds", "counting and report", "fields/s", "peak memory of all processes, MiB")
    heads += ("report, MiB", "its first page, KiB", "largest of a slide, KiB")
    print(f"| {' | '.join(heads)} |\n{'| ---: ' * len(heads)}|")
    for count in asked.fields:
        with tempfile.TemporaryDirectory() as name:
            images = linked(asked.images, Path(name) / "images", count)
            fit = ("--scale", "fit", "--classifier", "none")
            out, small = Path(name) / "out", ("--image-size", asked.small) if asked.small else ()
            contender = Contender(
                f"{count} fields", ours(images, out, asked.bundle, asked.precision, *fit, *small), count
            )
            contender.run()
            report = yaml.safe_load((out / "run.yaml").read_text())["seconds"]["report"]
            pages = {p: p.stat().st_size / 1024 for p in (out / "report").rglob("*.html")}
            first = pages.pop(out / "report" / "index.html")
            told = {"report_seconds": report, "first_page_kib": first, "slide_pages_kib": list(pages.values())}
            rows.append(asdict(contender) | {"rate": contender.rate} | told)
            seconds, memory = contender.seconds[0], contender.memory[0]
            whole, largest = (first + sum(pages.values())) / 1024, max(pages.values(), default=0)
            cells = (count, len(list(images.iterdir())), f"{seconds:.1f}", report, f"{contender.rate:.1f}")
            cells += (f"{memory:.0f}", f"{whole:.1f}", f"{first:.0f}", f"{largest:.0f}")
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return {"bundle": asked.bundle, "precision": asked.precision, "input": asked.small or None, "rows": rows}


@contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """A Ray cluster of so many nodes of one core each; its address."""
    words = [sys.executable, "-c", CLUSTER, str(nodes)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def digest(out: Path) -> str:
    """Of every part of a run."""
    parts = sorted(p for folder in ("cells", "fields") for p in (out / folder).glob("part-*.parquet"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in parts)).hexdigest()


def ray(asked: argparse.Namespace) -> dict[str, Any]:
    """Nodes of one core each, one and two, and the local engine."""
    rows, made = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = linked(asked.images, folder / "images", asked.repeat * len(scan(asked.images).fields))
        n = len(scan(images).fields)
        fit = ("--scale", "fit", "--classifier", "none")
        for way, nodes in (("local, two workers", 0), ("Ray, one node of a core", 1), ("Ray, two nodes of a core", 2)):
            out = folder / str(nodes)
            words = ours(images, out, asked.bundle, asked.precision, *fit)
            contender = Contender(way, words, n)
            if nodes:
                with cluster(nodes) as address:
                    contender.command += ["--engine", "ray", "--address", address]
                    contender.run()
            else:
                contender.run()
            made[way] = digest(out)
            inside = yaml.safe_load((out / "run.yaml").read_text())["fields_per_second"]
            rows.append(asdict(contender) | {"rate": contender.rate, "inside": inside})
    print(f"{asked.bundle} {asked.precision}, {n} fields, detection only\n")
    print("| way | fields/s, whole process | without start and report | against one node |")
    print("| --- | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['name']} | {row['rate']:.1f} | {row['inside']:.1f} | {row['inside'] / rows[1]['inside']:.2f} |")
    same = len(set(made.values())) == 1
    print(f"\nparts of all three: {'the same bytes' if same else 'DIFFERENT BYTES'}")
    return {"bundle": asked.bundle, "fields": n, "rows": rows, "same_bytes": same}


def joined(images: Path, side: int) -> Image:
    """Fields side by side in one picture."""
    out, x, y, tallest = np.full((side, side, 3), 114, np.uint8), 0, 0, 0
    for found in cycle(scan(images).fields):
        pixels = decode.read(found.path)
        height, width = pixels.shape[:2]
        if x + width > side:
            x, y, tallest = 0, y + tallest, 0
        if y + height > side:
            return out
        out[y : y + height, x : x + width] = pixels
        x, tallest = x + width, max(tallest, height)
    raise AssertionError("the fields never end")


def mosaic(asked: argparse.Namespace) -> dict[str, Any]:
    """Large pictures against SAHI with the same weights and slices; ours are worked on side by side, as in scoring."""
    from detect.detectors.bundled import BundleDetector
    from detect.images.magnification import Scale

    bundle = open_bundle(asked.bundle, "detector")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), Path(name) / "bench.pt"
        checkpoint(bundle, weights)
        (folder / "large").mkdir()
        picture = cv2.cvtColor(joined(asked.images, asked.side), cv2.COLOR_RGB2BGR)
        for n in range(asked.pictures):
            cv2.imwrite(str(folder / "large" / f"{n}.png"), np.roll(picture, 64 * n, axis=1))
        found: dict[str, list[tuple[float, int]]] = {}
        red = bundle.detector.red_cell_px
        assert red is not None
        for round_ in range(asked.runs):
            for precision in offered(bundle):
                model = BundleDetector(
                    bundle,
                    EngineSettings("openvino", precision, cores()),
                    tile=asked.slice,
                    overlap=SHARED * asked.slice,
                    thresholds=dict.fromkeys(bundle.card.classes, CONF),
                    max_detections=100_000,
                )

                def counted(path: Path, model: BundleDetector = model) -> int:
                    return len(model.predict([decode.read(path)], [Scale(red, red, how="given")])[0])

                started = time.perf_counter()
                with ThreadPoolExecutor(cores()) as pool:
                    cells = sum(pool.map(counted, sorted((folder / "large").iterdir())))
                found.setdefault(f"ours {precision}, with reading", []).append((time.perf_counter() - started, cells))
            if find_spec("sahi") is not None:
                words = [sys.executable, INNER, "sahi", str(folder / "large"), str(weights), str(asked.slice)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                told = json.loads(done.stdout.strip().splitlines()[-1])
                found.setdefault("SAHI, its loop only", []).append((told["seconds"], told["cells"]))
            print(f"round {round_}", file=sys.stderr, flush=True)
    if find_spec("sahi") is None:
        print("SAHI is not installed: left out (pip install sahi)")
    slowest = statistics.median(s for s, _ in found.get("SAHI, its loop only", [(float("nan"), 0)]))
    print(f"{asked.pictures} pictures of {asked.side} x {asked.side} px, slices of {asked.slice}, {asked.runs} runs\n")
    print("| large pictures | seconds | cells | faster than SAHI |\n| --- | ---: | ---: | ---: |")
    for way, each in found.items():
        median = statistics.median(s for s, _ in each)
        print(f"| {way} | {median:.1f} | {each[0][1]} | {slowest / median:.1f} |")
        rows.append({"name": way, "seconds": [s for s, _ in each], "cells": each[0][1]})
    return {"bundle": bundle.card.name, "side": asked.side, "slice": asked.slice, "rows": rows}


def drawn(told: dict[str, Any], path: Path) -> None:
    """A picture of a benchmark: a bar for each way with the reach of its runs, or lines over the number of fields."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = told["rows"]
    if "precision" in told:
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
        count = [r["fields"] for r in rows]
        for axis, values, what in (
            (axes[0], [r["seconds"][0] for r in rows], "seconds"),
            (axes[1], [r["memory"][0] for r in rows], "peak memory, MiB"),
        ):
            axis.plot(count, values, marker="o")
            axis.set(xlabel="fields", ylabel=what, xscale="log", ylim=(0, None))
        axes[0].set_yscale("log")
    else:
        figure, axis = plt.subplots(figsize=(9, 0.6 + 0.42 * len(rows)), layout="constrained")
        fields = [r.get("fields", 1) for r in rows]
        middle: NDArray[Any] = np.array(
            [f / statistics.median(r["seconds"]) for f, r in zip(fields, rows, strict=True)]
        )
        reach = [[f / max(r["seconds"]), f / min(r["seconds"])] for f, r in zip(fields, rows, strict=True)]
        low, high = np.array(reach).T
        axis.barh([r["name"] for r in rows], middle, xerr=[middle - low, high - middle], color="#4c72b0")
        axis.invert_yaxis()
        axis.set_xlabel("fields a second" if "fields" in rows[0] else "runs a second")
    figure.savefig(path, dpi=120)


def main() -> None:
    """One of the benchmarks, as a table, JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("predict", "sizes", "mosaic", "ray"))
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="cells-yolov8n")
    parser.add_argument("--classifier", default="wbc-types")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=4, help="times that each image stands in the folder")
    parser.add_argument("--wide", type=int, default=0, help="an input of yolo predict besides the bundle's")
    parser.add_argument(
        "--against", help="another bundle's weights for --wide, such as cells-robust, trained at 640 px"
    )
    parser.add_argument("--small", type=int, default=0, help="another input of ours: besides the bundle's, or of sizes")
    parser.add_argument(
        "--others", action=argparse.BooleanOptionalAction, default=True, help="FiftyOne, threads, yolo's drawn pictures"
    )
    parser.add_argument("--fields", type=int, nargs="+", default=[300, 3000, 30000])
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--slice", type=int, default=320)
    parser.add_argument("--pictures", type=int, default=4)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    benches: dict[str, Callable[[argparse.Namespace], dict[str, Any]]]
    benches = {"predict": predict, "sizes": sizes, "mosaic": mosaic, "ray": ray}
    told = benches[asked.what](asked)
    (asked.out / f"bench-{asked.what}.json").write_text(json.dumps(told, indent=1), "utf-8")
    drawn(told, asked.out / f"bench-{asked.what}.png")


if __name__ == "__main__":
    main()
