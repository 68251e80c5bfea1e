"""Every network of the zoo through one loop: can it learn 32 cells by heart, and is its graph the same network?

    .venv/bin/python tools/overfit_crops.py [NAME ...] [--size 96] [--steps 200]

32 cells of BCCD and wbc-masks, eight of each of four types, one batch, nothing augmented, every dropout at 0, at the
network's learning rate in configs/tables/classifiers.yaml. Every fifth step the network is asked as a bundle asks it,
its batch norms at rest; it ends when all 32 are right, or the steps are used up. Then the export to ONNX and the
largest difference of its scores from torch's, by ONNX Runtime. Ends with 1 where a network did not learn all, or its
graph is another. The share learnt by heart says that a network learns, and nothing of how good it is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import StochasticDepth

from detect.assets import ROOT
from detect.classify.cells import Cells, keep
from detect.classify.export import write_graph
from detect.classify.learn import scores_of
from detect.classify.networks import NETWORKS, build
from detect.classify.settings import CropSettings
from detect.config import load_yaml
from detect.data.cards import load_card
from detect.data.typed import load_typed
from detect.detectors.devices import precision_of
from detect.formats.tally import Tally
from detect.runtime.base import EngineSettings, open_graph

TYPES = ("Neutrophil", "Lymphocyte", "Monocyte", "Eosinophil")
EACH = 8
OFTEN = 5  # steps between two looks
SAME = 0.001  # of scores before the softmax, at most


def cells(size: int) -> Cells:
    """Eight of each type, from all labs."""
    every = load_typed([load_card("bccd"), load_card("wbc-masks")], Tally(), groups=_Own())
    chosen = []
    for kind in TYPES:
        of = [c for c in every if c.type == kind]
        chosen += of[:: max(1, len(of) // EACH)][:EACH]
    return keep(chosen, TYPES, CropSettings(image_size=size))


class _Own(dict[str, str]):
    """Every cell its own group: nothing is split here."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return key


def rates() -> dict[str, float]:
    """Learning rate of each network, as the table trains it."""
    table = load_yaml(ROOT / "configs" / "tables" / "classifiers.yaml")
    base = float(table["main"]["base"]["learning_rate"])
    plain = [row for row in table["rows"].values() if "network" in row and not {"head", "first"} & set(row)]
    return {row["network"]: float(row.get("learning_rate", base)) for row in plain}


def still(model: torch.nn.Module) -> torch.nn.Module:
    """A network that drops nothing out."""
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout | torch.nn.Dropout2d | StochasticDepth):
            part.p = 0.0
        elif hasattr(part, "drop_prob"):  # timm's stochastic depth
            part.drop_prob = 0.0
    return model


def main() -> None:
    """A row a network."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--steps", type=int, default=200)
    asked = options.parse_args()
    kept = cells(asked.size)
    labels = torch.from_numpy(kept.labels)
    precision = precision_of("auto", torch.device("cpu"))
    print(f"{len(kept)} cells, {precision}, {torch.get_num_threads()} threads")
    print(
        "| network | parameters, M | learnt by heart | steps | seconds | graph against torch |\n| --- |" + " ---: |" * 5
    )
    rate, failed = rates(), []
    for name in asked.names or NETWORKS:
        torch.manual_seed(1)
        size = max(asked.size, NETWORKS[name].least)
        crops = torch.from_numpy(kept.crops(size, 0.15))
        model = still(build(name, len(TYPES), size, dropout=0.0))
        optimizer = torch.optim.AdamW(model.parameters(), rate[name])
        started, share, steps = time.monotonic(), 0.0, 0
        while steps < asked.steps and share < 1:
            model.train()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                scores = model(crops)
            torch.nn.functional.cross_entropy(scores.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            if steps % OFTEN == 0:
                share = float((scores_of(model, crops).argmax(dim=1) == labels).float().mean())
        seconds = time.monotonic() - started
        model.eval()
        about = {"kind": "network", "name": name, "types": len(TYPES), "image_size": size}
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
            path = Path(folder) / "graph.onnx"
            write_graph(model, about, size, path)
            with torch.no_grad():
                expected = model(crops).numpy()
            (got,) = open_graph(path, EngineSettings("onnxruntime")).run(crops.numpy())
        apart = float(np.abs(got - expected).max())
        count = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"| {name} | {count:.2f} | {share:.3f} | {steps} | {seconds:.0f} | {apart:.5f} |", flush=True)
        if share < 1 or apart > SAME:
            failed.append(name)
    if failed:
        sys.exit(f"not learnt by heart, or another graph: {', '.join(failed)}")


if __name__ == "__main__":
    main()
