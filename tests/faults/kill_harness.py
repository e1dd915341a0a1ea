"""A node under load whose processes are killed at chosen points, and what is left of its promises.

The receiver, the queues, the workers, the records and Orthanc are the real ones; brain extraction
and the network have quick stand-ins. The sender does what a scanner does: it sends what was not
acknowledged again, until it is.
"""

import hashlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from mrisr_node.jobs.leftovers import remove_leftovers
from mrisr_node.jobs.stages import Queue, queue_of, stages_of
from mrisr_node.node.sample import Acquisition, SampleSeries, Study, write_sample
from mrisr_node.records import Instance, Job, Series, State, Transition, open_records
from mrisr_node.results.delivery import Pacs
from mrisr_node.settings import Recipe, Settings

HERE = Path(__file__).resolve().parent
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
_DELIVERED = ["instance", "confirmation", "promise"]
POINTS: dict[str, list[str]] = {
    "receiver": ["write.before", *_both("sync", "rename", "commit", "enqueue")],
    **{
        queue.value: [
            "dequeue.after",
            "write.before",
            *_both("rename", "commit", *[f"stage-{s}" for s in _STAGES if queue_of(s) is queue]),
            *_both(*(_DELIVERED if queue is Queue.DELIVERY else ["enqueue"])),
        ]
        for queue in Queue
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


class Sender:
    """Sends series from a thread, and remembers what was acknowledged."""

    def __init__(self, settings: Settings, calling: str) -> None:
        self._settings = settings
        self._calling = calling
        self.acknowledged: dict[str, Path] = {}
        """The file of each instance that was answered with success, by its UID."""
        self.stop = threading.Event()

    def send(self, sample: SampleSeries) -> None:
        """Send until everything is acknowledged."""
        left = list(sample.paths)
        while left and not self.stop.is_set():
            left = self._once(left)

    def _once(self, paths: Sequence[Path]) -> list[Path]:
        address = ("127.0.0.1", self._settings.receiver_port)
        try:
            # pynetdicom leaves its socket to the garbage collector when nobody listens.
            socket.create_connection(address, 5).close()
        except OSError:
            time.sleep(0.1)
            return list(paths)
        ae = AE(ae_title=self._calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
        ae.add_requested_context(MRImageStorage)
        association = ae.associate(*address, ae_title=self._settings.ae_title)
        left = list(paths)
        with suppress(RuntimeError):  # the association is gone
            for path in paths:
                status = association.send_c_store(path).get("Status")
                if status != 0x0000:
                    break
                self.acknowledged[path.name] = path
                left.remove(path)
        if association.is_established:
            association.release()
        else:
            association.abort()
        return left


class Processes:
    """Receiver and workers of one node, each under the eyes of ``fault_points``."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.plan = folder / "plan"
        environment = settings.environment()
        paths = [str(HERE), str(HERE.parent.parent), environment.get("PYTHONPATH", "")]
        self._environment = environment | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "FAULTS": str(folder),
            "FAULTS_DATA": str(settings.data_dir),
            "FAULTS_STAND_INS": "1",
        }
        self._log = (settings.data_dir / "processes.log").open("ab")
        self._receiver: subprocess.Popen[bytes] | None = None
        self._nursery = self._popen([str(HERE / "nursery.py")], stdin=subprocess.PIPE)

    def keep_up(self) -> None:
        """Start the receiver, again if it was killed."""
        if self._nursery.poll() is not None:
            raise RuntimeError("the workers' process ended; see processes.log")
        if self._receiver is None or self._receiver.poll() is not None:
            self._receiver = self._popen(["-m", "mrisr_node.cli", "receive"], role="receiver")

    def stop(self) -> None:
        """End all of them."""
        for process in (self._nursery, self._receiver):
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._nursery.stdin:
            self._nursery.stdin.close()
        self._log.close()

    def _popen(self, arguments: list[str], role: str = "", **keywords) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=self._environment | {"FAULTS_ROLE": role},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **keywords,
        )


@contextmanager
def _running(settings: Settings, folder: Path) -> Iterator[Processes]:
    processes = Processes(settings, folder)
    try:
        yield processes
    finally:
        processes.stop()


def run(
    settings: Settings,
    kills: Sequence[Kill],
    folder: Path,
    *,
    load: int = 3,
    patience: float = 300.0,
    say: Say = lambda _: None,
) -> Figures:
    """Kill at every point of the plan while series arrive, and look at what is left.

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
        with _running(settings, folder) as processes:
            for number, kill in enumerate(kills, start=1):
                name = f"{kill.role}.{kill.point}"
                done = folder / f"done-{number}"
                processes.plan.write_text(f"{kill.role} {kill.point} {kill.number} {done.name}")
                deadline = time.monotonic() + patience
                while not done.exists() and time.monotonic() < deadline:
                    processes.keep_up()
                    feed(load)
                    time.sleep(0.05)
                processes.plan.unlink(missing_ok=True)
                if done.exists():
                    figures.kills[name] += 1
                else:
                    figures.not_reached.append(f"{name} x{kill.number}")
                say(f"{number} of {len(kills)}: {name}, {time.monotonic() - begun:.0f} s")
            feed(1)
            _wait(processes, threads, len(sent), patience)
    finally:
        sender.stop.set()
        for thread in threads:
            thread.join()
    figures.left = len(list(_orphans(settings)))
    # What the next start and the tidying of the next day clear away is no orphan.
    with _running(settings, folder) as processes:
        processes.keep_up()
        _wait_for_receiver(settings, patience)
    remove_leftovers(settings, time.time() + 2 * 86_400)
    figures.seconds = time.monotonic() - begun
    _count(figures, settings, sender, sent)
    return figures


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
        known = {job.result_series_uid: job.result_instances for job in jobs}
        # A job that a late slice took the place of may have stored a part of its result.
        newest = jobs[-1].result_series_uid
        right = shown.get(newest) == known[newest] and shown.keys() <= known.keys()
        figures.duplicates += max(0, len(shown) - len(jobs)) + (not right)
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


def in_turns(kills: Sequence[Kill]) -> list[Kill]:
    """Order kills so that the roles take turns, and no role's work is waited for idly."""
    by_role = [[kill for kill in kills if kill.role == role] for role in POINTS]
    return [kill for turn in itertools.zip_longest(*by_role) for kill in turn if kill]
