"""`smear doctor`: what is installed, what is missing, and what to do about it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from typing import Literal, NamedTuple

import typer

from detect import __version__, assets
from detect.cli.output import out as console

State = Literal["ok", "missing", "problem"]
_CORE = (
    "numpy",
    "opencv-python-headless",
    "pillow",
    "onnxruntime",
    "pyarrow",
    "pycocotools",
    "pydantic",
    "pyyaml",
    "typer",
    "rich",
    "jinja2",
)
# What an extra brings: a module that tells whether it is there.
_EXTRAS = {
    "train": "ultralytics",
    "review": "fiftyone",
    "ensemble": "ensemble_boxes",
    "ray": "ray",
    "wsi": "openslide",
    "web": "fastapi",
}


class Finding(NamedTuple):
    """One line of the doctor's."""

    state: State
    what: str
    found: str
    remedy: str = ""


def doctor() -> None:
    """Check this installation; exit 1 if something is broken. Missing extras are no fault."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _versions,
        _opencv,
        _engines,
        _gpu,
        _extras,
        _bundles,
        _mongodb,
    )
    findings = [finding for check in checks for finding in _safely(check)]
    colours = {"ok": "green", "missing": "yellow", "problem": "red"}
    for f in findings:
        console.print(f"{f.state:8}", style=colours[f.state], end="")
        console.print(f"{f.what}: {f.found}", soft_wrap=True)
        if f.remedy:
            console.print(f"        remedy: {f.remedy}", soft_wrap=True)
    if any(f.state == "problem" for f in findings):
        raise typer.Exit(1)


def _safely(check: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check found; a library that breaks while it is looked at is a finding too."""
    try:
        return check()
    except Exception as error:  # a broken installation may raise anything
        name = check.__name__.strip("_")
        return [Finding("problem", name, f"{type(error).__name__}: {error}", "install that library again")]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions() -> list[Finding]:
    out = [
        Finding(
            "ok",
            "smear-detect",
            f"{__version__} on Python {platform.python_version()}, {platform.platform()}",
        )
    ]
    for name in _CORE:
        found = _version(name)
        if found is None:
            out.append(Finding("problem", name, "not installed", f"pip install {name}"))
        else:
            out.append(Finding("ok", name, found))
    return out


def _opencv() -> list[Finding]:
    names = sorted(
        {d.metadata["Name"] for d in distributions() if str(d.metadata["Name"]).lower().startswith("opencv-")}
    )
    if len(names) > 1:
        remedy = f"pip uninstall -y {' '.join(names)}; pip install opencv-python-headless"
        return [Finding("problem", "opencv", f"{len(names)} builds share one module: {', '.join(names)}", remedy)]
    return [Finding("ok", "one opencv", ", ".join(names) or "none")]


def _engines() -> list[Finding]:
    from detect.runtime.base import ENGINES, installed

    out = []
    for name in ENGINES:
        if name in installed():
            out.append(Finding("ok", f"engine {name}", _version(name) or "installed"))
        else:
            out.append(Finding("missing", f"engine {name}", "not installed", f"pip install {name}"))
    if not installed():
        out.append(Finding("problem", "engines", "none, so nothing can be scored", "pip install onnxruntime"))
    return out


def _gpu() -> list[Finding]:
    if _version("torch") is None:
        told = "nvidia-smi is here" if shutil.which("nvidia-smi") else "none seen"
        return [Finding("missing", "GPU", f"{told}; torch is not installed", "pip install 'smear-detect[train]'")]
    import torch

    if torch.cuda.is_available():
        return [Finding("ok", "GPU", f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")]
    return [Finding("missing", "GPU", f"torch {torch.__version__} sees none; everything runs on the processor")]


def _extras() -> list[Finding]:
    out = []
    for extra, module in _EXTRAS.items():
        if find_spec(module) is None:
            out.append(Finding("missing", f"extra {extra}", "not installed", f"pip install 'smear-detect[{extra}]'"))
        else:
            out.append(Finding("ok", f"extra {extra}", "installed"))
    return out


def _bundles() -> list[Finding]:
    from detect.bundles.folder import open_bundle
    from detect.errors import SmearError

    out = []
    for name in assets.released():
        try:
            bundle = open_bundle(name)
            out.append(Finding("ok", f"bundle {name}", f"{bundle.card.task}, hashes match"))
        except SmearError as problem:
            out.append(Finding("problem", f"bundle {name}", problem.problem, problem.remedy or "install again"))
    if not out:
        out.append(Finding("problem", "bundles", "none are shipped with this installation", "install again"))
    return out


def _mongodb() -> list[Finding]:
    if find_spec("fiftyone") is None:
        return []
    from detect.review.database import REMEDY, find_server

    server = find_server()
    if server.kind == "none":
        return [Finding("missing", "MongoDB for review", str(server), REMEDY)]
    return [Finding("ok", "MongoDB for review", str(server))]
