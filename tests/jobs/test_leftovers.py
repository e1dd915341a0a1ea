"""What crashes and finished jobs leave on the disk, and what of it goes."""

import os
import threading
import time

import pytest

from mrisr_node.jobs.leftovers import remove_leftovers
from mrisr_node.jobs.rounds import Rounds
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Job, Rejection, Series, State, open_records
from tests.spooling import put, refuse

DAY = 86_400.0


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(data_dir=tmp_path / "node", minimum_free_bytes=0)
    open_records(made.database_path)
    return made


@pytest.fixture
def sample(tmp_path):
    return write_sample(tmp_path / "sample", Acquisition(slices=5, matrix=32))


def _aged(path, days=2.0):
    at = time.time() - days * DAY
    os.utime(path, (at, at))
    return path


def _file(path, days=2.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return _aged(path, days)


def test_leftovers_older_than_a_day_go_and_what_is_named_or_new_stays(settings, sample):
    for path in sample.paths:
        put(settings, path)
    named = [_aged(path) for path in settings.spool_dir.rglob("*") if path.is_file()]
    refuse(settings, b"refused", "junk")
    [kept] = [_aged(path) for path in settings.quarantine_dir.iterdir()]
    gone = [
        _file(settings.spool_dir / ("0" * 40) / "orphan.dcm"),
        _file(named[0].parent / f".{named[0].name}.123.456"),
        _file(settings.quarantine_dir / "orphan.dcm"),
        _file(settings.spool_dir / "drafts" / "1-2-3"),
    ]
    new = [
        _file(settings.spool_dir / ("1" * 40) / "arriving.dcm", 0.9),
        _file(settings.quarantine_dir / "arriving.dcm", 0.9),
    ]
    _aged(settings.spool_dir / ("0" * 40))
    remove_leftovers(settings, time.time())
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in [*named, kept, *new])
    # An empty folder goes the next time it is looked at, the one for drafts never.
    _aged(settings.spool_dir / ("0" * 40))
    _aged(settings.spool_dir / "drafts")
    remove_leftovers(settings, time.time())
    assert not (settings.spool_dir / ("0" * 40)).exists()
    assert (settings.spool_dir / "drafts").is_dir()


def test_job_folders_that_nobody_needs_go(settings):
    failed, done = (
        Series.create(series_instance_uid=uid, study_instance_uid="1.2", state=state.value)
        for uid, state in (("1.3", State.FAILED), ("1.4", State.DONE))
    )
    superseded = Job.create(series=failed, recipe="native")
    finished = Job.create(series=done, recipe="native")
    newest = Job.create(series=failed, recipe="native")
    working = Job.create(series=done, recipe="native", lease_owner="elsewhere:1:x")
    for number in (superseded.id, newest.id, working.id, finished.id, 4711):
        _aged(_file(settings.work_dir / str(number) / "thin.nii.gz").parent)
    fresh = _file(settings.work_dir / "4712" / "thin.nii.gz", 0.5).parent
    other = _aged(_file(settings.work_dir / "notes" / "x").parent)
    remove_leftovers(settings, time.time())
    left = {path.name for path in settings.work_dir.iterdir()}
    assert left == {str(newest.id), str(working.id), fresh.name, other.name}


def test_the_rounds_tidy_up(settings, sample):
    """Also while the PACS is down, which keeps the series."""
    for path in sample.paths:
        put(settings, path)
    Series.update(state=State.DONE.value, state_at=1.0).execute()
    Job.create(series=Series.get(), recipe="native", delivered_at=1.0, result_series_uid="2.25.7")
    refuse(settings, b"old", "junk")
    Rejection.update(at=1.0).execute()
    orphan = _file(settings.spool_dir / ("0" * 40) / "orphan.dcm")
    stop = threading.Event()
    rounds = threading.Thread(target=Rounds(settings).run, args=(stop,))
    rounds.start()
    deadline = time.monotonic() + 60
    while orphan.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    rounds.join()
    assert not orphan.exists()
    assert Rejection.select().count() == 0
    assert all((settings.spool_dir / row.path).is_file() for row in Instance.select())
