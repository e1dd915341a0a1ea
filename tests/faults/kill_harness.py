"""A node under load whose processes are killed at chosen points, and what is left of its promises.

The receiver, the queues, the workers, the records and Orthanc are the real ones; brain extraction
and the network have quick stand-ins. The sender does what a scanner does: it sends what was not
acknowledged again, until it is.
"""

import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from node_under_load import Processes, Sender, running
from pydicom import dcmread

from mrisr_node.choices import Recipe
from mrisr_node.jobs.history import result_series_of
from mrisr_node.jobs.leftovers import remove_leftovers
from mrisr_node.jobs.stages import Queue, queue_of, stages_of
from mrisr_node.node.sample import Acquisition, SampleSeries, Study, write_sample
from mrisr_node.records import Instance, Job, Series, State, Transition, open_records
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Settings

SLICES = 8
_ENDED = [State.DONE.value, State.SKIPPED.value, State.FAILED.value]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Kill:
    """The process of a role dies when it reaches a point for the n-th time."""

    role: str
    point: str
    number: int = 1


def _both(*names: str) -> list[str]:
    return [f"{name}.{when}" for name in names for when in ("before", "after")]


_STAGES = stages_of(Recipe.NATIVE)
_QUEUES = dict.fromkeys(map(queue_of, _STAGES))
_DELIVERED = ["instance", "confirmation", "promise"]
POINTS: dict[str, list[str]] = {
    "receiver": ["write.before", *_both("sync", "rename", "commit", "unlink", "enqueue")],
    **{
        queue.value: [
            "dequeue.after",
            "write.before",
            *_both("rename", "commit", *[f"stage-{s}" for s in _STAGES if queue_of(s) is queue]),
            *_both(*(_DELIVERED if queue is Queue.DELIVERY else ["enqueue"])),
        ]
        for queue in _QUEUES
    },
}
"""Everything that becomes durable, or known to others, by role."""


@dataclass
class Figures:
    """What the kills did, and what came of the load."""

    kills: Counter[str] = field(default_factory=Counter)
    not_reached: list[str] = field(default_factory=list)
    acknowledged: int = 0
    lost: int = 0
    series: int = 0
    done_once: int = 0
    reopened: int = 0
    """Series that a slice came late for, because a kill kept it away for long: two results."""
    unfinished: list[str] = field(default_factory=list)
    duplicates: int = 0
    left: int = 0
    """Files and folders without an owner when the last kill was over."""
    orphans: list[str] = field(default_factory=list)
    """Those of them that the next start and the tidying left."""
    seconds: float = 0.0

    def lines(self) -> Iterator[str]:
        """Say it to people."""
        for point, count in sorted(self.kills.items()):
            yield f"  {point:<40} {count}"
        yield f"kills               {sum(self.kills.values())} in {self.seconds:.0f} s"
        yield f"not reached         {', '.join(self.not_reached) or 'none'}"
        yield f"acknowledged        {self.acknowledged}"
        yield f"lost                {self.lost}"
        yield f"series              {self.series}"
        yield f"done once           {self.done_once}, re-opened by a late slice {self.reopened}"
        yield f"not done            {'; '.join(self.unfinished) or 'none'}"
        yield f"duplicate results   {self.duplicates}"
        yield f"orphan files        {len(self.orphans)}, before tidying {self.left}"
        yield from (f"  {name}" for name in self.orphans)


class _Plans:
    """The kills of one role, one after the other."""

    def __init__(self, folder: Path, role: str, kills: Sequence[Kill], patience: float) -> None:
        self.role = role
        self._file = folder / f"plan-{role}"
        self._left = [kill for kill in kills if kill.role == role]
        self._patience = patience
        self._armed: Kill | None = None
        self._done = folder
        self._deadline = 0.0

    @property
    def left(self) -> int:
        """How many are to come."""
        return len(self._left) + (self._armed is not None)

    def look(self, figures: Figures) -> bool:
        """Note a kill that was done, arm the next one; tell whether there is none left."""
        if self._armed is not None:
            name = f"{self._armed.role}.{self._armed.point}"
            if self._done.exists():
                figures.kills[name] += 1
            elif time.monotonic() > self._deadline:
                self._file.unlink(missing_ok=True)
                figures.not_reached.append(f"{name} x{self._armed.number}")
            else:
                return False
            self._armed = None
        if not self._left:
            return True
        self._armed = kill = self._left.pop(0)
        self._done = self._file.with_name(f"done-{kill.role}-{len(self._left)}")
        self._deadline = time.monotonic() + self._patience
        # Beside its place first: it may be read at any time.
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{kill.point} {kill.number} {self._done.name}")
        draft.rename(self._file)
        return False


