"""What a signed-in person may store from the viewer: reports on what the PACS has, nothing else."""

from __future__ import annotations

import io
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import deepcopy
from threading import Event

import httpx
import pytest
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from web_door import Door
from web_samples import SampleStudy, as_file

from mrisr_node.records import Job, ResultSeries, Series
from mrisr_node.web import annotations

MULTIPART = 'multipart/related; type="application/dicom"; boundary=X-y'


def message(*files: bytes) -> bytes:
    head = b"--X-y\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + file + b"\r\n" for file in files) + b"--X-y--\r\n"


def report_on(study: SampleStudy, syntax: str = ExplicitVRLittleEndian, **more: object) -> Dataset:
    """A report without findings: nothing of it is looked at but what stands here."""
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = Comprehensive3DSRStorage, generate_uid()
    report.StudyInstanceUID, report.SeriesInstanceUID = study.study, generate_uid()
    report.PatientName, report.PatientID, report.Modality = "Colin^27", "C27", "SR"
    report.SeriesNumber = report.InstanceNumber = 3000
    for name, value in more.items():
        setattr(report, name, value)
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = syntax
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID
    return report


@pytest.fixture(scope="module")
def study(store_study) -> SampleStudy:
    """One of its own: others count what is in theirs."""
    return store_study()


@pytest.fixture
def person(door: Door) -> Iterator[httpx.Client]:
    """Whoever is signed in."""
    with door.browser() as client:
        client.headers["Content-Type"] = MULTIPART
        yield client


@pytest.fixture
def instances(door: Door, study: SampleStudy) -> Iterator[set[str]]:
    """The instances that the study has; a test that changes them takes them away from here."""

    def there() -> set[str]:
        with door.tool() as tool:
            found = tool.get(f"/dicom-web/studies/{study.study}/instances?limit=1000").json()
        return {one["00080018"]["Value"][0] for one in found}

    before = there()
    yield before
    assert there() == before


def refused(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    "sop_class", [EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage]
)
def test_reports_on_a_study_of_the_pacs_are_stored_as_they_are(
    person, door, study, sop_class, syntax, caplog
):
    report = report_on(study, syntax, SOPClassUID=sop_class)
    again = report_on(study, syntax, SeriesInstanceUID=report.SeriesInstanceUID)
    with caplog.at_level(logging.INFO, "mrisr_node.web"):
        for one, path in ((report, "studies"), (again, f"studies/{study.study}")):
            answer = person.post(f"/dicom-web/{path}", content=message(as_file(one)))
            assert answer.status_code == 200, answer.text
            [stored] = answer.json()["00081199"]["Value"]
            assert answer.json()["00081190"]["Value"] == [
                f"{door.url}/dicom-web/studies/{study.study}"
            ]
            assert stored["00081155"]["Value"] == [one.SOPInstanceUID]
            [address] = stored["00081190"]["Value"]
            assert address.startswith(f"{door.url}/dicom-web/studies/{study.study}/")
            assert f":{door.settings.orthanc_http_port}" not in answer.text
    assert "reports that admin saved are in the PACS: 1" in caplog.text
    assert study.study not in caplog.text
    series = f"/dicom-web/studies/{study.study}/series/{report.SeriesInstanceUID}"
    with door.tool() as tool:
        found = tool.get(f"{series}/instances").json()
        assert {one["00080018"]["Value"][0] for one in found} == {
            report.SOPInstanceUID,
            again.SOPInstanceUID,
        }
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        whole = tool.get(f"{series}/instances/{report.SOPInstanceUID}", headers={"Accept": accept})
    start, end = whole.content.index(b"DICM") - 128, whole.content.rindex(b"\r\n--")
    assert dcmread(io.BytesIO(whole.content[start:end])) == report


def test_several_reports_come_in_one_request(person, study):
    reports = [report_on(study) for _ in range(3)]
    answer = person.post("/dicom-web/studies", content=message(*map(as_file, reports)))
    assert len(answer.json()["00081199"]["Value"]) == 3


