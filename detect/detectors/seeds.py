"""One training for each of several seeds, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import yaml

from detect.config import load_yaml
from detect.detectors.train import train
from detect.errors import ConfigError


@dataclass(frozen=True)
class Spread:
    """Figures on dev per seed: of the epoch that was best there, so they are for comparing, not for quoting."""

    runs: Mapping[int, Mapping[str, Any]]

    @property
    def line(self) -> str:
        """Mean and standard deviation over the seeds."""
        parts = []
        for name in ("mAP50", "mAP50-95"):
            values = [float(r[name]) for r in self.runs.values()]
            parts.append(f"{name} {mean(values):.4f} (standard deviation {stdev(values):.4f})")
        return f"{', '.join(parts)}; {len(self.runs)} seeds, part dev"


def train_seeds(config: str, data: Sequence[str], out: Path, seeds: Sequence[int], **how: Any) -> Spread:
    """Train into `out/seed-<n>` for each seed, and write `out/seeds.yaml`. With `resume` finished seeds are kept.

    Args:
        how: see `train`.
    """
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"a seed is named twice: {list(seeds)}", remedy="name each once")
    runs = {}
    for seed in seeds:
        run = out / f"seed-{seed}"
        if how.get("resume") and (run / "run.yaml").exists():
            record = load_yaml(run / "run.yaml")
        else:
            begun = bool(how.get("resume")) and (run / "settings.yaml").exists()
            record = train(config, data, run, seed=seed, **(how | {"resume": begun}))
        runs[seed] = {**record["dev"], "best_epoch": record["best_epoch"], "minutes": record["minutes"]}
    spread = Spread(runs)
    names = ("mAP50", "mAP50-95")
    told: dict[str, dict[Any, Any]] = {"seeds": runs, "mean": {}, "standard_deviation": {}}
    for name in names:
        values = [float(r[name]) for r in runs.values()]
        told["mean"][name] = round(float(np.mean(values)), 4)
        told["standard_deviation"][name] = round(float(np.std(values, ddof=1)), 4)
    (out / "seeds.yaml").write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")
    return spread
