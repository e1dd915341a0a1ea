"""What Orthanc's event lost is found again."""

import hashlib
import json
import os
import signal
import threading
import time

import httpx
import pytest
import requests
from bad_pacs import bad_pacs

from mrisr_node import beats
from mrisr_node.beats import signs
from mrisr_node.intake.receiver import Receiver
from mrisr_node.jobs import reconcile
from mrisr_node.jobs import rounds as rounds_module
from mrisr_node.jobs.history import note_result_series
from mrisr_node.jobs.reconcile import Reconciler
from mrisr_node.jobs.rounds import Rounds
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Beat, Instance, Job, Series, State, open_records
from mrisr_node.results.delivery import Pacs
from tests.spooling import put


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


def _standing(settings, folder):
    """A whole series on the spool, to which nothing has come for a while."""
    sample = write_sample(folder, Acquisition(slices=4, matrix=32))
    for path in sample.paths:
        put(settings, path)
    Series.update(last_instance_at=time.time() - 60).execute()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mood", ["drip", "silent"])
def test_a_pacs_that_does_not_answer_holds_up_no_round(make_settings, tmp_path, monkeypatch, mood):
    settings = make_settings(quiet_seconds=30.0, minimum_slices=4, minimum_free_bytes=0)
    open_records(settings.database_path)
    monkeypatch.setattr(reconcile, "_REQUEST", 0.4)
    monkeypatch.setattr(reconcile, "_ROUND", 0.2)
    rounds = Rounds(settings)
    for name in "abc":
        _standing(settings, tmp_path / name)
    with bad_pacs(settings.orthanc_http_port) as pacs:
        pacs.mood = mood
        rounds.round()
        # Of the first standing series, and for the sweep: the others go on without it.
        assert len(pacs.requests) == 2
        assert [series.state for series in Series.select()] == [State.QUEUED] * 3
        pacs.mood = "good"
        _standing(settings, tmp_path / "d")
        rounds.round()
        assert len(pacs.requests) == 3
        assert [series.state for series in Series.select()] == [State.QUEUED] * 4
    rounds._reconciler.close()


def test_a_round_that_hangs_gives_no_sign_of_life(make_settings, monkeypatch):
    settings = make_settings()
    open_records(settings.database_path)
    for module, name in ((beats, "_EVERY"), (rounds_module, "_BEAT_EVERY")):
        monkeypatch.setattr(module, name, 0.01)
    rounds, hangs, go_on, stop = Rounds(settings), *(threading.Event() for _ in range(3))

    def hang():
        hangs.set()
        go_on.wait(60)
        return []

    monkeypatch.setattr(rounds._assembly, "sweep", hang)
    thread = threading.Thread(target=rounds.run, args=(stop,))
    thread.start()
    try:
        assert hangs.wait(60)
        assert [sign.process for sign in signs() if sign.fresh] == ["rounds"]
        Beat.update(at=0).execute()
        time.sleep(0.5)
        assert not signs()[0].fresh
        go_on.set()
        _wait(lambda: signs()[0].fresh)
    finally:
        go_on.set()
        stop.set()
        thread.join()


def test_orthanc_is_looked_through_page_by_page(orthanc, make_settings, store, few, monkeypatch):
    settings = orthanc.settings
    orthanc.wait_ready()
    open_records(make_settings().database_path)
    other = write_sample(few.folder.parent / "other", Acquisition(slices=3, matrix=32))
    store(few.folder, other.folder, port=settings.pacs_port)
    auth = (settings.orthanc_username, settings.pacs_password())
    expected = httpx.get(f"{settings.pacs_url}/series", auth=auth).json()
    looked_at, calls = [], 0
    monkeypatch.setattr(reconcile, "_PAGE", 2)
    reconciler = Reconciler(settings)
    monkeypatch.setattr(reconciler, "_look_at", lambda found: bool(looked_at.append(found["ID"])))
    while not calls or reconciler.under_way:
        reconciler.sweep()
        calls += 1
    reconciler.close()
    assert sorted(looked_at) == sorted(expected)
    assert calls == len(expected) // 2 + 1
    assert reconciler.compared_at is not None


DAY = 86_400.0


def _listed(uid, days):
    changed = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - days * DAY))
    return {
        "ID": uid, "IsStable": True, "Instances": ["a"], "LastUpdate": changed,
        "ParentStudy": "s", "MainDicomTags": {"SeriesInstanceUID": uid},
    }  # fmt: skip


