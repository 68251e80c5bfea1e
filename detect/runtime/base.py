"""What an engine is, and the one table of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detect.errors import ConfigError, MissingExtraError
from detect.types import Image

Precision = Literal["fp32", "bf16", "fp16", "int8"]

# Engine name to the module that runs it, in the order in which `auto` tries them.
ENGINES = {"openvino": "detect.runtime.openvino", "onnxruntime": "detect.runtime.onnxruntime"}


# Runs a bundle's weights as the family that trained them does, on CPU or GPU. It takes no graph, so whoever opens a
# bundle asks the family for it. Never chosen by `auto`: it needs the extra `train`.
FRAMEWORK = "torch"


class Engine(Protocol):
    """A graph ready to run. `run` may be called from several threads at once."""

    def run(self, *inputs: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
        """uint8 RGB (n, h, w, 3), and what else the graph takes, to its outputs, both in the graph's order."""


@dataclass(frozen=True)
class EngineSettings:
    """How graphs are run.

    Attributes:
        name: "auto", a key of `ENGINES`, or `FRAMEWORK`.
        precision: of the arithmetic. Always set and recorded: OpenVINO would choose bf16 by itself on some
            processors. fp16 is for GPUs. int8 runs a graph of its own, see `Bundle.graph_in`.
        workers: threads that call `run` at once.
        device: "cpu", or "cuda:0" with `FRAMEWORK`.
        threads: processor cores that these calls share; 0 takes all that this process may use.
    """

    name: str = "auto"
    precision: Precision = "fp32"
    workers: int = 1
    device: str = "cpu"
    threads: int = 0

    @property
    def cores(self) -> int:
        """Processor cores that the calls share, as a number."""
        return self.threads or cores()

    def resolved(self) -> EngineSettings:
        """With `auto` replaced by the engine that will run."""
        if self.name == FRAMEWORK:
            if self.precision == "int8":
                raise ConfigError("the engine torch has no int8", remedy="use fp32 or bf16, or another engine")
            if self.precision == "fp16" and self.device == "cpu":
                raise ConfigError("fp16 runs on a GPU only", remedy="use fp32 or bf16, or --device cuda:0")
            if find_spec("torch") is None:
                raise MissingExtraError("the engine torch", "train")
            return self
        if self.device != "cpu" or self.precision == "fp16":
            what = f"--device {self.device} with {self.precision} needs the engine torch"
            raise ConfigError(what, remedy=f"add --runtime {FRAMEWORK}")
        if self.name != "auto":
            if self.name not in ENGINES:
                known = ", ".join(["auto", *ENGINES, FRAMEWORK])
                raise ConfigError(f"no engine '{self.name}'", remedy=f"the engines are: {known}")
            if find_spec(self.name) is None:
                raise ConfigError(f"the engine {self.name} is not installed", remedy=f"pip install {self.name}")
            return self
        if not installed():
            raise ConfigError("no engine is installed", remedy="pip install onnxruntime")
        name = installed()[0]
        if self.precision == "bf16" and name == "onnxruntime":
            raise ConfigError("bf16 needs the engine openvino", remedy="use fp32, or install openvino")
        return replace(self, name=name)


def open_graph(path: Path, settings: EngineSettings) -> Engine:
    """The engine of `settings` with a graph loaded."""
    chosen = settings.resolved()
    if chosen.name == FRAMEWORK:
        raise ConfigError("the engine torch runs weights, not a graph", remedy=f"use one of: {', '.join(ENGINES)}")
    module = import_module(ENGINES[chosen.name])
    engine: Engine = module.open_graph(path, chosen)
    return engine


def installed() -> list[str]:
    """Engines that are installed here, in the order in which `auto` tries them."""
    return [name for name in ENGINES if find_spec(name) is not None]


def fast_precisions(engine: str) -> tuple[Precision, ...]:
    """Arithmetics that this processor computes faster than fp32 with an engine, the fastest first."""
    if engine not in ENGINES:
        return ()
    found: tuple[Precision, ...] = import_module(ENGINES[engine]).fast_precisions()
    return found


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stack(images: list[Image]) -> NDArray[np.uint8]:
    """Equal-sized images as one batch."""
    return np.ascontiguousarray(np.stack(images))
