"""Smaller bundles that answer the same, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.bundles.card import CARD, GRAPH, WEIGHTS, Card
from detect.bundles.folder import Bundle, beside, check_hashes, write_card
from detect.config import load
from detect.errors import BundleError

FULL, HALF = np.dtype(np.float32), np.dtype(np.float16)


def pack(bundle: Bundle, *, graph_only: bool = False) -> int:
    """Keep weights in half precision where no bit of them is lost, or leave them out; returns the bytes saved.

    YOLO's checkpoints are of half precision to begin with, so that the weights of a detector lose nothing. Where some
    would, the file stays as it is. Bundles beside it that hold its card's hash are told the new one.

    Args:
        graph_only: leave the weights out. The caller has seen that the graph answers as they do.

    Raises:
        BundleError: graph_only, and there is no graph.
    """
    if WEIGHTS not in bundle.card.files:
        return 0
    if graph_only and GRAPH not in bundle.card.files:
        raise BundleError("no graph, only weights", where=str(bundle.path), remedy="drop --graph-only")
    before = bundle.weights.stat().st_size
    fused = _that_hold(bundle)
    if graph_only:
        bundle.weights.unlink()
    elif not _halved(bundle.weights):
        return 0
    write_card(bundle.card, bundle.path)
    for path, card in fused:
        write_card(card, path)
    return before - (0 if graph_only else bundle.weights.stat().st_size)


def _that_hold(bundle: Bundle) -> list[tuple[Path, Card]]:
    """Bundles beside one that vouch for its card as it is."""
    out = []
    for path in sorted(p.parent for p in bundle.path.resolve().parent.glob(f"*/{CARD}")):
        card = load(Card, path / CARD)
        if f"../{bundle.path.resolve().name}/{CARD}" in beside(card):
            check_hashes(card, path)  # its card is written anew, and must not bless altered files
            out.append((path, card))
    return out


def _halved(path: Path) -> bool:
    """Whether a file of weights was written anew, as half precision without a loss."""
    from safetensors.numpy import load_file, save_file  # comes with the extra `train`

    tensors = load_file(path)
    full = [v for v in tensors.values() if v.dtype == FULL]
    if not full or not all(map(_same, full)):
        return False
    partial = path.with_name(f".{path.name}.partial")
    save_file({k: v.astype(HALF) if v.dtype == FULL else v for k, v in tensors.items()}, partial)
    partial.replace(path)
    return True


def _same(values: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(HALF).astype(FULL), values))
