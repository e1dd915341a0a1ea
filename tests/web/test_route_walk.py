"""Every route, page and mount, with every kind of credentials that must not open it.

The routes are found, not listed: a new one is walked without being named here. The table of what
each answered is printed (``pytest -s``).
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import jwt
import pytest
from fastapi import FastAPI
from starlette.routing import Mount
from web_door import PASSWORD, Door, served

from mrisr_node.people.roles import Permission, Role, permissions_of
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import add_user, disable_user
from mrisr_node.records import ApiToken, WebSession
from mrisr_node.settings import Settings
from mrisr_node.web.guard import PUBLIC

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
_ODD_PATHS = (
    "/viewer/app-config.js", "/viewer/ext/compare.js", "/viewer/index.html", "/docs", "/redoc",
    "/pages/series.js", "/dicom-web/studies", "/no/such/page", "/openapi.json", "//", "/healthz/",
    "/healthz/../api/jobs", "/sign-in/x", "/SIGN-IN", "/%2e/api/jobs", "/api/auth/login/",
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Route:
    method: str
    path: str
    needs: frozenset[str] = frozenset()
    """The permissions that it asks for; none: to be signed in."""


def every_route(app: FastAPI) -> set[Route]:
    """What the OpenAPI document names, and what is left out of it: pages, gateway, mounts."""
    found: dict[tuple[str, str], set[str]] = {}
    for path, item in app.openapi()["paths"].items():
        for method, operation in item.items():
            scopes = [s for one in operation.get("security", []) for v in one.values() for s in v]
            found[method.upper(), path] = set(scopes)

    def scopes_of(dependant) -> set[str]:
        own = set(dependant.own_oauth_scopes or ())
        return own.union(*(scopes_of(one) for one in dependant.dependencies))

    def walk(routes, prefix: str = "") -> None:
        for route in routes:
            inner = getattr(route, "original_router", None)
            if isinstance(route, Mount):
                for end in ("", "/", "/x"):
                    found.setdefault(("GET", prefix + route.path + end), set())
            elif inner is not None:
                walk(inner.routes, prefix)
            else:
                needs = scopes_of(route.dependant) if hasattr(route, "dependant") else set()
                for method in (getattr(route, "methods", None) or {"GET"}) & _METHODS:
                    found.setdefault((method, prefix + route.path), set()).update(needs)

    walk(app.routes)
    filled = {Route(m, re.sub(r"{[^}]*}", "1", p), frozenset(n)) for (m, p), n in found.items()}
    return {route for route in filled if route.path not in PUBLIC}


@pytest.fixture(scope="module")
def door(make_settings: Callable[..., Settings]) -> Iterator[Door]:
    with served(make_settings(requests_per_minute_per_address=10**6)) as running:
        yield running


@pytest.fixture(scope="module")
def routes(door: Door) -> list[Route]:
    found = every_route(door.app)
    named = {(route.method, route.path) for route in found}
    assert {("GET", "/"), ("POST", "/api/jobs/1/retry"), ("GET", "/api/audit")} < named
    assert {("GET", "/dicom-web/1"), ("POST", "/dicom-web/1"), ("GET", "/viewer/x")} < named
    assert {("POST", "/sign-out"), ("GET", "/api/openapi.json"), ("GET", "/pages/x")} < named
    return sorted(found | {Route("GET", path) for path in _ODD_PATHS})


def log_in(door: Door, username: str, password: str) -> dict[str, str]:
    with door.client() as client:
        answer = client.post("/api/auth/login", json={"username": username, "password": password})
    assert answer.status_code == 200, answer.text
    return answer.json()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def strangers(door: Door) -> dict[str, dict[str, str]]:
    """Headers that must open nothing, by what is wrong with them."""
    good = log_in(door, "admin", PASSWORD)
    token = good["access_token"]
    key = door.settings.secret("access-tokens")
    claims = jwt.decode(token, options={"verify_signature": False})

    def signed(key: str = key, algorithm: str = "HS256", typ: str = "at+jwt", **changes) -> str:
        altered = {k: v for k, v in (claims | changes).items() if v is not None}
        return jwt.encode(altered, key, algorithm, headers={"typ": typ})

    # The control: what is altered below opens the door unaltered.
    with door.client(**bearer(signed())) as client:
        assert client.get("/api/auth/me").json()["means"] == "access token"

    revoked = log_in(door, "admin", PASSWORD)["access_token"]
    with door.client(**bearer(revoked)) as client:
        assert client.post("/api/auth/logout").status_code == 204

    gone = add_user("gone", Role.ADMIN)
    of_gone = log_in(door, "gone", gone)["access_token"]
    token_of_gone = create_token("gone", "tool")
    with door.client(Origin=door.url) as client:
        client.post("/sign-in", data={"username": "gone", "password": gone})
        cookie_of_gone = client.cookies["mrisr-session"]
        client.post("/sign-in", data={"username": "admin", "password": PASSWORD})
        signed_out = client.cookies["mrisr-session"]
        client.post("/sign-out")
    disable_user("gone")

    ended = create_token("admin", "ended", days=1)
    ApiToken.update(expires_at=time.time() - 1).where(ApiToken.name == "ended").execute()
    with door.browser() as client:
        old_cookie = client.cookies["mrisr-session"]
    WebSession.update(expires_at=time.time() - 1).execute()
    basic = base64.b64encode(b"admin:" + PASSWORD.encode()).decode()
    header, payload, signature = token.split(".")
    unsigned = f"{part({'alg': 'none', 'typ': 'at+jwt'})}.{payload}."
    return {
        "nothing": {},
        "empty": {"Authorization": "Bearer"},
        "malformed": bearer("a.b.c"),
        "malformed, long": bearer("." * 5000),
        "scheme": {"Authorization": f"Digest {token}"},
        "password": {"Authorization": f"Basic {basic}"},
        "wrong token": bearer("mrisr_" + "A" * 43),
        "expired token": bearer(ended),
        "disabled's token": bearer(token_of_gone),
        "wrong cookie": {"Cookie": "mrisr-session=" + "A" * 43},
        "odd cookie": {"Cookie": "mrisr-session=\"'; DROP TABLE user; --"},
        "expired cookie": {"Cookie": f"mrisr-session={old_cookie}"},
        "signed-out cookie": {"Cookie": f"mrisr-session={signed_out}"},
        "disabled's cookie": {"Cookie": f"mrisr-session={cookie_of_gone}"},
        "digest": {"Cookie": f"mrisr-session={WebSession.get().digest}"},
        "JWT as cookie": {"Cookie": f"mrisr-session={token}"},
        "JWT expired": bearer(signed(iat=1, exp=int(time.time()) - 1)),
        "JWT early": bearer(signed(nbf=int(time.time()) + 600)),
        "JWT alg=none": bearer(unsigned),
        "JWT alg=NONE": bearer(unsigned.replace(part({"alg": "none", "typ": "at+jwt"}),
                                                part({"alg": "NONE", "typ": "at+jwt"}))),
        "JWT no signature": bearer(f"{header}.{payload}."),
        "JWT other signature": bearer(f"{header}.{payload}.{signature[::-1]}"),
        "JWT other key": bearer(signed(key="k" * 32)),
        "JWT empty key": bearer(f"{header}.{payload}." + part("")),
        "JWT other algorithm": bearer(signed(key=key * 2, algorithm="HS512")),
        "JWT other type": bearer(signed(typ="JWT")),
        "JWT issuer": bearer(signed(iss="other")),
        "JWT audience": bearer(signed(aud="other")),
        "JWT audiences": bearer(signed(aud=["mrisr_node", "other"])),
        "JWT for ever": bearer(signed(exp=None)),
        "JWT no subject": bearer(signed(sub=None)),
        "JWT other subject": bearer(signed(sub="gone")),
        "JWT no session": bearer(signed(sid=None)),
        "JWT other session": bearer(signed(sid="0" * 32)),
        "JWT altered": bearer(f"{header}.{part(claims | {'sub': 'gone'})}.{signature}"),
        "JWT revoked": bearer(revoked),
        "JWT disabled": bearer(of_gone),
        "refresh token": bearer(good["refresh_token"]),
    }  # fmt: skip


def test_nothing_opens_to_strangers(door, routes, strangers):
    table: dict[str, set[int]] = {}
    for name, headers in strangers.items():
        with door.client(**headers) as client:
            for route in routes:
                answer = client.request(route.method, route.path)
                table.setdefault(name, set()).add(answer.status_code)
                assert answer.status_code == 401, (name, route)
                assert answer.headers["www-authenticate"].startswith("Bearer")
                if route.method != "HEAD":
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.json()["status"] == 401
    print(f"\n{len(routes)} routes without, or with wrong, credentials:")
    for name, statuses in table.items():
        print(f"  {name:22}{', '.join(map(str, sorted(statuses)))}")


def people(door: Door) -> dict[str, tuple[frozenset[str], httpx.Client]]:
    """Somebody of each role, and tools for less; what each may do, and their client."""
    found = {}
    for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
        name = f"walk-{role}"
        token = log_in(door, name, add_user(name, role))["access_token"]
        found[str(role)] = permissions_of(role), door.client(**bearer(token))
    add_user("walk-tool", Role.SERVICE)
    for scopes in ({Permission.READ}, {Permission.STORE}, permissions_of(Role.SERVICE)):
        name = "+".join(sorted(scopes))
        token = create_token("walk-tool", name, scopes=scopes)
        found[name] = frozenset(scopes), door.client(**bearer(token))
    # A role that shrank takes its tokens along.
    return found


def test_a_lower_role_is_refused(door, routes):
    # A WebSocket is none for GET; who may open it is tested with the events.
    odd = (*_ODD_PATHS, "/api/events/ws")
    known = [route for route in routes if route.path not in odd]
    names = people(door)
    table: dict[Route, list[str]] = {route: [] for route in known}
    for name, (permissions, client) in names.items():
        with client:
            for route in known:
                held = route.needs <= permissions
                # What those may do who may do everything is walked elsewhere; reading harms nobody.
                if held and (route.method not in ("GET", "HEAD")):
                    table[route].append("may")
                    continue
                # What goes on and on is not waited for.
                with client.stream(route.method, route.path) as answer:
                    pass
                table[route].append(str(answer.status_code))
                if held:
                    assert answer.status_code not in (401, 403), (name, route)
                else:
                    assert answer.status_code == 403, (name, route)
                    if route.method != "HEAD":
                        assert answer.headers["content-type"] == "application/problem+json"
    assert any("403" in row for row in table.values())
    print(f"\n{'':45}{''.join(f'{name[:9]:>10}' for name in names)}")
    for route, row in table.items():
        print(f"{route.method:7}{route.path:38}{''.join(f'{cell:>10}' for cell in row)}")


def test_what_changes_nothing_needs_read_at_least(routes):
    """Of what is in the API document, only one's own account is open to every role."""
    free = {r.path for r in routes if not r.needs and r.path.startswith("/api/")}
    assert {path.split("/")[2] for path in free} <= {"auth", "openapi.json"}


_CHANGED_BY_READERS = {
    ("POST", "/api/series/search"): "names are looked for in a body, as addresses are logged",
    ("POST", "/dicom-web/1"): "asks for store or report, by what comes and from whom",
    ("POST", "/sign-out"): "ends one's own session",
    ("POST", "/account/password"): "is one's own",
    ("POST", "/account/tokens"): "makes one's own, for no more than one may",
    ("POST", "/account/tokens/1"): "revokes one's own",
}


def test_whoever_may_read_changes_nothing(routes):
    """But their own account; whatever else is found here is named above, with its reason."""
    found = {
        (route.method, route.path)
        for route in routes
        if route.method not in ("GET", "HEAD")
        and route.needs <= {Permission.READ}
        and not route.path.startswith("/api/auth/")
    }
    assert found == set(_CHANGED_BY_READERS)


@pytest.mark.parametrize("path", ["/", "/api/jobs", "/viewer/", "/dicom-web/studies", "/no/such"])
def test_headers_are_on_every_answer(door, path):
    for headers in ({}, bearer(door.token)):
        with door.client(**headers) as client:
            found = client.get(path).headers
            assert found["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'self'" in found["content-security-policy"]
