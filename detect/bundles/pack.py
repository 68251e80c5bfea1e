"""Smaller bundles that answer the same, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.bundles.card import CARD, GRAPH, MEMBERS, WEIGHTS, Card
from detect.bundles.folder import Bundle, sha256
from detect.config import dump, load
from detect.errors import BundleError, MissingExtraError, SmearError, StoreError

FULL, HALF = np.dtype(np.float32), np.dtype(np.float16)


def pack(bundle: Bundle, *, graph_only: bool = False) -> int:
    """Keep weights in half precision where no bit of them is lost, or leave them out; returns the bytes saved.

    YOLO's checkpoints are of half precision to begin with, so that the weights of a detector lose nothing. Where some
    would, the file stays as it is. Bundles that vouch for this one by its card's hash are told the new one.

    Args:
        graph_only: leave the weights out. The caller has seen that the graph answers as they do.

    Raises:
        BundleError: graph_only, and there is no graph. StoreError: it cannot be written to; then it is as it was.
        MissingExtraError: the extra `train`, which reads weights, is not installed.
    """
    if WEIGHTS not in bundle.card.files:
        return 0
    if graph_only and GRAPH not in bundle.card.files:
        raise BundleError("no graph, only weights", where=str(bundle.path), remedy="drop --graph-only")
    before = bundle.weights.stat().st_size
    made: dict[Path, Path] = {}  # what takes whose place, once all of it is written
    try:
        smaller = None if graph_only else _halved(bundle.weights)
        if smaller is None and not graph_only:
            return 0
        files = {k: v for k, v in bundle.card.files.items() if k != WEIGHTS}
        if smaller is not None:
            made[smaller] = bundle.weights
            files[WEIGHTS] = sha256(smaller)
        own = _written(bundle.card, files, bundle.path)
        made[own] = bundle.path / CARD
        for path, card, name in _that_vouch(bundle):
            made[_written(card, {**card.files, name: sha256(own)}, path)] = path / CARD
        saved = before - (0 if smaller is None else smaller.stat().st_size)
        for new, old in made.items():
            new.replace(old)
        if graph_only:
            bundle.weights.unlink()
    except OSError as error:
        for new in made:
            with suppress(OSError):
                new.unlink(missing_ok=True)
        what = f"cannot be written to: {error.strerror}"
        raise StoreError(what, where=str(bundle.path), remedy="make room, or give back the permission") from error
    return saved


def _that_vouch(bundle: Bundle) -> list[tuple[Path, Card, str]]:
    """Bundles that hold the hash of one's card as it is: their folder, card, and the name that they hold it by."""
    home = bundle.path.resolve()
    given = [(path, f"../{home.name}/{CARD}") for path in sorted(home.parent.glob(f"*/{CARD}"))]
    if home.parent.name == MEMBERS:
        given.append((home.parent.parent / CARD, f"{MEMBERS}/{home.name}/{CARD}"))
    out = []
    for path, name in given:
        with suppress(SmearError, OSError):  # what cannot be read is no bundle of ours, and stays as it is
            card = load(Card, path)
            if card.files.get(name) == bundle.hash:
                out.append((path.parent, card, name))
    return out


def _written(card: Card, files: Mapping[str, str], folder: Path) -> Path:
    """A card with other hashes, beside its place."""
    partial = folder / f"{CARD}.partial"
    partial.write_text(dump(card.model_copy(update={"files": dict(files)})), "utf-8")
    return partial


def _halved(path: Path) -> Path | None:
    """Weights as half precision without a loss, beside their place; None where some bit would be lost."""
    try:
        from safetensors.numpy import load_file, save_file
    except ImportError:
        raise MissingExtraError("reading weights", "train") from None
    tensors = load_file(path)
    full = [v for v in tensors.values() if v.dtype == FULL]
    if not full or not all(map(_same, full)):
        return None
    partial = path.with_name(f"{path.name}.partial")
    save_file({k: v.astype(HALF) if v.dtype == FULL else v for k, v in tensors.items()}, partial)
    partial.chmod(path.stat().st_mode & 0o777)  # the library leaves it to its owner alone
    return partial


def _same(values: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(HALF).astype(FULL), values))
