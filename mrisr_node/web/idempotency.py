"""Creating something once, though the request for it comes twice (``Idempotency-Key``).

A network that fails before the answer leaves a client that cannot know whether its request did
anything. With a key it may ask again: the same request gets the first one's answer. Where that is
not known, because the node or its records failed meanwhile, it is told to look: a request whose key
is known is never carried out again, unless it was refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from peewee import PeeweeException
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as Refusal
from starlette.responses import Response

from mrisr_node import records
from mrisr_node.logs import words_of
from mrisr_node.records import IdempotencyKey
from mrisr_node.web.problems import problem

__all__ = ["LOCATION", "IdempotentRoute", "shown_once"]

LOCATION: dict[str, Any] = {
    "headers": {
        "Location": {
            "description": "where to look for what was made",
            "schema": {"type": "string", "format": "uri-reference"},
        }
    }
}
"""What the OpenAPI document says of an answer that leads to what it made."""

_KEPT = 86_400.0
"""Seconds."""
_LONGEST = 255
_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": _LONGEST},
    "description": "chosen by the client, e.g. a UUID; the same request again with the same key,"
    " within a day, creates nothing and gets the same answer; where that holds a secret, 409",
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    409: {
        "description": "the first request with this Idempotency-Key is still under way, ended"
        " without an answer, or was answered with a secret, which is shown once"
    },
    422: {"description": "no Idempotency-Key, or one that came before with another request"},
}
# What tus asks for stands in headers; elsewhere there are none of them.
_ASKED_IN = ("content-type", "tus-resumable", "upload-length", "upload-metadata")
# An answer is written down with these; the others belong to one connection, or to every answer.
_HEADERS = ("content-type", "location", "retry-after", "tus-resumable", "upload-expires")
# By digest: what is claimed and not in here was left without an answer, for the front door is one
# process. The claim cannot say so: who could not write the answer cannot write that either.
_under_way: set[str] = set()

_log = logging.getLogger(__name__)


class IdempotentRoute(APIRoute):
    """A route whose POST may be sent again with the same ``Idempotency-Key``.

    Given to a router as its ``route_class``. What was refused has changed nothing, and may be asked
    again with the same key. The body of a request with a key is read into memory; where bodies are
    large, the route has to be one of another class.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **more: Any) -> None:  # noqa: ANN401
        if "POST" in (more.get("methods") or ()):
            more["responses"] = _ANSWERS | (more.get("responses") or {})
            extra = dict(more.get("openapi_extra") or {})
            extra["parameters"] = [*extra.get("parameters", ()), _HEADER]
            more["openapi_extra"] = extra
        super().__init__(path, endpoint, **more)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        create = super().get_route_handler()

        async def create_once(request: Request) -> Response:
            key = request.headers.get("idempotency-key")
            if key is None or request.method != "POST":
                return await create(request)
            if not 1 <= len(key) <= _LONGEST:
                raise HTTPException(422, f"an Idempotency-Key has 1 to {_LONGEST} characters")
            mine = _digest(_asker(request), key.encode())
            # With the key, which is kept nowhere: the body may hold a password.
            asked = _digest(
                key.encode(),
                request.scope["path"].encode(),
                request.scope["query_string"],
                *(request.headers.get(name, "").encode() for name in _ASKED_IN),
                await request.body(),
            )
            before = await run_in_threadpool(_claim, mine, asked)
            if before is not None:
                return before
            try:
                answer = await create(request)
            except (Refusal, RequestValidationError):
                await _settled(mine, None)
                raise
            except BaseException:
                _under_way.discard(mine)  # after which of its steps it failed, nobody knows
                raise
            done = answer.status_code < 300
            await _settled(mine, getattr(request.state, "shown_once", answer) if done else None)
            return answer

        return create_once


def shown_once(request: Request, instead: str) -> None:
    """Keep the answer to a request out of the records: it holds a secret.

    Parameters
    ----------
    instead
        What the request is told when it comes again, with status 409.
    """
    request.state.shown_once = problem(409, instead)


def _asker(request: Request) -> bytes:
    """Return who asks, with what they may do: nobody gets an answer that they may not have."""
    person = request.state.person
    by = "person" if person.signed_in else "tool"
    return "\0".join([person.username, by, *sorted(person.permissions)]).encode()


def _claim(mine: str, asked: str) -> Response | None:
    """Return what was answered before; None where it is now ours to answer."""
    now = time.time()
    with records.transaction():
        IdempotencyKey.delete().where(IdempotencyKey.at < now - _KEPT).execute()
        row = IdempotencyKey.get_or_none(IdempotencyKey.digest == mine)
        if row is None:
            IdempotencyKey.create(digest=mine, request=asked, at=now)
            _under_way.add(mine)
            return None
        under_way = mine in _under_way
    if row.request != asked:
        raise HTTPException(
            422, "this Idempotency-Key came before with another request; choose a new one"
        )
    if row.status is None and under_way:
        raise HTTPException(
            409,
            "the first request with this Idempotency-Key is still under way; ask again in a moment",
            headers={"Retry-After": "1"},
        )
    if row.status is None:
        raise HTTPException(
            409,
            "the first request with this Idempotency-Key ended without an answer; look whether it"
            " was done, and if not, ask again with a new key",
        )
    headers = {**json.loads(row.headers), "Idempotency-Replayed": "true"}
    return Response(bytes(row.body), row.status, headers)


async def _settled(mine: str, answer: Response | None) -> None:
    # Also where whoever asked has gone away.
    with anyio.CancelScope(shield=True):
        await run_in_threadpool(_settle, mine, answer)


def _settle(mine: str, answer: Response | None) -> None:
    """Remember what a request is answered that comes again; None: it may be asked anew."""
    claim = IdempotencyKey.digest == mine
    try:
        with records.transaction():
            if answer is None:
                IdempotencyKey.delete().where(claim).execute()
            else:
                headers = {n: answer.headers[n] for n in _HEADERS if n in answer.headers}
                IdempotencyKey.update(
                    status=answer.status_code, body=bytes(answer.body), headers=json.dumps(headers)
                ).where(claim).execute()
            _under_way.discard(mine)
    except PeeweeException as error:
        # The answer is true all the same; only who asks again has to look.
        _log.warning("an answer cannot be remembered: %s", words_of(error))
        _under_way.discard(mine)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
