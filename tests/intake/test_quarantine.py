"""Objects in quarantine: listed, looked at, released through the door's screening, deleted."""

import logging

import pytest
from pydicom import dcmread

from mrisr_node.intake import quarantine as module
from mrisr_node.intake.header_facts import header_facts
from mrisr_node.intake.quarantine import NotInQuarantine, Quarantine
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.intake.spool import OutOfSpace, Spool
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Rejection, Series, open_records
from tests.spooling import refuse

PATIENT = ("Doe^Jane", "PID-4711", "19700101")


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(data_dir=tmp_path / "node", minimum_free_bytes=0)
    open_records(made.database_path)
    return made


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("quarantine"), Acquisition(slices=3, matrix=32))


@pytest.fixture
def quarantine(settings):
    return Quarantine(settings)


def _receive(settings, *paths):
    receiver = Receiver(settings)
    receiver.start()
    try:
        where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
        return send_files(list(paths), where, lambda _: None)
    finally:
        receiver.stop()


@pytest.fixture
def altered(sample, tmp_path):
    """The first slice with other pixels and a patient's data."""
    dataset = dcmread(sample.paths[0])
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PATIENT
    dataset.save_as(tmp_path / "altered.dcm")
    return tmp_path / "altered.dcm"


def _refuse(settings, encoded, reason="cannot be read as DICOM (Error)"):
    """Put bytes into quarantine as the receiver does; return their key."""
    refuse(settings, encoded, reason, "SCANNER")
    return Rejection.select().order_by(Rejection.id.desc()).get().path[:16]


def test_what_the_door_refused_is_listed_with_reason_and_origin(
    settings, quarantine, sample, altered
):
    assert len(_receive(settings, sample.paths[0], altered)) == 1
    [entry] = quarantine.entries()
    assert quarantine.count() == 1
    assert "other content" in entry.reason
    assert (entry.sender, entry.address) == ("ORTHANC", "127.0.0.1")
    assert entry.size > 32 * 32
    assert quarantine.entry(entry.key) == entry


def test_the_facts_tell_what_it_is_and_not_who(settings, quarantine, sample, altered):
    _receive(settings, sample.paths[0], altered)
    facts = quarantine.facts(quarantine.entries()[0].key)
    assert facts["SOPClassUID"] == "1.2.840.10008.5.1.4.1.1.4 (MR Image Storage)"
    assert (facts["Rows"], facts["Columns"], facts["Modality"]) == ("32", "32", "MR")
    assert "Problem" not in facts
    assert not any(word in str(facts) for word in PATIENT)


def test_what_is_still_wrong_stays(settings, quarantine, sample, altered):
    _receive(settings, sample.paths[0], altered)
    [entry] = quarantine.entries()
    release = quarantine.release(entry.key)
    assert not release.released
    assert "other content" in release.outcome
    junk = _refuse(settings, b"no DICOM at all")
    assert "refused again: cannot be read as DICOM" in quarantine.release(junk).outcome
    assert quarantine.count() == 2
    assert Instance.select().count() == 1
    assert len(list(settings.quarantine_dir.iterdir())) == 2


def test_what_is_in_order_now_is_taken_in(settings, quarantine, sample, altered):
    _receive(settings, sample.paths[0], altered)
    [entry] = quarantine.entries()
    # What was in its way is gone.
    Series.delete().execute()
    release = quarantine.release(entry.key)
    assert (release.released, release.outcome) == (True, "taken in")
    assert release.series == Series.get().id
    [kept] = Spool(settings.spool_dir, settings.quarantine_dir, 0).paths(Series.get())
    assert dcmread(kept).PixelData == dcmread(altered).PixelData
    assert Series.get().sender == "ORTHANC"
    assert quarantine.entries() == []
    assert list(settings.quarantine_dir.iterdir()) == []