def test_images_are_refused(person, study, instances, caplog):
    # Dataset.copy() would share its elements with the study's.
    image = deepcopy(study.source[0])
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    answer = person.post("/dicom-web/studies", content=message(as_file(image)))
    refused(answer, 403, "a tool with a token")
    # One is enough, and nothing of the others is stored.
    answer = person.post(
        "/dicom-web/studies", content=message(as_file(report_on(study)), as_file(image))
    )
    refused(answer, 403, "measurements")
    assert "not stored" in caplog.text
    assert "Colin" not in caplog.text


def test_other_documents_are_refused(person, study, instances):
    report = report_on(study, SOPClassUID=BasicTextSRStorage)
    refused(person.post("/dicom-web/studies", content=message(as_file(report))), 403, "SR")


def test_reports_that_belong_nowhere_are_refused(person, door, study, instances):
    job = Job.create(
        series=Series.create(series_instance_uid=generate_uid(), study_instance_uid=study.study),
        recipe="native",
    )
    ours = ResultSeries.create(job=job, series_instance_uid=generate_uid()).series_instance_uid
    for more, words in (
        ({"StudyInstanceUID": generate_uid()}, "no such study"),
        ({"PatientID": "somebody else"}, "another patient's"),
        ({"PatientID": ""}, "another patient's"),
        ({"SeriesInstanceUID": study.result_uid}, "new series"),
        ({"SeriesInstanceUID": ours}, "new series"),
    ):
        report = report_on(study, **more)
        refused(person.post("/dicom-web/studies", content=message(as_file(report))), 409, words)
    elsewhere = f"/dicom-web/studies/{generate_uid()}"
    answer = person.post(elsewhere, content=message(as_file(report_on(study))))
    refused(answer, 409, "another study")


def test_an_instance_that_the_pacs_has_is_not_said_to_be_stored_again(
    person, door, study, results, instances
):
    first = report_on(study, SeriesDescription="first")
    answer = person.post("/dicom-web/studies", content=message(as_file(first)))
    assert answer.status_code == 200, answer.text
    instances.add(first.SOPInstanceUID)
    for there, series in (
        (first, first.SeriesInstanceUID),
        (first, generate_uid()),
        (study.source[0], generate_uid()),
        (results.study.source[0], generate_uid()),
    ):
        again = report_on(
            study,
            SOPInstanceUID=there.SOPInstanceUID,
            SeriesInstanceUID=series,
            SeriesDescription="second",
        )
        answer = person.post("/dicom-web/studies", content=message(as_file(again)))
        refused(answer, 409, "same SOP Instance UID")
    # Nor by a tool: Orthanc keeps the first.
    first.SeriesDescription = "second"
    with door.tool() as tool:
        headers = {"Content-Type": MULTIPART, "Accept": "application/dicom+json"}
        content = message(as_file(first))
        answer = tool.post("/dicom-web/studies", content=content, headers=headers)
        assert answer.status_code == 409
        assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0x0111]
        series = f"/dicom-web/studies/{study.study}/series/{first.SeriesInstanceUID}"
        [kept] = tool.get(f"{series}/metadata").json()
    assert kept["0008103E"]["Value"] == ["first"]
    twice = as_file(report_on(study))
    answer = person.post("/dicom-web/studies", content=message(twice, twice))
    refused(answer, 409, "two reports")


def lengthened(file: bytes, uid: str, behind: bytes) -> bytes:
    """Put something behind the last UID of this value."""

    def element(value: bytes) -> bytes:
        even = value + bytes(len(value) % 2)
        return b"UI" + len(even).to_bytes(2, "little") + even

    before, found, after = file.rpartition(element(uid.encode()))
    assert found
    return before + element(uid.encode() + behind) + after


@pytest.mark.parametrize("behind", [b" evil", b"\0evil", b" (evil)", b"\\1.2", b"."])
@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_uid_with_something_behind_it_is_refused(person, study, instances, name, behind):
    report = report_on(study)
    file = lengthened(as_file(report), report[name].value, behind)
    refused(person.post("/dicom-web/studies", content=message(file)), 400, "a UID of the report")


def test_a_uid_that_stands_there_twice_is_refused(person, study, results, instances):
    """Orthanc takes the first, pydicom the last."""
    file, other = as_file(report_on(study)), results.study.study.encode()
    even = other + bytes(len(other) % 2)
    tag = b"\x20\x00\x0d\x00UI"
    element = tag + len(even).to_bytes(2, "little") + even
    for twice in (file + element, file.replace(tag, element + tag)):
        answer = person.post("/dicom-web/studies", content=message(twice))
        refused(answer, 400, "cannot be read as DICOM")


