"""Uploads that survive a bad network: the tus resumable protocol 1.0.0, over which files come in.

Core, creation, termination, expiration and checksum (https://tus.io/protocols/resumable-upload).
What the records say of an upload's offset is true: it moves on only once the bytes before it are on
the disk, and what lies behind it, after a crash, is cut off before anything is added. An upload is
its owner's alone; to everybody else it does not exist.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from email.utils import formatdate
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from mrisr_node.durable import is_disk_full
from mrisr_node.intake.incoming import InUse, NotReceiving, Part, give_up, lacks_room
from mrisr_node.people.roles import Permission
from mrisr_node.records import Upload, UploadState, transaction
from mrisr_node.settings import Settings
from mrisr_node.web.idempotency import LOCATION, IdempotentRoute
from mrisr_node.web.permissions import allow

__all__ = ["tus_router"]

_VERSION = "1.0.0"
_EXTENSIONS = "creation,expiration,termination,checksum"
_DIGESTS = ("sha256", "sha1")
_BODY = "application/offset+octet-stream"
# So much is written at a time, and so much may be lost with the server.
_PIECE, _DURABLE = 1 << 20, 16 << 20
_MOST_UNFINISHED = 200
"""Of one person; each of them holds room for all of its bytes."""
_LONGEST_NAME = 200
_ASK_AGAIN = (408, 409, 423)

# Described by hand (`_described`): what is missing or wrong has its own status in the protocol.
Version = Annotated[str | None, Header(alias="Tus-Resumable", include_in_schema=False)]


def _described(**required: bool) -> dict[str, Any]:
    """Return what the OpenAPI document says of the headers of the protocol."""
    number = {"pattern": "^[0-9]+$", "maxLength": 18}
    schemas: dict[str, dict[str, Any]] = {
        "Tus-Resumable": {"enum": [_VERSION]},
        "Upload-Length": number | {"pattern": "^0*[1-9][0-9]*$"},
        "Upload-Offset": number,
        "Upload-Metadata": {},
        "Upload-Checksum": {
            "pattern": "^(sha256 [A-Za-z0-9+/]{43}=|sha1 [A-Za-z0-9+/]{27}=)$",
            "examples": ["sha1 Lve95gjOVATpfV8EL5X4nxwjKHE="],
        },
    }
    names = {name.replace("_", "-"): must for name, must in required.items()}
    return {
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": must,
                "schema": {"type": "string", **schemas[name]},
            }
            for name, must in names.items()
        ]
    }


def tus_router(settings: Settings) -> APIRouter:
    """Return the routes of the protocol, under ``/api/uploads``."""
    router = APIRouter(
        prefix="/api/uploads",
        tags=["uploads"],
        dependencies=[allow(Permission.STORE)],
        route_class=IdempotentRoute,
        responses={
            400: {"description": "a header of the protocol is missing or wrong"},
            404: {"description": "there is no such upload of yours"},
            409: {"description": "the upload is not where the request takes it to be"},
            412: {"description": f"Tus-Resumable is not {_VERSION}"},
        },
    )

    def headers(upload: Upload | None = None, **more: str) -> dict[str, str]:
        said = {"Tus-Resumable": _VERSION, "Cache-Control": "no-store"}
        if upload is not None:
            said["Upload-Offset"] = str(upload.offset)
            if upload.state == UploadState.RECEIVING.value:
                ends = upload.touched_at + settings.upload_hours * 3600
                said["Upload-Expires"] = formatdate(ends, usegmt=True)
        return said | {name.replace("_", "-"): value for name, value in more.items()}

    @router.options("", summary="What the server speaks (tus)", status_code=204)
    def options() -> Response:
        return Response(
            status_code=204,
            headers=headers(
                Tus_Version=_VERSION,
                Tus_Extension=_EXTENSIONS,
                Tus_Max_Size=str(settings.maximum_upload_bytes),
                Tus_Checksum_Algorithm=",".join(_DIGESTS),
            ),
        )

    @router.post(
        "",
        summary="Begin an upload (tus)",
        status_code=201,
        description="`Upload-Metadata` may hold `filename`, in Base64. The address of the upload"
        " comes back as `Location`; its bytes are sent there by PATCH.",
        response_class=Response,
        openapi_extra=_described(Tus_Resumable=True, Upload_Length=True, Upload_Metadata=False),
        responses={
            201: LOCATION,
            413: {"description": "larger than `maximum_upload_bytes`"},
            429: {"description": "too many unfinished uploads"},
            507: {"description": "not enough room on the disk"},
        },
    )
    def create(
        request: Request,
        length: Annotated[str, Header(alias="Upload-Length", include_in_schema=False)] = "",
        metadata: Annotated[str, Header(alias="Upload-Metadata", include_in_schema=False)] = "",
        version: Version = None,
    ) -> Response:
        _require_version(version)
        upload = _begin(settings, request.state.person.username, _number(length), metadata)
        said = headers(upload, Location=f"/api/uploads/{upload.key}")
        return Response(status_code=201, headers=said)

    @router.head(
        "/{key}",
        summary="How much of an upload is here (tus)",
        openapi_extra=_described(Tus_Resumable=True),
    )
    def offset(request: Request, key: str, version: Version = None) -> Response:
        _require_version(version)
        upload = _own(request, key)
        return Response(headers=headers(upload, Upload_Length=str(upload.size)))

    @router.patch(
        "/{key}",
        summary="Send more of an upload (tus)",
        status_code=204,
        response_class=Response,
        openapi_extra={
            **_described(Tus_Resumable=True, Upload_Offset=True, Upload_Checksum=False),
            "requestBody": {
                "content": {_BODY: {"schema": {"type": "string", "format": "binary"}}},
                "required": True,
            },
        },
        responses={
            408: {"description": "nothing came for a while"},
            409: {"description": "the offset is not where the upload stands; ask by HEAD"},
            413: {"description": "more bytes than announced"},
            415: {"description": f"the body is not {_BODY}"},
            423: {"description": "another request is writing to it"},
            460: {"description": "the bytes are not those of the checksum"},
            507: {"description": "the disk is full"},
        },
    )
    async def append(
        request: Request,
        key: str,
        offset: Annotated[str, Header(alias="Upload-Offset", include_in_schema=False)] = "",
        checksum: Annotated[str, Header(alias="Upload-Checksum", include_in_schema=False)] = "",
        version: Version = None,
    ) -> Response:
        _require_version(version)
        if request.headers.get("content-type") != _BODY:
            raise _refusal(415, f"bytes are sent as {_BODY}")
        start, digest = _number(offset), _digest_of(checksum)
        upload = await run_in_threadpool(_own, request, key)
        try:
            part = await run_in_threadpool(Part, settings, upload)
        except NotReceiving as error:
            raise _refusal(409, str(error)) from error
        except InUse as error:
            raise _refusal(423, "another request is writing to this upload; try again") from error
        try:
            if start != part.offset:
                raise _refusal(409, f"this upload stands at {part.offset}; ask by HEAD and go on")
            if int(request.headers.get("content-length", "0")) > part.upload.size - start:
                raise _refusal(413, f"more bytes come than the {part.upload.size} announced")
            wrong = await _receive(settings, request, part, digest)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(part.close)
        if wrong:
            return JSONResponse(
                {"type": "https://tus.io/protocols/resumable-upload#checksum",
                 "title": "Checksum Mismatch", "status": 460,
                 "detail": "the bytes arrived damaged and were dropped; send them again"},
                status_code=460, headers=headers(), media_type="application/problem+json",
            )  # fmt: skip
        return Response(status_code=204, headers=headers(part.upload))

    @router.delete(
        "/{key}",
        summary="Give an upload up (tus)",
        status_code=204,
        openapi_extra=_described(Tus_Resumable=False),
        responses={423: {"description": "another request is writing to it"}},
    )
    def terminate(request: Request, key: str, version: Version = None) -> Response:
        if version is not None:
            _require_version(version)
        upload = _own(request, key)
        try:
            give_up(settings, upload)
        except NotReceiving as error:
            raise _refusal(409, "this upload is being worked on; look again in a moment") from error
        except InUse as error:
            raise _refusal(423, "another request is writing to this upload; end it") from error
        return Response(status_code=204, headers=headers())

    return router


def _own(request: Request, key: str) -> Upload:
    """Return an upload of whoever asks; of anybody else's nothing is said, not even that it is."""
    owner = request.state.person.username
    upload: Upload | None = Upload.get_or_none(Upload.key == key, Upload.owner == owner)
    if upload is None:
        raise _refusal(404, "there is no such upload of yours; it may have expired: begin again")
    return upload


