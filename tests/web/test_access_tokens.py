"""Programs sign in for access tokens, and each thing that ends one ends it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from web_door import PASSWORD, Door, served

from mrisr_node.people.roles import Permission, Role
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import add_user, disable_user, enable_user, set_password, set_role
from mrisr_node.records import ApiSession, User
from mrisr_node.settings import Settings

WORDS = "a few words of hers"


@pytest.fixture(scope="module")
def door(make_settings: Callable[..., Settings]) -> Iterator[Door]:
    with served(make_settings()) as running:
        yield running


@pytest.fixture
def ada(door: Door, request: pytest.FixtureRequest) -> str:
    """A user of this test alone, an operator."""
    name = request.node.name.replace("[", "-").rstrip("]")[:60]
    add_user(name, Role.OPERATOR, WORDS)
    return name


def post(door: Door, path: str, json: dict, token: str = ""):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with door.client(**headers) as client:
        return client.post(f"/api/auth/{path}", json=json)


def log_in(door: Door, name: str) -> dict:
    answer = post(door, "login", {"username": name, "password": WORDS})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def status(door: Door, token: str, path: str = "/api/auth/me") -> int:
    with door.client(Authorization=f"Bearer {token}") as client:
        return client.get(path).status_code


def test_an_access_token_says_who_one_is(door, ada):
    grant = log_in(door, ada)
    assert (grant["token_type"], grant["expires_in"]) == ("Bearer", 900)
    with door.client(Authorization=f"Bearer {grant['access_token']}") as client:
        assert client.get("/api/auth/me").json() == {
            "username": ada, "role": "operator", "means": "access token",
            "permissions": ["operate", "read", "report", "store"],
        }  # fmt: skip
    # What the database holds opens nothing.
    row = ApiSession.get(ApiSession.user == User.get(User.username == ada))
    assert grant["refresh_token"] not in row.__data__.values()


@pytest.mark.parametrize("given", [{"username": "admin", "password": "wrong words"},
                                   {"username": "nobody", "password": PASSWORD}])  # fmt: skip
def test_wrong_words_get_the_same_answer(door, given):
    answer = post(door, "login", given)
    assert answer.status_code == 401
    assert answer.json()["detail"] == "the name or the password is wrong; try again"


def test_a_refresh_token_works_once_and_a_second_time_ends_it_all(door, ada):
    first = log_in(door, ada)
    second = post(door, "refresh", {"refresh_token": first["refresh_token"]}).json()
    assert status(door, first["access_token"]) == status(door, second["access_token"]) == 200
    other = log_in(door, ada)
    # Whoever copied the first one comes late, or came early: nobody knows which.
    assert post(door, "refresh", {"refresh_token": first["refresh_token"]}).status_code == 401
    assert post(door, "refresh", {"refresh_token": second["refresh_token"]}).status_code == 401
    assert status(door, second["access_token"]) == 401
    assert status(door, other["access_token"]) == 200


def test_logging_out_ends_the_session(door, ada):
    grant = log_in(door, ada)
    assert post(door, "logout", {}, grant["access_token"]).status_code == 204
    assert status(door, grant["access_token"]) == 401
    assert post(door, "refresh", {"refresh_token": grant["refresh_token"]}).status_code == 401


def test_a_session_whose_row_number_is_given_again_stays_ended(door, ada):
    grant = log_in(door, ada)
    number = ApiSession.select().order_by(ApiSession.id.desc()).first().id
    post(door, "logout", {}, grant["access_token"])
    log_in(door, ada)
    assert ApiSession.select().order_by(ApiSession.id.desc()).first().id == number
    assert status(door, grant["access_token"]) == 401


def test_a_disabled_user_is_out_at_once_and_stays_out(door, ada):
    grant, tool = log_in(door, ada), create_token(ada, "tool")
    disable_user(ada)
    assert status(door, grant["access_token"]) == status(door, tool) == 401
    assert post(door, "login", {"username": ada, "password": WORDS}).status_code == 401
    assert post(door, "refresh", {"refresh_token": grant["refresh_token"]}).status_code == 401
    enable_user(ada)
    assert status(door, grant["access_token"]) == 401
    assert status(door, tool) == 200


def test_another_role_counts_at_once(door, ada):
    grant, tool = log_in(door, ada), create_token(ada, "tool", scopes=[Permission.OPERATE])
    with door.client(Authorization=f"Bearer {grant['access_token']}") as client:
        assert client.post("/api/jobs/999/retry").status_code == 404
        set_role(ada, Role.VIEWER)
        assert client.post("/api/jobs/999/retry").status_code == 403
    with door.client(Authorization=f"Bearer {tool}") as client:
        assert client.get("/api/auth/me").json()["permissions"] == []
        assert client.post("/api/jobs/999/retry").status_code == 403


def test_another_password_ends_sessions_at_once(door, ada):
    grant = log_in(door, ada)
    set_password(ada)
    assert status(door, grant["access_token"]) == 401
    assert post(door, "refresh", {"refresh_token": grant["refresh_token"]}).status_code == 401


def test_one_changes_ones_own_password(door, ada):
    grant = log_in(door, ada)
    change = {"current": WORDS, "new": "other words of hers"}
    for wrong, code in (({"current": "wrong words!"}, 403), ({"new": "short"}, 422),
                        ({"new": f"{ada} is my name"}, 422)):  # fmt: skip
        assert post(door, "password", change | wrong, grant["access_token"]).status_code == code
    tool = create_token(ada, "tool")
    assert post(door, "password", change, tool).status_code == 403
    assert post(door, "password", change, grant["access_token"]).status_code == 204
    assert status(door, grant["access_token"]) == 401
    assert post(door, "login", {"username": ada, "password": WORDS}).status_code == 401
    new = {"username": ada, "password": change["new"]}
    assert post(door, "login", new).status_code == 200


def test_personal_tokens_are_made_listed_and_revoked(door, ada):
    grant = log_in(door, ada)
    with door.client(Authorization=f"Bearer {grant['access_token']}") as client:
        wanted = {"name": "slicer", "scopes": ["read"], "days": 30}
        answer = client.post("/api/auth/tokens", json=wanted)
        assert answer.status_code == 201
        token = answer.json()["token"]
        (listed,) = client.get("/api/auth/tokens").json()
        assert (listed["name"], listed["scopes"]) == ("slicer", ["read"])
        assert token not in str(listed)
        # Not for what its user may not do, nor for another user.
        for more in ({"scopes": ["admin"]}, {"scopes": ["fly"]}, {"days": 0}, {"name": ""}):
            assert client.post("/api/auth/tokens", json=wanted | more).status_code == 422
        of_admin = wanted | {"username": "admin"}
        assert client.post("/api/auth/tokens", json=of_admin).status_code == 403
        assert client.get("/api/auth/tokens", params={"username": "admin"}).status_code == 403
        with door.client(Authorization=f"Bearer {token}") as tool:
            assert tool.get("/api/jobs").status_code == 200
            assert tool.post("/api/jobs/999/retry").status_code == 403
            # A token that leaked makes no others.
            assert tool.post("/api/auth/tokens", json=wanted).status_code == 403
            assert client.delete(f"/api/auth/tokens/{listed['key']}").status_code == 204
            assert tool.get("/api/jobs").status_code == 401
        assert client.delete(f"/api/auth/tokens/{listed['key']}").status_code == 404


def test_an_admin_makes_tokens_for_a_service(door):
    add_user("pacs-tool", Role.SERVICE)
    grant = post(door, "login", {"username": "admin", "password": PASSWORD}).json()
    with door.client(Authorization=f"Bearer {grant['access_token']}") as client:
        wanted = {"name": "sender", "username": "pacs-tool"}
        assert client.post("/api/auth/tokens", json=wanted).status_code == 422
        made = client.post("/api/auth/tokens", json=wanted | {"scopes": ["store", "read"]})
        assert made.status_code == 201
        unknown = wanted | {"username": "nobody", "scopes": ["read"]}
        assert client.post("/api/auth/tokens", json=unknown).status_code == 404
    with door.client(Authorization=f"Bearer {made.json()['token']}") as client:
        found = client.get("/api/auth/me").json()
        assert (found["role"], found["permissions"]) == ("service", ["read", "store"])
    assert post(door, "login", {"username": "pacs-tool", "password": ""}).status_code == 401


def test_what_is_sent_never_comes_back(door):
    for given in ({"username": "PLANTED", "password": ["PLANTED"]}, {"username": "PLANTED" * 20}):
        answer = post(door, "login", given)
        assert answer.status_code == 422
        assert "PLANTED" not in answer.text
    with door.client() as client:
        assert client.post("/api/auth/login", content=b"x" * 20_000).status_code == 413
