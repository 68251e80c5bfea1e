"""ONNX Runtime on CPU. The only file that imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from detect.errors import BundleError, ConfigError
from detect.runtime.base import EngineSettings, Precision


class OnnxRuntime:
    """One session; its `run` is safe to call from several threads."""

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        if settings.precision not in ("fp32", "int8"):
            raise ConfigError(
                f"onnxruntime runs fp32 and int8 only, not {settings.precision}", remedy="use the engine openvino"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, settings.cores // settings.workers)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class of their own
            raise BundleError(f"onnxruntime cannot load the graph: {error}", where=str(path)) from error
        self._inputs = [given.name for given in self._session.get_inputs()]

    def run(self, *inputs: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
        """See `Engine.run`."""
        return tuple(self._session.run(None, dict(zip(self._inputs, inputs, strict=True))))


def fast_precisions() -> tuple[Precision, ...]:
    """See `runtime.base.fast_precisions`: it has no bf16 here, and int8 is measured with OpenVINO."""
    return ()


def open_graph(path: Path, settings: EngineSettings) -> OnnxRuntime:
    """A graph ready to run."""
    return OnnxRuntime(path, settings)
