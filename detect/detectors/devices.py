"""Where a training computes: on the processor, on a GPU, or on several, with a process for each."""

from __future__ import annotations

import tempfile
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


def device_of(asked: str) -> torch.device:
    """The device of a training; of several, the first."""
    if asked == "auto":
        asked = "cuda:0" if torch.cuda.is_available() else "cpu"
    return torch.device(named(asked)[0])


def named(asked: str) -> list[str]:
    """Devices by their full names: "cuda:0,1" are cuda:0 and cuda:1. ConfigError where torch does not see them."""
    first, *others = asked.replace(" ", "").split(",")
    kind = first.partition(":")[0] if not first.isdigit() else "cuda"
    names = [first if not first.isdigit() else f"cuda:{first}", *(f"{kind}:{n}" if n.isdigit() else n for n in others)]
    if any(n.startswith("cuda") for n in names):
        if not torch.cuda.is_available():
            raise ConfigError(f"--device {asked}: torch sees no GPU", remedy="use --device cpu, or run 'smear doctor'")
        there = {"cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))}
        if not there.issuperset(names) or len(set(names)) != len(names):
            count = torch.cuda.device_count()
            raise ConfigError(f"--device {asked}: torch sees {count} GPUs", remedy="name each once, as cuda:0,1")
    elif set(names) != {"cpu"}:
        raise ConfigError(f"--device: '{asked}' is not known", remedy="use auto, cpu, cuda:0, or several: cuda:0,1")
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

    Raises:
        SmearError: as a process raised it.
    """
    names = named(job.device)
    if job.settings.batch % len(names):
        raise ConfigError(
            f"batch: {job.settings.batch} fields cannot be shared by {len(names)} devices",
            where=job.config,
            remedy="take a multiple",
        )
    told = processes.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        try:
            processes.spawn(_process, (job, names, str(Path(folder) / "meeting"), told), nprocs=len(names))
        except processes.ProcessRaisedException:
            if told.empty():
                raise
    kind, said = told.get()
    if kind is not dict:
        problem, where, remedy = said
        raise kind(problem, where=where, remedy=remedy)
    return {**said, "device": ",".join(names)}


def _process(rank: int, job: TrainingJob, names: list[str], meeting: str, told: Any) -> None:
    """One of the processes: they meet at a file, and each learns from its share of every batch."""
    if names[rank].startswith("cuda"):
        torch.cuda.set_device(names[rank])
    distributed.init_process_group(
        "nccl" if names[rank].startswith("cuda") else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=len(names),
        timeout=_PATIENCE,
    )
    try:
        record = family(job.settings.family).train(replace(job, device=names[rank]))
    except SmearError as error:
        told.put((type(error), (error.problem, error.where, error.remedy)))
        raise
    if rank == 0:
        told.put((dict, record))
    distributed.destroy_process_group()
