"""What a signed-in person saves in the viewer: measurements as Structured Reports, nothing else.

A tool with a token may store whatever the PACS takes. A browser's cookie speaks for whoever holds
the mouse, so what comes with it is held to what OHIF saves: small reports (TID 1500, PS3.16) on a
study that the PACS has, and beside what the node made, not within it.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anyio import to_thread
from fastapi import HTTPException, Request
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from mrisr_node.intake.header_facts import header_facts
from mrisr_node.records import RefusalReport, ResultSeries
from mrisr_node.settings import Settings
from mrisr_node.web.subjects import Subject, concerns_each
from mrisr_node.web.upstream import UID_PATTERN, ask_pacs, read_document

__all__ = ["SOP_CLASSES", "store_reports"]

SOP_CLASSES = (EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage)
_TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

# A length has 5 kB; a day's work of freehand contours has less than a hundredth of this.
_MOST_BYTES = 8 * 1024**2
_MOST_REPORTS = 10

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_FACTS = (*_UIDS, "PatientID", "Modality")

_log = logging.getLogger(__name__)


async def store_reports(settings: Settings, request: Request, resource: str) -> Response:
    """Check the reports in a STOW-RS request (PS3.18 10.5) and store them at the PACS.

    Parameters
    ----------
    request
        What came; ``app.state.readers_of_reports`` limits how many are read at a time.
    resource
        ``studies``, or ``studies/{uid}``.

    Raises
    ------
    HTTPException
        They are not what a person may store, or the PACS does not take them; nothing was stored.
    """
    try:
        kind, body = request.headers.get("content-type", ""), await _body(request)
        files = await run_in_threadpool(_parts, kind, body)
        # Who waits for a turn holds no thread: signing in and the pages need them.
        readers = request.app.state.readers_of_reports
        found = await to_thread.run_sync(_read, files, limiter=readers)
        for facts in found:
            await _check(settings, request, resource, facts)
        if len({facts["SOPInstanceUID"] for facts in found}) < len(found):
            raise HTTPException(409, "two reports have the same SOP Instance UID")
        names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
        concerns_each(request, (Subject(*(facts[name] for name in names)) for facts in found))
        answer = await _store(settings, request, resource, files)
    except HTTPException as error:
        _log.warning("reports from the viewer were not stored: %s", error.detail)
        raise
    # The reports themselves do not say who: OHIF does not know.
    name = request.state.person.username
    _log.info("reports that %s saved are in the PACS: %d", name, len(files))
    return answer


async def _body(request: Request) -> bytes:
    too_large = HTTPException(
        413, f"at most {_MOST_BYTES // 1024**2} MiB of reports are stored in one request"
    )
    if int(request.headers.get("content-length", "0")) > _MOST_BYTES:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise too_large
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended before all of it was there") from error
    return bytes(body)


def _parts(content_type: str, body: bytes) -> list[bytes]:
    """Return the files of a multipart message (PS3.18 8.7.2)."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/related":
        raise HTTPException(415, "DICOM is stored as multipart/related; type=application/dicom")
    files: list[bytearray] = []
    ends: list[None] = []

    def begin() -> None:
        if len(files) == _MOST_REPORTS:
            raise HTTPException(413, f"at most {_MOST_REPORTS} reports are stored in one request")
        files.append(bytearray())

    parser = MultipartParser(
        options.get(b"boundary", b""),
        {
            "on_part_begin": begin,
            "on_part_data": lambda data, start, end: files[-1].extend(data[start:end]),
            "on_end": lambda: ends.append(None),
        },
    )
    try:
        parser.write(body)
    except FormParserError:
        ends.clear()
    if not ends or not files:
        raise HTTPException(400, "the request is no whole multipart message; send it again")
    return [bytes(file) for file in files]


