"""The way to the PACS for browsers and tools: DICOMweb (PS3.18), and nothing else of Orthanc.

A request is not passed on as it came. Path, method and headers are taken from short lists of what
DICOMweb knows, so whatever is not on them (another resource of Orthanc, ``..`` in any spelling, a
cookie, the client's token) cannot reach Orthanc. Bodies are streamed both ways.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

import anyio
import httpx
from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response, StreamingResponse

from mrisr_node.people.roles import Permission
from mrisr_node.settings import Settings
from mrisr_node.web.annotations import store_reports
from mrisr_node.web.permissions import allow, require
from mrisr_node.web.preambles import Preambles
from mrisr_node.web.problems import problem
from mrisr_node.web.upstream import ROOT, UID_PATTERN, ask_pacs

__all__ = ["gateway_router"]

# Orthanc keeps a STOW-RS body in memory.
_LARGEST_STORE = 2 * 1024**3
_TOO_LARGE = "store fewer instances at a time: at most 2 GiB in one request"

_FRAMES = r"frames/[0-9]{1,9}(?:,[0-9]{1,9}){0,999}"
_STUDY, _SERIES, _INSTANCE = (
    f"studies/{UID_PATTERN}",
    f"studies/{UID_PATTERN}/series/{UID_PATTERN}",
    f"studies/{UID_PATTERN}/series/{UID_PATTERN}/instances/{UID_PATTERN}",
)
_RESOURCES = {
    # PS3.18 10.6
    "Search (QIDO-RS)": (
        "studies",
        "series",
        "instances",
        "{study}/series",
        "{study}/instances",
        "{series}/instances",
    ),
    # 10.4
    "Retrieve (WADO-RS)": (
        *(
            f"{level}{part}"
            for level in ("{study}", "{series}", "{instance}")
            for part in ("", "/metadata", "/rendered", "/thumbnail")
        ),
        *("{instance}/{frames}", "{instance}/{frames}/rendered", "{instance}/{frames}/thumbnail"),
        "{instance}/{bulk}",
    ),
    # 10.5
    "Store (STOW-RS)": ("studies", "{study}"),
}
"""What the gateway knows, by transaction; the first two are read, the last is written to."""


def _matching(*transactions: str) -> re.Pattern[str]:
    templates = "|".join(name for one in transactions for name in _RESOURCES[one])
    return re.compile(
        templates.format(
            study=_STUDY,
            series=_SERIES,
            instance=_INSTANCE,
            frames=_FRAMES,
            bulk="bulk(?:/[0-9A-Fa-f]{1,8}){1,31}",
        )
    )


_READ = _matching("Search (QIDO-RS)", "Retrieve (WADO-RS)")
_WHOLE = re.compile(rf"{_STUDY}|{_SERIES}|{_INSTANCE}")
_PIXELS = re.compile(rf"/(?:{_FRAMES}|bulk/[^.]*)$")
_STORE = _matching("Store (STOW-RS)")

_TO_PACS = (
    "accept", "accept-charset", "content-type", "content-length", "range", "if-range",
    "if-none-match", "if-modified-since",
)  # fmt: skip
_FROM_PACS = (
    "content-type", "content-length", "content-encoding", "content-range", "accept-ranges",
    "etag", "last-modified", "warning",
)  # fmt: skip
# "As it is stored": without a transfer syntax Orthanc would decode and encode each frame anew.
_AS_STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
_ANYTHING = re.compile(
    r'(?:\*/\*|multipart/(?:\*|related))(?:\s*;\s*type="?\*/\*"?)?(?:\s*;\s*q=[0-9.]+)?'
)

_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")


def gateway_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/dicom-web/``; ``app.state.pacs`` holds the client."""
    router = APIRouter(include_in_schema=False)

    @router.get(ROOT + "{resource:path}", dependencies=[allow(Permission.READ)])
    async def read(request: Request, resource: str) -> Response:
        if not _READ.fullmatch(resource):
            return problem(404, "this is no resource of DICOMweb search or retrieve")
        headers = _headers(request)
        if _WHOLE.fullmatch(resource):
            # Preambles are looked for in what is sent (`_body`): neither packed nor in parts.
            headers["Accept-Encoding"] = "identity"
            headers.pop("Range", None)
        if _PIXELS.search(resource):
            headers["Accept"] = _accept(headers["Accept"])
        return await _pass_on(settings, request, resource, headers, content=None)

    @router.post(ROOT + "{resource:path}", dependencies=[allow(Permission.REPORT)])
    async def store(request: Request, resource: str) -> Response:
        if not _STORE.fullmatch(resource):
            return problem(404, "DICOMweb stores to studies or studies/{uid}")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _LARGEST_STORE:
            return problem(413, _TOO_LARGE)
        if request.state.person.by_cookie:
            return await store_reports(settings, request, resource)
        require(request, Permission.STORE)
        headers = _headers(request)
        return await _pass_on(settings, request, resource, headers, content=_limited(request))

    return router


