"""Our matches as FiftyOne's Model Evaluation panel reads them. It finds these classes by their names."""

from __future__ import annotations

from typing import Any

from fiftyone.utils.eval.detection import DetectionEvaluation, DetectionEvaluationConfig, DetectionResults

from detect.errors import ConfigError


class SmearEvaluationConfig(DetectionEvaluationConfig):
    """Greedy by score within a class at IoU 0.5, as `evaluate` matches; then wrong classes at one place."""

    @property
    def method(self) -> str:
        """Shown in the panel."""
        return "smear"


class SmearEvaluation(DetectionEvaluation):
    """Only a name: matching is done by `judge`, before FiftyOne is asked."""

    def evaluate(self, doc: Any, eval_key: str | None = None) -> Any:
        """Refused: it would match by another rule than ours."""
        raise ConfigError("this evaluation is made by 'smear review open --predictions'")


def results(dataset: Any, config: Any, matches: list[tuple[Any, ...]], missing: str, method: Any) -> DetectionResults:
    """matches: (drawn, found, IoU, score, id drawn, id found), None where there is no other side."""
    names = {label for match in matches for label in match[:2] if label is not None}
    return DetectionResults(dataset, config, "smear", matches, classes=sorted(names), missing=missing, backend=method)
