"""What a scored upload comes to, read from its run folders with what people said of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detect import geometry
from detect.bundles.card import Card
from detect.classify.morphology import criteria
from detect.evaluate.intervals import Interval, wilson
from detect.pipeline.run import Opened, open_pipeline
from detect.score import differential, overlaps
from detect.score.record import STATEMENT
from detect.score.store import Store
from detect.taxonomy import UNIDENTIFIED, taxonomy
from detect.web import told
from detect.web.records import Correction, Picture, Records, Upload
from detect.web.scorers import CALLED, run_folder
from detect.web.settings import WebSettings

BLASTS = "Blasts, all kinds"
_SAME = 0.5  # IoU of two sights of one cell by two pipelines
_HEADLINES = 6  # figures of a card that stand beside an answer
_COUNTED = {"WBC": "white cells", "RBC": "red cells", "Platelet": "platelets"}

Key = tuple[int | None, int | None]  # picture and cell that something is said of


def moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def upload_told(upload: Upload, records: Records, settings: WebSettings) -> told.UploadTold:
    """An upload and how far it is."""
    return told.UploadTold(
        id=upload.id,
        state=upload.state,
        title=upload.title,
        fields=upload.fields,
        done=upload.done,
        before=0 if upload.over else records.before(upload),
        why=upload.why,
        created=moment(upload.created),
        deleted=moment(upload.created + settings.keep_hours * 3600),
    )


class Scored:
    """A scored upload.

    Args:
        opened: the bundles of each pipeline.
    """

    def __init__(self, upload: Upload, records: Records, settings: WebSettings, opened: Sequence[Opened]) -> None:
        self.upload, self._settings, self._opened = upload, settings, opened
        self.pictures = {p.number: p for p in records.pictures(upload.id)}
        self._numbers = {p.file: p.number for p in self.pictures.values()}
        self.said: dict[Key, dict[str, Correction]] = {}
        every = records.corrections(upload.id)
        self.words = len(every)  # that people ever said of it
        for _, one in every:
            self.said.setdefault((one.picture, one.cell), {})[one.what] = one

    def store(self, pipeline: int = 0) -> Store:
        """The run of a pipeline."""
        return Store(run_folder(self._settings, self.upload.id, pipeline))

    def path(self, picture: Picture) -> Path:
        """Where its pixels lie."""
        return self._settings.uploads / self.upload.id / "input" / picture.file

    @cached_property
    def fields(self) -> list[told.FieldTold]:
        """Its fields, in their order."""
        out = []
        for row in self.store().fields().to_pylist():
            number = self._numbers[row["field"]]
            out.append(
                told.FieldTold(
                    number=number,
                    name=self.pictures[number].name,
                    status=row["status"],
                    reason=self._named(row["reason"]),
                    width=row["width"],
                    height=row["height"],
                    counts=dict(row["counts"] or ()),
                    quality={k: _short(v) for k, v in row["quality"] or ()},
                    scale=row["scale"],
                    flags=row["flags"] or [],
                    said=_said(self.said.get((number, None), {})),
                )
            )
        return out

    def _named(self, reason: str) -> str:
        """A reason with the names of pictures as they came."""
        same, _, file = reason.rpartition(" ")
        return f"{same} {self.pictures[self._numbers[file]].name}" if file in self._numbers else reason

    def field(self, number: int) -> told.FieldTold:
        """One field; KeyError where there is none."""
        return self._by_number[number]

    @cached_property
    def _by_number(self) -> dict[int, told.FieldTold]:
        return {field.number: field for field in self.fields}

    def cells(self, number: int | None = None, pipeline: int = 0) -> list[told.CellTold]:
        """Cells of one field, or of all, in the order of the results."""
        store = self.store(pipeline)
        elsewhere = overlaps.read(store.out)
        return [self._cell(row, elsewhere) for row in self._rows(store, number)]

    def _rows(self, store: Store, number: int | None) -> Iterator[dict[str, Any]]:
        for table in store.cells():
            if number is not None:
                table = table.filter(pc.equal(table.column("field"), self.pictures[number].file))
            yield from table.to_pylist()

    def _cell(self, row: Mapping[str, Any], elsewhere: Mapping[str, Any]) -> told.CellTold:
        number = self._numbers[row["field"]]
        said = self.said.get((number, row["cell"]), {})
        return told.CellTold(
            field=number,
            cell=row["cell"],
            box=(row["x0"], row["y0"], row["x1"], row["y1"]),
            label=row["label"],
            score=row["score"],
            type=row["type"],
            type_score=row["type_score"],
            probabilities={k: _short(v) for k, v in row["probabilities"] or ()},
            candidates=row["candidates"] or [],
            attributes={k: _short(v) for k, v in row["attributes"] or ()},
            fab=fab_of(row, said),
            flags=row["flags"] or [],
            mask=row["mask"],
            repeated=row["cell"] in elsewhere.get(row["field"], ()),
            said=_said(said),
        )

    def cell(self, number: int, cell: int) -> told.CellTold | None:
        """One cell; None where there is none."""
        return next((c for c in self.cells(number) if c.cell == cell), None)

    @cached_property
    def slide(self) -> differential.Slide:
        """The machine's count."""
        return self._slide(0)

    def _slide(self, pipeline: int) -> differential.Slide:
        return differential.count(self.store(pipeline), types(self._opened[pipeline]))[0]

    def corrected(self) -> tuple[Counter[str], Counter[str]]:
        """White cells of each kind, and what is counted beside them, those that a person named by that name."""
        store, white, beside = self.store(), Counter[str](), Counter[str]()
        elsewhere = overlaps.read(store.out)
        for table in store.cells(("slide", "field", "cell", "label", "type")):
            table = table.filter(overlaps.counted(table, elsewhere))
            columns = (table.column(c).to_pylist() for c in ("field", "cell", "label", "type"))
            for field, cell, label, kind in zip(*columns, strict=True):
                person = self.said.get((self._numbers[field], cell), {}).get("type")
                if person is not None:
                    name, counts = person.value, taxonomy().in_differential(person.value)
                else:
                    name = differential.white_type(label, kind) if taxonomy().is_a(label, "WBC") else label
                    counts = taxonomy().is_a(label, "WBC") and taxonomy().in_differential(name)
                (white if counts else beside)[name] += 1
        return white, beside

    def assessment(self) -> told.Assessment:
        """What the slide comes to."""
        slide, (kinds, others) = self.slide, self.corrected()
        lines = {line.name: line for line in differential.shares(kinds, [n.name for n in slide.differential])}
        names = [line.name for line in slide.differential]
        names = [*(n for n in names if n != UNIDENTIFIED), *(n for n in lines if n not in names), UNIDENTIFIED]
        machine = {line.name: line for line in slide.differential}
        rows = [_line(name, machine.get(name), lines.get(name), slide.white) for name in names]
        blasts = sum(line.count for line in slide.differential if taxonomy().is_a(line.name, "Blast"))
        said = sum(line.count for line in lines.values() if taxonomy().is_a(line.name, "Blast"))
        total = sum(line.count for line in lines.values())
        beside = {line.name: line.count for line in slide.beside}
        counts = {"WBC": slide.white, "RBC": beside.get("RBC", 0), "Platelet": beside.get("Platelet", 0)}
        known = differential.seen(b for opened in self._opened for b in opened.bundles)
        return told.Assessment(
            statement=STATEMENT,
            white=slide.white,
            few=slide.few,
            differential=rows,
            beside=[_beside(name, beside.get(name, 0), others[name]) for name in sorted({*beside, *others})],
            blasts=_line(
                BLASTS,
                differential.Line(BLASTS, blasts, wilson(blasts, slide.white)),
                differential.Line(BLASTS, said, wilson(said, total)),
                slide.white,
            ),
            per_100={n: _short(100 * counts[n] / slide.white) for n in ("RBC", "Platelet") if slide.white},
            per_field={n: _short(counts[n] / slide.fields_ok) for n in counts if slide.fields_ok},
            scale=slide.scale,
            scale_spread=slide.scale_spread,
            scale_unsure=slide.scale_unsure,
            not_seen=differential.not_seen(known),
            synthetic=sorted({name for opened in self._opened for name in opened.drawn}),
            called=[one for k in range(len(self._opened)) for one in self._called(k)],
            models=[one for k in range(len(self._opened)) for one in self._models(k)],
            agreement=[self._agreement(0, k) for k in range(1, len(self._opened))],
            fields_ok=slide.fields_ok,
            fields_failed=slide.fields_failed,
            fields_skipped=slide.fields_skipped,
        )

    def _called(self, pipeline: int) -> list[told.CalledTold]:
        path = run_folder(self._settings, self.upload.id, pipeline) / CALLED
        out = []
        for one in json.loads(path.read_text("utf-8")):
            cells = [(self._numbers[field], cell) for field, cell in one["cells"]]
            share = None if one["share"] is None else one["share"]["value"]
            kept = {key: one[key] for key in ("question", "said", "counted", "by", "trained_on")}
            out.append(told.CalledTold(pipeline=pipeline, share=share, cells=cells, **kept))
        return out

    def _models(self, pipeline: int) -> list[told.ModelTold]:
        """Each model's own answer: what a detector found, how a classifier shares out the cells that it was asked."""
        opened = self._opened[pipeline]
        slide = self._slide(pipeline)
        answers = {opened.detector.card.name: _counts(slide)}
        tables = list(self.store(pipeline).cells(("type", "probabilities")))
        for node in opened.nodes:
            answers[node.bundle.card.name] = _answered(tables, node.bundle.names)
        for one in self._called(pipeline):
            answers.setdefault(one.by, one.said)
        form = "measures the form of white cells"
        return [_model(pipeline, b.card, answers.get(b.card.name, form)) for b in opened.bundles]

    def _agreement(self, one: int, other: int) -> told.AgreementTold:
        """White cells that two pipelines found, field by field, also those that are counted in another field."""
        both = same = only_one = only_other = 0
        seen = [self._white(one), self._white(other)]
        for number in self.pictures:
            here, there = (cells.get(number, []) for cells in seen)
            near = geometry.iou(_boxes(here), _boxes(there))
            free = np.ones(len(there), bool)
            for i, cell in enumerate(here):
                open_to = (near[i] >= _SAME) & free
                if not open_to.any():
                    only_one += 1
                    continue
                j = int(np.argmax(np.where(open_to, near[i], -1)))
                free[j] = False
                both += 1
                same += _kind(cell) == _kind(there[j])
            only_other += int(free.sum())
        return told.AgreementTold(one=one, other=other, both=both, same=same, only_one=only_one, only_other=only_other)

    def _white(self, pipeline: int) -> dict[int, list[told.CellTold]]:
        out: dict[int, list[told.CellTold]] = {}
        for cell in self.cells(pipeline=pipeline):
            if taxonomy().is_a(cell.label, "WBC"):
                out.setdefault(cell.field, []).append(cell)
        return out


