"""Steps of tools that train by the real commands. Each is done once: a tool that was stopped goes on where it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from detect import assets
from detect.config import load_yaml

SMEAR = str(Path(sys.executable).parent / "smear")


def smear(*words: object) -> None:
    """Run the real command; exits with what it said where it failed."""
    done = subprocess.run([SMEAR, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"smear {' '.join(map(str, words))}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")


def config(out: Path, name: str, base: str, **changes: object) -> Path:
    """A packaged configuration of a detector with some keys changed."""
    settings = load_yaml(assets.ROOT / "configs" / "detectors" / f"{base}.yaml")
    path = out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings | changes, sort_keys=False), "utf-8")
    return path


def trained(out: Path, name: str, settings: Path, data: object, *more: object) -> Path:
    """A bundle of a training, begun, gone on with or taken as it is."""
    run, bundle = out / name / "run", out / name / "bundle"
    if not (run / "run.yaml").is_file():
        begun = ("--resume",) if (run / "train" / "weights" / "last.pt").is_file() else ()
        smear("train", "detector", settings, "--data", data, "--out", run, *more, *begun)
    if not (bundle / "bundle.yaml").is_file():
        shutil.rmtree(bundle, ignore_errors=True)  # of an export that was stopped
        smear("bundle", "export", run, "--out", bundle, "--name", name)
    return bundle


def measured(folder: Path, bundle: Path, data: object, part: str, split: object) -> dict[str, Any]:
    """The figures of a bundle on a part of a split."""
    if not (folder / "metrics.json").is_file():
        where = ("--data", data, "--split", part, "--split-file", split)
        smear("evaluate", "detector", bundle, *where, "--out", folder)
    told: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
    return told
