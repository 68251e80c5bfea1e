"""The label configurations say what the taxonomy says, in the shapes that the tools take."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import pytest

from detect.formats import coco
from detect.review.database import find_program, start
from detect.taxonomy import taxonomy
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tools.make_label_configs import FILES

ANNOTATIONS = Path(__file__).resolve().parent.parent.parent / "annotations"


@pytest.mark.parametrize("name", FILES)
def test_committed_file_is_what_the_taxonomy_makes(name: str) -> None:
    assert (ANNOTATIONS / name).read_text("utf-8") == FILES[name](taxonomy()), "run tools/make_label_configs.py"


def test_cvat_labels_have_unique_names_colours_and_valid_attributes() -> None:
    labels = json.loads((ANNOTATIONS / "cvat-labels.json").read_text("utf-8"))
    assert [label["name"] for label in labels] == [label.name for label in taxonomy().labels]
    assert len({label["color"] for label in labels}) == len(labels)
    for attribute in labels[0]["attributes"]:
        assert attribute["input_type"] in {"checkbox", "text"}
        assert attribute["default_value"] in attribute["values"]


def test_label_studio_controls_point_at_the_image() -> None:
    view = ET.fromstring((ANNOTATIONS / "label-studio.xml").read_text("utf-8"))
    controls = [e for e in view.iter() if "toName" in e.attrib]
    assert {e.get("toName") for e in controls} == {"image"}
    assert len({e.get("name") for e in controls}) == len(controls)
    assert [e.get("value") for e in view.find("RectangleLabels") or ()] == [x.name for x in taxonomy().labels]


def test_guide_names_every_label_with_its_code() -> None:
    guide = (ANNOTATIONS / "GUIDE.md").read_text("utf-8")
    missing = [x.name for x in taxonomy().labels if f"**{x.name}** (`{x.code}`)" not in guide]
    assert missing == []
    assert all(f"`{a.name}`" in guide for a in taxonomy().attributes)


def _dataset(mask: bool) -> Dataset:
    segmentation = {"segmentation": [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]], "attributes": {"doubtful": True, "theirs": 3}}
    cells = Annotations.of([[1, 2, 30, 40], [5, 5, 9, 9]], [0, 1], extra=[segmentation if mask else {}, {}])
    field = Field("a/b.png", "a", Path("b.png"), 64, 48)
    return Dataset("t", Path(), ClassMap(("WBC", "RBC")), (LabelledField(field, cells, {"id": 7}),), frozenset())


@pytest.mark.parametrize("mask", [True, False])
def test_schema_takes_what_we_write(mask: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ANNOTATIONS / "coco-profile.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(coco.to_dict(_dataset(mask)), schema)


@pytest.mark.parametrize(
    ("list_name", "key", "value"),
    [
        ("annotations", "bbox", [1, 2, 0, 4]),
        ("annotations", "bbox", [1, 2, 3]),
        ("annotations", "iscrowd", 2),
        ("annotations", "attributes", {"doubtful": "yes"}),
        ("images", "width", 0),
        ("images", "file_name", "a\\b.png"),
        ("categories", "name", "leucocyte"),
    ],
)
def test_schema_refuses_faults(list_name: str, key: str, value: object) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ANNOTATIONS / "coco-profile.schema.json").read_text("utf-8"))
    data = coco.to_dict(_dataset(False))
    data[list_name][0][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


@pytest.mark.long
def test_fiftyone_takes_the_label_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("fiftyone") is None:  # not imported here: it would keep to the database that it finds then
        pytest.skip("fiftyone is not installed")
    import subprocess
    import sys

    script = tmp_path / "check.py"
    script.write_text(
        "import json, sys\n"
        "import fiftyone as fo\n"
        "dataset = fo.Dataset('label-schema')\n"
        "sample = fo.Sample('x.png')\n"
        "cell = fo.Detection(label='WBC', bounding_box=[0, 0, 0.1, 0.1])\n"
        "sample['ground_truth'] = fo.Detections(detections=[cell])\n"
        "dataset.add_sample(sample)\n"
        "schema = json.load(open(sys.argv[1]))['ground_truth']\n"
        "dataset.update_label_schema('ground_truth', schema, allow_new_attrs=True)\n"
        "print('classes', len(dataset.label_schemas['ground_truth']['classes']))\n"
        "dataset.delete()\n",
        "utf-8",
    )
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
    monkeypatch.setenv("FIFTYONE_DATABASE_VALIDATION", "false")
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))
    program = find_program().detail
    if not program:
        pytest.skip("no mongod on this machine")
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", start(program, tmp_path / "db"))  # FiftyOne's own gets in others' way
    command = [sys.executable, str(script), str(ANNOTATIONS / "fiftyone-label-schema.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert f"classes {len(taxonomy().labels)}" in done.stdout, done.stderr[-2000:]
