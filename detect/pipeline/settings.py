"""A pipeline as YAML of `configs/pipelines/`: one detector, and which bundle is asked of which cells."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field as Key
from pydantic import model_validator

from detect import assets
from detect.classify.bundled import ERROR
from detect.config import Settings, load
from detect.errors import ConfigError
from detect.taxonomy import taxonomy


class Node(Settings):
    """A question down the taxonomy: of the types of `bundle`, which one is it?

    Attributes:
        bundle: a classifier's bundle, by name or folder; one that begins with '.' starts from the file's own folder.
        ask: labels whose cells are asked; by default those that the bundle's card names.
    """

    bundle: str
    ask: tuple[str, ...] | None = Key(None, min_length=1)

    @model_validator(mode="after")
    def _labels_are_ours(self) -> Node:
        strange = next((name for name in self.ask or () if name not in taxonomy()), None)
        if strange is not None:
            near = taxonomy().resolve(strange)
            said = f"; did you mean '{near}'?" if near is not None else ""
            raise ValueError(f"ask: '{strange}' is no label of annotations/taxonomy.yaml{said}")
        return self


class PipelineSettings(Settings):
    """What is asked of a field.

    Attributes:
        image_size: pixels of the longer side that the detector is shown a field in, in place of its own; see
            `Bundle.at`.
        nodes: asked in this order, each of the cells that bear one of its labels by then. What no node asks is not
            answered.
        morphology: segmenter's bundle, a detector's that draws masks, or "classical", whose nucleus and cytoplasm white
            cells are measured on.
        slide: bundle that is asked of all white cells of a slide together. fab: slides are called L1, L2 or L3 by their
            lymphoblasts, as GUIDE.md says.
        error_rate: at each question, share of cells whose set of types may lack their own; a cell that may be of
            several types is named by what they have in common, or "unidentified".
        slide_error_rate: the same of slides.
        taxonomy: version of the labels that `ask` names.
        synthetic: bundles that learnt from drawn cells only may run. They say nothing of patients.
    """

    title: str = ""
    taxonomy: int = 1
    detector: str
    image_size: int | None = Key(None, ge=32)
    nodes: tuple[Node, ...] = ()
    morphology: str | None = None
    slide: str | None = None
    fab: bool = False
    error_rate: float = Key(ERROR, gt=0, lt=1)
    slide_error_rate: float = Key(ERROR, gt=0, lt=1)
    synthetic: bool = False

    @model_validator(mode="after")
    def _labels_are_of_today(self) -> PipelineSettings:
        if self.taxonomy != taxonomy().version:
            raise ValueError(f"taxonomy: its labels are of version {self.taxonomy}, ours of {taxonomy().version}")
        return self


def load_pipeline(given: str | Path) -> PipelineSettings:
    """A pipeline by path, or a packaged one by name."""
    path = assets.find(given, "configs/pipelines", ".yaml")
    found = load(PipelineSettings, path)
    home = path.resolve().parent

    def placed(name: str) -> str:
        return str((home / name).resolve()) if name.startswith(".") else name

    nodes = tuple(node.model_copy(update={"bundle": placed(node.bundle)}) for node in found.nodes)
    others = {key: placed(name) for key in ("slide", "morphology") if (name := getattr(found, key)) is not None}
    return found.model_copy(update={"detector": placed(found.detector), "nodes": nodes, **others})


def check_synthetic(names: list[str], allowed: bool) -> None:
    """ConfigError where bundles that know drawn cells only would run unasked."""
    if names and not allowed:
        what = f"{', '.join(names)} learnt from drawn cells only, and says nothing of patients"
        remedy = "leave it out, or name a pipeline that says 'synthetic: true'"
        raise ConfigError(what, remedy=remedy)
