"""What happens, live: Server-Sent Events, and the same over a WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

import anyio
from anyio import CancelScope
from fastapi import APIRouter, Header, HTTPException, Query, Request, WebSocket
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from mrisr_node.people.roles import Permission
from mrisr_node.web.feed import Event, Feed, Full
from mrisr_node.web.permissions import allow
from mrisr_node.web.series import Id

__all__ = ["events_router"]

# A client that takes nothing for so long is gone, or as good as that.
_PATIENCE = 30.0
_GOING_AWAY, _TRY_AGAIN_LATER = 1001, 1013  # RFC 6455 and IANA's registry
_FULL = "so many streams are open already; close some, or ask /api/series now and then"

_DOCUMENT = """
An event `series` for each change of state, and `progress` for how far a series is that is being
received or processed; `hello` at the beginning. `series` and `hello` have an id: whoever comes back
with it, as browsers do by `Last-Event-ID`, misses nothing. The same goes over a WebSocket at
`/api/events/ws`, as JSON texts of `event`, `id` and `data`.
"""
# As FastAPI and OpenAPI 3.2 write what a stream consists of.
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["hello", "series", "progress"]},
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


class EventStream(StreamingResponse):
    """Server-Sent Events, to somebody who takes them."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], feed: Feed, username: str) -> None:
        # Proxies must not collect what is for now.
        super().__init__(content, headers={"X-Accel-Buffering": "no"})
        self._feed, self._username = feed, username

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until either side ends."""
        try:
            await super().__call__(scope, receive, send)
        except* (TimeoutError, ClientDisconnect):
            pass  # the server cuts a connection whose answer has no end
        finally:
            self._feed.leave(self._username)

    async def stream_response(self, send: Send) -> None:
        """Send each event in time."""

        async def in_time(message: object) -> None:
            with anyio.fail_after(_PATIENCE):
                await send(message)  # type: ignore[arg-type]

        await super().stream_response(in_time)


def events_router(feed: Feed) -> APIRouter:
    """Return the routes under ``/api/events``."""
    router = APIRouter(prefix="/api/events", tags=["events"], dependencies=[allow(Permission.READ)])

    @router.get(
        "",
        summary="Follow what happens, as Server-Sent Events",
        description=_DOCUMENT,
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {"itemSchema": _EVENT}}},
            503: {"description": "so many streams are open already"},
        },
    )
    async def stream(
        request: Request,
        series: Annotated[Id | None, Query(description="only of this series")] = None,
        last_event_id: Annotated[int | None, Header(ge=0, le=2**63 - 1)] = None,
    ) -> StreamingResponse:
        username = request.state.person.username
        try:
            feed.enter(username)
        except Full:
            raise HTTPException(503, _FULL, headers={"Retry-After": "30"}) from None

        async def encoded() -> AsyncIterator[bytes]:
            async with aclosing(feed.follow(series, last_event_id)) as events:
                async for event in events:
                    yield _encoded(event)

        return EventStream(encoded(), feed, username)

    @router.websocket("/ws")
    async def socket(
        websocket: WebSocket,
        series: Annotated[Id | None, Query()] = None,
        last_event_id: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
    ) -> None:
        username = websocket.state.person.username
        await websocket.accept()
        try:
            feed.enter(username)
        except Full:
            await websocket.close(_TRY_AGAIN_LATER, "too many streams")
            return
        code = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_closed, websocket, tasks.cancel_scope)
                try:
                    async with aclosing(feed.follow(series, last_event_id)) as events:
                        async for event in events:
                            with anyio.fail_after(_PATIENCE):
                                await websocket.send_text(_as_text(event))
                    code = _GOING_AWAY
                except (TimeoutError, WebSocketDisconnect):
                    code = None
                finally:
                    tasks.cancel_scope.cancel()
            if code is not None:
                await websocket.close(code)
        finally:
            feed.leave(username)

    return router


async def _until_closed(websocket: WebSocket, scope: CancelScope) -> None:
    """Take what the client says, which is nothing to us, until it leaves."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    scope.cancel()


def _encoded(event: Event) -> bytes:
    if event.kind == "quiet":
        return KEEPALIVE_COMMENT
    number = None if event.id is None else str(event.id)
    return format_sse_event(event=event.kind, id=number, data_str=json.dumps(event.data))


def _as_text(event: Event) -> str:
    return json.dumps({"event": event.kind, "id": event.id, "data": event.data})
