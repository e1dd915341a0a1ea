"""Send many small series through a whole node while its workers are killed at random.

``python bench/soak.py --series 200`` needs Orthanc and hours on a small machine, since nothing is
faked: brain extraction, the network ``thin-small`` and the PACS are the real ones. It prints what
was lost or came twice, the peak memory of each process, and the throughput.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mrisr_node.intake.sending import Destination, send_files  # noqa: E402
from mrisr_node.jobs.history import result_series_of  # noqa: E402
from mrisr_node.node.orthanc import free_port, storage_of  # noqa: E402
from mrisr_node.node.sample import Acquisition, SampleSeries, Study, write_sample  # noqa: E402
from mrisr_node.node.supervisor import Node, stop_on_signals  # noqa: E402
from mrisr_node.records import Instance, Job, Series, State, open_records  # noqa: E402
from mrisr_node.results.delivery import Pacs  # noqa: E402
from mrisr_node.settings import Settings, load_settings  # noqa: E402

ENDED = [State.DONE.value, State.SKIPPED.value, State.FAILED.value]
SLICES = 12
# So many series wait in the node at most: what is under way is what a kill can harm.
UNDER_WAY = 3
WORKERS = ("cpu-worker", "gpu-worker", "delivery-worker")


class Peaks:
    """The largest resident size of each process, over all its lives."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def look(self, processes: Mapping[str, int]) -> None:
        """Read what the kernel remembers of the living."""
        for name, pid in processes.items():
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
            self.bytes[name] = max(self.bytes.get(name, 0), peak * 1024)


def _send(settings: Settings, folder: Path, number: int) -> SampleSeries:
    """Store a series in the PACS, as a scanner would."""
    sample = write_sample(
        folder / f"series-{number}",
        # As small as HD-BET still finds a brain in it.
        Acquisition(slices=SLICES, matrix=160, noise=0.005 * (number % 3)),
        study=Study(patient_id=f"SOAK-{number}"),
    )
    destination = Destination(
        settings.pacs_host, settings.pacs_port, settings.pacs_ae_title, "SCANNER"
    )
    refused = send_files(sample.paths, destination, lambda _: None)
    if refused:
        raise RuntimeError(f"the PACS did not take a series: {refused[0]}")
    return sample


def _soak(node: Node, folder: Path, series: int, kill_every: float, seed: int) -> Iterator[str]:
    """Send, kill, wait; yield lines for people, and in the end the figures."""
    settings, chance = node.settings, random.Random(seed)
    peaks, kills, sent = Peaks(), Counter[str](), []
    begun, told = time.monotonic(), 0.0
    next_kill = begun + chance.uniform(0.5, 1.5) * kill_every
    while True:
        peaks.look(node.processes)
        ended = Series.select().where(Series.state.in_(ENDED)).count()
        if ended >= series:
            break
        if len(sent) < series and len(sent) - ended < UNDER_WAY:
            sent.append(_send(settings, folder, len(sent)))
        now = time.monotonic()
        if now >= next_kill:
            next_kill = now + chance.uniform(0.5, 1.5) * kill_every
            name = chance.choice(WORKERS)
            if pid := node.processes.get(name):
                os.kill(pid, signal.SIGKILL)
                kills[name] += 1
        if now - told > 30:
            told = now
            took = now - begun
            # The first series bears the start of everything, so nothing is said before the second.
            left = (
                f", about {took / ended * (series - ended) / 60:.0f} min left" if ended > 1 else ""
            )
            yield (
                f"{took / 60:6.1f} min: {ended} of {series} series ended, {len(sent)} sent,"
                f" {sum(kills.values())} kills{left}"
            )
        time.sleep(0.5)
    yield from _figures(settings, sent, kills, peaks, time.monotonic() - begun)


def _figures(
    settings: Settings,
    sent: list[SampleSeries],
    kills: Counter[str],
    peaks: Peaks,
    seconds: float,
) -> Iterator[str]:
    pacs = Pacs(settings)
    lost = duplicates = done = 0
    for sample in sent:
        series = Series.get_or_none(Series.series_instance_uid == sample.series_uid)
        here = Instance.select().where(Instance.series == series).count() if series else 0
        lost += len(sample.paths) - here
        if series is None or series.state != State.DONE.value:
            yield f"not done: {series.reason if series else 'it never arrived'}"
            continue
        jobs = list(Job.select().where(Job.series == series).order_by(Job.id))
        done += 1
        with pacs._client() as client:
            found = client.search_for_series(sample.study_uid)
        results = {s["0020000E"]["Value"][0] for s in found} - {sample.series_uid}
        expected = {uid for job in jobs for uid in result_series_of(job)}
        for uid, instances in result_series_of(jobs[-1]).items():
            lost += instances - pacs.count(sample.study_uid, uid)
        duplicates += len(results - expected) + len(jobs) - 1
    yield f"series          {len(sent)} sent, {done} done"
    yield f"lost            {lost} instances"
    yield f"duplicates      {duplicates} results"
    yield f"kills           {', '.join(f'{n} {c}' for n, c in sorted(kills.items())) or 'none'}"
    for name, peak in sorted(peaks.bytes.items()):
        yield f"peak memory     {name:<16} {peak / 1024**2:6.0f} MiB"
    yield f"throughput      {done / seconds * 3600:.1f} series an hour ({seconds / 60:.1f} min)"
    if lost or duplicates or done < len(sent):
        raise SystemExit(1)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds, on average")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        ports = {
            name: free_port()
            for name in ("receiver_port", "orthanc_http_port", "pacs_port", "web_port")
        }
        settings = load_settings(
            data_dir=Path(place) / "node",
            checkpoint=("thin-small",),
            stable_age=1,
            quiet_seconds=5.0,
            minimum_free_bytes=0,
            # Killed as often as here, a stage would be given up as the one that kills its worker.
            maximum_attempts=1000,
            delivery_attempts=1000,
            **ports,
        )
        open_records(settings.database_path)
        try:
            with stop_on_signals(), Node(settings, lambda line: print(line, flush=True)) as node:
                for line in _soak(
                    node, Path(place), options.series, options.kill_every, options.seed
                ):
                    print(line, flush=True)
        finally:
            shutil.rmtree(storage_of(settings), ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
