"""Cheaper arithmetic for a detector's graph: how much it loses, measured on dev and told on the card."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.bundles.card import GRAPH_INT8, DetectorGraph, PrecisionCheck
from detect.bundles.folder import Bundle, add_precisions, open_bundle
from detect.data.cards import Card
from detect.detectors.bundled import BundleDetector
from detect.detectors.measure import MIN_SCORE, predict_all
from detect.detectors.train import split_parts
from detect.errors import ConfigError, MissingExtraError
from detect.evaluate.align import align
from detect.evaluate.coco_ap import Ap, mean_and_each
from detect.formats.tally import Tally
from detect.images import decode, preprocess
from detect.images.letterbox import place, plan
from detect.runtime.base import EngineSettings, Precision, installed
from detect.types import Dataset

CALIBRATION = 200  # fields that set the ranges of int8


def check_precisions(
    bundle: Bundle,
    data: Card,
    *,
    split: str | None = None,
    root: Path | None = None,
    int8: bool = True,
    images: int = CALIBRATION,
    seed: int = 1,
) -> tuple[PrecisionCheck, ...]:
    """Measure what bf16 and int8 lose against fp32 on part dev, and put it on the bundle's card.

    An int8 graph is made from fields of part train, and kept beside the other where it loses little enough to be
    offered.

    Args:
        images: fields that set the ranges. seed: which.
    """
    if bundle.card.training is None:
        raise ConfigError(f"{bundle.card.name} has no graph of its own", remedy="name a trained bundle")
    dev, *_ = split_parts(data, split, root, Tally(), "dev", allow_leak=True)
    dev = align(dev, BundleDetector(bundle).classes)
    plain = _map(bundle, dev, EngineSettings(installed()[0]))
    ways: list[tuple[Precision, str]] = [("bf16", "openvino")] if "openvino" in installed() else []
    if int8:
        learn, *_ = split_parts(data, split, root, Tally(), "train", allow_leak=True)
        _quantize(bundle, _calibration(bundle.detector, learn, images, seed))
        bundle = open_bundle(bundle.path)
        ways.append(("int8", installed()[0]))
    checks = []
    for precision, engine in ways:
        value = _map(bundle, dev, EngineSettings(engine, precision))
        checks.append(
            PrecisionCheck(
                precision=precision,
                engine=engine,
                map50_95=round(value, 4),
                loss=round(100 * (plain - value), 2),
                data=data.name,
                split=split or data.split,
                part="dev",
                n_fields=len(dev),
            )
        )
    for check in checks:
        if check.precision == "int8" and not check.offered:
            (bundle.path / GRAPH_INT8).unlink()
    add_precisions(bundle.path, checks)
    return tuple(checks)


def _map(bundle: Bundle, dataset: Dataset, engine: EngineSettings) -> float:
    """mAP50-95, as a fraction."""
    detector = BundleDetector(bundle, engine, thresholds=dict.fromkeys(bundle.names, MIN_SCORE))
    matched = Ap(dataset, predict_all(detector, dataset), bundle.detector.max_detections).matched
    return float(mean_and_each(matched, np.ones((1, len(dataset))))[0, 1])


def _calibration(section: DetectorGraph, learn: Dataset, images: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Fields as they go into the graph, one a batch, all of one shape."""
    chosen = np.random.default_rng(seed).permutation(len(learn))[:images]
    for i in sorted(chosen.tolist()):
        pixels = preprocess.apply(decode.read(learn.fields[i].field.path), section.preprocess)
        box = plan(pixels.shape[1], pixels.shape[0], section.image_size, section.stride, square=True)
        out = np.empty((1, box.height, box.width, 3), np.uint8)
        place(pixels, box, section.pad, out[0])
        yield out


def _quantize(bundle: Bundle, batches: Iterator[NDArray[np.uint8]]) -> None:
    """Write the int8 graph: weights by channel, activations by tensor, ranges by what the batches show."""
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtraError("quantization", "train") from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Hands the batches over."""

        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {"images": batch}

    level = logging.getLogger().level
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        logging.getLogger().setLevel(logging.ERROR)  # it recommends on the root logger what was done before
        try:
            quant_pre_process(str(bundle.graph), str(ready), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(ready),
                str(bundle.path / GRAPH_INT8),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
                op_types_to_quantize=["Conv"],
            )
        finally:
            logging.getLogger().setLevel(level)
    add_precisions(bundle.path, ())  # the card gets the new graph's hash
