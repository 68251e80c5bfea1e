"""Losses of ultralytics' YOLO that are fed in full precision and ask nothing of what is not labelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detect.errors import MissingExtraError

try:
    import torch
    from torch.nn import functional
except ImportError as error:
    raise MissingExtraError("the ultralytics family", "train") from error


def judge_the_rest(update: Callable[..., None], unjudged: frozenset[int], preds: Any, batch: Any) -> None:
    """Measure dev, on which the best epoch is chosen, without the classes of which not every cell is drawn there."""

    def kept(labels: torch.Tensor) -> torch.Tensor:
        return ~torch.isin(labels.flatten(), torch.tensor(sorted(unjudged), device=labels.device))

    found = [{k: v[kept(p["cls"])] for k, v in p.items()} for p in preds]
    rows = kept(batch["cls"])
    update(found, batch | {k: batch[k][rows] for k in ("cls", "bboxes", "batch_idx")})


class Loss:
    """A criterion that is fed in full precision, and asks nothing of what is not labelled.

    Under autocast bf16 holds a box corner to two pixels only.

    Args:
        unlabelled: by stem of a field's file, the classes of which not every cell is drawn there.
    """

    def __init__(self, criterion: Any, unlabelled: Mapping[str, frozenset[int]]) -> None:
        self._criterion = criterion
        self._unlabelled = unlabelled
        self._bce = _Bce()
        if unlabelled:
            for one in _losses(criterion):
                one.bce = self._bce

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while being copied it has no criterion yet
            raise AttributeError(name)
        return getattr(self._criterion, name)

    def __call__(self, preds: Any, batch: Any) -> Any:
        if self._unlabelled:
            self._bce.taught = self._taught(batch)
        with torch.autocast(batch["img"].device.type, enabled=False):
            return self._criterion(as_float(preds), batch)

    def _taught(self, batch: Any) -> torch.Tensor:
        files = batch["im_file"]
        taught = torch.ones((len(files), 1, _losses(self._criterion)[0].nc))
        for row, file in enumerate(files):
            for label in self._unlabelled.get(Path(file).stem, ()):
                taught[row, 0, label] = 0
        return taught.to(batch["img"].device)


def _losses(criterion: Any) -> list[Any]:
    """The criterion, or of a model with two heads that of each."""
    return [criterion.one2many, criterion.one2one] if hasattr(criterion, "one2many") else [criterion]


class _Bce:
    """The classification loss of each place and class; 0 where a class is not taught and no drawn cell was assigned."""

    taught: torch.Tensor

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return loss * torch.where(target > 0, 1.0, self.taught)


def as_float(value: Any) -> Any:
    """Tensors in full precision, however they are nested."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: as_float(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(as_float(v) for v in value)
    return value