def _begin(settings: Settings, owner: str, size: int, metadata: str) -> Upload:
    if size > settings.maximum_upload_bytes:
        most = f"{settings.maximum_upload_bytes / 1024**3:.1f} GiB"
        raise _refusal(413, f"at most {most} (maximum_upload_bytes) can be uploaded as one file")
    if size == 0:
        raise _refusal(400, "an empty file holds no image")
    with transaction():
        unfinished = Upload.select().where(Upload.state == UploadState.RECEIVING.value)
        if unfinished.where(Upload.owner == owner).count() >= _MOST_UNFINISHED:
            raise _refusal(429, f"you have {_MOST_UNFINISHED} unfinished uploads; end some first")
        promised = sum(upload.size - upload.offset for upload in unfinished)
        if lacks_room(settings, promised + size):
            raise _refusal(507, "the node has no room for this file now (minimum_free_bytes)")
        name = _name_in(metadata)
        return Upload.create(key=secrets.token_hex(16), owner=owner, name=name, size=size)


async def _receive(
    settings: Settings, request: Request, part: Part, digest: tuple[str, bytes] | None
) -> bool:
    """Write what comes; return whether it turned out to be damaged.

    A connection that breaks off leaves what came before it, unless a checksum was to tell whether
    that is right.
    """
    hasher = hashlib.new(digest[0], usedforsecurity=False) if digest else None
    stream = request.stream()
    piece, undurable = bytearray(), 0
    whole = False
    full = _refusal(507, "the node's disk is full (minimum_free_bytes); go on later")

    async def put() -> None:
        nonlocal undurable
        content = bytes(piece)
        piece.clear()
        if part.end + len(content) > part.upload.size:
            raise _refusal(413, f"more bytes came than the {part.upload.size} announced")
        try:
            await run_in_threadpool(part.write, content)
        except OSError as error:
            if is_disk_full(error):
                raise full from error
            raise
        if hasher:
            hasher.update(content)
        undurable += len(content)
        if undurable >= _DURABLE:
            undurable = 0
            if await run_in_threadpool(lacks_room, settings, 0):
                raise full
            if hasher is None:
                await run_in_threadpool(part.keep)

    try:
        while True:
            with anyio.fail_after(settings.network_timeout):
                chunk = await anext(stream, None)
            if chunk is None:
                break
            piece += chunk
            if len(piece) >= _PIECE:
                await put()
        whole = True
    except TimeoutError as error:
        raise _refusal(408, "nothing came for a while; ask by HEAD and go on") from error
    except ClientDisconnect as error:
        raise _refusal(400, "the connection broke off; ask by HEAD and go on") from error
    finally:
        with anyio.CancelScope(shield=True):
            if hasher is None or whole:
                await put()
            if hasher is None:
                await run_in_threadpool(part.keep)
    if hasher and digest:
        if hasher.digest() != digest[1]:
            return True
        await run_in_threadpool(part.keep)
    return False


