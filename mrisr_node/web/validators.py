"""Conditional requests and ranges (RFC 9110 13 and 14).

A SOP Instance UID names one content for ever (PS3.3 C.12.1.1.1), and the node and its PACS hold to
that: what comes again under a UID with other content is refused. So the address of an instance, of
a frame or of a bulk data element, together with the form and the length of what is sent, is a
strong validator, and nothing need be read to tell it. What is made of several things, or for the
eye, has the digest of its bytes.
"""

from __future__ import annotations

import hashlib
import re

from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["RangesOfGet", "byte_range", "entity_tag", "is_unchanged"]

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def entity_tag(*parts: str | bytes) -> str:
    """Return the strong validator of what `parts` tell apart."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return f'"{digest.hexdigest()}"'


def is_unchanged(request: Request, tag: str) -> bool:
    """Tell whether the client has what `tag` stands for (If-None-Match, RFC 9110 13.1.2)."""
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or tag in (
        one.strip().removeprefix("W/") for one in known.split(",")
    )


def byte_range(request: Request, tag: str, length: int) -> tuple[int, int] | None:
    """Return start and end of the one range that is asked for; None for the whole.

    Several ranges in one request, and other units, are not served: the whole is (14.2).

    Raises
    ------
    HTTPException
        416: nothing is there.
    """
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    if not wanted or request.headers.get("if-range", tag) != tag:
        return None
    first, last = wanted.groups()
    if first:
        start, end = int(first), min(int(last) + 1 if last else length, length)
        if last and int(last) < int(first):
            return None  # no range at all (14.1.1)
    elif last:
        start, end = max(0, length - int(last)), length
    else:
        return None
    if start >= end:
        raise HTTPException(
            416, "there are no such bytes", headers={"Content-Range": f"bytes */{length}"}
        )
    return start, end


class RangesOfGet:
    """Hides Range from what answers other methods, HEAD above all: it is GET's (14.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["method"] != "GET":
            headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)
