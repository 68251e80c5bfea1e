"""One batch of fields through a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from detect.bundles.card import TrainedOn
from detect.bundles.folder import Bundle, open_bundle
from detect.classify.bundled import ERROR
from detect.classify.crops import at_border
from detect.classify.morphology import measure
from detect.classify.parts import CLASSICAL, ClassicalSegmenter, MaskSegmenter, Segmenter, check_segments, segmenter_of
from detect.detectors.opened import open_detector
from detect.errors import BundleError, ConfigError
from detect.images.magnification import Scale
from detect.pipeline.route import SYNTHETIC, Answer, Asked, Router, box, reach
from detect.pipeline.settings import PipelineSettings, check_synthetic
from detect.runtime.base import FRAMEWORK, EngineSettings
from detect.taxonomy import taxonomy
from detect.types import CellRecord, Detections, Image


@dataclass(frozen=True)
class Cells:
    """The cells of one field, in the order of the results, and whether the cap was reached."""

    records: tuple[CellRecord, ...]
    capped: bool


@dataclass(frozen=True)
class Opened:
    """The bundles of a pipeline. synthetic: those that learnt from drawn cells only may run."""

    detector: Bundle
    nodes: tuple[Asked, ...]
    error: float = ERROR
    slide: Bundle | None = None
    segmenter: Bundle | Literal["classical"] | None = None
    synthetic: bool = False
    slide_error: float = ERROR

    @property
    def reached(self) -> tuple[Asked, ...]:
        """Nodes that can be asked of what the detector finds."""
        return reach(self.nodes, self.detector.names)[0]

    @property
    def drawn(self) -> list[str]:
        """Names of those that learnt from drawn cells only."""
        return [b.card.name for b in self.bundles if b.card.trained_on == "synthetic"]

    @property
    def trained_on(self) -> TrainedOn:
        """Synthetic where one of them knows drawn cells only; who learns nothing is not asked."""
        kinds = {b.card.trained_on for b in self.bundles if b.card.architecture.get("family") != CLASSICAL}
        return "synthetic" if "synthetic" in kinds else "real" if kinds <= {"real"} else "real and synthetic"

    @property
    def bundles(self) -> list[Bundle]:
        """All of them, the detector first; once where it draws the parts of cells too."""
        others = [b for b in (self.segmenter, self.slide) if isinstance(b, Bundle) and b.path != self.detector.path]
        return [self.detector, *(node.bundle for node in self.nodes), *others]


def open_pipeline(settings: PipelineSettings) -> Opened:
    """Open the bundles that a pipeline names; ConfigError where they cannot run together."""
    detector = open_bundle(settings.detector, "detector").at(settings.image_size)
    nodes = tuple(asked(open_bundle(node.bundle, "classifier"), node.ask) for node in settings.nodes)
    slide = open_bundle(settings.slide, "slide") if settings.slide is not None else None
    segmenter: Bundle | Literal["classical"] | None = None
    if settings.morphology is not None:
        named = settings.morphology
        segmenter = "classical" if named == CLASSICAL else open_bundle(named)
        if isinstance(segmenter, Bundle):
            check_segments(segmenter)
    for bundle in (detector, *(node.bundle for node in nodes), *((slide,) if slide is not None else ())):
        bundle.check_names()
    if not any(name in taxonomy() and taxonomy().is_a(name, "WBC") for name in detector.names):
        raise BundleError(
            f"none of its classes ({', '.join(detector.card.classes)}) is a white cell",
            where=str(detector.path),
            remedy="name another detector, or train it with names of annotations/taxonomy.yaml",
        )
    rates = settings.error_rate, settings.slide_error_rate
    opened = Opened(detector, nodes, rates[0], slide, segmenter, settings.synthetic, rates[1])
    names = [bundle.card.name for bundle in opened.bundles]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two bundles share the name '{twice}'", remedy="name each bundle once")
    if slide is not None:
        _check_slide(slide, opened)
    check_synthetic(opened.drawn, opened.synthetic)
    return opened


def _check_slide(slide: Bundle, opened: Opened) -> None:
    """ConfigError where a pipeline answers otherwise than the one that a bundle of slides learnt from."""
    section, name = slide.card.slide, slide.card.name
    assert section is not None
    here = tuple(node.bundle.card.name for node in opened.reached)
    if section.asks != here:
        what = f"{name} learnt from the answers of {', '.join(section.asks)}; here are asked: {', '.join(here)}"
        raise ConfigError(what, remedy="ask the bundles that it learnt from, in their order, or leave it out")
    detector = opened.detector.card.name
    if section.detector != detector:
        what = f"{name} learnt from cells that {section.detector} found, here is {detector}"
        raise ConfigError(what, remedy=f"take 'detector: {section.detector}', or leave the slide's bundle out")
    if section.error_rate != opened.error:
        what = f"{name} learnt from answers at error_rate {section.error_rate}, here it is {opened.error}"
        raise ConfigError(what, remedy=f"take 'error_rate: {section.error_rate}', or leave the slide's bundle out")
    for bundle in (opened.detector, *(node.bundle for node in opened.reached)):
        if section.models.get(bundle.card.name) != bundle.model:
            what = f"{name} learnt from the answers of another {bundle.card.name} than this one"
            raise ConfigError(what, where=str(bundle.path), remedy="bring that one back, or train on new runs")


def _check_thresholds(slide: Bundle, min_score: float | None, thresholds: Mapping[str, float]) -> None:
    """ConfigError where the detector's thresholds are others than those under which a bundle of slides learnt."""
    section = slide.card.slide
    assert section is not None
    if (section.min_score, section.thresholds) == (min_score, dict(thresholds)):
        return
    learnt, here = _told(section.min_score, section.thresholds), _told(min_score, thresholds)
    what = f"{slide.card.name} learnt from cells at {learnt}, here are asked {here}"
    raise ConfigError(what, remedy="score at those, or leave the slide's bundle out")


