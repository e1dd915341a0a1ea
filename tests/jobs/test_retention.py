"""What goes when, what stays, what a crash leaves, and what comes again."""

import time
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from mrisr_node.errors import DeliveryError
from mrisr_node.intake.assembly import Assembly
from mrisr_node.jobs.overview import find
from mrisr_node.jobs.reconcile import Reconciler
from mrisr_node.jobs.recovery import retry
from mrisr_node.jobs.retention import Retention
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Job, Rejection, Series, State, open_records
from mrisr_node.results.delivery import Pacs
from tests.spooling import put, refuse

DAY = 86_400.0
SLICES = 5


class Clock:
    def __init__(self):
        self.days = 0.0

    def __call__(self):
        return time.time() + self.days * DAY


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(
        data_dir=tmp_path / "node", minimum_free_bytes=0, quiet_seconds=60.0, minimum_slices=4
    )
    open_records(made.database_path)
    return made


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two series of one head."""
    folder = tmp_path_factory.mktemp("retention")
    made = [write_sample(folder / n, Acquisition(slices=SLICES, matrix=32)) for n in "ab"]
    assert made[0].series_uid != made[1].series_uid
    return made


def _store(settings, paths):
    return [put(settings, path) for path in paths]


def _received(settings, sample, state, *, at=0.0, delivered=True):
    """A series with its files that has come to an end; `at` seconds later than others."""
    _store(settings, sample.paths)
    series = Series.get(Series.series_instance_uid == sample.series_uid)
    Series.update(state=state.value, state_at=time.time() - 100 + at).where(
        Series.id == series.id
    ).execute()
    if state is not State.SKIPPED:
        job = Job.create(series=series, recipe="native", stage="superresolve")
        folder = settings.work_dir / str(job.id)
        folder.mkdir(parents=True)
        (folder / "thin.nii.gz").write_bytes(bytes(1000))
        if state is State.DONE and delivered:
            Job.update(delivered_at=1.0, finished_at=1.0, result_series_uid="2.25.7").execute()
    return Series.get_by_id(series.id)


def _all_of_it(_study=None, _series=None):
    return {instance.sop_instance_uid for instance in Instance.select()}


def _retention(settings, clock, held=_all_of_it):
    return Retention(settings, held, clock)


def _files(settings):
    return [path for path in settings.spool_dir.rglob("*") if path.is_file()]


def test_done_and_confirmed_goes_after_its_days_and_its_record_stays(settings, samples, clock):
    series = _received(settings, samples[0], State.DONE)
    retention = _retention(settings, clock)
    clock.days = 29.9
    retention.sweep()
    assert len(_files(settings)) == SLICES
    clock.days = 30.1
    retention.sweep()
    assert _files(settings) == []
    assert list(settings.work_dir.iterdir()) == []
    row = find(series.id)
    assert (row.state, row.instances, row.result_series_uid) == (State.DONE, SLICES, "2.25.7")
    assert row.copies_deleted_at == pytest.approx(clock(), abs=600)
    assert Instance.select().count() == SLICES


@pytest.mark.parametrize("state", [State.SKIPPED, State.FAILED, State.CANCELLED])
def test_skipped_and_failed_series_have_their_own_age(settings, samples, clock, state):
    _received(settings, samples[0], state)
    retention = _retention(settings, clock)
    clock.days = 89
    retention.sweep()
    assert len(_files(settings)) == SLICES
    assert len(list(settings.work_dir.glob("*"))) == (state is not State.SKIPPED)
    clock.days = 91
    retention.sweep()
    assert _files(settings) == list(settings.work_dir.glob("*")) == []


@pytest.mark.parametrize(
    "state",
    [s for s in State if s not in (State.DONE, State.SKIPPED, State.FAILED, State.CANCELLED)],
)
def test_what_is_under_way_never_goes(settings, samples, clock, state):
    _received(settings, samples[0], state)
    clock.days = 9999
    _retention(settings.model_copy(update={"retention_bytes": 0}), clock).sweep()
    assert len(_files(settings)) == SLICES
    assert len(list(settings.work_dir.iterdir())) == 1


def test_what_is_not_confirmed_never_goes(settings, samples, clock):
    _received(settings, samples[0], State.DONE, delivered=False)
    clock.days = 9999
    _retention(settings.model_copy(update={"retention_bytes": 0}), clock).sweep()
    assert len(_files(settings)) == SLICES


def test_none_keeps_for_ever(settings, samples, clock):
    _received(settings, samples[0], State.DONE)
    _received(settings, samples[1], State.SKIPPED)
    names = ("retention_days", "retention_failed_days", "retention_quarantine_days")
    clock.days = 9999
    _retention(settings.model_copy(update=dict.fromkeys(names)), clock).sweep()
    assert len(_files(settings)) == 2 * SLICES


def test_the_oldest_go_first_until_it_fits(settings, samples, clock):
    _received(settings, samples[1], State.DONE, at=10)
    older = _received(settings, samples[0], State.DONE)
    one = sum(path.stat().st_size for path in samples[0].paths) + 1000
    limited = settings.model_copy(update={"retention_bytes": int(1.5 * one)})
    retention = _retention(limited, clock)
    retention.sweep()
    # It has just ended: a late slice would need the others.
    assert len(_files(settings)) == 2 * SLICES
    clock.days = 0.1
    retention.sweep()
    assert len(_files(settings)) == SLICES
    assert Series.get_by_id(older.id).copies_deleted_at
    retention.sweep()
    assert len(_files(settings)) == SLICES


def test_what_the_pacs_does_not_show_whole_stays_and_is_told(settings, samples, clock, caplog):
    _received(settings, samples[0], State.DONE)
    # As many as there should be, and one of them is another.
    shown = {*sorted(_all_of_it())[1:], "2.25.1"}
    retention = _retention(settings, clock, lambda _study, _series: shown)
    clock.days = 31
    retention.sweep()
    assert len(_files(settings)) == SLICES
    assert "the PACS does not show 1 of its 5 instances" in caplog.text
    assert samples[0].series_uid not in caplog.text
    shown |= _all_of_it()
    retention.sweep()  # asked again in a day
    assert len(_files(settings)) == SLICES
    clock.days = 32.1
    retention.sweep()
    assert _files(settings) == []


def test_a_pacs_that_is_down_deletes_nothing(settings, samples, clock):
    def down(_study, _series):
        raise DeliveryError("the PACS cannot be asked: ConnectionError")

    _received(settings, samples[0], State.DONE)
    clock.days = 31
    _retention(settings, clock, down).sweep()
    assert len(_files(settings)) == SLICES
    _retention(settings, clock).sweep()
    assert _files(settings) == []


def test_a_series_that_the_pacs_says_nothing_of_holds_up_no_other(settings, samples, clock, caplog):
    older = _received(settings, samples[0], State.DONE)
    other = _received(settings, samples[1], State.DONE, at=10)
    asked = []

    def held(_study, series):
        asked.append(series)
        if series == older.series_instance_uid:
            raise DeliveryError("the PACS cannot be asked: HTTP 500")
        return _all_of_it()

    clock.days = 31
    retention = _retention(settings, clock, held)
    retention.sweep()
    assert Series.get_by_id(other.id).copies_deleted_at
    assert len(_files(settings)) == SLICES
    assert f"series {older.id} is past retention" in caplog.text
    retention.sweep()  # asked again in an hour
    assert asked == [older.series_instance_uid, other.series_instance_uid]
    clock.days += 0.05
    retention.sweep()
    assert len(asked) == 3


def test_a_pacs_that_is_down_is_not_asked_about_every_series(settings, samples, clock, caplog):
    _received(settings, samples[0], State.DONE)
    for number in range(1, 6):
        series = Series.create(series_instance_uid=f"1.{number}", study_instance_uid="1",
                               state=State.DONE.value, state_at=time.time())  # fmt: skip
        row = {"path": "x", "sha256": "", "size": 0}
        Instance.create(series=series, sop_instance_uid=f"1.{number}.1", **row)
        Job.create(series=series, recipe="native", delivered_at=1.0)
    asked = []

    def down(_study, series):
        asked.append(series)
        raise DeliveryError("the PACS cannot be asked: ConnectionError")

    clock.days = 31
    retention = _retention(settings, clock, down)
    retention.sweep()
    assert len(asked) == 3
    assert "no local copies are deleted: the PACS cannot be asked" in caplog.text
    # The next sweep begins behind those: they may be what it has no answer to.
    retention.sweep()
    assert len(set(asked)) == 6


def test_a_real_pacs_is_asked(settings, samples, clock, orthanc):
    orthanc.wait_ready()
    there = orthanc.settings
    reachable = settings.model_copy(
        update={
            "orthanc_http_port": there.orthanc_http_port,
            "orthanc_password": there.pacs_password(),
        }
    )
    for sample in samples:
        _received(settings, sample, State.DONE)
    auth = (there.orthanc_username, there.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for path in samples[0].paths:
            client.post("/instances", content=path.read_bytes()).raise_for_status()
    clock.days = 31
    _retention(settings, clock, Pacs(reachable).instances).sweep()
    by_uid = {s.series_instance_uid: s.copies_deleted_at for s in Series.select()}
    assert by_uid[samples[0].series_uid]
    assert by_uid[samples[1].series_uid] is None


def test_a_series_that_opens_while_the_pacs_is_asked_stays(settings, samples, clock):
    series = _received(settings, samples[0], State.DONE)

    def late_slice(_study, _series):
        Series.get_by_id(series.id).move(State.RECEIVING, "a late slice arrived")
        return _all_of_it()

    clock.days = 31
    _retention(settings, clock, late_slice).sweep()
    assert len(_files(settings)) == SLICES
    assert Series.get_by_id(series.id).copies_deleted_at is None


@pytest.mark.parametrize("step", ["first file", "third file", "job folder"])
def test_a_crash_in_between_is_finished_later(settings, samples, clock, monkeypatch, step):
    _received(settings, samples[0], State.DONE)
    real, calls = Path.unlink, []

    def unlink(path, missing_ok=False):
        calls.append(path)
        if len(calls) == {"first file": 1, "third file": 3}.get(step):
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    def rmtree(*_args, **_keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        patch.setattr("mrisr_node.jobs.copies.shutil.rmtree", rmtree)
        clock.days = 31
        with pytest.raises(KeyboardInterrupt):
            _retention(settings, clock).sweep()
    assert Series.get().copies_deleted_at
    assert _store(settings, samples[0].paths[:1]) == ["same"]
    clock.days = 33
    _retention(settings, clock).sweep()
    assert _files(settings) == []
    assert list(settings.work_dir.iterdir()) == []
    assert Series.get().state == State.DONE


def test_the_same_bytes_again_after_deletion_make_no_second_result(settings, samples, clock):
    series = _received(settings, samples[0], State.DONE)
    clock.days = 31
    retention = _retention(settings, clock)
    retention.sweep()
    assert set(_store(settings, samples[0].paths)) == {"same"}
    # Acknowledged is durable: a file that was deleted is there again.
    assert len(_files(settings)) == SLICES
    retention.reopen()
    assert Assembly(settings, clock=clock).sweep() == []
    assert Series.get().state == State.DONE
    assert Job.select().count() == 1
    assert Instance.select().count() == SLICES
    # What was acknowledged again is held for a day, and then goes like the rest.
    retention.sweep()
    clock.days = 33
    _retention(settings, clock).sweep()
    assert _files(settings) == []
    assert find(series.id).copies_deleted_at


def test_other_bytes_of_a_deleted_instance_go_to_quarantine(settings, samples, clock, tmp_path):
    _received(settings, samples[0], State.DONE)
    clock.days = 31
    _retention(settings, clock).sweep()
    dataset = dcmread(samples[0].paths[0])
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(tmp_path / "altered.dcm")
    assert _store(settings, [tmp_path / "altered.dcm"]) == ["different"]
    assert Rejection.select().count() == 1
    assert Series.get().state == State.DONE


def test_a_late_slice_after_deletion_has_the_others_sent_again(settings, samples, clock):
    paths = samples[0].paths
    _received(settings, samples[0], State.DONE)
    Instance.delete().where(
        Instance.sop_instance_uid == dcmread(paths[-1]).SOPInstanceUID
    ).execute()
    clock.days = 31
    retention = _retention(settings, clock)
    retention.sweep()
    assert _store(settings, paths[-1:]) == ["new"]
    assert Series.get().state == State.RECEIVING
    retention.reopen()
    # Now they are missing, so that the PACS is asked for them, and come as new ones.
    assert Instance.select().count() == 1
    assert Series.get().copies_deleted_at is None
    assert _store(settings, paths) == ["new"] * (SLICES - 1) + ["same"]
    clock.days += 1
    [job] = Assembly(settings, lambda _study, _series: SLICES, clock).sweep()
    assert job.id == 2
    assert Series.get().state == State.QUEUED


def test_trying_a_failed_series_again_after_deletion_has_it_sent_again(settings, samples, clock):
    series = _received(settings, samples[0], State.FAILED)
    clock.days = 91
    retention = _retention(settings, clock)
    retention.sweep()
    retry(series.id)
    assert Series.get().state == State.RECEIVING
    retention.reopen()
    assert Instance.select().count() == 0
    found = {
        "ID": "x", "IsStable": True, "Instances": ["i"] * SLICES, "LastUpdate": "20200101T000000",
        "MainDicomTags": {"SeriesInstanceUID": series.series_instance_uid},
    }  # fmt: skip
    reconciler = Reconciler(settings, clock)
    asked = []
    reconciler._ask = lambda found, unknown: asked.append((found["ID"], unknown)) or True
    # However long ago it came to the PACS.
    assert reconciler._look_at(found)
    assert asked == [("x", False)]
    reconciler.close()


def test_quarantine_goes_after_its_days(settings, clock):
    refuse(settings, b"old", "junk")
    clock.days = 80
    refuse(settings, b"new", "junk")
    Rejection.update(at=clock()).where(Rejection.id == 2).execute()
    clock.days = 91
    _retention(settings, clock).sweep()
    assert [row.id for row in Rejection.select()] == [2]
    assert len(list(settings.quarantine_dir.iterdir())) == 1
