"""What leaves the node is a DICOM file, and no program or picture at the same time."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from web_door import Door
from web_samples import as_file, make_study

from mrisr_node.web.preambles import Preambles

PREAMBLES = [b"MZ", b"\x7fELF", b"II*\0"]
KIND = 'multipart/related; type="application/dicom"; boundary=X-y'


def _file(start: bytes, rest: bytes = b"") -> bytes:
    return start.ljust(128, b"\x90") + b"DICM" + rest


def _answer(*files: bytes) -> bytes:
    head = b"--X-y\r\nContent-Type: application/dicom\r\nMIME-Version: 1.0\r\n\r\n"
    return b"".join(head + file + b"\r\n" for file in files) + b"--X-y--\r\n"


def _through(content_type: str, answer: bytes, step: int) -> bytes:
    preambles = Preambles(content_type)
    pieces = [answer[start : start + step] for start in range(0, len(answer), step)]
    return b"".join(map(preambles.passed, pieces)) + preambles.rest()


@pytest.mark.parametrize("step", [1, 7, 127, 128, 131, 1000, 10**6])
def test_every_preamble_is_zero_wherever_the_answer_is_cut(step):
    # What only looks like a part is left alone.
    body = bytes(3000) + b"\r\n\r\n" + _file(b"MZ") + bytes(3000)
    files = [_file(start, body) for start in PREAMBLES]
    clean = [bytes(128) + file[128:] for file in files]
    assert _through(KIND, _answer(*files), step) == _answer(*clean)
    assert _through("application/dicom", files[0], step) == clean[0]
    # Neither without a preamble, nor of another kind.
    assert _through(KIND, _answer(b"short", body), step) == _answer(b"short", body)
    assert _through("application/dicom+json", files[0], step) == files[0]
    assert _through("application/dicom", b"short", step) == b"short"


@pytest.mark.parametrize("start", PREAMBLES)
def test_what_was_stored_with_a_preamble_comes_back_without(door: Door, start):
    [image, *_] = make_study().instances
    file = as_file(image)
    stored = start.ljust(128, b"\x90") + file[128:]
    head = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=X-y',
            "Accept": "application/dicom+json"}  # fmt: skip
    with door.tool() as client:
        client.post("/dicom-web/studies", content=_answer(stored), headers=head).raise_for_status()
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        for path in (f"studies/{image.StudyInstanceUID}",
                     f"studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
                     f"/instances/{image.SOPInstanceUID}"):  # fmt: skip
            headers = {"Accept": accept, "Accept-Encoding": "gzip", "Range": "bytes=200-"}
            answer = client.get(f"/dicom-web/{path}", headers=headers)
            assert answer.status_code == 200
            place = answer.content.index(b"DICM")
            assert answer.content[place - 128 : place] == bytes(128)
            assert start.ljust(128, b"\x90") not in answer.content
            end = answer.content.rindex(b"\r\n--")
            assert dcmread(BytesIO(answer.content[place - 128 : end])) == image
