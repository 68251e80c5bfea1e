"""Losses of torchvision's detectors that ask nothing of what is not labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from detect.detectors.inputs import Target
from detect.errors import MissingExtraError

try:
    import torch
    import torchvision
    from torch.nn import functional as F
    from torchvision.models.detection import fcos, retinanet, roi_heads
except ImportError as error:
    raise MissingExtraError("the torchvision family", "train") from error


@contextmanager
def partial_losses(model: Any, targets: Sequence[Target]) -> Iterator[None]:
    """Losses that ask nothing of what is not labelled; the library has no place for them, so its functions give way.

    - A background place of a field where some classes are not all drawn may hold a cell of these: it only must not be
      one of the classes that are drawn (softmax heads), or is not judged for these classes (sigmoid heads). Its
      objectness is not judged.
    - A cell without a mask gives no mask loss.
    """
    theirs = roi_heads.fastrcnn_loss, roi_heads.maskrcnn_loss, retinanet.sigmoid_focal_loss, fcos.sigmoid_focal_loss
    some = any(t.unlabelled for t in targets)
    assign = model.rpn.assign_targets_to_anchors if hasattr(model, "rpn") else None
    roi_heads.maskrcnn_loss = partial(_mask_loss, theirs[1], targets)
    if some:
        roi_heads.fastrcnn_loss = partial(_box_loss, theirs[0], targets)
        waiting = iter(targets)
        retinanet.sigmoid_focal_loss = lambda *a, **k: _focal([next(waiting)], *a, **k)
        fcos.sigmoid_focal_loss = lambda *a, **k: _focal(targets, *a, **k)
        if assign is not None:
            model.rpn.assign_targets_to_anchors = partial(_anchors, assign, targets)
    try:
        yield
    finally:
        roi_heads.fastrcnn_loss, roi_heads.maskrcnn_loss = theirs[:2]
        retinanet.sigmoid_focal_loss, fcos.sigmoid_focal_loss = theirs[2:]
        if some and assign is not None:
            del model.rpn.assign_targets_to_anchors


def _anchors(assign: Callable[..., Any], targets: Sequence[Target], anchors: Any, given: Any) -> Any:
    """Objectness: -1, not judged, in place of 0, background."""
    labels, boxes = assign(anchors, given)
    for i, target in enumerate(targets):
        if target.unlabelled:
            labels[i] = torch.where(labels[i] == 0, torch.full_like(labels[i], -1), labels[i])
    return labels, boxes


def _box_loss(
    theirs: Callable[..., Any],
    targets: Sequence[Target],
    logits: torch.Tensor,
    regression: torch.Tensor,
    labels: list[torch.Tensor],
    regression_targets: list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Background places count as background or any class that is not all drawn there: the sum of their shares."""
    _, box = theirs(logits, regression, labels, regression_targets)
    losses = []
    for target, own, label in zip(targets, logits.split([len(x) for x in labels]), labels, strict=True):
        logs = F.log_softmax(own.float(), dim=1)
        loss = -logs.gather(1, label[:, None])[:, 0]
        if target.unlabelled:
            may_be = [0, *(k + 1 for k in sorted(target.unlabelled))]
            loss = torch.where(label == 0, -torch.logsumexp(logs[:, may_be], dim=1), loss)
        losses.append(loss)
    return torch.cat(losses).mean(), box


def _mask_loss(
    theirs: Callable[..., Any],
    targets: Sequence[Target],
    logits: torch.Tensor,
    proposals: list[torch.Tensor],
    masks: list[torch.Tensor],
    labels: list[torch.Tensor],
    matched: list[torch.Tensor],
) -> torch.Tensor:
    """The library's, over the places whose cell has a mask."""
    drawn = [torch.from_numpy(t.drawn).to(m.device)[m] for t, m in zip(targets, matched, strict=True)]
    if not any(bool(d.any()) for d in drawn):
        return logits.sum() * 0
    loss: torch.Tensor = theirs(
        logits[torch.cat(drawn)],
        [p[d] for p, d in zip(proposals, drawn, strict=True)],
        masks,
        labels,
        [m[d] for m, d in zip(matched, drawn, strict=True)],
    )
    return loss


def _focal(
    targets: Sequence[Target], logits: torch.Tensor, truth: torch.Tensor, reduction: str = "none", **rest: Any
) -> torch.Tensor:
    """Focal loss, sums, without the classes that are not all drawn in a field, except on their drawn cells."""
    each = torchvision.ops.sigmoid_focal_loss(logits, truth, reduction="none", **rest)
    judged = torch.ones_like(each, dtype=torch.bool)
    for i, target in enumerate(targets):
        columns = [k + 1 for k in sorted(target.unlabelled)]
        if columns:
            of_field = judged[i] if judged.ndim == 3 else judged
            of_field[:, columns] = (truth[i] if truth.ndim == 3 else truth)[:, columns] > 0
    return (each * judged).sum()