def _told(min_score: float | None, thresholds: Mapping[str, float]) -> str:
    """Thresholds in words."""
    given = {} if min_score is None else {"every class": min_score}
    named = ", ".join(f"{name} {value:g}" for name, value in (given | dict(thresholds)).items())
    return f"thresholds of {named}" if named else "the detector's own thresholds"


def asked(bundle: Bundle, ask: Sequence[str] | None = None) -> Asked:
    """A classifier, and the labels whose cells it is asked of: by default those that its card names."""
    assert bundle.card.classifier is not None
    return Asked(bundle, tuple(ask) if ask is not None else bundle.card.classifier.routed_from)


def graph_engine(engine: EngineSettings) -> EngineSettings:
    """The engine for graphs that the framework does not run: those of segmenters and slides, in fp32 on the CPU."""
    name = "auto" if engine.name == FRAMEWORK else engine.name
    return EngineSettings(name, "fp32", engine.workers, threads=engine.threads)


class Pipeline:
    """One detector, and what its cells are asked.

    Args:
        min_score: in place of every threshold of the detector's, for evaluation.
        thresholds: in place of those of some classes.

    Attributes:
        trained_on: what those that answer learnt from. asked: nodes that can be asked. unreached: those that nothing
            leads to, in words.
    """

    def __init__(
        self,
        opened: Opened,
        engine: EngineSettings,
        *,
        min_score: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        check_synthetic(opened.drawn, opened.synthetic)
        self.trained_on = opened.trained_on
        card = opened.detector.card
        for name in thresholds or {}:
            if name not in opened.detector.names:
                known = ", ".join(opened.detector.names)
                raise ConfigError(f"threshold {name}: no class of {card.name}", remedy=f"one of: {known}")
        if opened.slide is not None:
            _check_thresholds(opened.slide, min_score, thresholds or {})
        opened.detector.check_offered(engine.precision, engine.name)
        chosen = {} if min_score is None else dict.fromkeys(opened.detector.names, min_score)
        self.detector = open_detector(opened.detector, engine, thresholds=chosen | dict(thresholds or {}))
        # What cheaper arithmetic loses is measured of detectors only; the classifiers' is a small part of the work.
        plain = replace(engine, precision="fp32") if engine.precision in ("bf16", "int8") else engine
        self.asked, self.unreached = reach(opened.nodes, self.detector.classes.names)
        self._router = Router(self.asked, plain, opened.error)
        self._segmenter: Segmenter | None = None
        self._own_masks = False
        if isinstance(opened.segmenter, Bundle):
            self._segmenter = segmenter_of(opened.segmenter, graph_engine(engine))
            self._own_masks = opened.segmenter.path == opened.detector.path
        elif opened.segmenter is not None:
            self._segmenter = ClassicalSegmenter()
        self._flags = (SYNTHETIC,) if card.trained_on == "synthetic" else ()
        by = opened.segmenter.card.trained_on if isinstance(opened.segmenter, Bundle) else "real"
        self._measured_flags = (SYNTHETIC,) if by == "synthetic" else ()

    def ratio(self, width: int, height: int, scale: Scale | None) -> float | None:
        """See `Detector.ratio`; what is asked of cells needs every pixel of them."""
        if self.asked or self._segmenter is not None:
            return None
        return self.detector.ratio(width, height, scale)

    def run(
        self,
        fields: Sequence[Image],
        names: Sequence[tuple[str, str]],
        scales: Sequence[Scale | None] | None = None,
    ) -> list[Cells]:
        """Cells of each field.

        Args:
            fields: pictures; those of one shape in the detector run as one batch.
            names: (slide, field id) of each. scales: how large cells are in each, see `Detector.predict`.
        """
        found = self.detector.predict(fields, scales)
        answers = self._router.run(fields, found)
        known: Sequence[Scale | None] = scales if scales is not None else [None] * len(fields)
        out = []
        for i, ((slide, field), pixels, detections) in enumerate(zip(names, fields, found, strict=True)):
            measured = self._measured(pixels, detections, known[i])
            records = self._records(slide, field, pixels, detections, answers[i], measured)
            out.append(Cells(records, detections.capped))
        return out

    def _measured(self, pixels: Image, found: Detections, scale: Scale | None) -> dict[int, dict[str, float]]:
        """The form of white cells by their position, where the pipeline asks for it.

        Of a cell that the field's border cuts, size, N:C ratio and outline are those of what is left: it has none.
        """
        if self._segmenter is None:
            return {}
        names = self.detector.classes.names
        height, width = pixels.shape[:2]
        white = [
            j
            for j in range(len(found))
            if taxonomy().is_a(names[found.labels[j]], "WBC") and not at_border(box(found, j), width, height)
        ]
        unit = scale.um_per_px if scale is not None and scale.sure else None
        if self._own_masks and isinstance(self._segmenter, MaskSegmenter):
            self._segmenter.take(pixels, found)
        each = self._segmenter.parts(pixels, [box(found, j) for j in white], scale)
        return {j: measure(parts, unit) for j, parts in zip(white, each, strict=True)}

    def _records(
        self,
        slide: str,
        field: str,
        pixels: Image,
        found: Detections,
        answers: Mapping[int, Answer],
        measured: Mapping[int, Mapping[str, float]],
    ) -> tuple[CellRecord, ...]:
        height, width = pixels.shape[:2]
        records = []
        for j in range(len(found)):
            place = box(found, j)
            answer = answers.get(j, Answer())
            flags = ("border",) if at_border(place, width, height) else ()
            by = self._measured_flags if j in measured else ()
            records.append(
                CellRecord(
                    slide=slide,
                    field=field,
                    cell=j,
                    box=place,
                    label=self.detector.classes.names[found.labels[j]],
                    score=float(found.scores[j]),
                    type=answer.type,
                    type_score=answer.sure,
                    probabilities=answer.probabilities,
                    candidates=answer.candidates,
                    attributes=measured.get(j, {}),
                    flags=tuple(dict.fromkeys((*flags, *self._flags, *answer.flags, *by))),
                    mask=found.masks[j] if found.masks is not None else None,
                )
            )
        return tuple(records)
