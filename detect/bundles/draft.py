"""What every export shares: what a person says of a bundle, and the folder that it goes into."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detect.bundles.card import CARD, TrainedOn
from detect.bundles.folder import sha256
from detect.config import Settings
from detect.data.cards import Card as DataCard
from detect.errors import StoreError

INTENDED_USE = (
    "Research on blood smear morphology. Nothing it gives is a diagnosis; every result needs a trained person's eye."
)


@dataclass(frozen=True)
class Description:
    """What a person writes on a card: the rest is measured."""

    name: str
    title: str
    licence: str
    limits: tuple[str, ...] = ()


def trained_on(cards: Sequence[DataCard], before: Iterable[TrainedOn] = ()) -> TrainedOn:
    """Real cells, drawn ones, or both.

    Args:
        before: what that which it began with was trained on.
    """
    kinds: set[TrainedOn] = {"synthetic" if card.synthetic else "real" for card in cards}
    kinds |= set(before)
    return "real and synthetic" if len(kinds) > 1 else kinds.pop()


def settings_told(settings: Settings) -> dict[str, Any]:
    """Settings for a card, which may be published: a file or bundle that they name by its path stands by its own name
    and its SHA-256, for the path says nothing on another machine."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: told(v) for k, v in value.items()}
        if isinstance(value, list):
            return [told(v) for v in value]
        if not isinstance(value, str) or Path(value).name == value:
            return value
        path = Path(value)
        file = path / CARD if (path / CARD).is_file() else path
        if file.is_file():
            return f"{path.name}, sha256 {sha256(file)}"
        return path.name if path.is_absolute() else value

    return {k: told(v) for k, v in settings.model_dump(mode="json").items()}


def check_folder(out: Path, overwrite: bool) -> None:
    """StoreError where a bundle may not be written: something is in the folder already."""
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise StoreError("the folder is not empty", where=str(out), remedy="name another, or pass --overwrite")
        if not (out / CARD).is_file():
            raise StoreError("not a bundle, so it is not overwritten", where=str(out), remedy="name another folder")


def prepare_folder(out: Path, overwrite: bool) -> None:
    """An empty folder to write a bundle into; StoreError where there is something in it already."""
    check_folder(out, overwrite)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
