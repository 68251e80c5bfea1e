"""Weights between those that a training began with and those that it ended with, as a run folder to export.

    .venv/bin/python tools/between.py RUN OUT --share 0.5

Fine-tuning for other labs' colours costs accuracy at home; a mean of the weights before and after keeps most of both
(Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). The share is chosen on part dev: export some of
them, whose cards tell mAP on dev, and look at `tools/bench_stains.py --part dev`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

from detect.bundles.card import WEIGHTS
from detect.bundles.folder import open_bundle
from detect.config import load_yaml


def main() -> None:
    """Copy the run, with other weights."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--share", type=float, default=0.5, help="of the weights after")
    asked = options.parse_args()
    if asked.out.exists():
        sys.exit(f"{asked.out} is there already")
    start = load_yaml(asked.run / "settings.yaml")["pretrained"]
    before = load_file(open_bundle(start, "detector").weights)
    after = load_file(asked.run / WEIGHTS)
    if before.keys() != after.keys() or any(before[k].shape != after[k].shape for k in after):
        sys.exit(f"{asked.run} did not begin with weights of the same network")
    shutil.copytree(asked.run, asked.out, ignore=shutil.ignore_patterns("train", "stage-*"))
    mixed = {
        k: ((1 - asked.share) * before[k].double() + asked.share * v.double()).to(v.dtype) for k, v in after.items()
    }
    save_file(mixed, asked.out / WEIGHTS)
    record = load_yaml(asked.out / "run.yaml") | {"weights_between": {"before": str(start), "share_after": asked.share}}
    (asked.out / "run.yaml").write_text(yaml.safe_dump(record, sort_keys=False), "utf-8")
    print(f"{asked.out}: {asked.share:g} of {asked.run}, {1 - asked.share:g} of {start}")


if __name__ == "__main__":
    main()
