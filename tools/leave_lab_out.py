"""A lab that a detector has never seen, within TXL-PBC: white cells of each lab, by detectors trained on the others.

    .venv/bin/python tools/leave_lab_out.py OUT --start BUNDLE [--epochs 30] [--seed 1]

TXL-PBC's fields come from three labs, told by their size: BCCD (640 x 480, and 416 x 416, its copies), one of about
360 x 363 and one of 575 x 575. For each lab, plainly and robustly (`configs/detectors/yolov8n.yaml` and
`yolov8n-robust.yaml`), a detector is trained on train of the other two, its epoch and thresholds chosen on their dev,
and measured on val of the lab; beside it one that was trained on all three. All begin with the weights of one bundle,
which must have seen no real field: that of `tools/synthetic_first.py`. Groups that stand in two labs are left out.

F1 of white cells at the stored threshold, IoU 0.5, fields fitted to the input, with 95 % intervals by bootstrap over
groups. A step that is done is not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from steps import config, measured, trained

from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import EXCLUDED, Split, read_split
from detect.formats.tally import Tally

SET, SPLIT, WHITE = "txl-pbc", "txl-pbc-apart", "WBC"
SIZES = {(640, 480): "bccd", (416, 416): "bccd", (575, 575): "lab-575", (360, 363): "lab-360", (366, 369): "lab-360"}
KINDS = {"plain": "yolov8n", "robust": "yolov8n-robust"}


def labs() -> dict[str, str]:
    """Field to lab."""
    fields = merge(load_dataset(load_card(SET), Tally())).fields
    return {f.field.id: SIZES[f.field.width, f.field.height] for f in fields}


def splits(out: Path, lab_of: Mapping[str, str]) -> dict[str, dict[str, Path]]:
    """By lab the split that trains without it, the one that holds its val alone; and `all` that trains on all."""
    whole = read_split(SPLIT)
    seen: dict[str, set[str]] = {}
    for row in whole.rows:
        if row.part != EXCLUDED:
            seen.setdefault(row.group, set()).add(lab_of[row.field])
    rows = [replace(r, part=EXCLUDED) if len(seen.get(r.group, ())) > 1 else r for r in whole.rows]
    paths: dict[str, dict[str, Path]] = {"all": {"train": out / "all.csv"}}
    Split("all", tuple(rows)).write(paths["all"]["train"])
    for lab in sorted(set(lab_of.values())):
        without = tuple(replace(r, part=EXCLUDED) if lab_of[r.field] == lab else r for r in rows)
        alone = tuple(r if lab_of[r.field] == lab and r.part == "val" else replace(r, part=EXCLUDED) for r in rows)
        paths[lab] = {"train": out / f"without-{lab}.csv", "val": out / f"val-{lab}.csv"}
        Split(f"without-{lab}", without).write(paths[lab]["train"])
        Split(f"val-{lab}", alone).write(paths[lab]["val"])
    return paths


def main() -> None:
    """A row as each is done."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--start", type=Path, required=True)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    paths = splits(out, labs())
    print("| lab | cells | training | F1, lab left out | F1, lab trained on | difference |\n| --- |" + " ---: |" * 5)
    bundles = {}
    for kind, base in KINDS.items():
        for name, files in paths.items():
            given = {"epochs": asked.epochs, "seed": asked.seed, "pretrained": str(asked.start.absolute())}
            settings = config(out, f"{kind}-{name}", base, **given)
            bundles[kind, name] = trained(out, f"{kind}-{name}", settings, SET, "--split", files["train"])
    for lab, files in paths.items():
        if lab == "all":
            continue
        for kind in KINDS:
            told = []
            for name in (lab, "all"):
                folder = out / f"{kind}-{name}" / f"on-{lab}"
                figures = measured(folder, bundles[kind, name], SET, "val", files["val"])
                told.append((figures["classes"][WHITE]["f1"], figures["classes"][WHITE]["truths"]))
            (left, n), (seen, _) = told
            cells = [f"{f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})" for f in (left, seen)]
            gap = (left["value"] - seen["value"]) * 100
            print(f"| {lab} | {n} | {kind} | {' | '.join(cells)} | {gap:+.1f} points |", flush=True)


if __name__ == "__main__":
    main()
