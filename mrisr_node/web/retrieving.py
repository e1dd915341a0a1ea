"""Answers of Retrieve (WADO-RS, PS3.18 10.4) to clients, from those of the PACS.

Orthanc sends one object, frame or element as a multipart message with a boundary of its own, and a
client may ask for it bare, for a range of it, or only if it is another than before. So the message
is taken apart, and put together again with a boundary that is always the same.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import httpx
from fastapi import HTTPException, Request
from starlette.responses import Response, StreamingResponse

from mrisr_node import __version__
from mrisr_node.web.negotiation import Representation
from mrisr_node.web.preambles import Preambles
from mrisr_node.web.validators import byte_range, entity_tag, is_unchanged

__all__ = ["answer_with_document", "answer_with_parts", "answer_with_the_part"]

# What is smaller is sent in one piece: most frames, and everything that has a digest.
_PIECE = 1024**2
_LONGEST_HEAD = 8192
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,18})[ \t]*$", re.IGNORECASE | re.MULTILINE)
_TYPE = re.compile(rb"^content-type:[ \t]*([\x20-\x7e]{1,200}?)[ \t]*$", re.I | re.MULTILINE)
_FROM_PACS = ("content-type", "content-length", "warning")


@dataclass(frozen=True)
class _Part:
    media_type: str
    length: int
    data: AsyncIterator[bytes]


async def answer_with_the_part(
    request: Request, resource: str, form: Representation, answer: httpx.Response
) -> Response:
    """Return the only part of the PACS's answer in the form that the client likes.

    Parameters
    ----------
    resource
        An instance, one frame of it, or one bulk data element.
    answer
        It is closed when the response has been sent, or is not going to be.
    """
    try:
        part = await _only_part(answer)
        tag = entity_tag(__version__, resource, str(form), part.media_type, str(part.length))
        headers = {"ETag": tag, "Vary": "Accept"}
        if is_unchanged(request, tag):
            await answer.aclose()
            return Response(status_code=304, headers=headers)
        head, tail, status, start, end = b"", b"", 200, 0, part.length
        if form.multipart:
            boundary = tag.strip('"')
            inner = part.media_type.encode()
            head = b"--%s\r\nContent-Type: %s\r\n\r\n" % (boundary.encode(), inner)
            tail = b"\r\n--%s--\r\n" % boundary.encode()
            headers["Content-Type"] = (
                f'multipart/related; type="{form.media_type}"; boundary={boundary}'
            )
        else:
            headers |= {"Content-Type": part.media_type, "Accept-Ranges": "bytes"}
            if found := byte_range(request, tag, part.length):
                start, end = found
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{part.length}"
    except BaseException:
        await _close(answer)
        raise
    headers["Content-Length"] = str(len(head) + end - start + len(tail))
    body = part.data if status == 200 else _slice(part.data, start, end)
    return await _sent(request, answer, _around(head, body, tail), status, headers)


async def answer_with_parts(request: Request, answer: httpx.Response) -> Response:
    """Return the PACS's answer of many parts as it comes, without preambles."""
    kept = {k: v for k, v in answer.headers.items() if k in _FROM_PACS}
    kept["Vary"] = "Accept"
    body = _clean(answer.aiter_raw(), answer.headers.get("content-type", ""))
    return await _sent(request, answer, body, answer.status_code, kept)


async def answer_with_document(request: Request, answer: httpx.Response, **more: str) -> Response:
    """Return a document or a picture, with a digest unless it is very long.

    Parameters
    ----------
    **more
        Headers of the response.
    """
    kept = {k: v for k, v in answer.headers.items() if k in _FROM_PACS} | {"Vary": "Accept"} | more
    pieces = answer.aiter_raw()
    body = bytearray()
    try:
        async for piece in pieces:
            body += piece
            if len(body) > _PIECE:
                rest = _around(bytes(body), pieces, b"")
                return await _sent(request, answer, rest, answer.status_code, kept)
    except httpx.HTTPError as error:
        await _close(answer)
        raise _broken() from error
    except BaseException:
        await _close(answer)
        raise
    await answer.aclose()
    tag = entity_tag(kept.get("content-type", ""), bytes(body))
    if answer.status_code == 200:
        kept["ETag"] = tag
        if is_unchanged(request, tag):
            return Response(status_code=304, headers={"ETag": tag, "Vary": "Accept"})
    kept.pop("content-length", None)
    return Response(bytes(body), answer.status_code, headers=kept)


async def _sent(
    request: Request,
    answer: httpx.Response,
    body: AsyncIterator[bytes],
    status: int,
    headers: dict[str, str],
) -> Response:
    """Return the response: whole where it is short, so that it costs one message."""
    length = next((v for k, v in headers.items() if k.lower() == "content-length"), None)
    if request.method == "HEAD":
        await answer.aclose()
        return Response(status_code=status, headers=headers)
    if length is None or int(length) > _PIECE:
        return StreamingResponse(_closing(answer, body), status, headers=headers)
    try:
        content = b"".join([piece async for piece in body])
    except httpx.HTTPError as error:
        raise _broken() from error
    finally:
        await _close(answer)
    if len(content) != int(length):
        raise _broken()
    return Response(content, status, headers=headers)


def _broken() -> HTTPException:
    return HTTPException(502, "the PACS broke off its answer; try again")


async def _only_part(answer: httpx.Response) -> _Part:
    pieces = answer.aiter_raw()
    read = b""
    async for piece in pieces:
        read += piece
        head, found, rest = read.partition(b"\r\n\r\n")
        if found:
            break
        if len(read) > _LONGEST_HEAD:
            raise _broken()
    else:
        raise _broken()
    head = head.replace(b"\r\n", b"\n")
    length, kind = _LENGTH.search(head), _TYPE.search(head)
    if not length or not kind:
        raise HTTPException(502, "the PACS sent a part without type or length")
    size = int(length[1])
    media_type = kind[1].decode()
    data = _without_tail(_around(rest, pieces, b""), size)
    return _Part(media_type, size, _clean(data, media_type))


async def _clean(pieces: AsyncIterator[bytes], content_type: str) -> AsyncIterator[bytes]:
    """Put zeros in the place of preambles."""
    preambles = Preambles(content_type)
    async for piece in pieces:
        if ready := preambles.passed(piece):
            yield ready
    if rest := preambles.rest():
        yield rest


async def _slice(pieces: AsyncIterator[bytes], start: int, end: int) -> AsyncIterator[bytes]:
    place = 0
    async for piece in pieces:
        wanted = piece[max(0, start - place) : max(0, end - place)]
        place += len(piece)
        if wanted:
            yield wanted
        if place >= end:
            return


async def _without_tail(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """Leave out the message's end, which is read all the same: the connection can be used again."""
    left = size
    async for piece in pieces:
        if left:
            yield piece[:left]
            left -= min(left, len(piece))


async def _around(head: bytes, body: AsyncIterator[bytes], tail: bytes) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for piece in body:
        yield piece
    if tail:
        yield tail


async def _closing(answer: httpx.Response, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for piece in body:
            yield piece
    finally:
        # Also when the client went away and this task is cancelled: the PACS must stop sending.
        await _close(answer)


async def _close(answer: httpx.Response) -> None:
    with anyio.CancelScope(shield=True):
        await answer.aclose()
