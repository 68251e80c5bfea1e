"""Write the label configurations of `annotations/` from the taxonomy, their one source: run after editing it.

    .venv/bin/python tools/make_label_configs.py [--out annotations]

- `coco-profile.schema.json`: JSON Schema of the COCO files that `smear data convert --to coco --taxonomy` writes.
- `cvat-labels.json`: the "raw" labels of a CVAT task or project.
- `label-studio.xml`: the labeling interface of a Label Studio project.
- `fiftyone-label-schema.json`: for `dataset.set_label_schemas` of FiftyOne.
"""

import argparse
import colorsys
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from detect.taxonomy import Taxonomy, taxonomy

GOLDEN = 0.618033988749895  # steps of hue that keep neighbours in the list apart


def colour(number: int) -> str:
    """A colour per label, the same on every run."""
    red, green, blue = colorsys.hsv_to_rgb((number * GOLDEN) % 1.0, 0.65, 0.85 if number % 2 else 0.65)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def cvat(tree: Taxonomy) -> str:
    """CVAT: a list of labels, each with the attributes."""
    attributes = [
        {
            "name": a.name,
            "mutable": False,
            "input_type": "checkbox" if a.kind == "flag" else "text",
            "default_value": "false" if a.kind == "flag" else "",
            "values": ["false"] if a.kind == "flag" else [""],
        }
        for a in tree.attributes
    ]
    labels = [
        {"name": label.name, "color": colour(i), "type": "any", "attributes": attributes}
        for i, label in enumerate(tree.labels)
    ]
    return json.dumps(labels, indent=1) + "\n"


def label_studio(tree: Taxonomy) -> str:
    """Label Studio: boxes and polygons under the same names, attributes per region."""
    view = ET.Element("View")
    ET.SubElement(view, "Header", value="Morphology, for research use, not a diagnosis")
    ET.SubElement(view, "Image", name="image", value="$image", zoom="true", zoomControl="true")
    for tag, name in (("RectangleLabels", "box"), ("PolygonLabels", "outline")):
        group = ET.SubElement(view, tag, name=name, toName="image", showInline="true")
        for i, label in enumerate(tree.labels):
            ET.SubElement(group, "Label", value=label.name, background=colour(i))
    flags = ET.SubElement(view, "Choices", name="attributes", toName="image", choice="multiple", perRegion="true")
    for attribute in tree.attributes:
        if attribute.kind == "flag":
            ET.SubElement(flags, "Choice", value=attribute.name, hint=attribute.help)
        else:
            options = {"name": attribute.name, "toName": "image", "perRegion": "true", "placeholder": attribute.help}
            ET.SubElement(view, "TextArea", options)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def fiftyone(tree: Taxonomy) -> str:
    """FiftyOne: the schema of a field `ground_truth` of detections."""
    attributes = [
        {"name": a.name, "type": "bool", "component": "checkbox"}
        if a.kind == "flag"
        else {"name": a.name, "type": "str", "component": "text"}
        for a in tree.attributes
    ]
    names = [label.name for label in tree.labels]
    schema = {"type": "detections", "component": "dropdown", "classes": names, "attributes": attributes}
    return json.dumps({"ground_truth": schema}, indent=1) + "\n"


def coco_profile(tree: Taxonomy) -> str:
    """JSON Schema (2020-12). Fields that it does not know are allowed: they are carried along."""
    number: dict[str, Any] = {"type": "number"}
    positive: dict[str, Any] = {"type": "integer", "minimum": 1}
    rle = {
        "type": "object",
        "required": ["size", "counts"],
        "properties": {
            "size": {"type": "array", "items": positive, "minItems": 2, "maxItems": 2},
            "counts": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": 0}}]},
        },
    }
    polygons = {"type": "array", "items": {"type": "array", "items": number, "minItems": 6}}
    attributes = {a.name: {"type": "boolean" if a.kind == "flag" else "string"} for a in tree.attributes}
    image = {
        "type": "object",
        "required": ["id", "file_name", "width", "height"],
        "properties": {
            "id": {"type": "integer"},
            "file_name": {"type": "string", "minLength": 1, "pattern": "^[^\\\\]+$"},
            "width": positive,
            "height": positive,
        },
    }
    annotation = {
        "type": "object",
        "required": ["id", "image_id", "category_id", "bbox", "area", "iscrowd"],
        "properties": {
            "id": {"type": "integer"},
            "image_id": {"type": "integer"},
            "category_id": {"type": "integer"},
            "bbox": {
                "type": "array",
                "prefixItems": [number, number, {**number, "exclusiveMinimum": 0}, {**number, "exclusiveMinimum": 0}],
                "minItems": 4,
                "maxItems": 4,
            },
            "area": {**number, "minimum": 0},
            "iscrowd": {"enum": [0, 1]},
            "segmentation": {"anyOf": [polygons, rle]},
            "attributes": {"type": "object", "properties": attributes},
        },
    }
    category = {
        "type": "object",
        "required": ["id", "name"],
        "properties": {"id": {"type": "integer"}, "name": {"enum": [label.name for label in tree.labels]}},
    }
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "COCO profile of smear-detect",
        "type": "object",
        "required": ["images", "annotations", "categories"],
        "properties": {
            "images": {"type": "array", "items": image},
            "annotations": {"type": "array", "items": annotation},
            "categories": {"type": "array", "items": category},
        },
    }
    return json.dumps(schema, indent=1) + "\n"


FILES = {
    "coco-profile.schema.json": coco_profile,
    "cvat-labels.json": cvat,
    "label-studio.xml": label_studio,
    "fiftyone-label-schema.json": fiftyone,
}


def main() -> None:
    """Write all four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "annotations")
    out = parser.parse_args().out
    for name, make in FILES.items():
        (out / name).write_text(make(taxonomy()), "utf-8")
        print(out / name)


if __name__ == "__main__":
    main()