async def _limited(request: Request) -> AsyncIterator[bytes]:
    passed = 0
    async for chunk in request.stream():
        passed += len(chunk)
        if passed > _LARGEST_STORE:
            raise HTTPException(413, _TOO_LARGE)
        yield chunk


def _headers(request: Request) -> httpx.Headers:
    headers = httpx.Headers({k: v for k, v in request.headers.items() if k in _TO_PACS})
    headers.setdefault("Accept", "*/*")
    # httpx would ask for gzip by itself, and the client might not understand what comes.
    headers["Accept-Encoding"] = request.headers.get("accept-encoding", "identity")
    return headers


async def _pass_on(
    settings: Settings,
    request: Request,
    resource: str,
    headers: httpx.Headers,
    content: AsyncIterator[bytes] | None,
) -> Response:
    answer = await ask_pacs(
        settings, request, resource, headers, query=_query(request), content=content
    )
    kept = {k: v for k, v in answer.headers.items() if k in _FROM_PACS}
    return StreamingResponse(_body(answer), answer.status_code, headers=kept)


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    preambles = Preambles(answer.headers.get("content-type", ""))
    try:
        async for chunk in answer.aiter_raw():
            if ready := preambles.passed(chunk):
                yield ready
        if rest := preambles.rest():
            yield rest
    finally:
        # Also when the client went away and this task is cancelled: the PACS must stop sending.
        with anyio.CancelScope(shield=True):
            await answer.aclose()


def _query(request: Request) -> bytes:
    """Return the query in the only way that Orthanc 1.10 understands: without percent signs.

    It decodes nothing: neither the comma of ``includefield=a%2Cb`` nor a name's ``%5E``. What
    cannot stand bare in an address becomes one of DICOM's wildcards (PS3.4 C.2.2.2.4), which finds
    what was asked for, and seldom more: ``?`` for one character, and ``*`` for others than ASCII,
    for which ``?`` does not stand in Orthanc.
    """
    query = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=200)
    except ValueError as error:
        raise HTTPException(400, "a search has at most 200 parameters") from error
    return "&".join(f"{k}={_bare(v)}" for k, v in pairs if _NAME.fullmatch(k)).encode()


def _bare(value: str) -> str:
    # Lists of UIDs are split at a comma only, though the standard allows the backslash too.
    value = value.replace("\\", ",")
    return re.sub(r"[^A-Za-z0-9\-._~!$'()*,;:@/?=^]", "?", re.sub(r"[^\x00-\x7f]+", "*", value))


def _accept(wanted: str) -> str:
    """Return the one media range that pixels are asked in; Orthanc fails on a list of them."""
    ranges = [part.strip() for part in wanted.split(",") if part.strip()]
    if not ranges or any(_ANYTHING.fullmatch(part) for part in ranges):
        return _AS_STORED
    return ranges[0]
