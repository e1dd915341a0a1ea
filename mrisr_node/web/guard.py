"""What every request passes first: who is it, may it change anything, which headers go back.

Denied by default: a path that is not listed in `PUBLIC` needs a session or a token, whether or not
anything answers there.
"""

from __future__ import annotations

import re
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from mrisr_node.people.access_tokens import holder_of_access_token
from mrisr_node.people.person import Person
from mrisr_node.people.sessions import holder_of_cookie
from mrisr_node.people.tokens import TOKEN_PREFIX, holder_of_token
from mrisr_node.settings import Settings
from mrisr_node.web.headers import is_https
from mrisr_node.web.limits import RateLimits
from mrisr_node.web.problems import problem

__all__ = ["PUBLIC", "Guard", "cookie_name", "public_origin", "too_many"]

_FOR_MONITORS = frozenset({"/healthz", "/readyz"})
# What they are sent is all that counts, and what they answer no other site can read.
_WITHOUT_COOKIE = frozenset({"/api/auth/login", "/api/auth/refresh"})
PUBLIC = _FOR_MONITORS | _WITHOUT_COOKIE | {"/sign-in", "/pages/style.css", "/pages/icon.svg"}

# What a link to a page of ours may say; anything else in an address may name a patient.
_IN_LINKS = frozenset(("StudyInstanceUIDs", "SeriesInstanceUIDs", "srcseries", "srseries", "stack"))

_LONGEST_SIGN_IN = 16_384
"""Bytes, of whoever is not signed in, or signs in."""
_LONGEST = 1024**2
"""Bytes, of everybody else: FastAPI reads a body whole, before it asks who may send one."""
# They take their bodies piece by piece, and know how long these may be: tus and STOW-RS.
_BY_PIECES = re.compile(r"PATCH /api/uploads/.*|POST /dicom-web/.*", re.DOTALL)

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_ASKED_AGAIN = 5.0
"""Seconds after which a stream looks again whether its session or token still holds."""
_PARTS: dict[str, Message] = {
    "http.response.body": {"type": "http.response.body", "body": b""},
    "websocket.send": {"type": "websocket.close", "code": 1008},
}


def cookie_name(settings: Settings) -> str:
    """Return the name of the session cookie; browsers hold ``__Host-`` to HTTPS and one host."""
    return "__Host-mrisr-session" if is_https(settings) else "mrisr-session"


def public_origin(settings: Settings, request: HTTPConnection) -> str:
    """Return scheme and host under which the client reaches us, e.g. ``http://localhost:8080``."""
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        return f"{parts.scheme}://{parts.netloc}"
    host = request.headers.get("host", "")
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]{1,255}", host):
        host = f"{settings.web_host}:{settings.web_port}"
    # dicomweb-client leaves the port out, wherever it connects to.
    elif not re.search(r":[0-9]+$", host):
        host = f"{host}:{settings.web_port}"
    return f"{_page_scheme(request)}://{host}"


def _page_scheme(request: HTTPConnection) -> str:
    """Return the scheme of the page that a request comes from; a WebSocket has one of its own."""
    scheme: str = request.scope["scheme"]
    return {"ws": "http", "wss": "https"}.get(scheme, scheme)


def too_many(seconds: int) -> Response:
    """Return the answer to somebody who asks too often."""
    return problem(
        429,
        f"too many requests; try again in {seconds} seconds",
        headers={"Retry-After": str(seconds)},
    )


def _limited(scope: Scope, receive: Receive, person: Person | None) -> Receive:
    """Take no more of a body than there is any use for."""
    if person is None or scope["path"] in PUBLIC:
        most, words = _LONGEST_SIGN_IN, "a user name and a password are shorter than this"
    elif _BY_PIECES.fullmatch(f"{scope.get('method')} {scope['path']}"):
        return receive
    else:
        most, words = _LONGEST, "send less: at most 1 MiB in a request; files go to /api/uploads"
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise HTTPException(413, words)
        return message

    return limited


