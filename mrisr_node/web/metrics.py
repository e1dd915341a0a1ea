"""``/metrics`` for Prometheus, read from the records at each scrape.

Nothing is counted in memory: the figures are those of all processes together, and a restart does
not set them back. No label holds anything that came from outside.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter, Request
from peewee import Case, fn
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response

from mrisr_node import __version__
from mrisr_node.beats import signs
from mrisr_node.choices import Recipe
from mrisr_node.jobs.stages import Queue, Stage, queue_of, stages_of
from mrisr_node.people.roles import Permission
from mrisr_node.records import (
    ACTIVE,
    DIED,
    Failure,
    Job,
    Rejection,
    Series,
    StageRun,
    State,
    StoredFile,
    Upload,
    UploadState,
)
from mrisr_node.settings import Settings
from mrisr_node.web.health import PROCESSES, Health
from mrisr_node.web.permissions import allow

__all__ = ["NodeCollector", "metrics_router"]

# Seconds: from reading a few slices to a whole head in a large network on a slow processor.
_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_STATUSES = ("waiting", "delayed", "running")

_Samples = Iterable[tuple[tuple[str, ...], float]]


class NodeCollector(Collector):
    """Reads the figures of a node from its records."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings = settings
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Return every metric as it is now."""
        yield _gauge("mrisr_info", "1, with the version", ("version",), [((__version__,), 1.0)])
        yield from _series()
        yield from _queues()
        yield _stage_durations()
        yield _failures()
        yield from _quarantine()
        yield from _processes()
        yield from self._disk()
        yield _gauge(
            "mrisr_check_ok",
            "1 where a check of /readyz is ok, else 0",
            ("check",),
            [((name,), float(check.ok)) for name, check in self._health.report().items()],
        )

    def _disk(self) -> Iterator[Metric]:
        usage, least = shutil.disk_usage(self._settings.data_dir), self._settings.minimum_free_bytes
        yield _value("mrisr_disk_free_bytes", "Free space where data_dir is", usage.free)
        yield _value("mrisr_disk_size_bytes", "Size of the file system of data_dir", usage.total)
        yield _value("mrisr_disk_watermark_bytes", "Below it, nothing is accepted", least)
        stored = StoredFile.select(fn.SUM(StoredFile.size)).scalar() or 0
        yield _value("mrisr_files_bytes", "Size of the files that can be downloaded", stored)
        unfinished = Upload.state.not_in([UploadState.DONE.value, UploadState.REFUSED.value])
        arrived = Upload.select(fn.SUM(Upload.offset)).where(unfinished).scalar() or 0
        yield _value(
            "mrisr_uploads_bytes", "Size of what came of uploads that are not over", arrived
        )


def metrics_router(settings: Settings, health: Health) -> APIRouter:
    """Return the route ``/metrics``."""
    router = APIRouter(include_in_schema=False, dependencies=[allow(Permission.READ)])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(settings, health))

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind})

    return router


def _series() -> Iterator[Metric]:
    query = Series.select(Series.state, fn.COUNT(Series.id)).group_by(Series.state)
    found = dict(_rows(query))
    yield _gauge(
        "mrisr_series",
        "Series by the state they are in",
        ("state",),
        [((state.value,), found.get(state.value, 0)) for state in State],
    )
    newest = Series.select(fn.MAX(Series.last_instance_at)).scalar()
    if newest is not None:
        yield _value(
            "mrisr_last_instance_timestamp_seconds", "When the newest instance arrived", newest
        )


def _queues() -> Iterator[Metric]:
    """Tell what waits from the records, not from the queues: those hold wake-ups only."""
    now = time.time()
    depth = {(queue.value, status): 0.0 for queue in Queue for status in _STATUSES}
    oldest = {queue.value: 0.0 for queue in Queue}
    newest = Job.select(fn.MAX(Job.id)).group_by(Job.series)
    active = (
        Job.select(Job, Series)
        .join(Series)
        .where(Job.id.in_(newest), Series.state.in_([state.value for state in ACTIVE]))
    )
    for job in active:
        stage = Stage(job.stage) if job.stage else stages_of(Recipe(job.recipe))[0]
        queue = queue_of(stage).value
        if job.lease_owner is not None and job.lease_until > now:
            status = "running"
        elif job.not_before > now:
            status = "delayed"
        else:
            status = "waiting"
            oldest[queue] = max(oldest[queue], now - _waits_since(job))
        depth[queue, status] += 1
    yield _gauge(
        "mrisr_queue_jobs",
        "Jobs by queue: waiting for a worker, delayed until the next try, or running",
        ("queue", "status"),
        depth.items(),
    )
    yield _gauge(
        "mrisr_queue_oldest_wait_seconds",
        "For how long the oldest of the waiting jobs has waited",
        ("queue",),
        [((queue,), age) for queue, age in oldest.items()],
    )


def _waits_since(job: Job) -> float:
    """Return when a job became free for the next worker."""
    end = fn.MAX(StageRun.started_at + StageRun.seconds)
    last = StageRun.select(end).where(StageRun.job == job, StageRun.finished).scalar()
    return float(max(job.created_at, job.series.state_at, job.not_before, last or 0.0))


def _stage_durations() -> Metric:
    durations = HistogramMetricFamily(
        "mrisr_stage_duration_seconds", "How long finished stages took", labels=("stage",)
    )
    below = [fn.SUM(Case(None, [(StageRun.seconds <= bound, 1)], 0)) for bound in _BUCKETS]
    query = (
        StageRun.select(StageRun.stage, fn.SUM(StageRun.seconds), fn.COUNT(StageRun.id), *below)
        .where(StageRun.finished, StageRun.seconds.is_null(False))
        .group_by(StageRun.stage)
    )
    for stage, total, count, *counts in _rows(query):
        buckets = [(str(b), n) for b, n in zip(_BUCKETS, counts, strict=True)]
        durations.add_metric([stage], [*buckets, ("+Inf", count)], total)
    return durations


def _failures() -> Metric:
    family = CounterMetricFamily(
        "mrisr_failures",
        "What did not work, by stage and kind of error; each try counts",
        labels=("stage", "kind"),
    )
    query = Failure.select(Failure.stage, Failure.kind, fn.COUNT(Failure.id))
    # Deaths are told from the start: Prometheus sees no increase in what has just appeared.
    counts = {(stage.value, DIED): 0.0 for stage in Stage}
    for stage, kind, count in _rows(query.group_by(Failure.stage, Failure.kind)):
        counts[stage, kind] = count
    for labels, count in counts.items():
        family.add_metric(labels, count)
    return family


def _quarantine() -> Iterator[Metric]:
    [(count, newest)] = _rows(Rejection.select(fn.COUNT(Rejection.id), fn.MAX(Rejection.at)))
    yield _value("mrisr_quarantine_objects", "Received objects that were not accepted", count)
    if newest is not None:
        yield _value(
            "mrisr_last_rejection_timestamp_seconds", "When the newest of them arrived", newest
        )


def _processes() -> Iterator[Metric]:
    known = signs()
    silent = [((kind,), 0.0) for kind in PROCESSES if all(sign.kind != kind for sign in known)]
    yield _gauge(
        "mrisr_last_sign_of_life_timestamp_seconds",
        "When a process last said that it lives; 0: never",
        ("process",),
        [*silent, *(((sign.process,), sign.at) for sign in known)],
    )
    yield _gauge(
        "mrisr_associations",
        "DICOM associations that are open",
        ("process",),
        [
            ((sign.process,), float(sign.details["associations"]) if sign.fresh else 0.0)
            for sign in known
            if "associations" in sign.details
        ],
    )


def _rows(query: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - peewee's query type
    yield from query.tuples()


def _value(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value)


def _gauge(name: str, words: str, labels: tuple[str, ...], samples: _Samples) -> Metric:
    family = GaugeMetricFamily(name, words, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