def _require_version(version: str | None) -> None:
    if version != _VERSION:
        raise HTTPException(
            412,
            f"this server speaks tus {_VERSION}: send Tus-Resumable: {_VERSION}",
            headers={"Tus-Version": _VERSION, "Tus-Resumable": _VERSION},
        )


def _refusal(status: int, detail: str) -> HTTPException:
    headers = {"Tus-Resumable": _VERSION}
    if status in _ASK_AGAIN:
        # Or all that the client still sends would be read for nothing.
        headers["Connection"] = "close"
    return HTTPException(status, detail, headers=headers)


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise _refusal(400, "Upload-Length, and Upload-Offset, are numbers of bytes")
    return int(text)


def _digest_of(header: str) -> tuple[str, bytes] | None:
    """Return algorithm and digest of ``Upload-Checksum``."""
    if not header:
        return None
    name, _, encoded = header.partition(" ")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except ValueError:  # also for letters that are not ASCII
        name = ""
    if name not in _DIGESTS:
        raise _refusal(400, f"Upload-Checksum is one of {', '.join(_DIGESTS)}, in Base64")
    return name, digest


def _name_in(metadata: str) -> str:
    """Return the name of the file in ``Upload-Metadata``, to be shown; it leads to no file."""
    pairs: Mapping[str, str] = {
        key: value
        for key, _, value in (pair.strip().partition(" ") for pair in metadata.split(","))
    }
    try:
        name = base64.b64decode(pairs.get("filename", ""), validate=True).decode(errors="replace")
    except ValueError as error:
        raise _refusal(400, "Upload-Metadata holds keys, each with a value in Base64") from error
    name = re.split(r"[/\\]", name)[-1]
    return "".join(c for c in name if c.isprintable())[-_LONGEST_NAME:] or "no name"
