"""What browsers are told with every answer: what pages of ours may do, which is nearly nothing."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrisr_node.settings import Settings
from mrisr_node.web.problems import mistake

__all__ = ["SecurityHeaders", "is_https"]

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


def is_https(settings: Settings) -> bool:
    """Tell whether browsers reach the node by HTTPS."""
    return settings.viewer_url.startswith("https:")


class SecurityHeaders:
    """Tells browsers what pages of ours may do; nearly nothing."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._https = is_https(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to whatever is answered."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            begun = True
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

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            # Starlette answers outside of all middleware, so without the headers.
            if not begun and scope["type"] == "http":
                await mistake()(scope, receive, send_with_headers)
            raise


def _policy(path: str) -> str:
    if path.startswith("/viewer/"):
        return _OHIF_CSP
    if path == "/compare":
        return _COMPARE_CSP
    return _PACS_CSP if path.startswith("/dicom-web/") else _OWN_CSP
