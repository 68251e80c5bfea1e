"""Pipelines as YAML: mistakes are named, synthetic bundles do not run unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from detect import assets
from detect.bundles.folder import open_bundle
from detect.errors import ConfigError
from detect.pipeline import run
from detect.pipeline.run import open_pipeline
from detect.pipeline.settings import PipelineSettings, load_pipeline

PACKAGED = sorted(p.stem for p in (assets.ROOT / "configs" / "pipelines").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    """A pipeline's file."""
    path = folder / "p.yaml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_pipelines_open(name: str) -> None:
    opened = open_pipeline(load_pipeline(name))
    assert opened.bundles[0].card.task == "detector"


def test_the_default_knows_real_cells() -> None:
    settings = load_pipeline("default")
    assert not settings.synthetic
    assert all(b.card.trained_on != "synthetic" for b in open_pipeline(settings).bundles)


def test_bundles_trained_on_drawn_cells_do_not_run_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    real = open_bundle("wbc-types", "classifier")
    drawn = real.card.model_copy(update={"trained_on": "synthetic"})

    def opened(name: str, task: str) -> object:
        found = open_bundle(name, task)
        return found if task == "detector" else type(found)(drawn, found.path, found.hash)

    monkeypatch.setattr(run, "open_bundle", opened)
    settings = load_pipeline("default")
    with pytest.raises(ConfigError, match="wbc-types learnt from drawn cells only"):
        open_pipeline(settings)
    assert open_pipeline(settings.model_copy(update={"synthetic": True})).nodes


def test_no_other_way_runs_them_either() -> None:
    """A review runs bundles by itself."""
    from dataclasses import replace

    from detect.pipeline.run import Opened, Pipeline, asked
    from detect.runtime.base import EngineSettings

    real = open_bundle("cells-yolov8n", "detector")
    drawn = replace(real, card=real.card.model_copy(update={"trained_on": "synthetic"}))
    classifier = open_bundle("wbc-types", "classifier")
    drawn_types = replace(classifier, card=classifier.card.model_copy(update={"trained_on": "synthetic"}))
    for opened in (Opened(drawn, ()), Opened(real, (asked(drawn_types),))):
        with pytest.raises(ConfigError, match="drawn cells only"):
            Pipeline(opened, EngineSettings())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("detector: cells-yolov8n\nnodes: [{ask: [Lymphocites], bundle: x}]", "'Lymphocites' is no label"),
        ("detector: cells-yolov8n\nnodes: [{ask: [lymphs, lymph], bundle: x}]", "'lymphs' is no label"),
        ("detector: cells-yolov8n\nnodes: [{ask: [leukocyte], bundle: x}]", "did you mean 'WBC'"),
        ("detector: cells-yolov8n\nnodes: [{ask: [], bundle: x}]", "nodes.0.ask"),
        ("detector: cells-yolov8n\nnode: []", "node"),
        ("nodes: []", "detector"),
        ("detector: cells-yolov8n\ntaxonomy: 99", "version 99"),
        ("detector: cells-yolov8n\nerror_rate: 1.5", "error_rate"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_pipeline(write(tmp_path, text))


def test_bundles_beside_the_file_are_found(tmp_path: Path) -> None:
    path = write(tmp_path, "detector: ./mine\nnodes: [{bundle: ../other}, {bundle: wbc-types}]")
    found = load_pipeline(path)
    assert found.detector == str(tmp_path / "mine")
    assert [n.bundle for n in found.nodes] == [str(tmp_path.parent / "other"), "wbc-types"]


def test_two_bundles_of_one_name_are_refused(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(open_bundle("wbc-types").path, tmp_path / "copy")
    card = tmp_path / "copy" / "bundle.yaml"
    card.write_text(card.read_text("utf-8") + "# another\n", "utf-8")
    nodes = ({"bundle": "wbc-types"}, {"bundle": str(tmp_path / "copy")})
    settings = PipelineSettings.model_validate({"detector": "cells-yolov8n", "nodes": nodes})
    with pytest.raises(ConfigError, match="two bundles share the name 'wbc-types'"):
        open_pipeline(settings)