def _kind(cell: told.CellTold) -> str:
    return differential.white_type(cell.label, cell.type)


def types(opened: Opened) -> list[str]:
    """Types that the classifiers of a pipeline know."""
    return list(dict.fromkeys(name for node in opened.nodes for name in node.bundle.names))


def open_all(settings: WebSettings) -> list[Opened]:
    """The bundles of every pipeline; ConfigError where they cannot run."""
    return [open_pipeline(scoring.pipeline) for scoring in settings.scorings]


def _boxes(cells: Sequence[told.CellTold]) -> geometry.Boxes:
    return np.asarray([c.box for c in cells], np.float32).reshape(-1, 4)


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def fab_of(row: Mapping[str, Any], said: Mapping[str, Correction]) -> str:
    """FAB's criteria of a cell in words, by what people made of its type and form."""
    told = dict(row["attributes"] or ()) | {k: float(c.value) for k, c in said.items() if k != "type"}
    return criteria(said["type"].value if "type" in said else row["type"], told)


def _said(by_what: Mapping[str, Correction]) -> dict[str, told.Said]:
    return {k: told.Said(machine=c.machine, value=c.value, who=c.who, at=c.at) for k, c in by_what.items()}


def _line(name: str, machine: differential.Line | None, people: differential.Line | None, white: int) -> told.LineTold:
    share: Interval | None = machine.share if machine is not None and white else None
    corrected = people.share if people is not None else None
    count = 0 if machine is None else machine.count
    return told.LineTold(
        name=name,
        count=count,
        share=None if share is None else share.value,
        low=None if share is None else share.low,
        high=None if share is None else share.high,
        corrected=people.count if people is not None else 0,
        corrected_share=None if corrected is None or not np.isfinite(corrected.value) else corrected.value,
    )


