"""Sessions and tokens: how they begin, from where, and that they end."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from web_door import PASSWORD, Door, served

from mrisr_node.people.tokens import create_token
from mrisr_node.records import ApiToken, WebSession

RIGHT = {"username": "admin", "password": PASSWORD}
WRONG = {"username": "admin", "password": "wrong"}


@pytest.fixture(scope="module")
def door(make_settings) -> Iterator[Door]:
    """A front door without a PACS."""
    with served(make_settings()) as running:
        yield running


@pytest.mark.parametrize("form", [WRONG, {"username": "nobody", "password": PASSWORD}, {}])
def test_wrong_password_gives_no_cookie(door, form):
    with door.client(Origin=door.url) as client:
        answer = client.post("/sign-in", data=form)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "wrong" in answer.text


def test_sign_out_ends_the_session(door):
    with door.browser() as client:
        cookie = client.cookies["mrisr-session"]
        assert client.post("/sign-out").status_code == 303
    with door.client(Cookie=f"mrisr-session={cookie}") as client:
        assert client.get("/api/jobs").status_code == 401


def test_a_session_ends_by_itself(door):
    with door.browser() as client:
        WebSession.update(expires_at=time.time() - 1).execute()
        assert client.get("/api/jobs").status_code == 401


def test_a_token_ends_when_it_was_said_to(door):
    token = create_token("admin", "short", days=1)
    assert ApiToken.select().where(ApiToken.digest == token).count() == 0
    with door.client(Authorization=f"Bearer {token}") as client:
        assert client.get("/api/jobs").status_code == 200
        ApiToken.update(expires_at=time.time() - 1).execute()
        assert client.get("/api/jobs").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_other_sites_can_neither_sign_in_nor_out(door, headers):
    with door.client(**headers) as client:
        assert client.post("/sign-in", data=RIGHT).status_code == 403
    with door.browser() as client:
        cookie = client.cookies["mrisr-session"]
    with door.client(Cookie=f"mrisr-session={cookie}", **headers) as client:
        assert client.post("/sign-out").status_code == 403
        assert client.get("/api/jobs").status_code == 200


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "javascript:1",
    ],
)
def test_sign_in_leads_nowhere_else(door, elsewhere):
    with door.client(Origin=door.url) as client:
        answer = client.post("/sign-in", data={**RIGHT, "next": elsewhere})
        assert answer.headers["location"] == "/"
        assert "evil" not in client.get("/sign-in", params={"next": elsewhere}).text


def test_a_huge_form_is_refused(door):
    with door.client(Origin=door.url) as client:
        assert client.post("/sign-in", data={"password": "x" * 100_000}).status_code == 413
    with door.browser() as client:
        assert client.post("/sign-in", data={"password": "x" * 100_000}).status_code == 413
