"""What a scoring run is told."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field as Key
from pydantic import model_validator

from detect.config import Settings
from detect.images.magnification import RED_CELL_UM, Looking, Scale, given
from detect.pipeline.settings import PipelineSettings, load_pipeline
from detect.runtime.base import Precision

_SMALLEST, _LARGEST = 4.0, 2000.0  # pixels of a red cell that a person may tell of


class ScoreSettings(Settings):
    """How a folder is scored.

    Attributes:
        pipeline: what is asked of a field.
        engine: what leads the work to workers, see `score.engine.ENGINES`. address: of a Ray cluster; empty starts one
            on this machine.
        runtime, precision, device: see `runtime.base.EngineSettings`. precision auto takes the fastest that the
            detector's card offers for what it loses, on a processor that has it; else fp32.
        batch: fields per batch. part: fields per file of the store; 0 takes what suits the number of fields.
        workers: processes that score side by side, each on its share of the processor cores; 0 takes one per core, or
            per GPU.
        time_limit: seconds that a field, or a batch of them, may take before it is given up.
        memory_limit: MiB that one worker of this machine may hold.
        stop_at: white cells of a slide after which its other fields, in the order of their names, are left out.
        min_score: replaces the detector's thresholds, for evaluation.
        thresholds: replace those of some classes.
        scale: auto measures each slide by its red cells, and looks at it in the size of cells that the detector was
            trained with, in tiles where that is larger than its input; fit resizes the longer side to the input's.
        mpp, cell_diameter_px: the scale as a person knows it, in place of auto: micrometres a pixel, or the diameter
            of a red cell in pixels.
        gallery, overlays: most cell pictures of one type, and most fields drawn, per slide of the report.
    """

    pipeline: PipelineSettings = Key(default_factory=lambda: load_pipeline("default"))
    engine: Literal["local", "ray"] = "local"
    address: str = ""
    runtime: Literal["auto", "openvino", "onnxruntime", "torch"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    device: str = "cpu"
    batch: int = Key(16, ge=1, le=512)
    part: int = Key(0, ge=0)
    workers: int = Key(0, ge=0)
    time_limit: float = Key(300.0, gt=0)
    memory_limit: int | None = Key(None, ge=256)
    stop_at: int | None = Key(None, ge=1)
    min_score: float | None = Key(None, ge=0, le=1)
    thresholds: dict[str, Annotated[float, Key(ge=0, le=1)]] = {}
    scale: Looking = "auto"
    mpp: float | None = Key(None, ge=RED_CELL_UM / _LARGEST, le=RED_CELL_UM / _SMALLEST)
    cell_diameter_px: float | None = Key(None, ge=_SMALLEST, le=_LARGEST)
    gallery: int = Key(24, ge=0)
    overlays: int = Key(3, ge=0)

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if sum((self.mpp is not None, self.cell_diameter_px is not None, self.scale == "fit")) > 1:
            raise ValueError("mpp, cell_diameter_px, scale fit: give one of them")
        return self

    @model_validator(mode="after")
    def _kept_by_the_engine(self) -> Self:
        if self.engine == "ray" and self.memory_limit is not None:
            raise ValueError("memory_limit: workers of a cluster are not watched for it; leave it out with engine ray")
        return self

    @property
    def told_scale(self) -> Scale | None:
        """The scale that a person gave."""
        return given(diameter_px=self.cell_diameter_px, mpp=self.mpp)
