"""What a table measures of a detector, with the keys of what it rests on: evaluations stand when the bundle is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detect.bundles.card import GRAPH
from detect.bundles.folder import Bundle
from detect.data.cards import load_card
from detect.data.fingerprint import fingerprint
from detect.detectors.evaluate import Asked, evaluate
from detect.detectors.train import split_parts
from detect.evaluate.align import align
from detect.evaluate.saved import METRICS, TRUTH, has, load_json, pack, save_truth
from detect.formats.tally import Tally
from detect.runtime.base import FRAMEWORK, EngineSettings
from detect.tables import keys
from detect.tables.keys import ABOUT, KEY
from detect.tables.settings import DetectorTable, LabTable
from detect.types import ClassMap

Progress = Callable[[str], None]


class Measurer:
    """Measures bundles on parts of a table's set.

    Args:
        keep_stale: take figures that rest on something that has changed.
    """

    def __init__(self, table: DetectorTable | LabTable, keep_stale: bool, say: Progress) -> None:
        self.table, self.keep_stale, self.say = table, keep_stale, say

    def measure(self, bundle: Bundle, folder: Path, parts: Mapping[str, str], make: bool) -> bool:
        """Have the evaluations; whether all are there."""
        table = self.table
        about = {"family": str(bundle.card.architecture.get("family")), **of_bundle(bundle)}
        for place, split in parts.items():
            engine, key = self._measuring(about, split)
            if (folder / place / METRICS).is_file() and keys.read(folder / place / KEY) == key:
                continue
            if not make:
                return False
            self.say(f"measuring {bundle.card.name}, {place}")
            asked = Asked(table.part, split, engine=engine, rounds=table.rounds, seed=table.seed)
            partial = folder / f"{place}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            evaluate(bundle, load_card(table.data), partial, asked, tally=Tally())
            pack(partial)
            keys.write(partial / KEY, key)
            keys.remove(folder / place)
            partial.rename(folder / place)
        return True

    def stands(self, folder: Path, parts: Mapping[str, str]) -> tuple[str, ...] | None:
        """What has changed since a row whose bundle is gone was measured; None where a figure is missing or stale."""
        about = keys.read(folder / ABOUT)
        if about is None or "hash" not in about:
            return None
        changed = False
        for place, split in parts.items():
            if not (folder / place / METRICS).is_file() or not self._truth(folder / place, about["names"], split):
                return None
            changed |= keys.read(folder / place / KEY) != self._measuring(about, split)[1]
        if changed and not self.keep_stale:
            return None
        return ("measurement",) if changed else ()

    def _truth(self, folder: Path, names: Sequence[str], split: str) -> bool:
        """Have what the set says beside what was found in it; whether it is still the same set."""
        if has(folder, TRUTH):
            return True
        told = load_json(folder / METRICS)
        part, *_ = split_parts(load_card(self.table.data), split, None, Tally(), self.table.part)
        if fingerprint(part) != told["fingerprint"]:
            return False
        info = {key: told[key] for key in ("data", "split", "part", "fingerprint")}
        with TemporaryDirectory(prefix=".", dir=folder) as made:  # others may read the folder, and write the same
            save_truth(align(part, ClassMap(tuple(names))), Path(made), info)
            pack(Path(made))
            for path in Path(made).iterdir():
                path.replace(folder / path.name)
        return True

    def _measuring(self, about: Mapping[str, Any], split: str) -> tuple[EngineSettings, dict[str, str]]:
        """By which engine a bundle is measured on a split, and what that rests on.

        Args:
            about: hash, family, whether it has a graph.
        """
        table = self.table
        engine = (EngineSettings() if about["graph"] else EngineSettings(FRAMEWORK)).resolved()
        told = {"engine": [engine.name, engine.precision], "rounds": table.rounds, "seed": table.seed}
        return engine, keys.measuring_key(about["hash"], about["family"], table.data, split, table.part, told)


def of_bundle(bundle: Bundle) -> dict[str, Any]:
    """What figures need to know of a bundle that may be gone by then."""
    return {"hash": bundle.hash, "graph": GRAPH in bundle.card.files, "names": list(bundle.names)}