def test_a_mixed_series_is_sent_unless_first_middle_and_last_are_derived(
    make_settings, monkeypatch
):
    settings = make_settings()
    open_records(settings.database_path)
    reconciler = Reconciler(settings)

    def answer(path, *_):
        kind = "ORIGINAL" if "original" in path else "DERIVED"
        return {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR",
                "ImageType": kind, "MainDicomTags": {}}  # fmt: skip

    monkeypatch.setattr(reconciler, "_get", answer)
    monkeypatch.setattr(reconciler, "_request", lambda *_, **__: None)
    for uid, instances, sent in (
        ("1.1", ["original", "a", "b"], True),
        ("1.2", ["a", "original", "b"], True),
        ("1.3", ["a", "b", "original"], True),
        ("1.4", ["a", "b", "c"], False),
        ("1.5", ["a"], False),
    ):
        assert reconciler._look_at(_listed(uid, 0) | {"Instances": instances}) is sent
    reconciler.close()


def test_no_series_of_a_result_is_looked_at(make_settings, monkeypatch):
    settings = make_settings()
    open_records(settings.database_path)
    source = Series.create(series_instance_uid="1.1", study_instance_uid="1")
    written = {"fidelity": {"series_instance_uid": "1.3", "instances": 8}}
    job = Job.create(
        series=source,
        recipe="native",
        result_series_uid="1.2",
        outcome=json.dumps({"result": {"series": written}}),
    )
    note_result_series(job)
    reconciler = Reconciler(settings)
    asked = []
    monkeypatch.setattr(reconciler, "_get", lambda *path: asked.append(path) or {})
    for uid in ("1.2", "1.3"):
        assert not reconciler._look_at(_listed(uid, 0))
    reconciler.close()
    assert asked == []
    assert Series.select().count() == 1


def test_what_came_during_an_outage_is_asked_for_until_it_is_here(make_settings, monkeypatch):
    """However long it was, and though nothing older than `reconcile_days` is asked for else."""
    settings = make_settings()
    open_records(settings.database_path)
    days = settings.reconcile_days
    first = Rounds(settings)
    assert first._reconciler.compared_at is None
    first._reconciler.compared_at = time.time() - 10 * days * DAY
    first.round()
    reconciler = Rounds(settings)._reconciler
    assert reconciler.compared_at == first._reconciler.compared_at
    listed = [_listed("1.1", 9 * days), _listed("1.2", 12 * days), _listed("1.3", 0)]
    tags = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", "ImageType": ""}
    monkeypatch.setattr(reconciler, "_get", lambda path, *_: listed if path == "/series" else tags)
    asked = []
    monkeypatch.setattr(reconciler, "_request", lambda *_, json: asked.append(json["Resources"][0]))
    assert [reconciler.sweep(), reconciler.sweep()] == [2, 0]
    assert asked == ["1.1", "1.3"]
    assert reconciler.compared_at == first._reconciler.compared_at
    for uid in asked:
        series = Series.create(series_instance_uid=uid, study_instance_uid="1")
        Instance.create(series=series, sop_instance_uid=f"{uid}.1", path="", sha256="", size=0)
    assert reconciler.sweep() == 0
    assert reconciler.compared_at == pytest.approx(time.time(), abs=600)


def test_what_never_comes_ends_an_outage_once_it_is_shown_as_failed(make_settings, monkeypatch):
    now, settings = time.time(), make_settings()
    open_records(settings.database_path)
    reconciler = Reconciler(settings, lambda: now, compared_at=now - 10 * DAY)
    listed, tags = [_listed("1.1", 9)], {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
                                         "Modality": "MR", "MainDicomTags": {}}  # fmt: skip
    monkeypatch.setattr(reconciler, "_get", lambda path, *_: listed if path == "/series" else tags)
    monkeypatch.setattr(reconciler, "_request", lambda *_, **__: None)
    for _ in range(3):
        assert reconciler.sweep() == 1
        assert reconciler.compared_at < now - 9 * DAY
        now += 600
    reconciler.sweep()
    assert Series.get().state == State.FAILED
    assert reconciler.compared_at == now


def test_a_series_that_times_out_is_passed_over_and_the_sweep_does_not_count(
    make_settings, monkeypatch
):
    settings = make_settings()
    open_records(settings.database_path)
    reconciler = Reconciler(settings)
    listed, asked = [_listed(f"1.{n}", 0) for n in (1, 2)], []
    monkeypatch.setattr(reconciler, "_get", lambda _, query: listed[int(query["since"]) :])

    def look_at(found):
        asked.append(found["ID"])
        if found["ID"] == "1.1":
            raise requests.Timeout
        return False

    monkeypatch.setattr(reconciler, "_look_at", look_at)
    reconciler.sweep()
    assert (asked, reconciler.under_way) == (["1.1"], True)
    reconciler.sweep()
    assert (asked, reconciler.under_way) == (["1.1", "1.2"], False)
    assert reconciler.compared_at is None
    reconciler.close()