def test_classes_and_syntaxes_with_something_behind_them_are_refused(person, study, instances):
    for uid, status in ((Comprehensive3DSRStorage, 403), (ExplicitVRLittleEndian, 400)):
        file = lengthened(as_file(report_on(study)), uid, b" (evil)")
        refused(person.post("/dicom-web/studies", content=message(file)), status, "")


def test_reports_that_wait_to_be_read_keep_nobody_out(person, door, study, monkeypatch):
    """More of them than Starlette has threads."""
    go_on = Event()

    def slow(*_):
        go_on.wait()
        return {"Problem": "slow"}

    monkeypatch.setattr(annotations, "header_facts", slow)
    many, content = range(45), message(as_file(report_on(study)))
    with ThreadPoolExecutor(len(many)) as pool:
        try:
            sent = [pool.submit(person.post, "/dicom-web/studies", content=content) for _ in many]
            readers = door.app.state.readers_of_reports
            while readers.statistics().tasks_waiting < len(many) - 2:
                assert not any(answer.done() for answer in sent)
                time.sleep(0.01)
            assert readers.borrowed_tokens == 2
            with door.browser() as another:
                assert another.get("/api/jobs").status_code == 200
        finally:
            go_on.set()
        for answer in sent:
            refused(answer.result(), 400, "slow")


def test_what_cannot_be_read_is_refused(person, study, instances):
    file = as_file(report_on(study))
    deflated = as_file(report_on(study, DeflatedExplicitVRLittleEndian))
    mr = as_file(report_on(study, Modality="MR"))
    no_study = as_file(report_on(study, StudyInstanceUID=""))
    for content, status, words in (
        (b"", 400, "no whole multipart message"),
        (message(), 400, "no whole multipart message"),
        (b"--other\r\n\r\n" + file, 400, "no whole multipart message"),
        (message(file)[:-6], 400, "no whole multipart message"),
        (message(file).replace(b"Content-Type", b"Content Type"), 400, "no whole multipart"),
        (message(b"not DICOM"), 400, "cannot be read as DICOM"),
        (message(file[:-20]), 400, ""),
        (message(file[132:]), 400, "cannot be read as DICOM"),
        (message(deflated), 400, "Little Endian"),
        (message(no_study), 400, "UID"),
        (message(mr), 400, "Modality"),
        (message(*[file] * 11), 413, "at most 10"),
        # The eleventh is not waited for to end.
        (message(*[file] * 11)[:-6], 413, "at most 10"),
    ):
        refused(person.post("/dicom-web/studies", content=content), status, words)
    headers = {"Content-Type": "application/dicom"}
    answer = person.post("/dicom-web/studies", content=file, headers=headers)
    refused(answer, 415, "multipart/related")


@pytest.mark.parametrize("how", ["Content-Length: 8388609", "Transfer-Encoding: chunked"])
def test_what_is_too_large_is_refused_before_it_is_all_there(person, door, how):
    cookie = f"mrisr-session={person.cookies['mrisr-session']}"
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1:{door.settings.web_port}\r\n"
        f"Cookie: {cookie}\r\nOrigin: {door.url}\r\nContent-Type: {MULTIPART}\r\n{how}\r\n\r\n"
    )
    with closing(socket.create_connection(("127.0.0.1", door.settings.web_port), 20)) as peer:
        peer.sendall(head.encode())
        if "chunked" in how:
            peer.sendall(b"800001\r\n" + bytes(0x800001) + b"\r\n")
        assert b" 413 " in peer.makefile("rb").readline()


def test_nobody_else_stores(door, study, instances):
    content = message(as_file(report_on(study)))
    headers = {"Content-Type": MULTIPART}
    with door.client(**headers) as client:
        refused(client.post("/dicom-web/studies", content=content), 401, "sign in")
    with door.browser() as client:
        headers["Origin"] = "https://evil.example"
        answer = client.post("/dicom-web/studies", content=content, headers=headers)
        refused(answer, 403, "another site")
