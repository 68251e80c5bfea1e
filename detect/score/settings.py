"""What a scoring run is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Key

from detect.config import Settings


class ScoreSettings(Settings):
    """How a folder is scored.

    Attributes:
        detector, classifiers: bundle folders, or names of released bundles.
        engine, precision, device: see `runtime.base.EngineSettings`.
        batch: fields per batch. part: fields per file of the store.
        workers: batches worked on at once; 0 takes one per processor core.
        min_score: replaces the detector's thresholds, for evaluation.
        gallery, overlays: most cell pictures of one type, and most fields drawn, per slide of the report.
    """

    detector: str = "cells-yolov8n"
    classifiers: tuple[str, ...] = ("wbc-types-small",)
    engine: Literal["auto", "openvino", "onnxruntime", "torch"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "cpu"
    batch: int = Key(16, ge=1, le=512)
    part: int = Key(512, ge=1)
    workers: int = Key(0, ge=0)
    min_score: float | None = Key(None, ge=0, le=1)
    gallery: int = Key(24, ge=0)
    overlays: int = Key(3, ge=0)
