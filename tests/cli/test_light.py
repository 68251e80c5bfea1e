"""What is not loaded: the core needs no framework, even where one is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import drawn as sample

HEAVY = ("torch", "torchvision", "ultralytics", "timm", "sklearn", "matplotlib", "fiftyone", "ray", "albumentations")
TOLD = f"\nprint('loaded:', sorted(set({HEAVY}) & set(sys.modules)))"
RUN = """
import sys
sys.argv = ["smear", *{words}]
from detect.cli.main import run
try:
    run()
except SystemExit as end:
    assert end.code == 0, end.code
"""


def last_line(code: str) -> str:
    """What a fresh Python prints last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_importing_the_package_loads_next_to_nothing() -> None:
    assert last_line("import sys, detect" + TOLD) == "loaded: []"
    light = (
        "import sys, detect; print('loaded:', sorted({'cv2', 'numpy', 'pyarrow', 'onnxruntime'} & set(sys.modules)))"
    )
    assert last_line(light) == "loaded: []"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["score", "--help"], ["train", "detector", "--help"]])
def test_help_loads_no_framework(words: list[str]) -> None:
    assert last_line(RUN.format(words=words) + TOLD) == "loaded: []"


def test_scoring_loads_no_framework(tmp_path: Path) -> None:
    sample.write_slides(tmp_path / "in", 1, 1)
    words = ["score", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert last_line(RUN.format(words=words) + TOLD) == "loaded: []"
    assert (tmp_path / "out" / "run.yaml").is_file()


def test_showing_a_bundle_loads_no_framework() -> None:
    assert last_line(RUN.format(words=["bundle", "show", "cells-yolov8n"]) + TOLD) == "loaded: []"


@pytest.mark.parametrize("module", ["detect.pipeline", "detect.score.run", "detect.evaluate.detection"])
def test_rooms_load_without_a_framework(module: str) -> None:
    assert last_line(f"import sys, {module}" + TOLD) == "loaded: []"
