"""The engine of several machines: one Ray actor for each processor core, or for each GPU, of a cluster.

The input and the run folder have to be reachable from every machine: under the same paths, or at a URL. The plan, the
parts, their bytes and what is written into them are those of the local engine: an actor is the same worker. The only
file that imports Ray.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from detect import __version__
from detect.errors import MissingExtraError, SmearError, StoreError
from detect.runtime.base import FRAMEWORK, fast_precisions
from detect.score.engine import LIMITED, OPENING, TRIES, Calls, Tasks, Told, error_of, gave_up, told_of
from detect.score.scales import Looked
from detect.score.settings import ScoreSettings
from detect.score.store import without_pandas
from detect.score.work import Job, Part, Ready, Result, Task, Worker

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
except ImportError as error:
    raise MissingExtraError("--engine ray", "ray") from error

_LOOK = 1.0  # seconds between looks at actors that say nothing
_PULSE = 5.0  # seconds after which they are asked for how long they do
_KNOCK = 10.0  # seconds that an address has to answer


class _Actor:
    """A worker on some machine of the cluster. It answers `silent` beside the task that it does."""

    def __init__(self, job: Job, version: str) -> None:
        self._heard, self._busy = 0.0, False
        self._wrong: Told | None = None
        try:
            self._worker = self._opened(job, version)
        except SmearError as wrong:  # what an actor raises here comes out as a text
            self._wrong = told_of(wrong)

    def _opened(self, job: Job, version: str) -> Worker:
        if version != __version__:
            what = f"a machine of the cluster has smear-detect {__version__}, this one has {version}"
            raise StoreError(what, remedy="install the same version everywhere")
        if job.links.input:
            job.root.mkdir(parents=True, exist_ok=True)
        if job.links.output:
            for name in ("cells", "fields"):
                (job.out / name).mkdir(parents=True, exist_ok=True)
        for folder in (job.root, job.out.parent):
            if not folder.is_dir():
                what = "cannot be reached from a machine of the cluster"
                raise StoreError(what, where=str(folder), remedy="give a folder that all machines share, by one path")
        chosen, engine = job.settings.precision, job.engine
        # The bytes of a run must not depend on which machine did what: one that would emulate it takes no part.
        if chosen == "auto" and engine.precision not in ("fp32", *fast_precisions(engine.name)):
            what = f"a machine of the cluster does not have {engine.precision}"
            raise StoreError(what, remedy="--precision fp32 is there on every machine")
        without_pandas()
        return Worker(job, self._alive)

    def _alive(self, _: int) -> None:
        self._heard = time.monotonic()

    def ready(self) -> Ready | Told:
        """See `work.Ready`; or why it could not open the pipeline."""
        return self._worker.ready if self._wrong is None else self._wrong

    def silent(self) -> float:
        """Seconds for which nothing was begun by what it does."""
        return time.monotonic() - self._heard if self._busy else 0.0

    def do(self, task: Task) -> Result:
        """Do a task."""
        with self._doing():
            return self._worker.do(task)

    def alone(self, part: Part, position: int) -> None:
        """Look at one field by itself."""
        planned = part.rows[position]
        if not planned.reason and planned.field.id not in part.killed:
            with self._doing():
                self._worker.alone(planned, part.looked[planned.field.slide])

    @contextmanager
    def _doing(self) -> Iterator[None]:
        self._heard, self._busy = time.monotonic(), True
        try:
            yield
        finally:
            self._busy = False


@dataclass
class _Hand:
    """One actor, and what it does."""

    actor: Any
    task: Task | None = None
    asked: float = 0.0  # when it was asked last for how long it is silent, or given a task
    silent: Any = None  # its answer, which is waited for
    late: bool = False  # it was ended, since it took too long
    position: int | None = None  # the field that it looks at alone
    opening: Any = None  # what says that it has opened the pipeline; None once it has


class RayCrew:
    """See `engine.Crew`."""

    def __init__(self, job: Job, workers: int, settings: ScoreSettings) -> None:
        self._time, self._ours = settings.time_limit, not ray.is_initialized()
        if self._ours:
            told: dict[str, Any] = {"address": settings.address}
            if not settings.address:  # never a cluster that happens to run here: Ray would join the last one begun
                told = {"address": "local", "num_cpus": settings.workers or None}
            _check_there(settings.address)
            try:
                with _own_signals():
                    ray.init(**told, logging_level="ERROR", log_to_driver=False, ignore_reinit_error=True)
            except (ConnectionError, RuntimeError, ValueError) as error:
                remedy = "start it with 'ray start --head', or leave out --address"
                raise StoreError(f"no Ray cluster at {settings.address!r}: {error}", remedy=remedy) from error
        gpu = job.engine.name == FRAMEWORK and job.engine.device != "cpu"
        kind = "GPU" if gpu else "CPU"
        most = int(ray.cluster_resources().get(kind, 0))
        if not most:
            self.close()
            raise StoreError(f"the cluster has no {kind}", remedy="add a machine that has one")
        self.workers = min(settings.workers, most) if settings.workers else most
        # Each actor sees its own GPU only, as the first.
        engine = replace(job.engine, device="cuda:0") if gpu else job.engine
        self._job = replace(job, engine=engine, root=job.root.resolve(), out=job.out.resolve())
        self._needs: Mapping[str, Any] = {"num_gpus": 1, "num_cpus": 0} if gpu else {"num_cpus": 1}
        self._hands: list[_Hand] = []
        self._tries: Counter[int | str] = Counter()
        self._given_up: list[SmearError] = []  # tasks that cannot be done
        self._suspects: dict[int | str, dict[str, str]] = {}
        self._seen: Counter[int] = Counter()  # fields of a part that were looked at alone
        self._doubts: Counter[tuple[int, str]] = Counter()
        try:
            self._hands = [_Hand(self._hire()) for _ in range(self.workers)]
            self.ready: Ready = _ready(self._hands[0].actor.ready.remote())
            for hand in self._hands[1:]:
                hand.opening = hand.actor.ready.remote()
        except _LostActorError as lost:
            self.close()
            raise StoreError(f"a worker could not open the pipeline: it {lost}", remedy="see smear doctor") from lost
        except BaseException:
            self.close()
            raise

    def work(self, tasks: Tasks, call: Calls) -> None:
        """See `engine.Crew.work`."""
        running: dict[Any, _Hand] = {}
        while True:
            for hand in self._hands:
                if (
                    hand.task is None
                    and hand.opening is None
                    and not call.stop()
                    and (task := tasks.take()) is not None
                ):
                    running[self._give(hand, task, tasks)] = hand
            if not running and (call.stop() or not tasks):
                if self._given_up:
                    raise self._given_up.pop(0)
                return
            opening = {hand.opening: hand for hand in self._hands if hand.opening is not None}
            if not running and not opening:
                raise StoreError("no worker of the cluster is left", remedy="see 'ray status', go on with --resume")
            done, _ = ray.wait([*running, *opening], num_returns=1, timeout=_LOOK)
            for future in done:
                if future in opening:
                    self._opened(opening[future], call)
                    continue
                hand = running.pop(future)
                try:
                    result = _got(future, None)
                except _LostActorError as lost:
                    self._lost(hand, str(lost), tasks, call)
                    continue
                again = self._went_well(hand, result, tasks, call)
                if again is not None:
                    running[again] = hand
            for hand in running.values():
                if not hand.late and self._late(hand):
                    hand.late = True
                    ray.kill(hand.actor)  # what it does then fails, as after a crash

    def _opened(self, hand: _Hand, call: Calls) -> None:
        """An actor has opened the pipeline, or could not: then there is one less."""
        try:
            _ready(hand.opening)
            hand.opening = None
        except (_LostActorError, SmearError) as wrong:
            self._hands.remove(hand)
            call.refused(str(wrong))

    def close(self) -> None:
        """Send the workers home; a cluster that was there before stays."""
        for hand in getattr(self, "_hands", []):
            ray.kill(hand.actor)
        self._hands = []
        if self._ours:
            ray.shutdown()

    def _hire(self) -> Any:
        """An actor somewhere with room for it."""
        # What this process was told to import from holds for actors too. A cluster of ours knows it already, and has
        # processes ready, which a runtime environment would pass by.
        path = None if self._ours else os.environ.get("PYTHONPATH")
        told = {"env_vars": {"PYTHONPATH": path}} if path else None
        made = ray.remote(_Actor).options(**self._needs, runtime_env=told, max_restarts=0, max_concurrency=2)
        return made.remote(self._job, __version__)

    def _give(self, hand: _Hand, task: Task, tasks: Tasks) -> Any:
        hand.task, hand.asked, hand.silent, hand.position = task, time.monotonic(), None, None
        if isinstance(task, Part) and self._tries[task.key] > 1 and self._seen[task.key] < len(task.rows):
            hand.position = self._seen[task.key]
            return hand.actor.alone.remote(task, hand.position)
        return hand.actor.do.remote(task)

    def _late(self, hand: _Hand) -> bool:
        """Whether it began nothing for longer than a field may take, or does not even say so."""
        waited = time.monotonic() - hand.asked
        if hand.silent is None:
            if waited > min(_PULSE, self._time):
                hand.silent, hand.asked = hand.actor.silent.remote(), time.monotonic()
            return False
        if not ray.wait([hand.silent], timeout=0)[0]:
            return waited > self._time
        with suppress(RayError):  # it is gone, which what it does will tell
            silent = float(ray.get(hand.silent))
            hand.silent = None
            return silent > self._time
        return False

    def _went_well(self, hand: _Hand, result: Any, tasks: Tasks, call: Calls) -> Any:
        """What an actor does next, if that is settled already."""
        task = hand.task
        assert task is not None
        if hand.position is not None and isinstance(task, Part):
            self._seen[task.key] = hand.position + 1
            if hand.position + 1 < len(task.rows):
                hand.position, hand.asked, hand.silent = hand.position + 1, time.monotonic(), None
                return hand.actor.alone.remote(task, hand.position)
            hand.task = hand.position = None
            tasks.again(task, replace(task, killed={**task.killed, **self._suspects.pop(task.key, {})}))
            return None
        hand.task = None
        if isinstance(task, Part):
            call.progress(len(task.rows))
        call.settled(task, result)
        tasks.settle(task, result)
        return None

    def _lost(self, hand: _Hand, why: str, tasks: Tasks, call: Calls) -> None:
        """An actor, or its whole machine, is gone: others do its task again; one takes its place where there is room.

        Only where that one goes too are the fields looked at one by one: machines are lost more often than a picture
        takes a process down.
        """
        task, position = hand.task, hand.position
        assert task is not None
        if hand.late:
            why = f"{LIMITED}longer than {self._time:g} s"
        ended, hand.late = not hand.late, False
        hand.task = hand.position = None
        hand.actor = self._hire()
        hand.opening = hand.actor.ready.remote()
        if isinstance(task, Part) and position is not None:
            name = task.rows[position].field.id
            self._doubts[task.key, name] += 1
            if ended and self._doubts[task.key, name] == 1:  # its machine may have been lost: once more
                self._seen[task.key] = position
                tasks.again(task, task)
                return
            self._suspects.setdefault(task.key, {})[name] = why
            call.killed(task, name, why)
            self._seen[task.key] = position + 1
            tasks.again(task, task)
            return
        # Its machine may have gone, which is found out by another try; not where it was we who ended it.
        self._tries[task.key] += 1 if ended or self._tries[task.key] else 2
        if self._tries[task.key] < TRIES:
            tasks.again(task, task)
        elif isinstance(task, Part):
            self._given_up.append(gave_up(task, why))
            tasks.leave(task)
        else:
            unknown = Looked(failed=True)
            call.settled(task, unknown)
            tasks.settle(task, unknown)


def open_crew(job: Job, workers: int, settings: ScoreSettings) -> RayCrew:
    """Actors of a cluster, the first of which has opened the pipeline."""
    return RayCrew(job, workers, settings)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our handlers of signals, in whose place Ray puts one that ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


def _check_there(address: str) -> None:
    """StoreError where nothing answers at an address: Ray itself would wait for minutes, and then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # none, or "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK).close()
    except OSError as error:
        remedy = "start it with 'ray start --head', or leave out --address"
        raise StoreError(f"no Ray cluster at {address}: {error}", remedy=remedy) from error


class _LostActorError(Exception):
    """An actor is gone."""


def _ready(future: Any) -> Ready:
    """What an actor found when it opened the pipeline; what it could not, as the error that it was."""
    told = _got(future, OPENING)
    if not isinstance(told, Ready):
        raise error_of(told)
    return told


def _got(future: Any, patience: float | None) -> Any:
    """What a call came to; our own errors come out as they went in."""
    try:
        return ray.get(future, timeout=patience)
    except GetTimeoutError as error:
        remedy = "see 'ray status': are there processors that are free?"
        raise StoreError(f"no machine took a worker within {OPENING:g} s", remedy=remedy) from error
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, SmearError):
            raise error_of(told_of(cause)) from error
        raise _LostActorError(f"broke the program: {type(cause).__name__}: {cause}") from error
    except RayActorError as error:
        raise _LostActorError("ended the process that read it") from error
    except RayError as error:
        raise _LostActorError(f"was lost: {type(error).__name__}") from error
