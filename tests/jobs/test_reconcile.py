"""What Orthanc's event lost is found again."""

import hashlib
import os
import signal
import threading
import time

import pytest

from mrisr_node.intake.receiver import Receiver
from mrisr_node.jobs.reconcile import Reconciler
from mrisr_node.jobs.rounds import Rounds
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Job, Series, State, open_records
from mrisr_node.results.delivery import Pacs


def _wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, [(s.state, s.reason) for s in Series.select()]
        time.sleep(0.2)


@pytest.fixture
def few(tmp_path):
    return write_sample(tmp_path / "few", Acquisition(slices=4, matrix=64))


def test_a_series_stored_while_the_receiver_was_down_arrives_later(
    needs_orthanc, make_settings, few, store
):
    settings = make_settings(reconcile_seconds=1.0, quiet_seconds=2.0, minimum_free_bytes=0)
    open_records(settings.database_path)
    # The event comes after a second, and the forwarding fails: nobody listens.
    with OrthancProcess(settings) as orthanc:
        orthanc.wait_ready()
        store(few.folder, port=settings.pacs_port)
        time.sleep(3)
    # And after a restart the event never comes again.
    with OrthancProcess(settings) as orthanc:
        orthanc.wait_ready()
        receiver, stop = Receiver(settings), threading.Event()
        receiver.start()
        rounds = threading.Thread(target=Rounds(settings).run, args=(stop,))
        rounds.start()
        try:
            _wait(lambda: Series.select().where(Series.state == State.SKIPPED.value).exists())
        finally:
            stop.set()
            rounds.join()
            receiver.stop()
    series = Series.get()
    assert series.series_instance_uid == few.series_uid
    assert Instance.select().where(Instance.series == series).count() == 4
    assert "4 slices" in series.reason


def test_orthanc_dies_while_it_forwards_and_the_rest_comes_later(
    needs_orthanc, make_settings, tmp_path, store
):
    settings = make_settings(reconcile_seconds=1.0, quiet_seconds=2.0, minimum_free_bytes=0)
    open_records(settings.database_path)
    sample = write_sample(tmp_path / "many", Acquisition(slices=36, matrix=32))
    count = len(sample.paths)
    receiver, stop = Receiver(settings), threading.Event()
    receiver.start()
    # The rounds take what is here for a whole series, if they look now: the PACS says nothing.
    rounds = threading.Thread(target=Rounds(settings).run, args=(stop,))
    try:
        with OrthancProcess(settings) as orthanc:
            store(sample.folder, port=settings.pacs_port)
            _wait(lambda: Instance.select().exists())
            os.kill(orthanc.pid, signal.SIGKILL)
            orthanc.stop()
        before = Instance.select().count()
        assert 0 < before < count
        _wait(lambda: receiver.associations == 0)
        rounds.start()
        with OrthancProcess(settings):
            _wait(lambda: Instance.select().count() == count)
            _wait(lambda: Series.get().state == State.QUEUED)
    finally:
        stop.set()
        if rounds.is_alive():
            rounds.join()
        receiver.stop()
    # The newest job counts, and is made of all.
    job = Job.select().order_by(Job.id.desc()).first()
    assert job.voxels == count * 32 * 32
    assert {path.name.partition("-")[0] for path in settings.spool_dir.rglob("*.dcm")} == {
        hashlib.sha256(row.sop_instance_uid.encode()).hexdigest()[:40] for row in Instance.select()
    }


def test_what_is_no_mr_image_is_listed_once_with_its_reason_and_not_fetched(
    orthanc, make_settings, store, shared_data
):
    settings = orthanc.settings
    orthanc.wait_ready()
    open_records(settings.database_path)
    store(shared_data("refuse/qa_ct_ge"), port=settings.pacs_port)
    reconciler = Reconciler(settings)

    def listed():
        reconciler.sweep()
        return [s for s in Series.select() if s.modality == "CT"]

    _wait(listed)
    [series] = listed()
    reconciler.close()
    assert series.state == State.SKIPPED
    assert "modality CT" in series.reason
    assert Instance.select().where(Instance.series == series).count() == 0
    assert not Job.select().where(Job.series == series).exists()
    assert Pacs(settings).count(series.study_instance_uid, series.series_instance_uid) == 3


def test_one_series_that_cannot_be_read_does_not_hide_the_others(make_settings, monkeypatch):
    settings = make_settings()
    open_records(settings.database_path)
    reconciler = Reconciler(settings)
    now = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    listed = [
        {"ID": name, "IsStable": True, "Instances": [name], "LastUpdate": now, "ParentStudy": "s",
         "MainDicomTags": {"SeriesInstanceUID": f"1.{number}"}}
        for number, name in enumerate(("good", "broken", "fine"))
    ]  # fmt: skip
    listed.append(listed[0] | {"ID": "ancient", "LastUpdate": "20200101T000000"})
    asked = []

    def answer(path, params=None):
        if path == "/series":
            return listed
        if "broken" in path:
            raise KeyError("Instances")
        return {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", "ImageType": ""}

    monkeypatch.setattr(reconciler, "_get", answer)
    monkeypatch.setattr(reconciler, "_ask", lambda found, _unknown: bool(asked.append(found["ID"])))
    reconciler.sweep()
    reconciler.close()
    assert asked == ["good", "fine"]


def test_an_unreachable_pacs_is_no_reason_to_stop(make_settings):
    settings = make_settings()
    open_records(settings.database_path)
    reconciler = Reconciler(settings)
    assert reconciler.sweep() == 0
    assert reconciler.expected_instances("1.2", "1.3") is None
    reconciler.close()
