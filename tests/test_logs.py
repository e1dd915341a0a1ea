"""The log: one line an event, in two forms, and never anything that tells who a patient is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from mrisr_node.logs import words_of
from mrisr_node.node.supervisor import Node
from mrisr_node.records import Series, State, open_records

# What a process logs that takes the name apart which its first argument gives.
SPEAKER = """
import logging, sys, threading, warnings
from mrisr_node.logs import LogFormat, get_logger, start_logging

name = sys.argv[2]
start_logging("speaker", LogFormat(sys.argv[1]))
log = get_logger("mrisr_node.records")
log.info("series moved", series=7, target="done", reason="takes the place of 2.25.3141592653589")
logging.getLogger("pynetdicom.acse").warning("from 127.0.0.1: %s\\nsecond line", "1.2.826.0.1.3.5")
logging.getLogger("httpx").info("GET %s", name)
logging.getLogger("pydicom").warning("Invalid value for VR PN: %s", name)
warnings.warn(f"Invalid value for VR PN: {name}")
try:
    try:
        int(name)
    except ValueError as error:
        raise OSError(28, "No space left on device") from error
except OSError:
    log.exception("not written", job=3)
thread = threading.Thread(target=int, args=(name,))
thread.start()
thread.join()
{}[name]
"""
NAME = "Zyxomma^Petiolatum"


@cache
def speak(form: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SPEAKER, form, NAME], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr


def test_json_lines_of_all_loggers():
    lines = [json.loads(line) for line in speak("auto").splitlines()]
    assert [list(line)[:5] for line in lines] == [
        ["at", "level", "process", "logger", "event"]
    ] * len(lines)
    assert {line["process"] for line in lines} == {"speaker"}
    moved, foreign, warning, error, thread, end = lines
    assert (moved["event"], moved["series"], moved["target"]) == ("series moved", 7, "done")
    assert moved["reason"] == "takes the place of (UID)"
    assert foreign["event"] == "from 127.0.0.1: (UID) second line"
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
    assert (error["level"], error["job"]) == ("error", 3)
    assert "OSError: [Errno 28] No space left on device at " in error["exception"]
    assert " <- ValueError at " in error["exception"]
    # A thread's end is not the process's: that goes on.
    assert (thread["level"], end["level"]) == ("error", "critical")
    assert "ValueError" in thread["exception"]
    assert end["exception"].startswith("KeyError at ")


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_an_error_quotes_is_not_told(form):
    said = speak(form)
    assert "series moved" in said
    assert NAME not in said
    assert "3141592653589" not in said


def test_what_may_be_said_of_an_error():
    assert words_of(OSError("no room")) == "OSError: no room"
    assert words_of(ValueError(NAME)) == "ValueError"


def test_each_change_of_a_series_is_a_line(make_settings, caplog):
    open_records(make_settings().database_path)
    series = Series.create(series_instance_uid="1.2.3.4.5.6", study_instance_uid="1.2.3.4.5")
    with caplog.at_level("INFO", "mrisr_node.records"):
        series.move(State.COMPLETE, "no further instance for 2 s")
        series.move(State.FAILED, "slices are missing")
    said = [record.getMessage() for record in caplog.records]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    for line, words in zip(said, [("receiving", "complete"), ("complete", "failed")], strict=True):
        assert all(word in line for word in ("series moved", *words))
    assert "1.2.3.4.5" not in "".join(said)


PLANTED = {
    "PatientName": "Zyxomma^Petiolatum",
    "PatientID": "ZP-4711-X",
    "PatientBirthDate": "19310712",
    "SeriesDescription": "T1 of Zyxomma",
    "StudyDescription": "Head of Petiolatum",
    "ReferringPhysicianName": "Quercus^Robur",
    "AccessionNumber": "ACC-90210-Z",
}


def plant(source: Iterable[Path], folder: Path, **changes: object) -> list[str]:
    """Write a series that is full of a made-up person; return what must not be told of it."""
    folder.mkdir()
    study, series = generate_uid(), generate_uid()
    told = [*PLANTED.values(), "Zyxomma", "Petiolatum", study, series]
    for number, path in enumerate(source):
        image = dcmread(path)
        for name, value in (PLANTED | changes).items():
            setattr(image, name, value)
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        told.append(image.SOPInstanceUID)
        image.save_as(folder / f"{number}.dcm")
    return told


def found_in(needles: Iterable[str], folder: Path, pattern: str = "*") -> set[str]:
    """Return which of the needles the files of a folder hold."""
    content = b"".join(path.read_bytes() for path in folder.rglob(pattern) if path.is_file())
    return {needle for needle in needles if needle.encode() in content}


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_patient_is_not_in_the_logs(
    node: Node, sample_series, store: Callable[..., None], tmp_path: Path
) -> None:
    settings = node.settings
    # One that is skipped, one that gets as far as a stage and fails there, one that is rejected.
    skipped = plant(sample_series.paths, tmp_path / "a", ImageType=["ORIGINAL", "PRIMARY", "P"])
    failed = plant(sample_series.paths, tmp_path / "b", SliceThickness=0.5)
    # Names typed into the wrong field are not repeated in the reason.
    part = plant(sample_series.paths, tmp_path / "d", BodyPartExamined="Zyxomma Petiol")
    modality = plant(sample_series.paths, tmp_path / "e", Modality="Zyxomma Petiol")
    odd = plant(sample_series.paths[:1], tmp_path / "c")
    mangled = tmp_path / "c" / "0.dcm"
    mangled.write_bytes(mangled.read_bytes().replace(odd[-2].encode(), b"x" * len(odd[-2])))
    store(tmp_path / "a", tmp_path / "b", port=settings.pacs_port)
    for folder in ("d", "e"):
        store(tmp_path / folder, port=settings.receiver_port, called="MRISR", calling="ORTHANC")
    with pytest.raises(subprocess.CalledProcessError):
        store(mangled, port=settings.receiver_port, called="MRISR", calling="ORTHANC")
    open_records(settings.database_path)
    ends = {told[-13]: "skipped" for told in (skipped, part, modality)} | {failed[-13]: "failed"}
    deadline = time.monotonic() + 300
    while {
        series.series_instance_uid: series.state
        for series in Series.select().where(Series.series_instance_uid.in_(list(ends)))
    } != ends:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # Addresses hold UIDs, and people type names into the wrong field.
    with httpx.Client(base_url=settings.viewer_url, trust_env=False, timeout=60) as client:
        client.get(f"/dicom-web/studies/{failed[9]}/series")
        form = {"username": "Zyxomma^Petiolatum", "password": "ZP-4711-X"}
        headers = {"Origin": settings.viewer_url}
        assert client.post("/sign-in", data=form, headers=headers).status_code == 401

    logs = settings.data_dir / "logs"
    everything = {*skipped, *part, *modality, *failed, *odd, "Zyxomma Petiol", "ZYXOMMA"}
    assert found_in(everything, logs) == set()
    # The same search finds what is there: the patient in the spool, and our words in the logs.
    assert found_in(failed, settings.spool_dir) == set(failed)
    assert found_in(["Zyxomma"], settings.quarantine_dir) == {"Zyxomma"}
    words = {"series moved", "a phase image", "another body part", "another modality",
             "slice thickness", "put into quarantine"}  # fmt: skip
    assert found_in(words, logs) == words
    # Each change that the records know is a line.
    lines = [
        json.loads(line)
        for name in ("receiver", "cpu-worker")
        for line in (logs / f"{name}.log").read_text().splitlines()
    ]
    moves = {(one["series"], one["source"], one["target"])
             for one in lines if one["event"] == "series moved"}  # fmt: skip
    for uid in ends:
        series = Series.get(Series.series_instance_uid == uid)
        known = {(series.id, t.source, t.target) for t in series.transitions}
        assert len(known) >= 2
        assert known <= moves
