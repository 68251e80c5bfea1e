"""The models of the ultralytics family: sizes, training, export, and what is not labelled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from detect import assets
from detect.bundles.folder import Bundle, open_bundle
from detect.config import load
from detect.data.cards import load_card
from detect.detectors.base import Architecture, DetectorSettings, TrainingJob, Traits
from detect.detectors.parity import parity
from detect.detectors.train import split_parts
from detect.errors import ConfigError
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import EngineSettings, installed
from tests.cli.command import inside
from tests.detectors.conftest import Drawn
from tests.detectors.tiny import Tiny, write, write_config

torch = pytest.importorskip("torch", reason="torch is not installed")
adapter = pytest.importorskip("detect.detectors.ultralytics", reason="ultralytics is not installed")
models = pytest.importorskip("detect.detectors.ultralytics_models", reason="ultralytics is not installed")
losses = pytest.importorskip("detect.detectors.ultralytics_losses", reason="ultralytics is not installed")

CONFIGS = [
    path
    for path in sorted((assets.ROOT / "configs" / "detectors").glob("*.yaml"))
    if yaml.safe_load(path.read_text("utf-8"))["family"] == "ultralytics"
]
# One of each kind: an ordinary head and Ghost modules, another activation, attention, two heads, a transformer.
KINDS = (
    "yolov5n-ghost",
    "yolo26n",
    "rtdetr-small",
    pytest.param("yolov4nu-ghost", marks=pytest.mark.long),
    pytest.param("yolo11n", marks=pytest.mark.long),
)


@pytest.fixture(autouse=True, scope="module")
def _one_core(one_thread: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "cores", lambda: 1)
        yield


def settings_of(model: str, **changes: Any) -> DetectorSettings:
    """Settings of a small input."""
    return DetectorSettings(family="ultralytics", model=model, **({"image_size": 64} | changes))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The set."""
    return write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def part_card(tiny: Tiny) -> Path:
    """The set's card as if not every platelet were drawn."""
    card = yaml.safe_load(tiny.card.read_text("utf-8")) | {"exhaustive_for": ["WBC", "RBC"]}
    path = tiny.card.with_name("part.yaml")
    path.write_text(yaml.safe_dump(card), "utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_builds(path: Path) -> None:
    settings = load(DetectorSettings, path)
    built = adapter.architecture(settings.model_copy(update={"image_size": 64}), 3)
    assert built.name == settings.model
    assert built.config["nc"] == 3
    assert {"backbone", "head"} <= set(built.config)
    assert built.parameters > 1_000_000
    assert built.gflops > 0
    assert yaml.safe_load(yaml.safe_dump(dict(built.config))) == built.config
    assert adapter.traits(built) == Traits(square=settings.model.startswith("rtdetr"))


@pytest.mark.parametrize("plain", ["yolov5n", "yolov8n", "yolov4u"])
def test_ghost_modules_save_a_third(plain: str) -> None:
    full = adapter.architecture(settings_of(plain), 3)
    ghost = adapter.architecture(settings_of(f"{plain}-ghost"), 3)
    assert ghost.parameters <= 0.7 * full.parameters
    assert ghost.gflops <= 0.7 * full.gflops


def test_sizes_go_by_letter() -> None:
    sizes = [adapter.architecture(settings_of(f"yolov5{letter}-ghost"), 3).parameters for letter in "nsm"]
    assert sizes == sorted(set(sizes))
    assert models.config_of(settings_of("yolov4u"))["scale"] == "l"
    assert models.config_of(settings_of("yolov4xu-ghost"))["scale"] == "x"
    assert models.config_of(settings_of("yolov5lu")) == models.config_of(settings_of("yolov5l"))
    assert models.config_of(settings_of("rtdetr-l"))["scale"] == "l"


def test_a_configuration_beside_us_is_not_taken_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(assets.ROOT / "configs" / "detectors")
    assert "backbone" in models.config_of(settings_of("yolov8n"))


def test_ones_own_model_is_named_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((assets.ROOT / "configs" / "models" / "rtdetr-small.yaml").read_text("utf-8"), "utf-8")
    built = adapter.architecture(settings_of(str(path)), 2)
    assert built.name == "mine"
    assert adapter.traits(built).square


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "yolov4tiny"}, ["no 'yolov4tiny'", "yolov4u-ghost"]),
        ({"model": "yolo11n-seg"}, ["ends in Segment"]),
        ({"model": "yolov8n", "image_size": 300}, ["multiple of 32, got 300", "take 320"]),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        adapter.architecture(settings_of(**changes), 3)
    for word in words:
        assert word in str(error.value)


