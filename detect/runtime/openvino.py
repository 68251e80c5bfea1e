"""OpenVINO on CPU: the fastest engine on x86. The only file that imports it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.errors import BundleError
from detect.runtime.base import EngineSettings, Precision

# When it is imported, it tells its makers so, over the network, from a thread that stays: a lab wants neither, and a
# process forked while that thread holds a lock may wait for ever. Where this module is missing it does without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402

_TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # of what the graph leaves open: int8 is written into it


# What is said to be there may be emulated, and slower than fp32: the processor must have instructions of its own.
_FAST: tuple[tuple[Precision, str, set[str]], ...] = (
    ("int8", "INT8", {"avx512_vnni", "avx_vnni", "amx_int8"}),
    ("bf16", "BF16", {"avx512_bf16", "amx_bf16"}),
)

# The binding sets itself up within its first call, which has to be alone: a second thread that comes in meanwhile waits
# for that with the interpreter's lock in its hands, which the first one needs, and both wait for ever.
_FIRST = threading.Lock()
_READY = threading.Event()


class OpenVino:
    """One compiled graph of free size, and one inference request per calling thread."""

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        core = ov.Core()
        config = {
            "INFERENCE_PRECISION_HINT": _TYPES[settings.precision],
            "NUM_STREAMS": str(settings.workers),
            "INFERENCE_NUM_THREADS": str(max(settings.cores, settings.workers)),
            "ENABLE_CPU_PINNING": "NO",
        }
        try:
            self._model = core.compile_model(core.read_model(str(path)), "CPU", config)
        except RuntimeError as error:
            raise BundleError(f"openvino cannot load the graph: {error}", where=str(path)) from error
        self._outputs = len(self._model.outputs)
        self._mine = threading.local()

    def run(self, *inputs: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
        """See `Engine.run`."""
        if not _READY.is_set():
            with _FIRST:
                found = self._infer(inputs)
                _READY.set()
                return found
        return self._infer(inputs)

    def _infer(self, inputs: tuple[NDArray[Any], ...]) -> tuple[NDArray[np.float32], ...]:
        request = getattr(self._mine, "request", None)
        if request is None:
            request = self._mine.request = self._model.create_infer_request()
        request.infer(list(inputs), share_inputs=True)
        return tuple(np.array(request.get_output_tensor(i).data) for i in range(self._outputs))


def fast_precisions() -> tuple[Precision, ...]:
    """See `runtime.base.fast_precisions`."""
    able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    has = _processor()
    return tuple(p for p, name, needs in _FAST if name in able and has & needs)


def _processor() -> set[str]:
    """Instructions that the processor names; none on systems that do not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def open_graph(path: Path, settings: EngineSettings) -> OpenVino:
    """A graph ready to run."""
    return OpenVino(path, settings)
