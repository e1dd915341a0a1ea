"""The way to the PACS for browsers and tools: DICOMweb (PS3.18), and nothing else of Orthanc.

A request is not passed on as it came. Path, method, query and headers are made anew from what
DICOMweb knows, so whatever is not part of it (another resource of Orthanc, ``..`` in any spelling,
a cookie, the client's token) cannot reach Orthanc, and its peculiarities do not reach the client.
"""

from __future__ import annotations

import re
from dataclasses import replace

import httpx
from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from mrisr_node.people.roles import Permission
from mrisr_node.settings import Settings
from mrisr_node.web.annotations import store_reports
from mrisr_node.web.negotiation import AS_STORED, Representation, representations
from mrisr_node.web.permissions import allow, require
from mrisr_node.web.problems import problem
from mrisr_node.web.rendering import rendered_query
from mrisr_node.web.retrieving import (
    answer_with_document,
    answer_with_parts,
    answer_with_the_part,
)
from mrisr_node.web.searching import parameters, search_query, warnings_of
from mrisr_node.web.storing import LARGEST_STORE, store_instances
from mrisr_node.web.upstream import ROOT, UID_PATTERN, PacsRefusal, ask_pacs

__all__ = ["gateway_router"]

_ALLOWED = "/dicom-web-allowed/"

_FRAMES = r"frames/[1-9][0-9]{0,8}(?:,[1-9][0-9]{0,8}){0,999}"
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


_OBJECTS = re.compile("|".join((_INSTANCE, _SERIES, _STUDY)))
_SEARCH = _matching("Search (QIDO-RS)")
_READ = _matching("Search (QIDO-RS)", "Retrieve (WADO-RS)")
_STORE = _matching("Store (STOW-RS)")
_LAST = re.compile(r".*/(metadata|rendered|thumbnail|frames|bulk)(?:/[^/]*)*")

_DOCUMENTS = (
    Representation("application/dicom+json"),
    Representation("application/json"),
    Representation("application/dicom+xml", multipart=True),
)
_IMAGES = (Representation("image/jpeg"), Representation("image/png"))
_DICOM = Representation("application/dicom", multipart=True, transfer_syntax=AS_STORED)
_OBJECT = (_DICOM, Representation("application/dicom", transfer_syntax=AS_STORED))
_BULK = (
    Representation("application/octet-stream", multipart=True),
    Representation("application/octet-stream"),
)
_FRAME_TYPES = (
    "application/octet-stream",
    "image/jpeg",
    "image/jls",
    "image/jp2",
    "image/dicom-rle",
)
_FRAMES_TOGETHER = tuple(
    Representation(name, multipart=True, transfer_syntax=AS_STORED) for name in _FRAME_TYPES
)
_ONE_FRAME = (
    *_FRAMES_TOGETHER,
    *(Representation(name, transfer_syntax=AS_STORED) for name in _FRAME_TYPES),
)


def gateway_router(settings: Settings) -> APIRouter:
    """Return the routes under ``/dicom-web/``; ``app.state.pacs`` holds the client."""
    router = APIRouter(include_in_schema=False)

    @router.api_route(
        ROOT + "{resource:path}", methods=["GET", "HEAD"], dependencies=[allow(Permission.READ)]
    )
    async def read(request: Request) -> Response:
        resource = _resource(request)
        if not _READ.fullmatch(resource):
            return problem(404, "this is no resource of DICOMweb search or retrieve")
        if _SEARCH.fullmatch(resource):
            return await _search(settings, request, resource)
        return await _retrieve(settings, request, resource)

    @router.get(_ALLOWED + "{resource:path}", dependencies=[allow(Permission.READ)])
    async def allowed(request: Request) -> Response:
        """Tell a proxy that streams by itself (docs/nginx.conf) whether it may."""
        known = _READ.fullmatch(request.scope["path"].removeprefix(_ALLOWED))
        return Response(status_code=204) if known else problem(404, "this is no resource")

    @router.options(ROOT + "{resource:path}", dependencies=[allow()])
    async def options(request: Request) -> Response:
        resource = _resource(request)
        methods = ["GET", "HEAD"] if _READ.fullmatch(resource) else []
        methods += ["POST"] if _STORE.fullmatch(resource) else []
        if not methods:
            return problem(404, "this is no resource of DICOMweb")
        return Response(status_code=204, headers={"Allow": ", ".join([*methods, "OPTIONS"])})

    @router.post(ROOT + "{resource:path}", dependencies=[allow()])
    async def store(request: Request) -> Response:
        # A browser's cookie stores reports alone, whatever else its user may do.
        by_cookie = request.state.person.by_cookie
        require(request, Permission.REPORT if by_cookie else Permission.STORE)
        resource = _resource(request)
        if not _STORE.fullmatch(resource):
            return problem(404, "DICOMweb stores to studies or studies/{uid}")
        length = request.headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", length) or int(length) > LARGEST_STORE:
            return problem(413, "store fewer instances at a time: at most 2 GiB in one request")
        if request.headers.get("content-encoding", "identity") != "identity":
            return problem(415, "send it unpacked", headers={"Accept-Encoding": "identity"})
        if by_cookie:
            return await store_reports(settings, request, resource)
        return await store_instances(settings, request, resource)

    return router


