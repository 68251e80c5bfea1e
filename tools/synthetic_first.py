"""Does the synthetic smear help a detector on real fields? Five trainings and more, by the real commands.

    .venv/bin/python tools/synthetic_first.py OUT [--slides 160] [--fields 5] [--epochs 30] [--real-epochs 100]
        [--share 0.1] [--seeds 1 2 3]

- synthetic alone: YOLOv8n on slides that `smear data synthesize` drew, epoch chosen on its own dev slides;
- real 10 % alone: the same on a tenth of TXL-PBC's training groups, a seed each (the groups are drawn anew);
- synthetic, then real 10 %: the same tenths, from the weights of the first.

All with the settings of `configs/detectors/yolov8n.yaml` but for the epochs; the dev part of TXL-PBC chooses the epoch
of the last two. Each is measured once, on part val without the fields that share cells with a training part
(`--split-file txl-pbc-apart`). A step that is done is not done again, so the tool goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from steps import config, measured, smear, trained

from detect.data.splits import read_split

BASE, SET, SPLIT, CLASSES = "yolov8n", "txl-pbc", "txl-pbc-apart", ("WBC", "RBC", "Platelet")
SIDE = 416


def tenth(out: Path, share: float, seed: int) -> Path:
    """The split with a share of its training groups; dev and val as they are."""
    whole = read_split(SPLIT)
    groups = sorted({row.group for row in whole.rows if row.part == "train"})
    kept = set(np.random.default_rng(seed).permutation(groups)[: round(share * len(groups))].tolist())
    rows = tuple(row for row in whole.rows if row.part != "train" or row.group in kept)
    path = out / f"{SPLIT}-{seed}.csv"
    replace(whole, rows=rows).write(path)
    return path


def row(name: str, each: list[dict[str, object]]) -> str:
    """A line of the table: every figure with its limits, or mean and spread of several seeds."""
    cells = []
    for kind in CLASSES:
        values = [m["per_class_ap"][kind]["ap50"] for m in each]  # type: ignore[index]
        if len(values) == 1:
            cells.append(f"{values[0]['value']:.3f} ({values[0]['low']:.3f} to {values[0]['high']:.3f})")
        else:
            found = [v["value"] for v in values]
            cells.append(f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}")
    means = [m["map50"]["value"] for m in each]  # type: ignore[index]
    spread = f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""
    return f"| {name} | " + " | ".join([*cells, f"{np.mean(means):.3f}{spread}"]) + " |"


def main() -> None:
    """A row as each is done."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--slides", type=int, default=160)
    options.add_argument("--fields", type=int, default=5)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--real-epochs", type=int, default=100)
    options.add_argument("--share", type=float, default=0.1)
    options.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    asked = options.parse_args()
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    drawn = out / "slides"
    if not drawn.is_dir():
        size = ("--slides", asked.slides, "--fields", asked.fields, "--size", SIDE)
        smear("data", "synthesize", "--out", drawn, *size, "--seed", 100)
    print(
        "| trained on | " + " | ".join(f"AP50 {c}" for c in CLASSES) + " | mAP50 |\n| --- |" + " ---: |" * 4, flush=True
    )
    first = trained(out, "synthetic", config(out, "synthetic", BASE, epochs=asked.epochs), drawn / "synthetic.yaml")
    told = measured(out / "synthetic" / "val", first, SET, "val", SPLIT)
    print(row(f"synthetic alone ({asked.slides * asked.fields} fields)", [told]), flush=True)
    alone, after = [], []
    for seed in asked.seeds:
        split = tenth(out, asked.share, seed)
        for kind, found, start in (("real", alone, False), ("after", after, str(first))):
            name = f"{kind}-{seed}"
            settings = config(out, name, BASE, epochs=asked.real_epochs, seed=seed, pretrained=start)
            bundle = trained(out, name, settings, SET, "--split", split)
            found.append(measured(out / name / "val", bundle, SET, "val", SPLIT))
    print(row(f"real {asked.share:.0%} alone, {len(asked.seeds)} seeds", alone), flush=True)
    print(row(f"synthetic, then real {asked.share:.0%}, {len(asked.seeds)} seeds", after), flush=True)


if __name__ == "__main__":
    main()