def _beside(name: str, machine: int, people: int) -> told.LineTold:
    """What is counted beside a differential, by the machine and as corrected."""
    line = _line(name, differential.Line(name, machine, None), None, 0)
    return line.model_copy(update={"corrected": people})


def _counts(slide: differential.Slide) -> str:
    beside = {line.name: line.count for line in slide.beside}
    counts = {"WBC": slide.white, "RBC": beside.get("RBC", 0), "Platelet": beside.get("Platelet", 0)}
    return ", ".join(f"{_COUNTED[name]} {n}" for name, n in counts.items())


def _answered(tables: Sequence[pa.Table], names: Sequence[str]) -> str:
    """How many cells a classifier gives each of its types, the likeliest of each."""
    best: Counter[str] = Counter()
    for table in tables:
        for chances in table.column("probabilities").to_pylist():
            mine = [(v, k) for k, v in chances or () if k in names]
            if mine:
                best[max(mine)[1]] += 1
    return ", ".join(f"{name} {n}" for name, n in best.most_common()) or "was asked of no cell"


def _model(pipeline: int, card: Card, answer: str) -> told.ModelTold:
    kept = [
        told.MetricTold(**{k: getattr(m, k) for k in told.MetricTold.model_fields}) for m in card.metrics[:_HEADLINES]
    ]
    return told.ModelTold(
        pipeline=pipeline,
        name=card.name,
        title=card.title,
        task=card.task,
        answer=answer,
        trained_on=card.trained_on,
        metrics=kept,
        limits=list(card.limits),
    )