def _resource(request: Request) -> str:
    # Not as the router matched it: it leaves out the end of a line.
    path: str = request.scope["path"]
    return path.removeprefix(ROOT)


async def _search(settings: Settings, request: Request, resource: str) -> Response:
    pairs, accept = _asked(request)
    form = representations(accept, _DOCUMENTS)[0]
    query, more = search_query(pairs, resource.rpartition("/")[2]), _type_of(form)
    if warnings := warnings_of(pairs):
        more["warning"] = warnings
    if any(name == "limit" and int(value) == 0 for name, value in pairs):
        # To Orthanc that is no limit. What it finds nothing for, it answers in these words.
        none = b"--none--\r\n" if form.multipart else b"[]"
        more.setdefault("content-type", f'{form.accept}; boundary="none"')
        return Response(none, headers=more | {"vary": "Accept"})
    # XML is asked for without its parts here, and with them in metadata.
    headers = {"Accept": form.media_type}
    answer = await ask_pacs(settings, request, resource, headers, query=query)
    return await answer_with_document(request, answer, **more)


def _type_of(form: Representation) -> dict[str, str]:
    # Orthanc knows one name of JSON; of XML it chooses the boundary.
    return {} if form.multipart else {"content-type": form.media_type}


async def _retrieve(settings: Settings, request: Request, resource: str) -> Response:
    pairs, accept = _asked(request)
    found = _LAST.fullmatch(resource)
    match found[1] if found else "":
        case "metadata":
            form = representations(accept, _DOCUMENTS)[0]
            answer = await ask_pacs(settings, request, resource, {"Accept": form.accept})
            return await answer_with_document(request, answer, **_type_of(form))
        case "rendered" | "thumbnail" as kind:
            query = rendered_query(pairs, thumbnail=kind == "thumbnail")
            forms = representations(accept, _IMAGES)
            source = f"{resource.removesuffix(kind)}rendered"
            _, answer = await _first_that_is_there(settings, request, source, forms, query)
            return await answer_with_document(request, answer)
        case "frames":
            one = "," not in resource
            offers = _ONE_FRAME if one else _FRAMES_TOGETHER
        case "bulk":
            one, offers = True, _BULK
        case _:
            one = "/instances/" in resource
            offers = _OBJECT if one else (_DICOM,)
    form, answer = await _first_that_is_there(
        settings, request, resource, representations(accept, offers)
    )
    if one:
        return await answer_with_the_part(request, resource, form, answer)
    return await answer_with_parts(request, answer)


def _asked(request: Request) -> tuple[list[tuple[str, str]], str]:
    """Return the query's parameters, and what the client accepts (PS3.18 8.3.3.1 and 8.4.1)."""
    pairs = parameters(request)
    in_query = [value for name, value in pairs if name == "accept"]
    accept = ",".join(in_query) or request.headers.get("accept", "*/*")
    return [(name, value) for name, value in pairs if name != "accept"], accept


async def _first_that_is_there(
    settings: Settings,
    request: Request,
    resource: str,
    forms: list[Representation],
    query: bytes = b"",
) -> tuple[Representation, httpx.Response]:
    """Return the PACS's answer in the form that the client likes most of those the PACS has."""
    in_doubt = False
    for form in forms:
        # Orthanc fails on several media ranges, and on pixels that are not in parts.
        upstream = form if form in _IMAGES else replace(form, multipart=True)
        headers = {"Accept": upstream.accept}
        try:
            return form, await ask_pacs(settings, request, resource, headers, query=query)
        except PacsRefusal as error:
            if error.is_about_range:
                raise HTTPException(
                    404, "the instance has no such frame, or none that can be shown"
                ) from error
            if not (error.is_about_form or error.may_be_about_form):
                raise _no_fault_of_the_request(error) from error
            in_doubt = in_doubt or error.may_be_about_form
    if in_doubt:
        await _require_readable(settings, request, resource)
    raise HTTPException(406, "the PACS cannot make any of the forms asked for")


async def _require_readable(settings: Settings, request: Request, resource: str) -> None:
    """Raise what the PACS says where it cannot read the files of what was asked for."""
    found = _OBJECTS.match(resource)
    assert found  # noqa: S101 - all that is retrieved is of a study
    headers = {"Accept": _DOCUMENTS[0].accept}
    try:
        answer = await ask_pacs(settings, request, f"{found[0]}/metadata", headers)
    except PacsRefusal as error:
        raise _no_fault_of_the_request(error) from error
    await answer.aclose()


def _no_fault_of_the_request(error: PacsRefusal) -> HTTPException:
    """Return a refusal as the client gets it: what it asked for was well-formed."""
    if error.status_code in (404, 502):
        return error
    return HTTPException(502, "the PACS failed")
