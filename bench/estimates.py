"""Predict how long series take, and compare with how long they then took, on a whole node.

``python bench/estimates.py --series 12`` needs Orthanc and some minutes, since nothing is faked:
brain extraction, the network ``thin-small`` and the PACS are the real ones. Series of several
sizes are sent one after the other; the node knows nothing at first, and learns. It prints each
prediction, made when the job begins, and how many actual times lay inside the predicted spread;
and the same for the predictions made at the beginning of every stage.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mrisr_node.intake.sending import Destination, send_files  # noqa: E402
from mrisr_node.jobs.estimates import COVERAGE, Estimate, Estimator  # noqa: E402
from mrisr_node.node.orthanc import free_port, storage_of  # noqa: E402
from mrisr_node.node.sample import Acquisition, Study, write_sample  # noqa: E402
from mrisr_node.node.supervisor import Node, stop_on_signals  # noqa: E402
from mrisr_node.records import ACTIVE, Job, Series, State, open_records  # noqa: E402
from mrisr_node.settings import Settings, load_settings  # noqa: E402

# As small as HD-BET still finds a brain in them.
SIZES = [(12, 160), (16, 160), (20, 192), (24, 224)]
PATIENCE = 1800.0


@dataclass(frozen=True)
class Prediction:
    """What was said when a stage began."""

    stage: str
    at: float
    estimate: Estimate

    def judge(self, end: float) -> bool | None:
        """Tell whether the actual time lies in the spread; None where nothing was predicted."""
        if self.estimate.low is None or self.estimate.high is None:
            return None
        return self.estimate.low <= end - self.at <= self.estimate.high


def _send(settings: Settings, folder: Path, number: int, chance: random.Random) -> str:
    slices, matrix = chance.choice(SIZES)
    sample = write_sample(
        folder / f"series-{number}",
        Acquisition(slices=slices, matrix=matrix, noise=0.005 * (number % 3)),
        study=Study(patient_id=f"TIME-{number}"),
    )
    destination = Destination(
        settings.pacs_host, settings.pacs_port, settings.pacs_ae_title, "SCANNER"
    )
    refused = send_files(sample.paths, destination, lambda _: None)
    if refused:
        raise RuntimeError(f"the PACS did not take a series: {refused[0]}")
    return sample.series_uid


def _follow(uid: str) -> tuple[Job, list[Prediction], float]:
    """Watch a series to its end; return its job, what was predicted on its way, and the end."""
    predictions: list[Prediction] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        series = Series.get_or_none(Series.series_instance_uid == uid)
        job = series and Job.select().where(Job.series == series).first()
        now = time.time()
        if job and State(series.state) in ACTIVE and (job.stage, job.lease_owner) != ("", None):
            if not predictions or predictions[-1].stage != job.stage:
                predictions.append(Prediction(job.stage, now, Estimator().time_left(job)))
        elif series and State(series.state) is State.DONE:
            return job, predictions, job.finished_at
        elif series and State(series.state) in (State.FAILED, State.SKIPPED):
            raise RuntimeError(f"not done: {series.reason}")
        time.sleep(0.1)
    raise RuntimeError("a series did not come to its end")


def _measure(node: Node, folder: Path, count: int, seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    at_beginning: list[bool] = []
    at_stages: list[bool] = []
    errors: list[float] = []
    yield "series  megavoxels  runs   predicted            actual   inside"
    for number in range(count):
        job, predictions, end = _follow(_send(node.settings, folder, number, chance))
        first = predictions[0]
        estimate, actual = first.estimate, end - first.at
        if estimate.seconds is None:
            words, inside = "unknown", ""
        else:
            words = f"{estimate.seconds:5.0f} s ({estimate.low:.0f} to {estimate.high:.0f})"
            at_beginning.append(bool(first.judge(end)))
            inside = "yes" if at_beginning[-1] else "no"
            errors.append(abs(estimate.seconds - actual) / actual)
        later = (prediction.judge(end) for prediction in predictions[1:])
        at_stages += [judged for judged in later if judged is not None]
        yield (
            f"{number + 1:6}  {job.voxels / 1e6:10.2f}  {estimate.runs:4}   {words:20}"
            f" {actual:5.0f} s   {inside}"
        )
    if not at_beginning:
        raise SystemExit("nothing was predicted: send more series")
    yield ""
    yield f"inside the spread, at the beginning  {_share(at_beginning)}  (meant: {COVERAGE:.0%})"
    yield f"inside the spread, at every stage    {_share(at_stages)}"
    yield f"off by, in the middle                {sorted(errors)[len(errors) // 2]:.0%}"


def _share(judged: list[bool]) -> str:
    return f"{sum(judged)} of {len(judged)}, {sum(judged) / max(1, len(judged)):.0%}"


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="estimates-") as place:
        names = ("receiver_port", "orthanc_http_port", "pacs_port", "web_port")
        settings = load_settings(
            data_dir=Path(place) / "node",
            checkpoint=("thin-small",),
            stable_age=1,
            quiet_seconds=5.0,
            minimum_free_bytes=0,
            **{name: free_port() for name in names},
        )
        open_records(settings.database_path)
        try:
            with stop_on_signals(), Node(settings, lambda line: print(line, flush=True)) as node:
                for line in _measure(node, Path(place), options.series, options.seed):
                    print(line, flush=True)
        finally:
            shutil.rmtree(storage_of(settings), ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
