"""A back end as FiftyOne wants one, that keeps what it is sent in memory and edits it as a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fiftyone.utils.annotations as foua

SENT: dict[str, Any] = {}
EDIT: list[Callable[[dict[str, dict[str, Any]]], None]] = []


class FakeBackendConfig(foua.AnnotationBackendConfig):
    """No settings."""

    def __init__(self, name: str, label_schema: Any, media_field: str = "filepath", **kwargs: Any) -> None:
        super().__init__(name, label_schema, media_field=media_field, **kwargs)


class FakeBackend(foua.AnnotationBackend):
    """Takes detections, and any attribute."""

    supported_media_types = ("image",)
    supported_label_types = ("detections",)
    supported_scalar_types = ()
    supported_attr_types = ("text", "checkbox")
    supports_keyframes = False
    supports_video_sample_fields = False
    requires_label_schema = True

    def recommend_attr_tool(self, name: str, value: Any) -> dict[str, Any]:
        return {"type": "text"}

    def requires_attr_values(self, attr_type: str) -> bool:
        return False

    def _connect_to_api(self) -> None:
        return None

    def upload_annotations(self, samples: Any, anno_key: str, launch_editor: bool = False) -> Any:
        SENT["schema"] = self.config.label_schema
        SENT["labels"] = {s.id: {d.id: d.copy() for d in s.ground_truth.detections} for s in samples}
        for sample in samples:
            for d in sample.ground_truth.detections:
                SENT["labels"][sample.id][d.id]._id = d._id
        ids = {"ground_truth": {s.id: [d.id for d in s.ground_truth.detections] for s in samples}}
        return FakeBackendResults(samples, self.config, anno_key, ids, backend=self)

    def download_annotations(self, results: Any) -> Any:
        for edit in EDIT:
            edit(SENT["labels"])
        return {"ground_truth": {"detections": SENT["labels"]}}


class FakeBackendResults(foua.AnnotationResults):
    """What FiftyOne keeps of a job."""

    @classmethod
    def _from_dict(cls, d: Any, samples: Any, config: Any, anno_key: str) -> Any:
        return cls(samples, config, anno_key, d["id_map"])
