"""The engine of one machine: a process for each processor core, or for each GPU, and one that leads them.

Processes, not threads: on two cores they score more fields a second (`tools/bench_score.py`), since what is done in
Python beside the model is done side by side too; and a picture that brings a decoder down takes one of them with it,
not the run. Whoever dies is replaced; the fields of its part are then looked at one by one to find the one to blame.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from detect.errors import SmearError
from detect.runtime.base import FRAMEWORK
from detect.score import forked
from detect.score.engine import LIMITED, OPENING, TRIES, Calls, Tasks, error_of, gave_up, told_of
from detect.score.scales import Looked
from detect.score.settings import ScoreSettings
from detect.score.store import without_pandas
from detect.score.work import Job, LeftAloneError, Measure, Part, Ready, Task, Worker

_DIED = "ended the process that read it"
_LOOK = 1.0  # seconds between looks at workers that say nothing
_WORD = 0.1  # seconds within which a worker says once that it is alive
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass
class _Hand:
    """One worker process."""

    process: BaseProcess
    line: Connection
    slot: int
    task: Task | None = None
    heard: float = 0.0  # when it last said something
    done: int = 0  # fields of its task
    probing: bool = False  # it looks at the fields of its part one by one
    field: int = -1  # the one that it looks at
    opened: bool = False  # it has opened the pipeline
    broke: str = ""  # the error that ended it, if it could tell


class LocalCrew:
    """See `engine.Crew`."""

    def __init__(self, job: Job, workers: int, settings: ScoreSettings) -> None:
        self._job, self.workers = job, workers
        self._time, self._memory = settings.time_limit, settings.memory_limit
        self._context = forked.context()
        self._hands: list[_Hand] = []
        self._tries: Counter[int | str] = Counter()
        self._suspects: dict[int | str, dict[str, str]] = {}
        self._doubts: Counter[tuple[int, str]] = Counter()
        self._given_up: list[SmearError] = []  # tasks that cannot be done
        try:
            # Side by side, while the run is planned; what comes later is hired as there is work for it.
            for slot in range(max(1, min(self.workers, job.files // settings.batch))):
                self._hands.append(self._hire(slot))
            self.ready: Ready = self._first_word(self._hands[0])
        except BaseException:
            self.close()
            raise

    def work(self, tasks: Tasks, call: Calls) -> None:
        """See `engine.Crew.work`."""
        while True:
            if not call.stop():
                self._hand_out(tasks)
            busy = [hand for hand in self._hands if hand.task is not None]
            if not busy:
                if self._given_up:
                    raise self._given_up.pop(0)
                return
            lines: dict[Any, _Hand] = {hand.line: hand for hand in self._hands}
            for ready in wait(list(lines), timeout=_LOOK):
                self._hear(lines[ready], tasks, call)
            for hand in [h for h in self._hands if h.task is not None]:
                self._watch(hand, tasks, call)

    def close(self) -> None:
        """Send the workers home; those that do not go are ended."""
        for hand in self._hands:
            with contextlib.suppress(OSError):
                hand.line.send(None)
        for hand in self._hands:
            hand.process.join(5 if hand.task is None else 0)
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()
            hand.line.close()
        self._hands = []

    def _hand_out(self, tasks: Tasks) -> None:
        """A task for everyone who has none; workers are hired as there is work for them."""
        for slot in range(self.workers):
            hand = next((h for h in self._hands if h.slot == slot), None)
            if hand is not None and hand.task is not None:
                continue
            task = tasks.take()
            if task is None:
                return
            if hand is None:
                hand = self._hire(slot)
                self._hands.append(hand)
            self._give(hand, task)

    def _give(self, hand: _Hand, task: Task) -> None:
        hand.task, hand.heard, hand.done = task, time.monotonic(), 0
        with contextlib.suppress(OSError):  # it is dead, and will be missed
            hand.line.send(("do", task))

    def _hire(self, slot: int) -> _Hand:
        ours, theirs = self._context.Pipe()
        job = replace(self._job, engine=_place(self._job, slot))
        process = self._context.Process(
            target=_serve, args=(theirs, job, dict(os.environ), str(Path.cwd())), daemon=True
        )
        process.start()
        theirs.close()
        return _Hand(process, ours, slot, heard=time.monotonic())

    def _first_word(self, hand: _Hand) -> Ready:
        try:
            what, told = hand.line.recv()
        except EOFError:
            hand.process.join()
            raise gave_up_opening(hand.process.exitcode) from None
        if what == "error":
            raise error_of(told)
        if what != "ready":
            raise SmearError(f"a worker could not open the pipeline: it {told}", remedy="see smear doctor")
        hand.opened = True
        ready: Ready = told
        return ready

    def _hear(self, hand: _Hand, tasks: Tasks, call: Calls) -> None:
        """Everything that a worker has to say."""
        try:
            while hand.line.poll():
                what, told = hand.line.recv()
                hand.heard = time.monotonic()
                if what == "ready":
                    hand.opened = True
                elif what == "alive" and not hand.probing:
                    hand.done += told
                    call.progress(told)
                elif what == "looking":
                    hand.field = told
                elif what == "broke":
                    hand.broke = told
                elif what == "error":
                    raise error_of(told)
                elif what == "probed":
                    self._probed(hand, tasks)
                elif what == "done" and hand.task is not None:
                    task, hand.task = hand.task, None
                    call.settled(task, told)
                    tasks.settle(task, told)
        except (EOFError, ConnectionResetError):
            hand.process.join()
            self._lost(hand, hand.broke or _how(hand.process.exitcode), tasks, call)

    def _watch(self, hand: _Hand, tasks: Tasks, call: Calls) -> None:
        """End a worker that takes too long or too much; whatever it was, the field is found as after a crash."""
        why = ""
        limit = self._time if hand.opened else max(self._time, OPENING)
        if time.monotonic() - hand.heard > limit:
            why = f"{LIMITED}longer than {self._time:g} s"
        elif self._memory is not None and _resident(hand.process.pid) > self._memory:
            why = f"{LIMITED}more than {self._memory} MiB"
        if why:
            hand.process.kill()
            hand.process.join()
            self._lost(hand, why, tasks, call)

    def _lost(self, hand: _Hand, why: str, tasks: Tasks, call: Calls) -> None:
        """A worker is gone: another one takes its place, and finds out which field it was."""
        task = hand.task
        hand.line.close()
        self._hands.remove(hand)
        if task is None:
            return
        call.progress(-hand.done)
        if call.stop():  # whoever stops the run may have ended its workers too
            return
        if isinstance(task, Measure):
            self._again(task, why, tasks, call)
            return
        beginning = hand.field + 1
        if hand.field >= 0:
            name = task.rows[hand.field].field.id
            self._doubts[task.key, name] += 1
            if self._doubts[task.key, name] == 1 and _DIED in why:  # something else may have ended it: once more
                beginning = hand.field
            else:
                self._suspects.setdefault(task.key, {})[name] = why
                call.killed(task, name, why)
        else:
            self._tries[task.key] += 1
            if self._tries[task.key] >= TRIES:
                self._given_up.append(gave_up(task, why))
                tasks.leave(task)
                return
        fresh = self._hire(hand.slot)
        self._hands.append(fresh)
        fresh.task, fresh.heard, fresh.probing = task, time.monotonic(), True
        with contextlib.suppress(OSError):
            fresh.line.send(("probe", (task, beginning)))

    def _probed(self, hand: _Hand, tasks: Tasks) -> None:
        """Every field was looked at alone: the part is begun anew, without those that end a worker."""
        task, hand.task, hand.probing, hand.field = hand.task, None, False, -1
        assert isinstance(task, Part)
        tasks.again(task, replace(task, killed={**task.killed, **self._suspects.pop(task.key, {})}))

    def _again(self, task: Measure, why: str, tasks: Tasks, call: Calls) -> None:
        """A slide whose measuring ends workers is looked at unmeasured."""
        self._tries[task.key] += 1
        if self._tries[task.key] < TRIES:
            tasks.again(task, task)
            return
        unknown = Looked(failed=True)
        call.settled(task, unknown)
        tasks.settle(task, unknown)


def open_crew(job: Job, workers: int, settings: ScoreSettings) -> LocalCrew:
    """Workers on this machine, the first of which has opened the pipeline."""
    return LocalCrew(job, workers, settings)


def _place(job: Job, slot: int) -> Any:
    """The engine of one worker: of several GPUs each has its own."""
    devices = job.engine.device.split(",")
    if job.engine.name != FRAMEWORK or len(devices) == 1:
        return job.engine
    kind = devices[0].partition(":")[0]
    own = devices[slot % len(devices)]
    return replace(job.engine, device=own if ":" in own else f"{kind}:{own}")


def _serve(line: Connection, job: Job, environment: dict[str, str], folder: str) -> None:
    """What a worker process does until it is sent home, or the one that leads has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that leads says when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # also where the whole group is told to
    os.environ.clear()
    os.environ.update(environment)
    os.environ["OMP_NUM_THREADS"] = str(job.engine.cores)  # read by frameworks that are not loaded yet
    os.chdir(folder)
    lock = threading.Lock()

    def say(what: str, told: Any) -> bool:
        """Whether somebody is there to hear it."""
        try:
            with lock:
                line.send((what, told))
        except OSError:  # the leader has gone
            return False
        return True

    said = [0.0]

    def alive(done: int) -> None:  # not a word for every field: they are many, and whoever leads has to hear them
        if done or time.monotonic() - said[0] > _WORD:
            said[0] = time.monotonic()
            say("alive", done)

    try:
        without_pandas()
        worker = Worker(job, alive, led=lambda: say("alive", 0))
        say("ready", worker.ready)
        while (asked := line.recv()) is not None:
            what, told = asked
            if what == "do":
                say("done", worker.do(told))
                continue
            part, beginning = told
            for i in range(beginning, len(part.rows)):
                planned = part.rows[i]
                if not planned.reason and planned.field.id not in part.killed:
                    say("looking", i)
                    worker.alone(planned, part.looked[planned.field.slide])
            say("probed", None)
    except (EOFError, LeftAloneError):
        return
    except SmearError as error:
        say("error", told_of(error))
    except Exception as error:  # told, so that the field to blame has a reason; the process ends
        say("broke", f"broke the program: {type(error).__name__}: {error}")
        raise


def _how(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"{_DIED}: {signal.Signals(-code).name}"
    return f"{_DIED}: exit code {code}"


def gave_up_opening(code: int | None) -> SmearError:
    """What is said where a worker ends before it has opened the pipeline."""
    return SmearError(f"a worker could not open the pipeline: {_how(code)}", remedy="see smear doctor")


def _resident(pid: int | None) -> float:
    """Memory that a process holds, MiB; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20
    except (OSError, ValueError, IndexError):
        return 0.0
