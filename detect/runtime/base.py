"""What an engine is, and the one table of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detect.errors import ConfigError
from detect.types import Image

Precision = Literal["fp32", "bf16"]

# Engine name to the module that runs it, in the order in which `auto` tries them.
ENGINES = {"openvino": "detect.runtime.openvino", "onnxruntime": "detect.runtime.onnxruntime"}


class Engine(Protocol):
    """A graph ready to run. `run` may be called from several threads at once."""

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """uint8 RGB (n, h, w, 3) to the graph's outputs, in the graph's order."""


@dataclass(frozen=True)
class EngineSettings:
    """How graphs are run.

    Attributes:
        name: "auto" or a key of `ENGINES`.
        precision: of the arithmetic. Always set and recorded: OpenVINO would choose bf16 by itself on some
            processors.
        workers: threads that call `run` at once; each call then computes on one core.
    """

    name: str = "auto"
    precision: Precision = "fp32"
    workers: int = 1

    def resolved(self) -> EngineSettings:
        """With `auto` replaced by the engine that will run."""
        if self.name != "auto":
            if self.name not in ENGINES:
                raise ConfigError(f"no engine '{self.name}'", remedy=f"the engines are: auto, {', '.join(ENGINES)}")
            if find_spec(self.name) is None:
                raise ConfigError(f"the engine {self.name} is not installed", remedy=f"pip install {self.name}")
            return self
        if not installed():
            raise ConfigError("no engine is installed", remedy="pip install onnxruntime")
        name = installed()[0]
        if self.precision == "bf16" and name == "onnxruntime":
            raise ConfigError("bf16 needs the engine openvino", remedy="use fp32, or install openvino")
        return EngineSettings(name, self.precision, self.workers)


def open_graph(path: Path, settings: EngineSettings) -> Engine:
    """The engine of `settings` with a graph loaded."""
    chosen = settings.resolved()
    module = import_module(ENGINES[chosen.name])
    engine: Engine = module.open_graph(path, chosen)
    return engine


def installed() -> list[str]:
    """Engines that are installed here, in the order in which `auto` tries them."""
    return [name for name in ENGINES if find_spec(name) is not None]


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stack(images: list[Image]) -> NDArray[np.uint8]:
    """Equal-sized images as one batch."""
    return np.ascontiguousarray(np.stack(images))