class Guard:
    """Lets a request through to `app` only with credentials, and keeps who it was."""

    def __init__(self, app: ASGIApp, settings: Settings, limits: RateLimits) -> None:
        self._app = app
        self._settings = settings
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, 403, 429 or a redirect; or pass on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        person: Person | None = None
        limited = scope["path"] not in _FOR_MONITORS
        seconds = self._limits.by_address(scope) if limited else 0
        if not seconds:
            person = await self._person(request)
            if person is not None and limited:
                seconds = self._limits.by_user(person.username)
        scope.setdefault("state", {})["person"] = person
        answer = too_many(seconds) if seconds else self._refusal(request, person)
        receive = _limited(scope, receive, person)
        if answer is not None:
            await answer(scope, receive, send)
        elif person is None:
            await self._app(scope, receive, send)
        else:
            lasting = _Lasting(send, lambda: self._person(request), person)
            try:
                await self._app(scope, receive, lasting.send)
            except (ClientDisconnect, WebSocketDisconnect):
                if not lasting.ended:
                    raise

    async def _person(self, request: HTTPConnection) -> Person | None:
        token = _token(request.headers.get("authorization", ""))
        # A wrong token is never saved by a cookie.
        if token is not None:
            if token.startswith(TOKEN_PREFIX):
                return await run_in_threadpool(holder_of_token, token)
            return await run_in_threadpool(holder_of_access_token, self._settings, token)
        value = request.cookies.get(cookie_name(self._settings))
        return await run_in_threadpool(holder_of_cookie, value) if value else None

    def _refusal(self, request: HTTPConnection, person: Person | None) -> Response | None:
        # Not request.url: that is put together with the Host header, which the client chooses.
        if person is None and request.scope["path"] not in PUBLIC:
            return self._unknown(request)
        by_token = person is not None and not person.by_cookie
        # A WebSocket has no method, and browsers let any site open one with our cookie.
        scope = request.scope
        reads = scope["type"] == "http" and scope["method"] in _SAFE
        safe = reads or scope["path"] in _WITHOUT_COOKIE
        if not safe and not by_token and not self._same_site(request):
            return problem(
                403,
                "this request comes from another site, or does not say where from; "
                "tools send a bearer token instead",
            )
        return None

    def _unknown(self, request: HTTPConnection) -> Response:
        headers = request.headers
        is_read = request.scope.get("method") == "GET"
        wants_page = is_read and "text/html" in headers.get("accept", "")
        if wants_page and "authorization" not in headers:
            query = request.scope["query_string"].decode("latin-1")
            kept = [part for part in query.split("&") if part.partition("=")[0] in _IN_LINKS]
            wanted = request.scope["path"] + ("?" + "&".join(kept) if kept else "")
            return RedirectResponse(f"/sign-in?next={quote(wanted, safe='/')}", 303)
        return problem(
            401,
            "sign in at /sign-in, or send a valid token: Authorization: Bearer …",
            headers={"WWW-Authenticate": 'Bearer realm="mrisr_node"'},
        )

    def _same_site(self, request: HTTPConnection) -> bool:
        origin = request.headers.get("origin")
        if origin is None:
            return request.headers.get("sec-fetch-site") == "same-origin"
        own = {public_origin(self._settings, request)}
        # Behind a proxy the page may also be open under the name that the proxy uses for us.
        own.add(f"{_page_scheme(request)}://{request.headers.get('host', '')}")
        return origin in own


class _Lasting:
    """Ends an answer that goes on and on once those who asked may not have it any more."""

    def __init__(
        self, send: Send, ask: Callable[[], Awaitable[Person | None]], person: Person
    ) -> None:
        self._send = send
        self._ask = ask
        self._person = person
        self._asked_at = time.monotonic()
        self.ended = False

    async def send(self, message: Message) -> None:
        """Pass on what is sent, as long as it may be."""
        if time.monotonic() >= self._asked_at + _ASKED_AGAIN and message["type"] in _PARTS:
            self._asked_at = time.monotonic()
            now = await self._ask()
            if now is None or not now.permissions >= self._person.permissions:
                self.ended = True
                await self._send(_PARTS[message["type"]])
                # As a server says that its peer has gone.
                raise OSError("whoever asked may not have this any more")
        await self._send(message)


def _token(authorization: str) -> str | None:
    """Return the token that a request comes with; None where it brings none.

    Tools that know names and passwords alone send it as the password of HTTP Basic (RFC 7617).
    Other passwords, and other schemes, are for a proxy in front. Browsers are asked for none.
    """
    scheme, _, credentials = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip()
        case "basic":
            with suppress(ValueError):
                _, _, password = b64decode(credentials, validate=True).decode().partition(":")
                return password if password.startswith(TOKEN_PREFIX) else None
    return None
