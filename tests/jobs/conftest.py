"""Jobs whose result is written and not yet delivered."""

import json
import re
import time

import pytest
from bad_pacs import bad_pacs
from origins import origin_of
from pydicom import dcmread

from mrisr_node.jobs.result_files import digests_of
from mrisr_node.jobs.stages import Queue, Stage
from mrisr_node.jobs.work import Worker
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Job, Series, State
from mrisr_node.results.classic_mr import write_classic
from mrisr_node.results.mr_content import thin_slices
from mrisr_node.volumes.conversion import convert


@pytest.fixture(scope="session")
def thin(tmp_path_factory):
    """A written result: its folder, and what the stage that wrote it notes."""
    sample = write_sample(tmp_path_factory.mktemp("thick"), Acquisition(slices=30, matrix=16))
    conversion = convert(sample.paths)
    folder = tmp_path_factory.mktemp("thin")
    origin = origin_of(map(dcmread, sample.paths), conversion.acquisition)
    result = write_classic(folder, origin, thin_slices(origin, conversion.volume))
    noted = {
        "study_instance_uid": result.study_instance_uid,
        "series_instance_uid": result.series_instance_uid,
        "instances": len(result.paths),
    }
    return folder, noted


@pytest.fixture
def pacs(settings):
    """A PACS with bad days, where the node of the module's ``settings`` delivers to."""
    with bad_pacs(settings.orthanc_http_port) as running:
        yield running


@pytest.fixture
def job(settings):
    """A job that waits for its first stage, on the node of the module's ``settings``."""
    series = Series.create(series_instance_uid="1.2.3", study_instance_uid="1.2")
    series.move(State.COMPLETE)
    series.move(State.QUEUED)
    return Job.create(series=series, recipe="native", voxels=1000)


@pytest.fixture
def deliverable(thin):
    """Return a function that makes a job with a written result, from the settings of a node."""
    folder, noted = thin

    def make(settings, uid="1.2.3") -> Job:
        series = Series.create(series_instance_uid=uid, study_instance_uid="1.2")
        for state in (State.COMPLETE, State.QUEUED, State.PREPARING, State.RESOLVING,
                      State.DELIVERING):  # fmt: skip
            series.move(state)
        job = Job.create(series=series, recipe="native", voxels=1000, stage=Stage.STORE.value)
        target = settings.work_dir / str(job.id)
        (target / "result").mkdir(parents=True)
        for path in folder.glob("*.dcm"):
            (target / "result" / path.name).hardlink_to(path)
        (target / "result.json").write_text(json.dumps(noted))
        (target / "digests.json").write_text(json.dumps(digests_of(target / "result")))
        return job

    return make


@pytest.fixture
def deliver():
    """Return a function that works on a job until it has ended; gives the delays it was put off."""

    def run(settings, job, jitter=lambda: 0.0) -> list[float]:
        worker, delays = Worker(settings, jitter), []
        deadline = time.monotonic() + 300
        while Series.get_by_id(job.series_id).state in (State.QUEUED, State.DELIVERING):
            assert time.monotonic() < deadline
            worker.advance(Queue.DELIVERY, job.id)
            reason = Series.get_by_id(job.series_id).reason
            delays += [float(delay) for delay in re.findall(r"next try in (\d+) s", reason)]
            Job.update(not_before=0).execute()
            time.sleep(0.05)
        return delays

    return run