def job_of(tiny: Tiny, out: Path, model: str, **changes: Any) -> TrainingJob:
    """A training that is ready to start."""
    card = load_card(str(tiny.card))
    learn, dev = split_parts(card, str(tiny.split), tiny.home, Tally(), "train", "dev")
    settings = settings_of(model, epochs=1, batch=4)
    out.mkdir()
    return replace(TrainingJob(settings, "c.yaml", learn, dev, out, False, "cpu", False), **changes)


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("rtdetr-small", {"class_weights": "balanced"}, "class_weights"),
        ("rtdetr-small", {"precision": "bf16"}, "trained in fp32"),
        ("yolov4u", {"pretrained": True}, "nobody published"),
        ("yolov8n", {"image_size": 300}, "c.yaml"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tiny: Tiny, tmp_path: Path, model: str, changes: dict[str, Any], words: str
) -> None:
    job = job_of(tiny, tmp_path / "run", model)
    with pytest.raises(ConfigError, match=words):
        adapter.train(replace(job, settings=job.settings.model_copy(update=changes)))


def test_a_transformer_learns_from_whole_sets_only(tiny: Tiny, tmp_path: Path) -> None:
    job = job_of(tiny, tmp_path / "run", "rtdetr-small", unlabelled={"a.png": frozenset([2])})
    with pytest.raises(ConfigError, match="draw every cell"):
        adapter.train(job)


@pytest.mark.parametrize("model", KINDS)
def test_trained_exported_and_equal(tiny: Tiny, part_card: Path, tmp_path: Path, model: str) -> None:
    """One epoch of each kind by the real commands: YOLO26 on a set that is labelled in part, another with weights."""
    part, balanced = model == "yolo26n", model == "yolo11n"
    changes: dict[str, Any] = {"class_weights": "balanced"} if balanced else {}
    config = write_config(tmp_path / "c.yaml", model=model, **changes)
    card, out = part_card if part else tiny.card, tmp_path / "run"
    where = ("--root", tiny.home)
    answer = inside("train", "detector", config, "--data", card, *where, "--out", out, "--device", "cpu")
    assert answer.code == 0, answer.err[-3000:]
    record = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    assert record["best_epoch"] == 1
    assert ("mosaic" in record) == part
    used = yaml.safe_load((out / "train" / "args.yaml").read_text("utf-8"))
    assert used["mosaic"] == (0 if part else 1)
    assert used["cls_pw"] == (0.5 if balanced else 0)
    answer = inside("bundle", "export", out, "--out", tmp_path / "bundle", "--name", "tiny", *where)
    assert answer.code == 0, answer.err[-3000:]
    bundle = open_bundle(tmp_path / "bundle", "detector")
    assert bundle.card.architecture["config"]["nc"] == 3
    fields = [decode.read(path) for path in sorted((tiny.home / "images" / "all").iterdir())[-4:]]
    fields[0] = np.ascontiguousarray(fields[0][:, :100])
    for engine in installed():
        got = parity(bundle, fields, EngineSettings(engine))
        assert got.holds, got
        assert got.cells > 0


def losses_of(model: str, unlabelled: dict[str, frozenset[int]]) -> tuple[Any, Any, dict[str, Any]]:
    """A criterion, predictions that want gradients, and a batch of two fields with a cell of classes 0 and 2 each."""
    torch.manual_seed(1)
    net = models.new(models.config_of(settings_of(model)), 3)
    net.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=3)
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "im_file": ["/data/one.png", "/data/two.x.png"],
        "batch_idx": torch.tensor([0.0, 0.0, 1.0, 1.0]),
        "cls": torch.tensor([[0.0], [2.0], [0.0], [2.0]]),
        "bboxes": torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.7, 0.7, 0.2, 0.2]] * 2),
    }
    preds = net.train()(batch["img"])
    heads = [preds["one2many"], preds["one2one"]] if "one2many" in preds else [preds]
    for head in heads:
        for name in ("boxes", "scores"):
            head[name] = head[name].detach().requires_grad_()
    return losses.Loss(net.init_criterion(), unlabelled), preds, batch


def gradients(model: str, unlabelled: dict[str, frozenset[int]]) -> list[Any]:
    """Gradient of the class logits of each head: (fields, classes, places)."""
    loss, preds, batch = losses_of(model, unlabelled)
    loss(preds, batch)[0].sum().backward()
    heads = [preds["one2many"], preds["one2one"]] if "one2many" in preds else [preds]
    return [head["scores"].grad for head in heads]


@pytest.mark.parametrize("model", ["yolov8n", "yolo26n"])
def test_what_is_not_labelled_teaches_nothing(model: str) -> None:
    usual = gradients(model, {})
    held = gradients(model, {"one": frozenset([1, 2]), "elsewhere": frozenset([0])})
    for a, b in zip(usual, held, strict=True):
        assert a.count_nonzero() == a.numel()
        assert torch.equal(a[1], b[1])  # a field with all cells drawn
        assert torch.equal(a[0, 0], b[0, 0])  # a class with all cells drawn
        assert b[0, 1].count_nonzero() == 0  # a class with none drawn
        taught = b[0, 2] != 0  # a class with some drawn: there only, as ever
        assert 0 < taught.sum() <= 10
        assert torch.equal(a[0, 2][taught], b[0, 2][taught])


