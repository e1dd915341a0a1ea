"""A WebSocket is opened by the same people as everything else, and by no other site."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from fastapi import FastAPI, WebSocket
from starlette.middleware import Middleware
from starlette.responses import StreamingResponse
from starlette.templating import Jinja2Templates
from starlette.types import Message
from web_door import PASSWORD

from mrisr_node.people.roles import Permission
from mrisr_node.people.sessions import begin_session
from mrisr_node.people.sign_in import recognise
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import ensure_admin, set_password
from mrisr_node.records import ApiToken
from mrisr_node.settings import Settings
from mrisr_node.web.guard import Guard
from mrisr_node.web.headers import SecurityHeaders
from mrisr_node.web.limits import RateLimits
from mrisr_node.web.permissions import allow, require_permissions
from mrisr_node.web.problems import install_problem_handlers

PARTS = ("websocket.send", "http.response.body")
OWN = "http://testserver"


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    made = make_settings(public_url=OWN)
    ensure_admin(made)
    set_password("admin", PASSWORD)
    return made


@pytest.fixture(scope="module")
def app(settings: Settings) -> FastAPI:
    app = FastAPI(
        middleware=[
            Middleware(SecurityHeaders, settings=settings),
            Middleware(Guard, settings=settings, limits=RateLimits(settings)),
        ]
    )
    install_problem_handlers(app, Jinja2Templates("."))

    @app.websocket("/socket", dependencies=[allow(Permission.OPERATE)])
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.state.person.username)
        await websocket.close()

    @app.websocket("/endless", dependencies=[allow(Permission.READ)])
    async def endless(websocket: WebSocket) -> None:
        await websocket.accept()
        for number in range(1000):
            if number == 3:
                ApiToken.delete().where(ApiToken.name == "lasting").execute()
            await websocket.send_text(str(number))

    @app.get("/endless", dependencies=[allow(Permission.READ)])
    async def stream() -> StreamingResponse:
        async def numbers() -> AsyncIterator[str]:
            for number in range(1000):
                if number == 3:
                    ApiToken.delete().where(ApiToken.name == "lasting").execute()
                yield str(number)

        return StreamingResponse(numbers())

    return app


def opened(
    app: FastAPI, path: str = "/socket", kind: str = "websocket", **headers: str
) -> list[Message]:
    """Ask as a server does, and return what it is to send."""
    sent: list[Message] = []
    scope = {
        "type": kind, "scheme": "ws" if kind == "websocket" else "http", "path": path,
        "method": "GET", "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1), "server": ("testserver", 80), "subprotocols": [],
        "extensions": {"websocket.http.response": {}}, "asgi": {"spec_version": "2.4"},
    }  # fmt: skip

    async def receive() -> Message:
        if kind == "http":
            await asyncio.sleep(60)
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def refusal(app: FastAPI, **headers: str) -> int:
    start, body = opened(app, **headers)
    assert start["type"] == "websocket.http.response.start"
    found = dict(start["headers"])
    assert found[b"content-type"] == b"application/problem+json"
    assert found[b"x-content-type-options"] == b"nosniff"
    assert json.loads(body["body"])["status"] == start["status"]
    return start["status"]


def greeting(app: FastAPI, **headers: str) -> str:
    accept, text, close = opened(app, **headers)
    assert (accept["type"], close["type"]) == ("websocket.accept", "websocket.close")
    return text["text"]


def test_a_token_opens_it_from_anywhere(app):
    assert greeting(app, Authorization=f"Bearer {create_token('admin', 'x')}") == "admin"


def test_a_cookie_opens_it_from_our_own_pages_alone(settings, app):
    cookie = f"mrisr-session={begin_session(settings, recognise(settings, 'admin', PASSWORD))}"
    assert greeting(app, Cookie=cookie, Origin=OWN) == "admin"
    for origin in ("https://evil.example", "null", OWN + ".evil.example"):
        assert refusal(app, Cookie=cookie, Origin=origin) == 403
    assert refusal(app, Cookie=cookie) == 403


def test_nobody_else_opens_it(app):
    assert refusal(app) == 401
    assert refusal(app, Origin=OWN) == 401
    assert refusal(app, Authorization="Bearer mrisr_wrong", Origin=OWN) == 401
    assert refusal(app, Cookie="mrisr-session=wrong", Origin=OWN) == 401


def test_a_permission_is_asked_for(app):
    token = create_token("admin", "narrow")
    ApiToken.update(scopes="read").where(ApiToken.name == "narrow").execute()
    assert refusal(app, Authorization=f"Bearer {token}") == 403


@pytest.mark.parametrize("kind", ["websocket", "http"])
def test_it_ends_with_the_token(app, kind, monkeypatch):
    monkeypatch.setattr("mrisr_node.web.guard._ASKED_AGAIN", 0.0)
    token = create_token("admin", "lasting")
    sent = opened(app, "/endless", kind, Authorization=f"Bearer {token}")
    parts = [m.get("text") or m.get("body", b"").decode() for m in sent if m["type"] in PARTS]
    assert [part for part in parts if part] == ["0", "1", "2"]
    end = sent[-1]
    assert end == {"type": "websocket.close", "code": 1008} or not end.get("more_body")


def test_one_that_asks_for_none_stops_the_start():
    other = FastAPI()

    @other.websocket("/open")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()

    with pytest.raises(RuntimeError, match="/open"):
        require_permissions(other.routes)