def test_a_release_that_was_cut_off_is_finished_by_the_next(settings, quarantine, sample, altered):
    _receive(settings, sample.paths[0], altered)
    [entry] = quarantine.entries()
    Series.delete().execute()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Quarantine, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quarantine.release(entry.key)
    assert quarantine.count() == Instance.select().count() == 1
    release = quarantine.release(entry.key)
    assert release.released
    assert "before" in release.outcome
    assert quarantine.count() == 0
    assert Instance.select().count() == 1


def test_a_full_disk_takes_nothing_in(settings, sample, altered):
    _receive(settings, sample.paths[0], altered)
    crowded = Quarantine(settings.model_copy(update={"minimum_free_bytes": 1 << 60}))
    with pytest.raises(OutOfSpace):
        crowded.release(crowded.entries()[0].key)
    assert crowded.count() == 1


def test_deleted_is_gone_and_its_key_means_nothing_else(settings, quarantine):
    first, second = _refuse(settings, b"one"), _refuse(settings, b"two")
    quarantine.delete(second)
    third = _refuse(settings, b"three")
    assert {entry.key for entry in quarantine.entries()} == {first, third}
    assert len(list(settings.quarantine_dir.iterdir())) == 2
    with pytest.raises(NotInQuarantine):
        quarantine.delete(second)


@pytest.mark.parametrize("key", ["", "1", "../../../etc", "%%%%%%%%", "_" * 8, "0" * 16, "A" * 16])
def test_a_key_from_outside_is_never_a_path(settings, quarantine, key):
    _refuse(settings, b"one")
    for act in (quarantine.entry, quarantine.facts, quarantine.release, quarantine.delete):
        with pytest.raises(NotInQuarantine, match="no such object"):
            act(key)
    assert quarantine.count() == 1


def test_a_name_in_the_records_that_is_none_of_ours_leads_nowhere(settings, quarantine, tmp_path):
    (tmp_path / "precious").write_text("keep")
    path = "0" * 8 + "/../../precious"
    Rejection.create(path=path, reason="x")
    assert quarantine.entry("0" * 8).size is None
    quarantine.delete("0" * 8)
    assert (tmp_path / "precious").exists()


def test_an_entry_without_its_file_says_so_and_can_be_deleted(settings, quarantine):
    key = _refuse(settings, b"one")
    next(settings.quarantine_dir.iterdir()).unlink()
    assert quarantine.entry(key).size is None
    assert quarantine.facts(key) == {"Problem": "its file is gone"}
    with pytest.raises(NotInQuarantine, match="gone"):
        quarantine.release(key)
    quarantine.delete(key)
    assert quarantine.count() == 0


def test_keys_that_begin_alike_are_told_apart(settings, quarantine):
    for digits in ("0" * 40, "0" * 39 + "1"):
        Rejection.create(path=f"{digits}.dcm", reason="x")
    with pytest.raises(NotInQuarantine, match="give more"):
        quarantine.delete("0" * 16)
    quarantine.delete("0" * 40)
    assert Rejection.get().path == "0" * 39 + "1.dcm"


def test_hostile_files_cost_a_process_and_no_more(tmp_path, sample, monkeypatch, caplog):
    whole = sample.paths[0].read_bytes()
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    lies = whole.replace(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00US\xff\xff")
    caplog.set_level(logging.DEBUG)
    for number, hostile in enumerate((lies, b"junk", whole[:-2100] + nested)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(hostile)
        assert isinstance(header_facts(path), dict)
    assert "Problem" in header_facts(tmp_path / "1.dcm")
    # What takes too long or too much is ended.
    monkeypatch.setattr("mrisr_node.intake.header_facts._PATIENCE", 0.01)
    assert "within" in header_facts(tmp_path / "1.dcm")["Problem"]
    assert caplog.text == ""


def test_the_call_that_takes_in_is_the_doors_own(settings, quarantine, monkeypatch):
    """Whatever screening refuses at the door, it refuses here."""
    key = _refuse(settings, b"one")
    monkeypatch.setattr(module, "read_file_meta_info", lambda _: {})
    assert "refused again" in quarantine.release(key).outcome
