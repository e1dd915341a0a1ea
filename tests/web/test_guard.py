"""What the guard lets through, and from where; test_route_walk.py tries every route."""

from __future__ import annotations

import socket
from base64 import b64encode

import pytest
from web_door import flat_memory

from mrisr_node.people.roles import Permission
from mrisr_node.people.tokens import create_token
from mrisr_node.web.guard import PUBLIC


def _basic(name: str, password: str) -> str:
    return f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}"


def test_browsers_are_led_to_the_sign_in_page_and_back(door):
    with door.client(Accept="text/html,*/*") as client:
        answer = client.get("/viewer/viewer?StudyInstanceUIDs=1.2&PatientID=7&stack=%26")
        assert answer.status_code == 303
        page = client.get(answer.headers["location"])
        assert 'value="/viewer/viewer?StudyInstanceUIDs=1.2&amp;stack=%26"' in page.text
        # Not where nobody looks at the page.
        assert client.post("/api/jobs/1/retry").status_code == 401


def test_public_is_what_the_sign_in_page_needs(door):
    with door.client() as client:
        for path in PUBLIC - {"/readyz", "/api/auth/login", "/api/auth/refresh"}:
            assert client.get(path).status_code == 200
        for path in ("/api/auth/login", "/api/auth/refresh"):
            # Programs send no Origin; and these take no cookie.
            assert client.post(path, json={}).status_code == 422
        assert client.get("/healthz").json() == {"status": "ok"}
        # Whether the node is ready; and nothing else is told (test_health.py).
        assert set(client.get("/readyz").json()) == {"status", "checks"}


@pytest.mark.parametrize(
    "head",
    [
        # The address that frameworks put together of Host and path must not decide.
        "GET /api/jobs HTTP/1.1\r\nHost: x/healthz?\r\n",
        "GET /api/jobs HTTP/1.1\r\nHost: x/sign-in#\r\n",
        "GET http://x/healthz/../api/jobs HTTP/1.1\r\nHost: x\r\n",
        "GET /healthz%2f..%2fapi/jobs HTTP/1.1\r\nHost: x\r\n",
        "GET /api/jobs HTTP/1.1\r\nHost: x\r\nX-Original-URL: /healthz\r\n",
    ],
)
def test_no_trick_with_the_address_gets_in(door, head):
    with socket.create_connection(("127.0.0.1", door.settings.web_port), 10) as peer:
        peer.sendall(f"{head}Connection: close\r\n\r\n".encode())
        status = peer.makefile("rb").readline().split()[1]
    assert status in {b"400", b"401"}


def test_other_sites_cannot_change_anything_with_a_cookie(door):
    with door.browser() as client:
        for origin in ("https://evil.example", "null", door.url + ".evil.example"):
            answer = client.post("/api/jobs/1/retry", headers={"Origin": origin})
            assert answer.status_code == 403
        assert client.post("/api/jobs/999999/retry").status_code == 404
    with door.tool() as client:
        assert client.post("/api/jobs/999999/retry").status_code == 404


def test_a_token_is_taken_as_a_password_too(door):
    with door.client(Authorization=_basic("whoever", door.token)) as client:
        assert client.get("/api/jobs").status_code == 200
        assert client.post("/api/jobs/999999/retry").status_code == 404
    with door.browser() as client:
        # Other passwords are a proxy's, and the cookie counts; a wrong token is never saved by it.
        for password, status in (("proxy", 200), (f"{door.token}x", 401)):
            answer = client.get("/api/jobs", headers={"Authorization": _basic("x", password)})
            assert answer.status_code == status


def test_pages_may_run_nothing_but_their_own_script(door):
    with door.tool() as client:
        for path in ("/", "/api/jobs", "/viewer/", "/dicom-web/studies", "/no/such"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
            assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert "unsafe" not in client.get("/").headers["content-security-policy"]
        assert "sandbox" in client.get("/dicom-web/studies").headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/api/users", "/api/jobs", "/api/series/search", "/users"])
@pytest.mark.parametrize("chunked", [False, True])
def test_no_body_fills_the_memory(door, path, chunked):
    """Not even of who may not send one: it is read before permissions are asked for."""
    token = create_token("admin", "small", scopes=[Permission.REPORT])
    size, piece = 128, b" " * 1024**2
    length = {} if chunked else {"Content-Length": str(size * len(piece))}
    kind = "application/json" if path.startswith("/api") else "application/x-www-form-urlencoded"
    with flat_memory(), door.client(Authorization=f"Bearer {token}") as client:
        answer = client.post(
            path,
            content=(piece for _ in range(size)),
            headers={"Content-Type": kind, "Idempotency-Key": "x", **length},
        )
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_fits_is_read(door):
    with door.tool() as client:
        padded = b'{"q": "nobody"}' + b" " * (1024**2 - 100)
        headers = {"Content-Type": "application/json"}
        found = client.post("/api/series/search", content=padded, headers=headers)
        assert found.status_code == 200
