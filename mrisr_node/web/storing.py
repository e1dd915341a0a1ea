"""Store (STOW-RS, PS3.18 10.5): a stream of instances, each looked at and stored by itself.

Orthanc takes a request into memory whole, and answers that it stored what it did not. So the
multipart message is taken apart as it comes: each instance is written to a file, screened as at the
receiver's door (`intake.screener`), and given to Orthanc alone; it is answered as stored once
Orthanc has it, synced. From there it goes the way of everything that comes to the PACS: the script
forwards original MR series to the receiver, and the sweep finds what that misses. A repeat of a
request does no harm.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from anyio import CapacityLimiter, create_task_group, to_thread
from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from mrisr_node.intake.part_10 import hold_the_same
from mrisr_node.intake.screener import Screener
from mrisr_node.intake.screening import Header, Rejected
from mrisr_node.intake.statuses import StoreStatus
from mrisr_node.results.originals import ALREADY_STORED, STORED, found_in, said_in
from mrisr_node.settings import Settings
from mrisr_node.web.guard import public_origin
from mrisr_node.web.negotiation import Representation, representations
from mrisr_node.web.parts import PartFile, Parts
from mrisr_node.web.subjects import Subject, concerns_each
from mrisr_node.web.upstream import ROOT, ask_pacs, read_document

__all__ = ["LARGEST_STORE", "open_stores", "store_instances"]

LARGEST_STORE = 2 * 1024**3
"""Bytes in one request."""

_SILENCE, _FIRST_SECONDS, _SLOWEST = 30.0, 60.0, 64 * 1024
"""Seconds without a byte; those for a request, and one more for every so many bytes of it."""
_MOST_STORES = 8
# Of one request: the PACS syncs each instance, and waits for the disk meanwhile.
_AT_ONE_TIME = 4
_PIECE = 256 * 1024
_ANOTHER_STUDY = 0xC409  # within "cannot understand" (PS3.18 10.5.3), as other servers say it
_FAILED = 0x0110  # PS3.7 C.4.2.1.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Stores:
    """What the requests to store share."""

    folder: Path
    """Where instances lie while they are looked at."""
    screener: Screener
    slots: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_MOST_STORES))
    # It looks at one at a time: whoever waits for it holds no thread.
    screening: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))


@contextmanager
def open_stores(settings: Settings) -> Iterator[_Stores]:
    """Return what the application keeps as ``app.state.stores``, while it runs."""
    folder = settings.data_dir / "stow"
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier run was looking at
    folder.mkdir(parents=True, mode=0o700)
    screener = Screener()
    try:
        yield _Stores(folder, screener)
    finally:
        screener.stop()


@dataclass
class _Outcome:
    """What became of the instances of one request."""

    origin: str
    stored: list[dict[str, Any]] = field(default_factory=list)
    subjects: set[tuple[str, str]] = field(default_factory=set)
    """Patient ID and Study Instance UID of what was stored."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)

    def add(self, header: Header) -> None:
        series = f"{self._study(header.study_instance_uid)}/series/{header.series_instance_uid}"
        address = f"{series}/instances/{header.sop_instance_uid}"
        item = _reference(header.sop_class_uid, header.sop_instance_uid)
        self.subjects.add((header.patient_id, header.study_instance_uid))
        self.stored.append(item | {"00081190": {"vr": "UR", "Value": [address]}})

    def refuse(self, error: Rejected) -> None:
        reason = {"00081197": {"vr": "US", "Value": [int(error.status)]}}
        if error.sop_class_uid and error.sop_instance_uid:
            self.failed.append(_reference(error.sop_class_uid, error.sop_instance_uid) | reason)
        else:
            self.others.append(reason)

    def response(self) -> Response:
        """PS3.18 10.5.3 and I.1: 200 for all, 202 for some, 409 for none."""
        failures = self.failed or self.others
        status = 200 if not failures else 202 if self.stored else 409
        sequences = {"00081198": self.failed, "00081199": self.stored, "0008119A": self.others}
        document: dict[str, dict[str, Any]] = {
            tag: {"vr": "SQ", "Value": v} for tag, v in sequences.items() if v
        }
        # Retrieve URL is of type 2 and has one value: of several studies it is empty.
        studies = {study for _, study in self.subjects}
        document["00081190"] = {"vr": "UR"}
        if len(studies) == 1:
            document["00081190"]["Value"] = [self._study(*studies)]
        return JSONResponse(document, status, media_type="application/dicom+json")

    def _study(self, study_instance_uid: str) -> str:
        return f"{self.origin}{ROOT}studies/{study_instance_uid}"


def _reference(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [sop_instance_uid]},
    }


async def store_instances(settings: Settings, request: Request, resource: str) -> Response:
    """Store the instances of a request and say what became of each.

    Parameters
    ----------
    request
        What comes; ``app.state.stores`` limits how many are read at a time.
    resource
        ``studies``, or ``studies/{uid}``.

    Raises
    ------
    HTTPException
        The request is no whole multipart message, too long or too slow; what came before is stored.
    """
    representations(
        request.headers.get("accept", "*/*"), [Representation("application/dicom+json")]
    )
    stores: _Stores = request.app.state.stores
    try:
        stores.slots.acquire_on_behalf_of_nowait(request)
    except anyio.WouldBlock as error:
        raise HTTPException(
            503, "too many stores at one time; try again", headers={"Retry-After": "5"}
        ) from error
    try:
        with TemporaryDirectory(dir=stores.folder) as folder:
            return await _store(settings, request, resource, Path(folder))
    finally:
        stores.slots.release_on_behalf_of(request)


