"""Where a training computes: on the processor, on a GPU, or on several, with a process for each."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from detect.detectors.base import TrainingJob, family
from detect.errors import ConfigError, MissingExtraError, SmearError

try:
    import torch
    from torch import distributed
    from torch import multiprocessing as processes
except ImportError as error:
    raise MissingExtraError("training a detector", "train") from error

_PATIENCE = timedelta(hours=6)  # the others wait while the first measures dev
_RECORD = "record"
_GRACE = 5.0  # seconds that a process has to end once it is asked to


def device_of(asked: str) -> torch.device:
    """One device; ConfigError where it is not there, or several are named."""
    names = named(asked)
    if len(names) > 1:
        raise ConfigError(f"--device {asked}: this works on one device", remedy="name one")
    return torch.device(names[0])


def first_of(asked: str) -> torch.device:
    """Of several devices the first."""
    return torch.device(named(asked)[0])


def named(asked: str) -> list[str]:
    """Devices by their full names: "cuda:0,1" are cuda:0 and cuda:1. ConfigError where torch does not see them."""
    if asked == "auto":
        return ["cuda:0" if torch.cuda.is_available() else "cpu"]
    words = asked.replace(" ", "").split(",")
    kind = words[0].partition(":")[0] if not words[0].isdigit() else "cuda"
    names = ["cuda:0" if w == "cuda" else f"{kind}:{w}" if w.isdigit() else w for w in words]
    if any(n.startswith("cuda") for n in names):
        if not torch.cuda.is_available():
            raise ConfigError(f"--device {asked}: torch sees no GPU", remedy="use --device cpu, or run 'smear doctor'")
        count = torch.cuda.device_count()
        if not {f"cuda:{i}" for i in range(count)}.issuperset(names) or len(set(names)) != len(names):
            raise ConfigError(f"--device {asked}: torch sees {count} GPUs", remedy="name each once, as cuda:0,1")
        return names
    if len(names) > 1 and set(names) != {"cpu"}:
        raise ConfigError(f"--device: '{asked}' are not known", remedy="several are GPUs, as cuda:0,1")
    try:
        torch.device(names[0])
    except RuntimeError as error:
        raise ConfigError(f"--device: '{asked}' is not known", remedy="use auto, cpu or cuda:0") from error
    return names


def precision_of(asked: str, device: torch.device) -> str:
    """The arithmetic of a training."""
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 trains on a GPU only", remedy="use bf16, fp32 or auto")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def share() -> tuple[int, int]:
    """Which process of the training this is, from 0, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def each(job: TrainingJob) -> dict[str, Any]:
    """Train with a process for each device, started by torch; returns what the first has to say.

    However this ends, by an error or by whoever stops it, no process is left behind.

    Raises:
        SmearError, OSError: as a process raised it.
    """
    names = named(job.device)
    if job.settings.batch % len(names):
        raise ConfigError(
            f"batch: {job.settings.batch} fields cannot be shared by {len(names)} devices",
            where=job.config,
            remedy="take a multiple",
        )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        running = processes.spawn(_process, (job, names, home), nprocs=len(names), join=False)
        try:
            while not running.join():
                pass
        except (processes.ProcessRaisedException, processes.ProcessExitedException) as error:
            raise _cause(home) or SmearError(
                f"a process of the training ended: {str(error).strip().splitlines()[-1]}",
                where=job.config,
                remedy="see to the memory that is left, and go on with --resume",
            ) from error
        finally:
            _end(running.processes)
        record: dict[str, Any] = pickle.loads((home / _RECORD).read_bytes())
    return {**record, "device": ",".join(names)}


def _end(running: Sequence[Any]) -> None:
    for process in running:
        if process.is_alive():
            process.terminate()
    for process in running:
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()


def _cause(home: Path) -> SmearError | OSError | None:
    """What the first process that failed has told; the others fail because that one is gone."""
    found = sorted(home.glob("error-*"), key=lambda p: p.stat().st_mtime_ns)
    return pickle.loads(found[0].read_bytes()) if found else None


def _process(rank: int, job: TrainingJob, names: list[str], home: Path) -> None:
    """One of the processes: they meet at a file, and each learns from its share of every batch."""
    if names[rank].startswith("cuda"):
        torch.cuda.set_device(names[rank])
    distributed.init_process_group(
        "nccl" if names[rank].startswith("cuda") else "gloo",
        init_method=f"file://{home / 'meeting'}",
        rank=rank,
        world_size=len(names),
        timeout=_PATIENCE,
    )
    try:
        record = family(job.settings.family).train(replace(job, device=names[rank]))
    except (SmearError, OSError) as error:
        _tell(error, home / f"error-{rank}")
        raise
    if rank == 0:
        _tell(record, home / _RECORD)
    distributed.destroy_process_group()


def _tell(what: object, path: Path) -> None:
    partial = path.with_name(f"partial-{path.name}")
    partial.write_bytes(pickle.dumps(what))
    partial.replace(path)
