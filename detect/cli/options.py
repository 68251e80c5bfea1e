"""Options that several verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

if TYPE_CHECKING:
    from detect.images.magnification import Looking
    from detect.runtime.base import EngineSettings

Runtime = Annotated[
    str,
    typer.Option("--runtime", help="auto, openvino, onnxruntime, or torch (the training framework)."),
]
RunPrecision = Annotated[
    str, typer.Option("--precision", help="fp32, bf16 (openvino, torch), int8 or fp16 (torch, GPU).")
]
AutoPrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto: the fastest that the detector's card offers here. Or fp32, bf16, int8, fp16 (torch, GPU).",
    ),
]
RunDevice = Annotated[str, typer.Option("--device", help="cpu, or cuda:0 with --runtime torch.")]

ScaleChoice = Annotated[
    str,
    typer.Option("--scale", help="auto: measured by the red cells. fit: the longer side into the detector's input."),
]


ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        help="Pixels of the longer side that the detector is shown, not its own: fewer are fast.",
    ),
]


def looking(scale: str) -> Looking:
    """What --scale says; ConfigError where it is no choice."""
    from detect.errors import ConfigError
    from detect.images.magnification import Looking

    for known in get_args(Looking):
        if scale == known:
            return cast("Looking", known)
    raise ConfigError(f"--scale {scale}: no such choice", remedy=f"one of: {', '.join(get_args(Looking))}")


def engine_settings(runtime: str, precision: str, device: str) -> EngineSettings:
    """What the three options above ask for, resolved; ConfigError where this machine cannot do it."""
    from detect.errors import ConfigError
    from detect.runtime.base import EngineSettings, Precision

    for known in get_args(Precision):
        if precision == known:
            return EngineSettings(runtime, known, device=device).resolved()
    raise ConfigError(f"--precision {precision}: no such choice", remedy=f"one of: {', '.join(get_args(Precision))}")