def test_dev_is_measured_without_what_is_not_labelled_there() -> None:
    seen: list[Any] = []
    preds = [{"cls": torch.tensor([0.0, 2.0, 1.0]), "conf": torch.tensor([0.9, 0.8, 0.7]), "bboxes": torch.rand(3, 4)}]
    batch = {"cls": torch.tensor([[2.0], [0.0]]), "bboxes": torch.rand(2, 4), "batch_idx": torch.zeros(2), "ratio": 1}
    losses.judge_the_rest(lambda *given: seen.extend(given), frozenset([2]), preds, batch)
    assert seen[0][0]["conf"].tolist() == pytest.approx([0.9, 0.7])
    assert len(seen[0][0]["bboxes"]) == 2
    assert seen[1]["cls"].tolist() == [[0.0]]
    assert len(seen[1]["bboxes"]) == len(seen[1]["batch_idx"]) == 1
    assert seen[1]["ratio"] == 1
    assert len(batch["cls"]) == 2


def test_several_gpus_are_named_as_the_library_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no GPU"):
        adapter._devices("cuda:0,1", 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert adapter._devices("cuda:0,1", 4) == ("0,1", torch.device("cuda:0"))
    assert adapter._devices("cuda:1", 3) == ("cuda:1", torch.device("cuda:1"))
    for asked, batch, words in (("cuda:0,2", 4, "sees 2"), ("cuda:1,1", 4, "sees 2"), ("cuda:0,1", 3, "shared by 2")):
        with pytest.raises(ConfigError, match=words):
            adapter._devices(asked, batch)


@pytest.mark.long
def test_a_training_survives_being_handed_to_another_process(tiny: Tiny, tmp_path: Path) -> None:
    """What the library's launcher writes for each GPU, run here on the processor: our loss and outcome are in it."""
    pytest.importorskip("cloudpickle")
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    job = job_of(tiny, tmp_path / "run", "yolov8n", unlabelled={"images/all/f00.png": frozenset([1])})
    run = adapter._ready(job, models.config_of(job.settings), job.out / "train", "cpu", "fp32")
    mark = "import sys, runpy, detect.detectors.ultralytics as u\n"
    mark += "made = u.Loss.__init__\n"
    mark += "def told(self, criterion, unlabelled):\n    print('LOSS', dict(unlabelled))\n"
    mark += "    made(self, criterion, unlabelled)\n"
    mark += "u.Loss.__init__ = told\nrunpy.run_path(sys.argv[1], run_name='__main__')\n"
    file = generate_ddp_file(run)
    try:
        done = subprocess.run([sys.executable, "-c", mark, file], capture_output=True, text=True, check=False)
    finally:
        ddp_cleanup(run, file)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "LOSS {'images__all__f00': frozenset({1})}" in done.stdout
    outcome = yaml.safe_load((job.out / "train" / "outcome.yaml").read_text("utf-8"))
    assert outcome["best_epoch"] == 1
    assert outcome["optimizer"] == "AdamW"


def test_boxes_stay_sharp_in_half_precision(bundle: Bundle, drawn: Drawn) -> None:
    built = Architecture(**bundle.card.architecture)
    pixels = np.ascontiguousarray(drawn[0][0][None, :320, :416])
    boxes, scores = adapter.reference(built, bundle.weights)(pixels)
    rough, guessed = adapter.reference(built, bundle.weights, precision="bf16")(pixels)
    sure = (scores.max(axis=2) > 0.5) & (guessed.max(axis=2) > 0.5)
    assert sure.sum() > 10
    assert rough.dtype == guessed.dtype == np.float32
    assert np.abs(boxes - rough)[sure].mean() < 0.5
    assert np.abs(scores - guessed)[sure].max() < 0.1


def test_a_run_computes_on_every_core_and_measures_dev_as_it_trains(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's run, when it is made, takes all cores but one, and its `autocast` is off on a processor."""
    monkeypatch.setattr(adapter, "cores", lambda: 3)
    seen: dict[str, Any] = {}

    def watched(job: TrainingJob, *rest: Any) -> Any:
        run = ready(job, *rest)

        def train() -> None:
            seen["threads"] = torch.get_num_threads()
            sample = torch.ones((1, 4))
            with adapter.validator.autocast(False, device="cpu"):
                seen["product"] = (sample @ sample.T).dtype
            raise RuntimeError("seen enough")

        run.train = train
        return run

    ready = adapter._ready
    monkeypatch.setattr(adapter, "_ready", watched)
    job = job_of(tiny, tmp_path / "run", "yolov8n")
    job = replace(job, settings=job.settings.model_copy(update={"precision": "bf16"}))
    with pytest.raises(RuntimeError, match="seen enough"):
        adapter.train(job)
    torch.set_num_threads(1)
    assert seen == {"threads": 3, "product": torch.bfloat16}
