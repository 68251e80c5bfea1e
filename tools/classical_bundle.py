"""The released bundle `classical`: no weights, the method's settings, thresholds chosen on dev.

.venv/bin/python tools/classical_bundle.py
.venv/bin/smear evaluate detector classical --data txl-pbc --split val --out EVAL --write-card
"""

from detect import assets
from detect.bundles.card import Card, DetectorGraph
from detect.bundles.draft import INTENDED_USE
from detect.bundles.folder import write_card
from detect.data.cards import load_card
from detect.detectors.classical import CLASSES, ClassicalDetector
from detect.detectors.classical_cells import ClassicalSettings
from detect.detectors.measure import predict_all
from detect.detectors.train import split_parts
from detect.evaluate.thresholds import CHOICE, best_f1
from detect.formats.tally import Tally


def main() -> None:
    """Write the folder."""
    settings = ClassicalSettings()
    dev, *_ = split_parts(load_card("txl-pbc"), "txl-pbc-release", None, Tally(), "dev")
    thresholds = best_f1(dev, predict_all(ClassicalDetector(settings), dev))
    out = assets.RELEASED_BUNDLES / "classical"
    out.mkdir(exist_ok=True)
    card = Card(
        name="classical",
        task="detector",
        title="Classical: colour, watershed, region growing; nothing learnt",
        licence="AGPL-3.0-or-later",
        intended_use=INTENDED_USE,
        limits=(
            "Settings were chosen by hand on train and dev of txl-pbc-release and on even pictures of wbc-masks.",
            "Overlapping red cells are merged or missed, pale platelets missed; grey pictures show red cells only.",
            "Scores rank cells and are no probabilities.",
        ),
        classes=CLASSES.names,
        architecture={
            "family": "classical", "name": f"classical-{settings.method}", "config": settings.model_dump(mode="json"),
            "parameters": 0, "gflops": 0.0,
        },
        detector=DetectorGraph(
            image_size=640,  # not used: cells are measured first, and the field is looked at in their scale
            masks=True,
            thresholds=thresholds,
            threshold_choice=f"{CHOICE} on part dev of txl-pbc-release ({len(dev)} fields), per class",
            nms_iou=settings.nms_iou,
            max_detections=settings.max_detections,
        ),
    )  # fmt: skip
    write_card(card, out)
    print(f"{out}: thresholds {thresholds}")


if __name__ == "__main__":
    main()
