"""Curves of a training in MLflow while it runs: losses, speed, dev figures, and how busy the machine is.

Only where MLFLOW_TRACKING_URI is set: importing MLflow takes seconds, and without a server nobody watches. The run is
found again by the training's fingerprint, so a killed training goes on in it. `register` makes it the child of the
pipeline's run, known by the digest of the log of losses, or makes one of that log where there is none.

Training never waits for the server. A thread of its own connects and sends; what cannot be sent is kept and tried
again, and a run whose points are not all there does not get that digest, so that nobody takes it for whole.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from components.core import environment, tracking
from components.core.errors import Interrupted

_DONE = "steps"  # a metric whose value says how far a run's points go
_SEND_SECONDS = 2.0
_RETRY_SECONDS = 15.0
_SYSTEM_SECONDS = 10.0
_END_SECONDS = 10.0  # how long the end of a training may wait for the server
_KEPT = 1_000_000  # points that wait for a server
_BATCH, _PARAMS = 1000, 100  # points and parameters of a request, as many as MLflow takes

# A point: key, value, time in milliseconds, step.
Point = tuple[str, float, int, int]


class Curves:
    """``with Curves("finetune", fingerprint, params, ctx.log, done) as curves: …; curves.finish(digest)``.

    ``done`` steps were taken by a process before this one. Nothing happens in any but the first of several processes,
    nor without MLFLOW_TRACKING_URI.
    """

    def __init__(
        self, step: str, training: str, params: Mapping[str, Any], say: Callable[[str], None], done: int = 0
    ) -> None:
        self._step, self._training, self._params, self._say = step, training, params, say
        self._active = bool(os.environ.get(tracking.URI_KEY)) and environment.rank() == 0
        self._points: deque[Point] = deque()
        self._done = done
        self._there = 0  # steps whose points are in the run already
        self._lost = False
        self._losses: str | None = None
        self._status = tracking.FINISHED
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="curves", daemon=True)

    def __enter__(self) -> Curves:
        if self._active:
            self._thread.start()
        return self

    def add(self, number: int, figures: Mapping[str, float]) -> None:
        """Draw the figures of a step, from 0. Never waits."""
        if not self._active:
            return
        now = time.time_ns() // 1_000_000
        if len(self._points) > _KEPT:
            self._lost = True
            return
        points = [(key, value, now, number) for key, value in figures.items() if math.isfinite(value)]
        self._points.extend([*points, (_DONE, number + 1.0, now, number)])

    def finish(self, losses: str) -> None:
        """The training is done; ``losses`` is the digest of its log."""
        self._losses = losses

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._active:
            return
        if kind is not None:
            self._status = "KILLED" if issubclass(kind, Interrupted | KeyboardInterrupt) else "FAILED"
        self._ending.set()
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self._say(f"{tracking.store_name()} is slow: the last points of the curves are not there")

    def _work(self) -> None:
        client: Any = None
        run_id, warned, system = "", False, _System()
        while True:
            ending = self._ending.wait(_SEND_SECONDS)
            try:
                if client is None:
                    client = tracking.connect()
                    run_id = self._open(client)
                self._points.extend(system.points())
                while self._points:
                    self._send(client, run_id)
                if ending:
                    self._end(client, run_id)
                    return
            except Exception as error:
                if not warned:
                    warned = True
                    self._say(f"no curves for now ({str(error).splitlines()[0]}); training goes on")
                if ending or self._ending.wait(_RETRY_SECONDS):
                    return

    def _open(self, client: Any) -> str:
        """The run of this training: one that a process before this has left, or a new one."""
        from mlflow.entities import Param

        with tracking.tracking_errors():
            experiment = tracking.experiment_id(client)
            tags = {tracking.STEP: self._step, tracking.TRAINING: self._training}
            for run in reversed(tracking.find_runs(client, experiment, tags)):
                # one that is finished was drawn to its end by a process that was killed before its outputs were there,
                # or by an earlier training with the same inputs
                if self._done or run.info.status != tracking.FINISHED:
                    client.update_run(run.info.run_id, status="RUNNING")
                    for key, value in tracking.orchestrated().items():
                        client.set_tag(run.info.run_id, key, value)
                    self._there = int(run.data.metrics.get(_DONE, 0))
                    self._lost |= self._there < self._done
                    return str(run.info.run_id)
            self._lost |= self._done > 0
            tags |= tracking.git_state().tags() | tracking.orchestrated()
            run = client.create_run(experiment, run_name=self._step, tags=tags)
            params = [Param(tracking.key_name(key), value) for key, value in tracking.flatten(self._params)]
            for first in range(0, len(params), _PARAMS):
                client.log_batch(run.info.run_id, params=params[first : first + _PARAMS])
            return str(run.info.run_id)

    def _send(self, client: Any, run_id: str) -> None:
        from mlflow.entities import Metric

        batch = [self._points[index] for index in range(min(_BATCH, len(self._points)))]
        fresh = [point for point in batch if point[-1] >= self._there]
        metrics = [Metric(tracking.key_name(key), value, when, step) for key, value, when, step in fresh]
        with tracking.tracking_errors():
            client.log_batch(run_id, metrics=metrics)
        for _ in batch:
            self._points.popleft()

    def _end(self, client: Any, run_id: str) -> None:
        with tracking.tracking_errors():
            if self._status == tracking.FINISHED and self._losses is not None and not self._lost:
                client.set_tag(run_id, tracking.LOSSES, self._losses)
            client.set_terminated(run_id, status=self._status)


class _System:
    """How busy the machine is, under MLflow's own names."""

    def __init__(self) -> None:
        self._monitors: list[Any] | None = None
        self._next = 0.0

    def points(self) -> list[Point]:
        """Nothing, until it is time again."""
        now = time.time()
        if now < self._next:
            return []
        self._next = now + _SYSTEM_SECONDS
        if self._monitors is None:
            self._monitors = _monitors()
        values = {"process_memory_megabytes": _resident() / 1e6}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return [(f"system/{key}", value, int(now * 1000), int(now / _SYSTEM_SECONDS)) for key, value in values.items()]


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics import cpu_monitor, gpu_monitor

    monitors = [_made(cpu_monitor.CPUMonitor)]
    with suppress(Exception):  # no such hardware, or not the package that asks it
        monitors.append(_made(gpu_monitor.GPUMonitor))
    return monitors


def _made(kind: Any) -> Any:
    return kind()


def _resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
