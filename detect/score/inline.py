"""A crew of one worker in this very process, whose pipeline stays open from run to run: for many small runs.

A field that ends the process ends its run with it, and nothing watches how long one takes: whoever works so has to be
watched, and a run that ended so goes on in a crew of processes.
"""

from __future__ import annotations

from detect.pipeline.run import Pipeline
from detect.score.engine import Calls, Crew, Tasks
from detect.score.settings import ScoreSettings
from detect.score.work import Job, Ready, Worker, opened


class Inline:
    """Opens such crews; runs of the same bundles and settings share a pipeline."""

    def __init__(self) -> None:
        self._pipelines: dict[str, Pipeline] = {}

    def open_crew(self, job: Job, workers: int, settings: ScoreSettings) -> Crew:
        """See `engine.open_crew`."""
        kept = {"pipeline", "min_score", "thresholds"}
        key = f"{settings.model_dump_json(include=kept)} {job.engine}"
        if key not in self._pipelines:
            self._pipelines[key] = opened(job)
        return _Alone(job, self._pipelines[key])


class _Alone:
    """See `engine.Crew`."""

    def __init__(self, job: Job, pipeline: Pipeline) -> None:
        self.workers = 1
        self._call: Calls | None = None
        self._worker = Worker(job, self._alive, pipeline)
        self.ready: Ready = self._worker.ready

    def _alive(self, done: int) -> None:
        if self._call is not None:
            self._call.progress(done)

    def work(self, tasks: Tasks, call: Calls) -> None:
        """See `engine.Crew.work`."""
        self._call = call
        while not call.stop() and (task := tasks.take()) is not None:
            result = self._worker.do(task)
            call.settled(task, result)
            tasks.settle(task, result)

    def close(self) -> None:
        """See `engine.Crew.close`."""
