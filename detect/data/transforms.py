"""Our own augmentations, as classes of albumentations. Its other users pickle them, and write them into checkpoints.

Colours: albumentations knows no channel order, and one library that trains hands over BGR. Whatever looks at colour
here has an argument `bgr` for it, which `augment.build` sets.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from albumentations import BasicTransform, DualTransform, ImageOnlyTransform
from albumentations.core.transforms_interface import BaseTransformInitSchema
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray
from pydantic import Field as Key

from detect.images import preprocess, stain
from detect.types import Image

Array = NDArray[Any]


def _swapped(image: Image, bgr: bool) -> Image:
    return np.ascontiguousarray(image[:, :, ::-1]) if bgr else image


class HedJitter(ImageOnlyTransform):  # type: ignore[misc]
    """Jitter of haematoxylin, eosin and DAB (Tellez et al., 2018); see `stain.jitter_hed`. The ground changes too.

    Args:
        alpha, beta: concentrations are times 1 +- `alpha`, plus +- `beta`, drawn evenly for each stain.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        alpha: float = Key(ge=0, lt=1)
        beta: float = Key(ge=0, le=1)
        bgr: bool

    def __init__(self, alpha: float = 0.05, beta: float = 0.05, bgr: bool = False, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.alpha, self.beta, self.bgr = alpha, beta, bgr

    def get_params(self) -> dict[str, Any]:
        """The numbers of one picture."""
        draw = self.random_generator.uniform
        return {"gain": draw(1 - self.alpha, 1 + self.alpha, 3), "shift": draw(-self.beta, self.beta, 3)}

    def apply(self, img: Image, gain: Array, shift: Array, **params: Any) -> Image:
        """One picture."""
        return _swapped(stain.jitter_hed(_swapped(img, self.bgr), gain, shift), self.bgr)


class MacenkoJitter(ImageOnlyTransform):  # type: ignore[misc]
    """Jitter of the picture's own two stains; see `stain.jitter_macenko`. The ground hardly changes.

    Args:
        alpha: concentrations are times 1 +- `alpha`, drawn evenly for each stain.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        alpha: float = Key(ge=0, lt=1)
        bgr: bool

    def __init__(self, alpha: float = 0.2, bgr: bool = False, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.alpha, self.bgr = alpha, bgr

    def get_params(self) -> dict[str, Any]:
        """The numbers of one picture."""
        return {"gain": self.random_generator.uniform(1 - self.alpha, 1 + self.alpha, 2)}

    def apply(self, img: Image, gain: Array, **params: Any) -> Image:
        """One picture."""
        return _swapped(stain.jitter_macenko(_swapped(img, self.bgr), gain), self.bgr)


class _Preprocessing(ImageOnlyTransform):  # type: ignore[misc]
    """A step of `preprocess.STEPS`, the one of the class's name, done now and then.

    Args:
        args: of the step, fitted.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        args: dict[str, Any] | None
        bgr: bool

    def __init__(self, args: dict[str, Any] | None = None, bgr: bool = False, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.args, self.bgr = args or {}, bgr
        name = type(self).__name__
        self._operation = preprocess.operation(preprocess.Step(name=name, args=self.args), "augment")

    def apply(self, img: Image, **params: Any) -> Image:
        """One picture."""
        return _swapped(self._operation.apply(_swapped(img, self.bgr)), self.bgr)


class Macenko(_Preprocessing):
    """Stain normalization, now and then."""


class Reinhard(_Preprocessing):
    """Colour normalization, now and then."""


class CorrectIllumination(_Preprocessing):
    """Even light, now and then."""


class MedianDenoise(_Preprocessing):
    """Median filter, now and then."""


class GaussianDenoise(_Preprocessing):
    """Gaussian blur, now and then."""


class Unsharp(_Preprocessing):
    """Unsharp mask, now and then."""


class AdaptiveUnsharp(_Preprocessing):
    """Adaptive unsharp mask, now and then."""


class LogHighBoost(_Preprocessing):
    """High boost, now and then."""


class ColourSpace(_Preprocessing):
    """Another colour space, now and then."""


class MixUp(DualTransform):  # type: ignore[misc]
    """Two pictures laid over each other, with the cells of both (Zhang et al., mixup, ICLR 2018, and Bag of Freebies
    for Training Object Detection, arXiv 1902.04103).

    The other picture is one of a list of mappings that the caller hands over under `metadata_key`, each with `image`
    and, as far as the caller's own picture has them, `bboxes` with their label fields, `mask` and `masks`. It is
    scaled to fit inside, and where it does not reach, the picture stays as it is. Transforms that stand before this
    one do not change it. An empty list changes nothing.

    Boxes and `masks` (n, h, w) of the other follow the picture's own; whoever numbers masks in a label field has to
    number the other's onwards. Of the single `mask`, where both have a value, the picture's own is kept.

    Args:
        alpha: the picture's own share is drawn from Beta(alpha, alpha): 32 is near a half, 1 is anything.
        metadata_key: name of the list.
    """

    _targets = (Targets.IMAGE, Targets.MASK, Targets.BBOXES)

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        alpha: float = Key(gt=0)
        metadata_key: str

    def __init__(self, alpha: float = 32.0, metadata_key: str = "mixup_metadata", p: float = 0.5) -> None:
        super().__init__(p=p)
        self.alpha, self.metadata_key = alpha, metadata_key

    @property
    def targets_as_params(self) -> list[str]:
        """What a caller has to hand over."""
        return [self.metadata_key]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The other picture, and the share of the caller's own."""
        others = data[self.metadata_key]
        if len(others) == 0:
            return {"other": None}
        other = others[int(self.random_generator.integers(len(others)))]
        place = _Place(other["image"].shape, data["image"].shape)
        return {
            "other": other,
            "place": place,
            "boxes": self._boxes(other, place) if "bboxes" in data else None,
            "share": float(self.random_generator.beta(self.alpha, self.alpha)),
        }

    def apply(
        self, img: Image, other: dict[str, Any] | None, place: Any = None, share: float = 1.0, **params: Any
    ) -> Image:
        """The picture over the other."""
        if other is None:
            return img
        out = img.copy()
        inside = out[place.rows, place.columns]
        under = place.scaled(other["image"], cv2.INTER_AREA if place.scale < 1 else cv2.INTER_LINEAR)
        cv2.addWeighted(inside, share, under, 1 - share, 0, dst=under)
        out[place.rows, place.columns] = under
        return out

    def apply_to_mask(self, mask: Array, other: dict[str, Any] | None, place: Any = None, **params: Any) -> Array:
        """The picture's own values, and the other's where it has none."""
        if other is None or other.get("mask") is None:
            return mask
        under = place.placed(other["mask"])
        return np.where(mask == 0, under.reshape(mask.shape), mask)

    def apply_to_masks(self, masks: Array, other: dict[str, Any] | None, place: Any = None, **params: Any) -> Array:
        """The picture's own masks, then the other's."""
        if other is None or len(other.get("masks", ())) == 0:
            return masks
        under = [place.placed(np.asarray(mask, masks.dtype)) for mask in other["masks"]]
        return np.concatenate([masks, np.stack(under)])

    def apply_to_bboxes(self, bboxes: Array, boxes: Array | None = None, **params: Any) -> Array:
        """The picture's own boxes, then the other's."""
        if boxes is None or len(boxes) == 0:
            return bboxes
        return np.concatenate([bboxes, boxes]) if len(bboxes) else boxes

    def _boxes(self, other: dict[str, Any], place: _Place) -> Array | None:
        """The other's boxes in fractions of the caller's picture, with their encoded labels."""
        processor = self.get_processor("bboxes")
        if other.get("bboxes") is None or len(other["bboxes"]) == 0:
            return None
        known = {key: other[key] for key in ("image", "bboxes", *(processor.params.label_fields or ()))}
        processor.preprocess(known)  # as Mosaic does: it takes up labels that the caller's picture does not have
        boxes = np.array(known["bboxes"])
        boxes[:, :4] = boxes[:, :4] * place.part + place.corner
        return boxes


class _Place:
    """Where a picture of one shape lies when it is scaled to fit into another, in the middle."""

    def __init__(self, inner: tuple[int, ...], outer: tuple[int, ...]) -> None:
        self.outer = outer
        self.scale = min(outer[0] / inner[0], outer[1] / inner[1])
        height, width = (min(o, max(1, round(i * self.scale))) for o, i in zip(outer[:2], inner[:2], strict=True))
        top, left = (outer[0] - height) // 2, (outer[1] - width) // 2
        self.rows, self.columns = slice(top, top + height), slice(left, left + width)
        self.size = (width, height)
        self.part = np.array([width / outer[1], height / outer[0]] * 2)
        self.corner = np.array([left / outer[1], top / outer[0]] * 2)

    def scaled(self, picture: Array, interpolation: int) -> Array:
        """The picture at the size that it has there."""
        if picture.shape[1::-1] == self.size:
            return picture.copy()
        return np.asarray(cv2.resize(picture, self.size, interpolation=interpolation))

    def placed(self, mask: Array) -> Array:
        """A mask in the larger shape, 0 around."""
        out = np.zeros((*self.outer[:2], *mask.shape[2:]), mask.dtype)
        scaled = self.scaled(mask, cv2.INTER_NEAREST)
        out[self.rows, self.columns] = scaled.reshape(scaled.shape[:2] + mask.shape[2:])
        return out


OURS: dict[str, type[BasicTransform]] = {
    "HedJitter": HedJitter,
    "MacenkoJitter": MacenkoJitter,
    "MixUp": MixUp,
    "Macenko": Macenko,
    "Reinhard": Reinhard,
    "CorrectIllumination": CorrectIllumination,
    "MedianDenoise": MedianDenoise,
    "GaussianDenoise": GaussianDenoise,
    "Unsharp": Unsharp,
    "AdaptiveUnsharp": AdaptiveUnsharp,
    "LogHighBoost": LogHighBoost,
    "ColourSpace": ColourSpace,
}
