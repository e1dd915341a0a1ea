"""The forms in which the gateway gives out what the PACS has (PS3.18 8.7 and 10.4)."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid
from result_samples import ResultSet
from test_storing import message, post
from web_door import Door
from web_samples import SampleStudy, as_file, make_series

from mrisr_node.choices import ResultKind
from mrisr_node.web.negotiation import AS_STORED, Representation, representations


@pytest.fixture
def tool(door: Door) -> Iterator[httpx.Client]:
    with door.tool() as client:
        yield client


def address(image: Dataset) -> str:
    return (
        f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
        f"/instances/{image.SOPInstanceUID}"
    )


@pytest.fixture
def instance(study: SampleStudy) -> str:
    return address(study.source[3])


def get(tool: httpx.Client, path: str, accept: str = "*/*", **headers: str) -> httpx.Response:
    return tool.get(path, headers={"Accept": accept} | headers)


JSON, XML = "application/dicom+json", 'multipart/related; type="application/dicom+xml"'
OCTETS, FILE = "application/octet-stream", "application/dicom"


@pytest.mark.parametrize(
    ("part", "accept", "kind"),
    [
        ("", "*/*", 'multipart/related; type="application/dicom"'),
        ("", FILE, FILE),
        ("", f'multipart/related; type="{FILE}"; q=0.2, {FILE};q=0.9', FILE),
        ("", f"image/jpeg, {FILE}; transfer-syntax=*", FILE),
        ("/metadata", "*/*", JSON),
        ("/metadata", "application/json", "application/json"),
        ("/metadata", f"text/html, {JSON};q=0.3, */*;q=0.1", JSON),
        ("/metadata", "application/*;q=0, */*", XML),
        ("/metadata", XML, XML),
        ("/frames/1", "*/*", f'multipart/related; type="{OCTETS}"'),
        ("/frames/1", OCTETS, OCTETS),
        ("/frames/1", f"{OCTETS}; transfer-syntax=*", OCTETS),
        ("/frames/1", 'multipart/related; type="image/jp2", application/*', OCTETS),
        ("/bulk/7FE00010", OCTETS, OCTETS),
        ("/bulk/7FE00010", "*/*", f'multipart/related; type="{OCTETS}"'),
        ("/rendered", "*/*", "image/jpeg"),
        ("/rendered", "image/jpeg;q=0.1, image/png", "image/png"),
        ("/rendered", "image/*;q=0.1, image/jpeg;q=0", "image/png"),
        ("/frames/1/rendered", "image/png", "image/png"),
        ("/thumbnail", "*/*", "image/jpeg"),
        ("/frames/1/thumbnail", "image/png", "image/png"),
    ],
)
def test_what_is_accepted_is_what_comes(tool, instance, part, accept, kind):
    for more in ({"Accept": accept}, {"Accept": "x/y"}):
        query = {"accept": accept} if more["Accept"] != accept else {}
        answer = tool.get(instance + part, headers=more, params=query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    "part", ["", "/metadata", "/frames/1", "/bulk/7FE00010", "/rendered", "/thumbnail"]
)
def test_what_cannot_be_had_in_that_form(tool, instance, part):
    for accept in ("text/html", "video/mp4, image/gif", "*/*;q=0", 'multipart/related; type="a/b"'):
        answer = get(tool, instance + part, accept)
        assert answer.status_code == 406
        assert answer.headers["content-type"] == "application/problem+json"
    assert get(tool, instance + part, ",".join(["a/b"] * 51)).status_code == 400


def test_the_order_of_likings():
    offers = [Representation("a/a"), Representation("b/b", multipart=True, transfer_syntax="*")]
    syntax = "1.2.840.10008.1.2.4.90"
    both = f'multipart/related; type="b/b"; transfer-syntax={syntax}, a/a'
    assert representations(both, offers)[0].transfer_syntax == syntax
    assert representations(f"{both};q=0.9, */*;q=0.1", offers)[0].transfer_syntax == syntax
    assert [one.media_type for one in representations(f"a/a;q=0.5, {both}", offers)] == [
        "b/b", "a/a",
    ]  # fmt: skip
    # Without a transfer syntax it is the standard's own; where all is open, the stored one.
    assert representations("multipart/related; type=b/b", offers)[0].transfer_syntax == ""
    assert representations("multipart/related", offers)[0].transfer_syntax == AS_STORED


def test_one_part_is_what_was_stored(tool, study, instance):
    image = study.source[3]
    assert get(tool, instance, FILE).content == as_file(image)
    for part in ("/frames/1", "/bulk/7FE00010"):
        answer = get(tool, instance + part, OCTETS)
        assert answer.content == image.PixelData
        assert int(answer.headers["content-length"]) == len(image.PixelData)


def test_two_frames_and_none(tool, instance, study):
    answer = get(tool, f"{instance}/frames/1,1")
    assert answer.content.count(study.source[3].PixelData) == 2
    assert get(tool, f"{instance}/frames/1,1", OCTETS).status_code == 406
    for part in ("/frames/2", "/frames/1,2", "/frames/2/rendered", "/frames/0"):
        assert get(tool, instance + part).status_code == 404
    nothing = "/dicom-web/studies/1.2/series/1.3/instances/1.4"
    for part in ("", "/metadata", "/frames/1", "/rendered", "/thumbnail", "/bulk/7FE00010"):
        assert get(tool, nothing + part).status_code == 404


def test_compressed_frames(tool):
    volume = np.random.default_rng(3).integers(0, 4000, (64, 80, 2)).astype(np.float32)
    images = make_series(
        volume, 5.0, study=generate_uid(), frame=generate_uid(), description="noise"
    )
    for image, syntax in zip(images, (RLELossless, JPEG2000Lossless), strict=True):
        pixels = image.PixelData
        image.compress(syntax)
        assert post(tool, message(as_file(image))).status_code == 200
        frame = address(image) + "/frames/1"
        answer = get(tool, frame, f"{OCTETS}; transfer-syntax=*")
        assert answer.content == next(generate_frames(image.PixelData, number_of_frames=1))
        assert answer.headers["content-type"].endswith(f"transfer-syntax={syntax}")
        decoded = get(tool, frame, OCTETS)
        # Debian's Orthanc has no decoder for JPEG 2000.
        assert decoded.status_code == 406 or decoded.content == pixels
        assert decoded.status_code == 200 or syntax == JPEG2000Lossless


def size_of(answer: httpx.Response) -> tuple[int, int]:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content)).size


def test_thumbnails_of_every_level(tool, study, instance):
    series = f"/dicom-web/studies/{study.study}/series/{study.source_uid}"
    for path in (f"/dicom-web/studies/{study.study}", series, instance, f"{instance}/frames/1"):
        assert max(size_of(get(tool, f"{path}/thumbnail"))) == 128
        assert max(size_of(get(tool, f"{path}/thumbnail?viewport=40,40"))) == 40
        assert max(size_of(get(tool, f"{path}/rendered"))) == 109


def test_a_report_has_no_picture_and_its_study_has_one(tool, results: ResultSet):
    report = dcmread(results.series[ResultKind.REPORT].paths[0])
    for part, status in (("/rendered", 404), ("/thumbnail", 404), ("/frames/1", 406)):
        assert get(tool, address(report) + part).status_code == status
    assert size_of(get(tool, f"/dicom-web/studies/{report.StudyInstanceUID}/thumbnail"))
    assert get(tool, "/dicom-web/studies").status_code == 200


def test_rendered_as_asked_for(tool, instance):
    assert size_of(get(tool, f"{instance}/rendered?viewport=64,64")) == (64, 64)
    assert size_of(get(tool, f"{instance}/rendered?viewport=64,64,10,10,-20,20")) == (64, 64)
    fine, coarse = (get(tool, f"{instance}/rendered?quality={q}") for q in (100, 5))
    assert len(coarse.content) < len(fine.content) / 2
    dark = get(tool, f"{instance}/rendered?window=1000,10,linear")
    assert np.asarray(Image.open(io.BytesIO(dark.content))).max() < 20


@pytest.mark.parametrize(
    "query",
    [
        "viewport=0,0", "viewport=1,0", "viewport=-1,5", "viewport=9999,9999", "viewport=1",
        "viewport=1,2,3", "viewport=5,5,0,0,0,0", "viewport=5,5,-1,0,5,5", "viewport=a,b",
        "viewport=1e3,1", "window=70", "window=70,0,linear", "window=70,-1,linear",
        "window=nan,1,linear", "window=1,1,cubic", "quality=0", "quality=101", "quality=x",
        "quality=00000000001",
    ],
)  # fmt: skip
def test_what_would_end_orthanc_does_not_reach_it(tool, instance, query):
    assert get(tool, f"{instance}/rendered?{query}").status_code == 400
    if query.startswith("viewport"):
        assert get(tool, f"{instance}/thumbnail?{query}").status_code == 400
    assert get(tool, instance).status_code == 200


@pytest.mark.parametrize(
    ("part", "accept"),
    [
        ("", FILE), ("", "*/*"), ("/metadata", "*/*"), ("/frames/1", "*/*"), ("/frames/1", OCTETS),
        ("/bulk/7FE00010", "*/*"), ("/rendered", "*/*"), ("/thumbnail", "image/png"),
    ],
)  # fmt: skip
def test_what_the_client_has_is_not_sent_again(tool, instance, study, part, accept):
    first, again = get(tool, instance + part, accept), get(tool, instance + part, accept)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert again.headers["etag"] == tag
    assert again.content == first.content
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        answer = get(tool, instance + part, accept, **{"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    assert get(tool, instance + part, accept, **{"If-None-Match": '"other"'}).status_code == 200
    neighbour = get(tool, address(study.source[4]) + part, accept)
    assert neighbour.headers["etag"] != tag
    gone = instance[:-2] + "00" + part
    assert get(tool, gone, accept, **{"If-None-Match": tag}).status_code == 404


def test_forms_have_tags_of_their_own(tool, instance):
    kinds = (f"{instance}/frames/1", f'multipart/related; type="{OCTETS}"'), (instance, FILE)
    tags = [get(tool, *kind).headers["etag"] for kind in kinds]
    tags += [get(tool, f"{instance}/frames/1", OCTETS).headers["etag"]]
    tags += [get(tool, f"{instance}/rendered", one).headers["etag"] for one in ("*/*", "image/png")]
    assert len(set(tags)) == len(tags)


def test_ranges_of_what_comes_in_one_part(tool, instance, study):
    file = as_file(study.source[3])
    whole = get(tool, instance, FILE)
    assert whole.headers["accept-ranges"] == "bytes"
    size = len(file)
    for wanted, start, end in (
        ("bytes=0-99", 0, 100), ("bytes=100-", 100, size), ("bytes=-5", size - 5, size),
        ("bytes=5-999999999", 5, size), ("bytes=-99999999", 0, size),
    ):  # fmt: skip
        answer = get(tool, instance, FILE, Range=wanted)
        assert answer.status_code == 206
        assert answer.content == file[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        unchanged = {"Range": wanted, "If-Range": whole.headers["etag"]}
        assert get(tool, instance, FILE, **unchanged).status_code == 206
        assert get(tool, instance, FILE, **unchanged | {"If-Range": '"x"'}).content == file
    for wanted in (f"bytes={size}-", "bytes=-0"):
        answer = get(tool, instance, FILE, Range=wanted)
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{size}"
    for wanted in ("bytes=9-1", "bytes=0-1,5-6", "lines=1-2", "bytes=x", "bytes=-"):
        answer = get(tool, instance, FILE, Range=wanted)
        assert (answer.status_code, answer.content) == (200, file)


def test_head_and_options(tool, instance, study):
    for part, accept in (
        ("", FILE),
        ("/metadata", "*/*"),
        ("/frames/1", "*/*"),
        ("/thumbnail", "*/*"),
    ):
        full = get(tool, instance + part, accept)
        head = tool.head(instance + part, headers={"Accept": accept})
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag"):
            assert head.headers[name] == full.headers[name]
    # A range is GET's alone (RFC 9110 14.2).
    for wanted in ("bytes=0-9", "bytes=99999999-", "bytes=-0"):
        head = tool.head(instance, headers={"Accept": FILE, "Range": wanted})
        assert (head.status_code, "content-range" in head.headers) == (200, False)
        assert int(head.headers["content-length"]) == len(as_file(study.source[3]))
    assert tool.head("/dicom-web/studies/1.2.3/metadata").status_code == 404
    for path, methods in (
        ("studies", "GET, HEAD, POST, OPTIONS"),
        ("series", "GET, HEAD, OPTIONS"),
    ):
        answer = tool.options(f"/dicom-web/{path}", headers={"Origin": "http://evil.example"})
        assert (answer.status_code, answer.headers["allow"]) == (204, methods)
        assert not any(name.startswith("access-control") for name in answer.headers)
    assert tool.options("/dicom-web/servers").status_code == 404


def test_search_says_what_it_does_not_do(tool, study):
    found = tool.get("/dicom-web/studies?PatientName=Colin%5E27&fuzzymatching=true")
    assert found.json()
    assert "fuzzymatching" in found.headers["warning"]
    assert "warning" not in tool.get("/dicom-web/studies?fuzzymatching=false").headers


def test_a_misspelt_filter_is_named(tool):
    known = "PatientID=1&00100010=x&RequestAttributesSequence.ScheduledProcedureStepID=1&limit=1"
    assert "warning" not in tool.get(f"/dicom-web/series?{known}").headers
    found = tool.get("/dicom-web/studies?PatientsName=x&StudyDates=1&fuzzymatching=true")
    assert found.json() == tool.get("/dicom-web/studies").json()
    fuzzy, ignored = found.headers["warning"].split('", ')
    assert "fuzzymatching" in fuzzy
    assert ignored == '299 mrisr_node "Not known, and ignored: PatientsName, StudyDates"'
    # A part of a name is none, as the standard has it; without regard to its case, as it allows.
    for name, there in (("Colin", False), ("colin^27", True), ("*lin*", True), ("Colin?27", True)):
        answer = tool.get("/dicom-web/studies", params={"PatientName": name})
        assert (answer.status_code, bool(answer.json())) == (200, there)


def test_search_page_by_page(tool, study):
    path = f"/dicom-web/studies/{study.study}/instances"
    everything = [one["00080018"]["Value"][0] for one in tool.get(path).json()]
    pages = [
        one["00080018"]["Value"][0]
        for start in range(0, len(everything) + 50, 50)
        for one in tool.get(path, params={"limit": 50, "offset": start}).json()
    ]
    assert pages == everything
    # With none, as with what nothing is found for.
    for accept, kind in ((JSON, JSON), ("application/json", "application/json"), (XML, XML)):
        for query in ({"limit": 0}, {"SOPInstanceUID": "1.2.3"}, {"limit": 1}):
            found = tool.get(path, params=query, headers={"Accept": accept})
            assert found.headers["content-type"].startswith(kind)
            assert found.headers["vary"] == "Accept"
            there = int("limit" in query and query["limit"])
            if kind == XML:
                boundary = found.headers["content-type"].rpartition("boundary=")[2].strip('"')
                assert found.content.endswith(f"--{boundary}--\r\n".encode())
                assert found.content.count(b"<NativeDicomModel") == there
            else:
                assert len(found.json()) == there
    for wrong in ({"limit": "x"}, {"limit": "-1"}, {"offset": "1.5"}, {"limit": "9" * 30}):
        assert tool.get(path, params=wrong).status_code == 400
    for accept in ("text/html", "image/png"):
        assert get(tool, path, accept).status_code == 406
    xml = get(tool, path + "?limit=2", XML)
    assert xml.content.count(b"<NativeDicomModel") == 2


def test_search_for_all_fields(tool, study):
    [one] = tool.get(f"/dicom-web/studies?StudyInstanceUID={study.study}&includefield=all").json()
    assert one["00081030"]["Value"] == ["Head"]
    series = f"/dicom-web/studies/{study.study}/series"
    plain, full = (
        tool.get(series, params=more).json()[0] for more in ({}, {"includefield": "all"})
    )
    assert set(full) >= set(plain)
    assert full["00180015"]["Value"] == ["BRAIN"]
