"""Every network of the zoo through one loop: can it learn 32 cells by heart, and is its graph the same network?

    .venv/bin/python tools/overfit_crops.py [NAME ...] [--size 96] [--steps 60] [--rate 0.001]

32 cells of BCCD and wbc-masks, eight of each of four types, one batch, nothing augmented, no dropout, until all are
right twice in a row or the steps are used up; then the export to ONNX and the largest difference of its scores from
torch's, by ONNX Runtime. The share learnt by heart says that a network learns, and nothing of how good it is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from detect.classify.cells import Cells, keep
from detect.classify.export import write_graph
from detect.classify.networks import NETWORKS, build
from detect.classify.settings import CropSettings
from detect.data.cards import load_card
from detect.data.typed import load_typed
from detect.detectors.devices import precision_of
from detect.formats.tally import Tally
from detect.runtime.base import EngineSettings, open_graph

TYPES = ("Neutrophil", "Lymphocyte", "Monocyte", "Eosinophil")
EACH = 8


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


def main() -> None:
    """A row a network."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--rate", type=float, default=0.001)
    asked = options.parse_args()
    kept = cells(asked.size)
    labels = torch.from_numpy(kept.labels)
    precision = precision_of("auto", torch.device("cpu"))
    print(f"{len(kept)} cells, {precision}, {torch.get_num_threads()} threads")
    print(
        "| network | parameters, M | learnt by heart | steps | seconds | graph against torch |\n| --- |" + " ---: |" * 5
    )
    for name in asked.names or NETWORKS:
        torch.manual_seed(1)
        size = max(asked.size, NETWORKS[name].least)
        crops = torch.from_numpy(kept.crops(size, 0.15))
        model = build(name, len(TYPES), size)
        optimizer = torch.optim.AdamW(model.parameters(), asked.rate)
        started, right, steps = time.monotonic(), 0, 0
        while steps < asked.steps and right < 2:
            model.train()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                scores = model(crops)
            torch.nn.functional.cross_entropy(scores.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            right = right + 1 if bool((scores.argmax(dim=1) == labels).all()) else 0
        share = float((scores.argmax(dim=1) == labels).float().mean())
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


if __name__ == "__main__":
    main()
