"""What hospitals send, through a whole node: Orthanc, receiver, workers, PACS and back."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from mrisr_node.choices import ResultKind
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.intake.spool import Spool
from mrisr_node.jobs.history import result_series_of
from mrisr_node.jobs.overview import overview
from mrisr_node.people.tokens import create_token
from mrisr_node.records import Job, Series, StageRun, State, open_records
from mrisr_node.results.delivery import Pacs
from mrisr_node.volumes.folders import find_series

ENDED = (State.DONE, State.SKIPPED, State.FAILED)


def _wait_for(uids, seconds=2400):
    """Wait until the series have ended and return their rows by UID."""
    end = time.monotonic() + seconds
    while True:
        rows = {row.series_instance_uid: row for row in overview(limit=1000)}
        if all(uid in rows and rows[uid].state in ENDED for uid in uids):
            return {uid: rows[uid] for uid in uids}
        assert time.monotonic() < end, {
            u: (rows[u].state if u in rows else "unknown") for u in uids
        }
        time.sleep(0.5)


@pytest.fixture
def records(node):
    node.wait_ready()
    open_records(node.settings.database_path)
    return node.settings


def _send(store, settings, folder):
    """Send every series of a folder that Orthanc takes; say which."""
    series = find_series(folder)
    for paths in series.values():
        store(*paths, port=settings.pacs_port)
    return series


@pytest.mark.timeout(2700)
def test_thick_slices_of_every_kind_come_back_thin(records, store, shared_data):
    names = ("papaya_brain", "qa_decub_HFP_t1sag", "qa_decub_HFDL_t1sag")
    sent = {}
    for name in names:
        sent |= _send(store, records, shared_data(f"series/{name}"))
    rows = _wait_for(sent)
    pacs = Pacs(records)
    for uid, row in rows.items():
        assert (row.state, row.reason) == (State.DONE, "the result is in the PACS")
        source = dcmread(sent[uid][0])
        job = Job.select().join(Series).where(Series.series_instance_uid == uid).get()
        assert len(result_series_of(job)) == len(ResultKind)
        for result, instances in result_series_of(job).items():
            assert pacs.count(row.study_instance_uid, result) == instances
        with pacs._client() as client:
            found = client.retrieve_series_metadata(row.study_instance_uid, row.result_series_uid)
        assert found[0]["00200052"]["Value"] == [source.FrameOfReferenceUID]
        runs = StageRun.select().where(StageRun.job == job, StageRun.finished)
        assert all(run.peak_bytes and run.peak_bytes < 8 * 1024**3 for run in runs)


REFUSED = (
    "qa_canon61_enh",
    "qa_ct_ge",
    "qa_fmap_philips_enh",
    "qa_mosaic_ep2d_Asc",
    "qa_philips_enh_cl_fmap",
    "qa_philips_enh_enh",
    "qa_physio_spec_svs",
    "qa_table_ge_localizer",
    "qa_xa30i_scout_mpr",
    "torchio_dicom",
    "heudiconv",
)


def _command_line(settings):
    """Return the reasons that ``mrisr-node jobs`` gives."""
    done = subprocess.run(
        [Path(sys.executable).with_name("mrisr-node"), "jobs", "--json", "--limit", "1000"],
        env=settings.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {row["series_instance_uid"]: row["reason"] for row in json.loads(done.stdout)}


def _page(settings):
    """Return the reasons that the page gets to show."""
    token = create_token("admin", "test")
    answer = httpx.get(
        f"{settings.viewer_url}/api/series",
        params={"limit": 200},
        headers={"Authorization": f"Bearer {token}"},
    ).raise_for_status()
    items = next(value for value in answer.json().values() if isinstance(value, list))
    return {item["series_instance_uid"]: item["reason"] for item in items}


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_processed_ends_with_its_reason_and_stays(records, store, shared_data):
    sent = {}
    for name in REFUSED:
        for uid, paths in _send(store, records, shared_data(f"refuse/{name}")).items():
            # Raw data of one archive and images of another are one series.
            sent.setdefault(uid, []).extend(paths)
    rows = _wait_for(sent)
    pacs = Pacs(records)
    spool = Spool(records.spool_dir, records.quarantine_dir, 0)
    told = _command_line(records)
    shown = _page(records)
    for uid, row in rows.items():
        assert row.state in (State.SKIPPED, State.FAILED)
        assert row.reason
        assert told[uid] == shown[uid] == row.reason
        kept = spool.paths(Series.get(Series.series_instance_uid == uid))
        assert all(path.is_file() for path in kept)
        assert row.result_series_uid is None
        # The originals are where they were.
        assert pacs.count(row.study_instance_uid, uid) == len(sent[uid])


@pytest.mark.filterwarnings("ignore")
def test_small_stacks_single_images_and_every_transfer_syntax_do_no_harm(records, shared_data):
    sent = find_series(shared_data("series/dcm2nifti_tests"))
    for name in ("qa_xa30_T1_enh", "qa_ts", "wg04_MR"):
        sent |= find_series(shared_data(f"series/{name}"))
    # storescu offers one transfer syntax a class; these come in seven, some as the same instance.
    where = Destination("127.0.0.1", records.pacs_port, "ORTHANC", "SCANNER")
    for paths in sent.values():
        send_files(paths, where, lambda _: None)
    rows = _wait_for(sent)
    assert {row.state for row in rows.values()} <= {State.SKIPPED, State.FAILED}
    assert all(row.reason for row in rows.values())
