"""Print a Markdown table of every configuration of `configs/detectors`: model, parameters, GFLOPs, traits.

    python tools/list_families.py [--classes N]

Nothing is trained. GFLOPs are those of one square field of the configuration's image size, counted by torch in the
same way for every family: two for each multiplication with addition of convolutions and matrix products.
"""

from __future__ import annotations

import argparse

from detect import assets
from detect.config import load
from detect.detectors.base import DetectorSettings, family
from detect.errors import SmearError


def main() -> None:
    """Build each model and print its row."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--classes", type=int, default=3)
    classes = options.parse_args().classes
    print("| configuration | family | model | size | parameters, M | GFLOPs | exportable | masks |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in sorted((assets.ROOT / "configs" / "detectors").glob("*.yaml")):
        settings = load(DetectorSettings, path)
        start = f"| {path.stem} | {settings.family} | {settings.model} | {settings.image_size} "
        try:
            adapter = family(settings.family)
        except SmearError:
            print(f"{start}| not installed | | | |")
            continue
        built = adapter.architecture(settings, classes)
        traits = adapter.traits(built)
        cost = f"{built.parameters / 1e6:.2f} | {built.gflops:.2f}"
        said = " | ".join("yes" if told else "no" for told in (traits.exportable, traits.masks))
        print(f"{start}| {cost} | {said} |", flush=True)


if __name__ == "__main__":
    main()
