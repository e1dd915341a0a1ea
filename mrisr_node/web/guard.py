"""What every request passes first: who is it, may it change anything, which headers go back.

Denied by default: a path that is not listed in `PUBLIC` needs a session or a token, whether or not
anything answers there.
"""

from __future__ import annotations

import re
from base64 import b64decode
from contextlib import suppress
from functools import partial
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrisr_node.people import access
from mrisr_node.settings import Settings
from mrisr_node.web.problems import problem

__all__ = ["PUBLIC", "Guard", "SecurityHeaders", "cookie_name", "public_origin"]

PUBLIC = frozenset({"/healthz", "/readyz", "/sign-in", "/pages/style.css", "/pages/icon.svg"})

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_OWN_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
# OHIF compiles codecs and colour maps at run time and styles its elements itself.
_OHIF_CSP = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; font-src 'self' data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
# NiiVue carries the font of its letters as an image in its own script; it asks for nothing else.
_COMPARE_CSP = _OWN_CSP.replace("img-src 'self'", "img-src 'self' data:")
# A stored object may hold anything, HTML too: nothing of it may run as if it were ours.
_PACS_CSP = "default-src 'none'; sandbox; frame-ancestors 'self'"


def cookie_name(settings: Settings) -> str:
    """Return the name of the session cookie; browsers hold ``__Host-`` to HTTPS and one host."""
    return "__Host-mrisr-session" if _is_https(settings) else "mrisr-session"


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


class Guard:
    """Lets a request through to `app` only with credentials, and keeps who it was."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, 403 or a redirect; or pass on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        person = await self._person(request)
        refusal = self._refusal(request, person)
        if refusal is None:
            scope.setdefault("state", {})["person"] = person
            # What stays open asks again who it is for.
            scope["state"]["person_now"] = partial(self._person, request)
            await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    async def _person(self, request: HTTPConnection) -> access.Person | None:
        token = _token(request.headers.get("authorization", ""))
        # A wrong token is never saved by a cookie.
        if token is not None:
            return await run_in_threadpool(access.of_token, token)
        value = request.cookies.get(cookie_name(self._settings))
        return await run_in_threadpool(access.of_session, value) if value else None

    def _refusal(self, request: HTTPConnection, person: access.Person | None) -> Response | None:
        # Not request.url: that is put together with the Host header, which the client chooses.
        if person is None and request.scope["path"] not in PUBLIC:
            return self._unknown(request)
        by_token = person is not None and not person.by_cookie
        # A WebSocket has no method, and browsers let any site open one with our cookie.
        safe = request.scope.get("method") in _SAFE
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
            wanted = request.scope["path"] + ("?" + query if query else "")
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
                return password if password.startswith(access.TOKEN_PREFIX) else None
    return None


class SecurityHeaders:
    """Tells browsers what pages of ours may do; nearly nothing."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._https = _is_https(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to whatever is answered."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _policy(scope["path"])
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "SAMEORIGIN"
                # UIDs in our addresses are nobody else's business.
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()"
                headers.setdefault("Cache-Control", "no-store")
                if self._https:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _policy(path: str) -> str:
    if path.startswith("/viewer/"):
        return _OHIF_CSP
    if path == "/compare":
        return _COMPARE_CSP
    return _PACS_CSP if path.startswith("/dicom-web/") else _OWN_CSP


def _is_https(settings: Settings) -> bool:
    return settings.viewer_url.startswith("https:")