async def _store(settings: Settings, request: Request, resource: str, folder: Path) -> Response:
    parts = Parts(request.headers.get("content-type", ""), folder, settings.maximum_instance_bytes)
    outcome = _Outcome(public_origin(settings, request))
    turns = anyio.Semaphore(_AT_ONE_TIME)

    async def keep(file: PartFile) -> None:
        try:
            outcome.add(await _keep(settings, request, resource, file))
        except Rejected as error:
            outcome.refuse(error)
        finally:
            file.path.unlink(missing_ok=True)
            turns.release()

    try:
        async with create_task_group() as tasks:
            async for chunk in _body(request):
                for file in await run_in_threadpool(parts.add, chunk):
                    await turns.acquire()
                    tasks.start_soon(keep, file)
            parts.require_whole()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        parts.close()
        refused = len(outcome.failed) + len(outcome.others)
        name = request.state.person.username
        concerns_each(request, (Subject(*one) for one in sorted(outcome.subjects)))
        _log.info("%s stored %d instances, %d refused", name, len(outcome.stored), refused)
    return outcome.response()


async def _body(request: Request) -> AsyncIterator[bytes]:
    """Return what comes, unless it is too much or too slow."""
    began, size = time.monotonic(), 0
    pieces = request.stream()
    while True:
        spent = time.monotonic() - began
        left = min(_SILENCE, _FIRST_SECONDS + size / _SLOWEST - spent)
        try:
            with anyio.fail_after(max(0.0, left)):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise HTTPException(
                408, "the request comes too slowly", headers={"Connection": "close"}
            ) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the request ended before all of it was there") from error
        size += len(piece)
        if size > LARGEST_STORE:
            raise HTTPException(413, "store fewer instances at a time: at most 2 GiB in a request")
        began_work = time.monotonic()
        yield piece
        # What was done here with the piece is not the client's slowness.
        began += time.monotonic() - began_work


async def _keep(settings: Settings, request: Request, resource: str, file: PartFile) -> Header:
    """Store one instance, and return what it is once the PACS has it.

    Raises
    ------
    Rejected
        It is not what may be stored, or the PACS does not take it.
    """
    if file.too_large:
        raise Rejected(StoreStatus.OUT_OF_RESOURCES, "larger than maximum_instance_bytes")
    if not file.is_dicom:
        raise Rejected(StoreStatus.CANNOT_UNDERSTAND, "no DICOM file")
    if shutil.disk_usage(file.path.parent).free < settings.minimum_free_bytes:
        raise Rejected(StoreStatus.OUT_OF_RESOURCES, "free space is below minimum_free_bytes")
    stores: _Stores = request.app.state.stores
    header = await to_thread.run_sync(stores.screener.screen, file.path, limiter=stores.screening)
    study, uids = header.study_instance_uid, (header.sop_class_uid, header.sop_instance_uid)
    if resource not in ("studies", f"studies/{study}"):
        raise Rejected(_ANOTHER_STUDY, "of another study than the address names", *uids)
    try:
        there = await _copies(settings, request, header.sop_instance_uid)
        if not there:
            status, orthanc_id = await _give(settings, request, file)
            if status == STORED:
                return header
            if status != ALREADY_STORED:  # by another request meanwhile
                raise Rejected(_FAILED, "the PACS did not store it", *uids)
            there = [orthanc_id]
        for orthanc_id in there:
            if await _is_the_same(settings, request, file.path, orthanc_id):
                return header
    except (HTTPException, LookupError, TypeError, ValueError) as error:
        if isinstance(error, HTTPException) and error.status_code in (503, 504):
            raise  # nor will it store the others
        _log.warning("an instance was not stored: %s", getattr(error, "detail", "an odd answer"))
        raise Rejected(_FAILED, "the PACS did not store it", *uids) from error
    raise Rejected(StoreStatus.DUPLICATE, "the PACS has it with other content", *uids)


async def _copies(settings: Settings, request: Request, sop_instance_uid: str) -> list[str]:
    """Return Orthanc's names of the instances with a UID: it takes several, of several patients."""
    content = sop_instance_uid.encode()
    answer = await ask_pacs(settings, request, "tools/lookup", {}, content=content, root="/")
    return found_in(await read_document(answer))


async def _give(settings: Settings, request: Request, file: PartFile) -> tuple[str, str]:
    """Give an instance to Orthanc, and return its word for what it did, and its name for it."""
    headers = {"Content-Type": "application/dicom", "Content-Length": str(file.size)}
    content = _content(file.path)
    answer = await ask_pacs(settings, request, "instances", headers, content=content, root="/")
    return said_in(await read_document(answer))


async def _is_the_same(settings: Settings, request: Request, path: Path, orthanc_id: str) -> bool:
    """Tell whether the PACS has the instance as it came: of two it keeps the first."""
    answer = await ask_pacs(settings, request, f"instances/{orthanc_id}/file", {}, root="/")
    copy = path.with_suffix(".there")
    try:
        async with await anyio.open_file(copy, "wb") as file:
            async for piece in answer.aiter_raw(_PIECE):
                await file.write(piece)
        return await run_in_threadpool(hold_the_same, path, copy)
    finally:
        await answer.aclose()
        copy.unlink(missing_ok=True)


async def _content(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(_PIECE):
            yield piece
