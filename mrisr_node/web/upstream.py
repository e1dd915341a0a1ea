"""Requests to the PACS's DICOMweb, and its failures in our words."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from mrisr_node.settings import Settings
from mrisr_node.web.guard import public_origin

__all__ = ["ROOT", "UID_PATTERN", "PacsRefusal", "ask_pacs", "pacs_client", "read_document"]

ROOT = "/dicom-web/"

# Digits between single dots: two dots would lead out of what was asked for.
UID_PATTERN = r"(?![0-9.]{65})[0-9]+(?:\.[0-9]+)*"

# A search finds 100,000 instances in less.
_LARGEST_DOCUMENT = 64 * 1024**2

_log = logging.getLogger(__name__)

# These carry an answer of DICOMweb, not a failure of the PACS.
_ANSWERS = frozenset({200, 202, 204, 206, 304, 409, 416})

# OrthancStatus
_PLUGIN, _NOT_IMPLEMENTED, _OUT_OF_RANGE, _BAD_REQUEST, _BAD_FILE = 1, 2, 3, 8, 15


class PacsRefusal(HTTPException):
    """What Orthanc did not do, and what it gave as the reason.

    Parameters
    ----------
    upstream_status
        Of its answer.
    code
        ``OrthancStatus`` of its answer, which tells more; None: it is not in there.
    """

    def __init__(self, status: int, detail: str, upstream_status: int, code: int | None) -> None:
        super().__init__(status, detail)
        self.upstream_status = upstream_status
        self.code = code

    @property
    def is_about_range(self) -> bool:
        """Whether there is no such frame; Orthanc's way to say, too, that it cannot be shown."""
        return self.code == _OUT_OF_RANGE

    @property
    def is_about_form(self) -> bool:
        """Whether what was asked for cannot be had in that form."""
        return self.upstream_status in (406, 415) or self.code == _BAD_REQUEST

    @property
    def may_be_about_form(self) -> bool:
        """Whether it is either that or a damaged file: Orthanc says the same of both."""
        return self.upstream_status == 501 or self.code in (_PLUGIN, _NOT_IMPLEMENTED)


def pacs_client(settings: Settings) -> httpx.AsyncClient:
    """Return the client that knows Orthanc's address and password."""
    # A cookie that Orthanc sets belongs to whoever asked, not to all who come after.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx.AsyncClient(
        cookies=no_cookies,
        auth=httpx.BasicAuth(settings.orthanc_username, settings.pacs_password()),
        # Orthanc packs a whole study before the first byte comes.
        timeout=httpx.Timeout(30.0, read=300.0),
        # Orthanc closes what is idle for a second; a request must not meet that.
        limits=httpx.Limits(max_connections=64, keepalive_expiry=0.5),
        follow_redirects=False,
        trust_env=False,
    )


async def ask_pacs(
    settings: Settings,
    request: Request,
    resource: str,
    headers: httpx.Headers | dict[str, str],
    *,
    query: bytes = b"",
    content: bytes | AsyncIterator[bytes] | None = None,
    root: str = ROOT,
) -> httpx.Response:
    """Return the PACS's answer, whose body is still to be read and closed.

    Parameters
    ----------
    request
        On behalf of which it is asked; ``app.state.pacs`` holds the client.
    resource
        Below `root`.
    content
        What is stored; without it the resource is read.
    root
        Of DICOMweb, unless it is Orthanc's own API that is asked.

    Raises
    ------
    HTTPException
        The PACS cannot be reached, or did not do what was asked, with the reason.
    """
    client: httpx.AsyncClient = request.app.state.pacs
    url = httpx.URL(f"{settings.pacs_url}{root}{resource}").copy_with(query=query)
    method = "GET" if content is None else "POST"
    headers = httpx.Headers(headers)
    # Orthanc writes addresses into its answers; they must lead here, not there.
    scheme, _, host = public_origin(settings, request).partition("://")
    headers["Forwarded"] = f"host={host};proto={scheme}"
    # Nothing that comes is unpacked here: a little could become very much.
    headers["Accept-Encoding"] = "identity"
    upstream = client.build_request(method, url, headers=headers, content=content)
    try:
        answer = await client.send(upstream, stream=True)
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended before all of it was there") from error
    except httpx.TimeoutException as error:
        raise HTTPException(504, "the PACS did not answer in time; try again") from error
    except httpx.HTTPError as error:
        _log.warning("the PACS cannot be reached: %s", type(error).__name__)
        raise HTTPException(
            503,
            "the PACS cannot be reached; is Orthanc running?",
            headers={"Retry-After": "5"},
        ) from error
    if answer.status_code not in _ANSWERS:
        raise await _refused(answer)
    if answer.headers.get("content-encoding", "identity") != "identity":
        await answer.aclose()
        raise HTTPException(502, "the PACS packed its answer, though it was asked not to")
    return answer


async def read_document(answer: httpx.Response) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON of an answer, which is read and closed.

    Raises
    ------
    HTTPException
        502: it is none, or is larger than any of use.
    """
    try:
        return json.loads(await _beginning(answer, _LARGEST_DOCUMENT) or b"null")
    except (ValueError, RecursionError, httpx.HTTPError) as error:
        raise HTTPException(502, "the PACS answered with something that is no JSON") from error
    finally:
        await answer.aclose()


async def _beginning(answer: httpx.Response, most: int) -> bytes:
    """Return what an answer begins with, as it came: all of it, or a little over `most` bytes."""
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > most:
            break
    return bytes(body)


async def _refused(answer: httpx.Response) -> PacsRefusal:
    """Say in our words what Orthanc said in its own."""
    status = answer.status_code
    try:
        body = json.loads(await _beginning(answer, 65536))
    except (ValueError, RecursionError, httpx.HTTPError):
        body = {}
    finally:
        await answer.aclose()
    said = body if isinstance(body, dict) else {}
    code = said.get("OrthancStatus")
    code = code if isinstance(code, int) else None

    def refusal(as_status: int, detail: str) -> PacsRefusal:
        return PacsRefusal(as_status, detail, status, code)

    if status in (401, 403):
        return refusal(502, "the PACS refuses the node's own user; check orthanc_password")
    if status == 404:
        return refusal(404, "the PACS has no such study, series or instance")
    # One for each code; its details may quote what is stored.
    words = str(said.get("Message") or "")
    if 400 <= status < 500 and code != _BAD_FILE:
        words = str(said.get("Details") or words)
        return refusal(status, words or "the PACS cannot do what was asked")
    _log.warning("the PACS failed: HTTP %d, OrthancStatus %s", status, code)
    return refusal(
        502, f"the PACS failed: {words[:100]}; see its log" if words else "the PACS failed"
    )
