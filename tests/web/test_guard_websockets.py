"""A WebSocket is opened by the same people as everything else, and by no other site."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from fastapi import FastAPI, WebSocket
from starlette.middleware import Middleware
from starlette.types import Message
from web_door import PASSWORD

from mrisr_node.people.access import create_token, ensure_admin, set_password, sign_in
from mrisr_node.people.roles import Permission
from mrisr_node.records import ApiToken
from mrisr_node.settings import Settings
from mrisr_node.web.guard import Guard, SecurityHeaders
from mrisr_node.web.permissions import allow, require_permissions
from mrisr_node.web.problems import install_problem_handlers

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
            Middleware(Guard, settings=settings),
        ]
    )
    install_problem_handlers(app)

    @app.websocket("/socket", dependencies=[allow(Permission.OPERATE)])
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.state.person.username)
        await websocket.close()

    require_permissions(app.routes)
    return app


def opened(app: FastAPI, **headers: str) -> list[Message]:
    """Open the socket as a server does, and return what it is to send."""
    sent: list[Message] = []
    scope = {
        "type": "websocket", "scheme": "ws", "path": "/socket", "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1), "server": ("testserver", 80), "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip

    async def receive() -> Message:
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
    cookie = f"mrisr-session={sign_in(settings, 'admin', PASSWORD)}"
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


def test_one_that_asks_for_none_stops_the_start():
    other = FastAPI()

    @other.websocket("/open")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()

    with pytest.raises(RuntimeError, match="/open"):
        require_permissions(other.routes)