def run(
    settings: Settings,
    kills: Sequence[Kill],
    folder: Path,
    *,
    load: int = 3,
    patience: float = 300.0,
    say: Say = lambda _: None,
) -> Figures:
    """Kill at every point of a plan while series arrive, and look at what is left.

    The roles die independently of each other, each at its points in turn.

    Parameters
    ----------
    settings
        Of a node whose Orthanc runs already.
    folder
        Gets the series and the plan.
    load
        So many series are under way at any time.
    patience
        Seconds until a point counts as not reached.
    """
    open_records(settings.database_path)
    figures, begun = Figures(), time.monotonic()
    sender = Sender(settings, settings.accepted_ae_titles[0])
    sent: list[SampleSeries] = []
    threads: list[threading.Thread] = []

    def feed(wanted: int) -> None:
        """Keep so many series under way."""
        under_way = len(sent) - Series.select().where(Series.state.in_(_ENDED)).count()
        for _ in range(wanted - under_way):
            place = folder / f"series-{len(sent) + 1}"
            sample = _sample(place, len(sent))
            sent.append(sample)
            threads.append(threading.Thread(target=sender.send, args=(sample,), daemon=True))
            threads[-1].start()

    try:
        with running(settings, folder) as processes:
            plans = [_Plans(folder, role, kills, patience) for role in POINTS]
            told = 0
            while not _all_over(plans, figures):
                processes.keep_up()
                feed(load)
                time.sleep(0.05)
                if (done := sum(figures.kills.values())) > told:
                    told = done
                    left = ", ".join(f"{plan.role} {plan.left}" for plan in plans if plan.left)
                    seconds = time.monotonic() - begun
                    say(f"{done} of {len(kills)} kills, {seconds:.0f} s; left: {left or 'none'}")
            feed(1)
            _wait(processes, threads, len(sent), patience)
    finally:
        sender.stop.set()
        for thread in threads:
            thread.join()
    figures.left = len(list(_orphans(settings)))
    # What the next start and the tidying of the next day clear away is no orphan.
    with running(settings, folder) as processes:
        processes.keep_up()
        _wait_for_receiver(settings, patience)
    remove_leftovers(settings, time.time() + 2 * 86_400)
    figures.seconds = time.monotonic() - begun
    _count(figures, settings, sender, sent)
    return figures


def _all_over(plans: Sequence[_Plans], figures: Figures) -> bool:
    over = [plan.look(figures) for plan in plans]  # each is looked at, whatever another one says
    return all(over)


def _wait(
    processes: Processes, threads: list[threading.Thread], series: int, patience: float
) -> None:
    """Wait until every series has ended."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        processes.keep_up()
        ended = Series.select().where(Series.state.in_(_ENDED)).count()
        if ended == series and not any(thread.is_alive() for thread in threads):
            return
        time.sleep(0.05)


def _wait_for_receiver(settings: Settings, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", settings.receiver_port), 5).close()
            return
        time.sleep(0.1)


def _sample(folder: Path, number: int) -> SampleSeries:
    """Write a series whose files are named after their instances."""
    sample = write_sample(
        folder,
        Acquisition(slices=SLICES, matrix=64),
        study=Study(patient_id=f"KILLS-{number}"),
    )
    paths = []
    for path in sample.paths:
        uid = dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID
        paths.append(path.rename(folder / str(uid)))
    return SampleSeries(
        sample.study_uid, sample.series_uid, folder, tuple(paths), sample.head, sample.volume
    )


def _count(
    figures: Figures, settings: Settings, sender: Sender, sent: Sequence[SampleSeries]
) -> None:
    figures.acknowledged = len(sender.acknowledged)
    figures.series = len(sent)
    rows = {row.sop_instance_uid: row for row in Instance.select()}
    for uid, path in sender.acknowledged.items():
        figures.lost += uid not in rows or not _kept(rows[uid], settings, path)
    pacs = Pacs(settings)
    for sample in sent:
        series = Series.get_or_none(Series.series_instance_uid == sample.series_uid)
        if series is None or series.state != State.DONE.value:
            why = f"{series.state}: {series.reason}" if series else "never arrived"
            figures.unfinished.append(why)
            continue
        steps = Transition.select().where(Transition.series == series)
        done = steps.where(Transition.target == State.DONE.value).count()
        late = steps.where(Transition.target == State.RECEIVING.value).count()
        jobs = list(Job.select().where(Job.series == series).order_by(Job.id))
        shown = _results(pacs, sample)
        # A job that a late slice took the place of may have stored a part of its result.
        known = {uid for job in jobs for uid in result_series_of(job)}
        newest = result_series_of(jobs[-1])
        right = newest.items() <= shown.items()
        figures.duplicates += len(shown.keys() - known) + (not right)
        figures.done_once += done == 1
        figures.reopened += late > 0
    figures.orphans = sorted(_orphans(settings))


def _kept(row: Instance, settings: Settings, sent: Path) -> bool:
    """Tell whether an instance is on the spool with all that was sent."""
    path = settings.spool_dir / row.path
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
        return False
    # The receiver writes file meta information of its own.
    return dcmread(path) == dcmread(sent)


def _results(pacs: Pacs, sample: SampleSeries) -> dict[str, int]:
    """Return the series that the PACS has of a study, with the number of their instances."""
    with pacs._client() as client:
        found = client.search_for_series(sample.study_uid)
    uids = [series["0020000E"]["Value"][0] for series in found]
    return {uid: pacs.count(sample.study_uid, uid) for uid in uids}


def _orphans(settings: Settings) -> Iterator[str]:
    """Name what is on disk and nobody knows."""
    rows = {row.path for row in Instance.select()}
    for path in settings.spool_dir.rglob("*"):
        name = str(path.relative_to(settings.spool_dir))
        if path.is_file() and name not in rows:
            yield f"spool/{name}"
    done = {str(job.id) for job in Job.select().where(Job.finished_at.is_null(False))}
    for path in settings.work_dir.iterdir() if settings.work_dir.exists() else ():
        if path.name in done:
            yield f"jobs/{path.name}"
    for path in settings.data_dir.rglob(".*"):
        if path.is_file():
            yield str(path.relative_to(settings.data_dir))


def every_point() -> list[Kill]:
    """Return each point once."""
    return [Kill(role, point) for role, points in POINTS.items() for point in points]
