"""What leads a run's tasks to its workers, and the one table of engines that do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Protocol

from detect import errors
from detect.errors import SmearError, StoreError
from detect.score.settings import ScoreSettings
from detect.score.work import Done, Job, Part, Ready, Result, Task

ENGINES = {"local": "detect.score.local", "ray": "detect.score.ray"}

LIMITED = "took "  # how the reason begins where a limit of time or memory was reached
OPENING = 300.0  # seconds that a worker may take to open the pipeline, on a machine that is busy
TRIES = 3  # of a task whose worker ended, though none of its fields ends one by itself


Told = tuple[str, str, str | None, str | None]  # an error on its way to another process: kind, problem, where, remedy


class Crew(Protocol):
    """Workers that have opened the pipeline."""

    @property
    def workers(self) -> int:
        """How many there are at most."""

    @property
    def ready(self) -> Ready:
        """What they found in it."""

    def work(self, tasks: Tasks, call: Calls) -> None:
        """Have every task done; tasks that are in hand when `call.stop` says so are finished, others are not begun.

        Raises:
            StoreError: one could not be done. All others are.
        """

    def close(self) -> None:
        """Send the workers home."""


OpenCrew = Callable[[Job, int, ScoreSettings], Crew]


class Calls(Protocol):
    """What a crew tells the leader of the run."""

    def settled(self, task: Task, result: Result) -> None:
        """A task is done; parts are on disk."""

    def killed(self, part: Part, field: str, reason: str) -> None:
        """A field ended a worker that looked at it alone."""

    def refused(self, why: str) -> None:
        """A worker could not open the pipeline; the others go on without it."""

    def progress(self, fields: int) -> None:
        """Fields done since the last call; less than nothing where a part is begun anew."""

    def stop(self) -> bool:
        """Whether no new task is to be begun."""


class Tasks:
    """Rows of tasks: those of one row are done one after another, rows side by side, the first ones first."""

    def __init__(self, rows: Iterable[Sequence[Task]]) -> None:
        self._rows = deque(deque(row) for row in rows if row)
        self._follow: dict[int, deque[Task]] = {}

    def __bool__(self) -> bool:
        """Whether any task can be begun now."""
        return bool(self._rows)

    def take(self) -> Task | None:
        """The next task that can be begun; None where there is none now."""
        if not self._rows:
            return None
        row = self._rows.popleft()
        task = row.popleft()
        self._follow[id(task)] = row
        return task

    def settle(self, task: Task, result: Result) -> None:
        """A task is done: the next of its row can be begun, and knows what was counted before."""
        row = self._follow.pop(id(task))
        if row:
            if isinstance(result, Done) and isinstance(task, Part) and isinstance(row[0], Part):
                row[0] = replace(row[0], counted=task.counted + result.white)
            self._rows.appendleft(row)

    def leave(self, task: Task) -> None:
        """A task cannot be done, nor what comes after it in its row."""
        self._follow.pop(id(task))

    def again(self, task: Task, instead: Task) -> None:
        """Put a task back as the first of its row, changed."""
        row = self._follow.pop(id(task))
        row.appendleft(instead)
        self._rows.appendleft(row)


def open_crew(job: Job, workers: int, settings: ScoreSettings) -> Crew:
    """Workers for a run on the engine that its settings name."""
    module = import_module(ENGINES[settings.engine])
    opened: OpenCrew = module.open_crew
    return opened(job, workers, settings)


def told_of(error: SmearError) -> Told:
    """An error as it can be sent."""
    return type(error).__name__, error.problem, error.where, error.remedy


def error_of(told: Told) -> SmearError:
    """The error that was sent."""
    kind, problem, where, remedy = told
    made = getattr(errors, kind, SmearError)
    if not issubclass(made, SmearError) or made is errors.MissingExtraError:
        made = SmearError
    return made(problem, where=where, remedy=remedy)


def gave_up(task: Task, why: str) -> StoreError:
    """What ends a run whose workers end, though none of its fields alone ends one."""
    what = f"part {task.number}" if isinstance(task, Part) else f"slide {task.slide}"
    remedy = "go on with --resume and fewer --workers, or begin again with a smaller --batch"
    if why.startswith(LIMITED):
        remedy = "begin again with a higher --time-limit or --memory-limit, or without them"
    return StoreError(
        f"{what} ended its worker {TRIES} times ({why}), and none of its fields does alone", remedy=remedy
    )
