"""Whose images they are, from what scanners write in their own character sets."""

from __future__ import annotations

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from small_dicom import encoded_slice, instance_uid

from mrisr_node.intake.patients import note_patients
from mrisr_node.intake.screening import screen
from mrisr_node.intake.spool import Spool
from mrisr_node.jobs.overview import Which, overview
from mrisr_node.records import Series, State, folded, open_records

UID = "2.25.77"


@pytest.fixture
def settings(make_settings):
    made = make_settings(minimum_free_bytes=0)
    open_records(made.database_path)
    return made


def received(settings, tmp_path, change) -> Series:
    """Take a slice in as the receiver does, after something of it was changed."""
    plain = tmp_path / "plain.dcm"
    plain.write_bytes(encoded_slice(UID, 0))
    dataset = dcmread(plain)
    change(dataset)
    odd = tmp_path / "odd.dcm"
    dataset.save_as(odd)
    spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
    draft = spool.draft(odd.read_bytes())
    draft.sync()
    spool.store(screen(draft.path, MRImageStorage, instance_uid(UID, 0)), draft, "SCANNER")
    return Series.get()


def named(charset: str | list[str], name: str):
    def change(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = charset
        dataset.PatientName = name
        dataset.PatientID, dataset.AccessionNumber = "P-1", "A1"
        dataset.StudyDate = "20261124"

    return change


@pytest.mark.parametrize(
    ("charset", "name", "words"),
    [
        ("ISO_IR 100", "Müller^Jörg", ["jorg MULLER", "Müller,Jörg"]),
        ("ISO_IR 192", "Ødegård^Åse", ["åse", "ASE"]),
        ("ISO_IR 144", "Люкceмбypг", ["ЛЮКC"]),
        (
            ["", "ISO 2022 IR 87"],
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            ["太郎 山田", "tarou", "やまだ"],
        ),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", ["길동", "吉洞", "hong"]),
        ("GB18030", "Wang^XiaoDong=王^小东", ["小东 wang"]),
    ],
)
def test_names_are_decoded_and_found(settings, tmp_path, charset, name, words):
    series = received(settings, tmp_path, named(charset, name))
    assert series.patient_name == name
    found = (series.patient_id, series.accession_number, series.study_date)
    assert found == ("P-1", "A1", "20261124")
    for typed in words:
        assert [row.id for row in overview(Which(words=typed))] == [series.id], typed
    assert overview(Which(words=words[0] + " nobody")) == []


@pytest.mark.filterwarnings("ignore")
def test_a_name_that_cannot_be_decoded_costs_no_image(settings, tmp_path):
    def change(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.add_new("PatientName", "PN", b"M\xfcller^\xff\xfe")
        dataset.add_new("PatientID", "LO", b"\xff\\\xfe")

    series = received(settings, tmp_path, change)
    assert "ller" in series.patient_name
    assert series.patient_name.isprintable()


def test_what_is_missing_is_empty(settings, tmp_path):
    def change(dataset: Dataset) -> None:
        for name in ("PatientName", "PatientID", "AccessionNumber", "StudyDate"):
            if name in dataset:
                delattr(dataset, name)

    series = received(settings, tmp_path, change)
    assert (series.patient_id, series.patient_name) == ("", "")


def test_series_of_older_versions_are_read_from_their_files(settings, tmp_path):
    series = received(settings, tmp_path, named("ISO_IR 100", "Müller^Jörg"))
    blank = {"patient_id": None, "patient_name": "", "accession_number": "", "words": ""}
    Series.update(**blank).execute()
    gone = Series.create(series_instance_uid="1.2", study_instance_uid="1", description="T1 cor")
    Series.update(words="").where(Series.id == gone.id).execute()
    series.move(State.COMPLETE)
    assert not note_patients(settings.spool_dir)
    assert [row.id for row in overview(Which(words="jorg"))] == [series.id]
    assert [row.id for row in overview(Which(words="cor"))] == [gone.id]
    assert Series.get_by_id(series.id).state == State.COMPLETE
    assert not Series.select().where(Series.patient_id.is_null()).exists()


def test_folding():
    assert folded("  Müller^Anna=X,;Y ") == "muller anna x y"
    assert folded("STRAẞE") == folded("Straße") == "strasse"
