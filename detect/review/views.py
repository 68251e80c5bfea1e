"""What an annotator sees first: saved views, a workspace, and the panels of FiftyOne filled from our own matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detect.evaluate.breakdown import Kind
from detect.review.database import reached
from detect.review.documents import FOUND, KEY, TRUTH
from detect.review.doubt import Doubt
from detect.review.judge import MISSING, Outcome
from detect.review.next import label_next
from detect.review.open import INFO
from detect.review.snapshot import Snapshot
from detect.taxonomy import taxonomy

WORKSPACE = "review"
UNSURE = 0.5  # a detection or a type below it is of low confidence
DOUBTFUL = 0.5  # a label from here on is probably wrong
RARE = 0.02  # a class with a smaller share of the cells is rare
_CONFUSIONS = 5  # the most frequent ones, a view each
_FREQUENT = 2  # of them, those that happened at least so often


def furnish(dataset: Any, snapshot: Snapshot, outcome: Outcome | None) -> list[str]:
    """Save the views, the workspace and the evaluation; returns the names of the views, in the order of use.

    Args:
        outcome: None where there are no predictions.
    """
    with reached():
        if outcome is not None:
            _rank_next(dataset, outcome)
            _register(dataset, outcome)
        views = {**(_of_predictions(dataset, outcome) if outcome is not None else {}), **_of_labels(dataset, snapshot)}
        # Views of an annotator's own stay, and those of predictions while there are no new ones.
        ours = dataset.info[INFO].get("views", [])
        stale = set(ours if outcome is not None else views) & set(dataset.list_saved_views())
        for name in stale:
            dataset.delete_saved_view(name)
        for name, (view, told) in views.items():
            dataset.save_view(name, view, description=told, overwrite=True)
        kept = list(dict.fromkeys([*views, *(n for n in ours if outcome is None)]))
        dataset.info[INFO] = {**dataset.info[INFO], "views": kept}
        dataset.save()
        dataset.save_workspace(WORKSPACE, _workspace(outcome is not None), overwrite=True)
        return list(views)


Views = Mapping[str, tuple[Any, str]]


def _of_predictions(dataset: Any, outcome: Outcome) -> Views:
    from fiftyone import ViewField as F

    white = _white([*outcome.drawn, *(found for _, found in outcome.confusions)])
    kinds = [str(Kind.BACKGROUND), str(Kind.WRONG_CLASS), str(Kind.MISPLACED), str(Kind.MISPLACED_WRONG_CLASS)]

    def cells(side: str, what: Any, by: str, told: str, *, falling: bool = True) -> tuple[Any, str]:
        view = dataset.filter_labels(side, what).to_patches(side)
        return view.sort_by(f"{side}.{by}", reverse=falling), told

    is_white = F("label").is_in(white)
    views = {
        "missed white cells": cells(
            TRUTH, is_white & (F("error") == str(Kind.MISSED)), "size_px", "drawn, and found by nothing"
        ),
        "false white cells": cells(
            FOUND, is_white & F("error").is_in(kinds), "confidence", "found, and no cell of that class is drawn there"
        ),
        "badly placed": cells(
            FOUND,
            F("error") == str(Kind.MISPLACED),
            "confidence",
            "overlaps a cell of its class by an IoU of 0.1 to 0.5",
        ),
        "doubles": cells(FOUND, F("error") == str(Kind.DOUBLE), "confidence", "a better detection met the same cell"),
        "low confidence": cells(FOUND, F("confidence") < UNSURE, "confidence", f"score below {UNSURE}", falling=False),
        "unidentified": cells(
            FOUND,
            F("unsure").is_in([True]),
            "confidence",
            "the classifier would not say, or not all; see its candidates",
        ),
        "missed cells of any class": cells(
            TRUTH, F("error") == str(Kind.MISSED), "size_px", "drawn, and found by nothing"
        ),
        "probable label errors": cells(
            TRUTH,
            F("doubt") >= DOUBTFUL,
            "doubt",
            "the model contradicts the label, its place, or that there is a cell",
        ),
        "probably not drawn": cells(FOUND, F("doubt") >= DOUBTFUL, "doubt", "the model sees a cell that nobody drew"),
        "drawn twice": cells(TRUTH, F("doubt_of") == str(Doubt.TWICE), "doubt", "two boxes around one cell"),
        "what to label next": (
            dataset.match(F("label_next") != None).sort_by("label_next"),  # noqa: E711
            "fields the model is unsure of, unlike each other",
        ),
        "most errors first": (
            dataset.match((F("missed") + F("false")) > 0)
            .sort_by("false", reverse=True)
            .sort_by("missed", reverse=True),
            "fields with missed or false cells",
        ),
    }
    for (drawn, found), n in outcome.confusions.most_common(_CONFUSIONS):
        if n >= _FREQUENT:
            wrong = (F("error") == str(Kind.WRONG_CLASS)) & (F("meets") == drawn) & (F("label") == found)
            told = f"{n} cells drawn as {drawn} and found as {found}"
            views[f"wrong type: {drawn} as {found}"] = cells(FOUND, wrong, "confidence", told)
    return views


def _of_labels(dataset: Any, snapshot: Snapshot) -> Views:
    from fiftyone import ViewField as F

    views: dict[str, tuple[Any, str]] = {}
    counts = dataset.count_values(f"{TRUTH}.detections.label")
    rare = sorted(name for name, n in counts.items() if n < RARE * sum(counts.values()))
    if rare:
        view = dataset.filter_labels(TRUTH, F("label").is_in(rare)).to_patches(TRUTH)
        views["rare classes"] = (view, f"{', '.join(rare)}: each below {RARE:.0%} of the cells")
    if dataset.match(F(f"{TRUTH}.detections").filter(F("machine") == True).length() > 0).limit(1).count():  # noqa: E712
        made = F("machine") & ~F("tags").contains("confirmed")
        view = dataset.filter_labels(TRUTH, made).to_patches(TRUTH)
        views["made by a machine"] = (view, "not exported until a person tags them 'confirmed' or edits them")
    groups = dataset.count_values("group")
    several = [g for g, n in groups.items() if g is not None and n > 1]
    if several:
        view = dataset.match(F("group").is_in(several)).sort_by("group")
        views["near duplicates"] = (view, f"{len(several)} groups of pictures that show the same cells")
    empty = dataset.match(F(f"{TRUTH}.detections").length() == 0)
    if empty.limit(1).count():
        views["fields without a cell"] = (empty, "labelled, but empty")
    return views


def _white(names: Sequence[str]) -> list[str]:
    """Those of the names that are white cells, and white cells of the taxonomy that may be among predictions."""
    tree = taxonomy()
    known = [label.name for label in tree.labels if tree.is_a(label.name, "WBC")]
    return list(dict.fromkeys([*(n for n in names if tree.is_a(n, "WBC")), *known]))


def _rank_next(dataset: Any, outcome: Outcome) -> None:
    from detect.review import documents

    ids, unsure, features = zip(*outcome.described, strict=True) if outcome.described else ((), (), ())
    ranked = {ids[i]: rank for rank, i in enumerate(label_next(unsure, features), 1)}
    before = dataset.exists("label_next").values("id")
    stale = [i for i in ids if str(i) in set(before) and i not in ranked]
    documents.update(dataset, ((i, {"label_next": ranked.get(i)}) for i in [*ranked, *stale]))


def _register(dataset: Any, outcome: Outcome) -> None:
    """Our matches as an evaluation run of FiftyOne: its panel draws the confusion matrix and counts from them."""
    from detect.review.evaluation import SmearEvaluationConfig, results

    config = SmearEvaluationConfig(FOUND, TRUTH, iou=0.5, classwise=False)
    method = config.build()
    method.register_run(dataset, KEY, overwrite=True, cleanup=False)  # cleaning up would take our fields
    method.save_run_results(dataset, KEY, results(dataset, config, outcome.matches, MISSING, method))


def _workspace(judged: bool) -> Any:
    import fiftyone as fo

    samples = fo.Panel(type="Samples", pinned=True)
    histograms = fo.Panel(type="Histograms", state={"plot": "Labels"})
    curves = fo.Panel(type="smear_precision_recall")
    panels = [fo.Panel(type="model_evaluation_panel_builtin"), curves, histograms] if judged else [histograms]
    return fo.Space(
        children=[
            fo.Space(children=[samples], active_child=samples.component_id),
            fo.Space(children=panels, active_child=panels[0].component_id),
        ],
        sizes=[0.6, 0.4],
        orientation="horizontal",
    )