def _read(files: Sequence[bytes]) -> list[dict[str, str]]:
    """Return what the files say they are, in the same order."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "report.dcm")
        found = []
        for file in files:
            path.write_bytes(file)
            found.append(dict.fromkeys(_FACTS, "") | header_facts(path, _FACTS))
        return found


async def _check(
    settings: Settings, request: Request, resource: str, facts: dict[str, str]
) -> None:
    """Raise `HTTPException` unless it is a report that a person may store."""
    if "Problem" in facts:
        raise HTTPException(400, facts["Problem"])
    if facts["SOPClassUID"] not in SOP_CLASSES:
        raise HTTPException(
            403,
            "from the viewer only measurements are stored, as Enhanced, Comprehensive or"
            " Comprehensive 3D SR; images go to the PACS by C-STORE, or by a tool with a token",
        )
    if facts.get("TransferSyntaxUID") not in _TRANSFER_SYNTAXES:
        raise HTTPException(400, "a report is stored in Explicit or Implicit VR Little Endian")
    if facts["Modality"] != "SR":
        raise HTTPException(400, "a report has the Modality SR")
    if not all(re.fullmatch(UID_PATTERN, facts[name]) for name in _UIDS):
        raise HTTPException(400, "a UID of the report is missing, or is none")
    study, series = facts["StudyInstanceUID"], facts["SeriesInstanceUID"]
    if resource not in ("studies", f"studies/{study}"):
        raise HTTPException(409, "the report belongs to another study than the address names")
    there = await _series_of(settings, request, study)
    if not there:
        raise HTTPException(
            409, "the PACS has no such study; a report is stored beside what it is about"
        )
    patient = facts["PatientID"].strip(" ")
    if any(of_study != patient for of_study, _ in there.values()):
        raise HTTPException(409, "in the PACS this study is another patient's; nothing was stored")
    if there.get(series, ("", "SR"))[1] != "SR" or await run_in_threadpool(_is_ours, series):
        raise HTTPException(
            409, "this series holds images, or is a result's; save to a new series instead"
        )
    # Of two instances with one UID Orthanc keeps the first, and answers that it stored the second.
    query = f"SOPInstanceUID={facts['SOPInstanceUID']}"
    if await _search(settings, request, "instances", query):
        raise HTTPException(409, "the PACS has an instance of the same SOP Instance UID")


async def _series_of(
    settings: Settings, request: Request, study: str
) -> dict[str, tuple[str, str]]:
    """Return patient's ID and modality of each series that the PACS has of a study."""
    found = await _search(settings, request, f"studies/{study}/series", "includefield=00100020")
    return {_value(s, "0020000E"): (_value(s, "00100020"), _value(s, "00080060")) for s in found}


async def _search(
    settings: Settings, request: Request, resource: str, query: str
) -> list[dict[str, Any]]:
    headers = {"Accept": "application/dicom+json"}
    answer = await ask_pacs(settings, request, resource, headers, query=query.encode())
    found: list[dict[str, Any]] = await read_document(answer) or []
    return found


def _value(item: dict[str, Any], tag: str) -> str:
    return str((item.get(tag, {}).get("Value") or [""])[0]).strip(" ")


def _is_ours(series_instance_uid: str) -> bool:
    return any(
        table.select().where(table.series_instance_uid == series_instance_uid).exists()
        for table in (ResultSeries, RefusalReport)
    )


async def _store(
    settings: Settings, request: Request, resource: str, files: Sequence[bytes]
) -> Response:
    # A boundary that whoever wrote the files could not know: the PACS sees the parts that we saw.
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    # What a program of another kind may have written before a file stays out (`preambles`).
    parts = [head + bytes(128) + file[128:] + b"\r\n" for file in files]
    answer = await ask_pacs(
        settings,
        request,
        resource,
        {
            "Accept": "application/dicom+json",
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        },
        content=b"".join(parts) + f"--{boundary}--\r\n".encode(),
    )
    stored = await read_document(answer)
    # It may answer 200 all the same (Failed SOP Sequence, PS3.18 10.5.3.1).
    if answer.status_code != 200 or not stored or stored.get("00081198", {}).get("Value"):
        raise HTTPException(502, "the PACS did not store the report; its log says why")
    return JSONResponse(stored, media_type="application/dicom+json")
