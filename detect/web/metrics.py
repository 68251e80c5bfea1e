"""Figures of the page for Prometheus. No names, no ids."""

from __future__ import annotations

import threading
from collections import Counter

from detect.web.service import Service

_BOUNDS = (0.05, 0.2, 1.0, 5.0, 20.0)


class Counted:
    """Requests by their answer, and how long they took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answers: Counter[int] = Counter()
        self.within: Counter[float] = Counter()
        self.seconds = 0.0

    def now(self) -> tuple[Counter[int], Counter[float], float]:
        """Answers, those within each time, and seconds in all."""
        with self._lock:
            return Counter(self.answers), Counter(self.within), self.seconds

    def add(self, status: int, seconds: float) -> None:
        """One answer."""
        with self._lock:
            self.answers[status] += 1
            self.seconds += seconds
            self.within.update(bound for bound in _BOUNDS if seconds <= bound)


def text(service: Service, counted: Counted) -> str:
    """The figures, in Prometheus's text form."""
    states, (answers, within, seconds) = service.records.counts(), counted.now()
    lines = ["# HELP smear_web_uploads Uploads by state.", "# TYPE smear_web_uploads gauge"]
    lines += [
        f'smear_web_uploads{{state="{s}"}} {states.get(s, 0)}' for s in ("queued", "running", "done", "failed", "gone")
    ]
    lines += ["# HELP smear_web_workers Processes that score.", "# TYPE smear_web_workers gauge"]
    lines += [f"smear_web_workers {service.scorers.alive}"]
    lines += ["# HELP smear_web_worker_restarts_total Processes that ended and were replaced."]
    lines += ["# TYPE smear_web_worker_restarts_total counter"]
    lines += [f"smear_web_worker_restarts_total {service.scorers.restarts}"]
    lines += ["# HELP smear_web_requests_total Requests by status.", "# TYPE smear_web_requests_total counter"]
    lines += [f'smear_web_requests_total{{status="{s}"}} {n}' for s, n in sorted(answers.items())]
    lines += ["# HELP smear_web_request_seconds Time to answer.", "# TYPE smear_web_request_seconds histogram"]
    total = answers.total()
    lines += [f'smear_web_request_seconds_bucket{{le="{bound:g}"}} {within[bound]}' for bound in _BOUNDS]
    lines += [f'smear_web_request_seconds_bucket{{le="+Inf"}} {total}']
    lines += [f"smear_web_request_seconds_sum {seconds:.3f}", f"smear_web_request_seconds_count {total}"]
    return "\n".join(lines) + "\n"
