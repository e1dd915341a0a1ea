"""People sign in with a password, and only with the right one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner
from web_door import PASSWORD, Door, served

from mrisr_node.cli import app
from mrisr_node.errors import NodeError
from mrisr_node.people.sign_in import recognise
from mrisr_node.people.users import ensure_admin, set_password
from mrisr_node.records import User, WebSession
from mrisr_node.settings import load_settings

RIGHT = {"username": "admin", "password": PASSWORD}
WRONG = {"username": "admin", "password": "wrong"}


@pytest.fixture
def own(make_settings) -> Iterator[Door]:
    """A front door with a memory of its own: no attempts, no sessions."""
    with served(make_settings()) as running:
        yield running


def test_first_start_makes_an_admin_and_says_the_password_once(tmp_path):
    settings = load_settings(data_dir=tmp_path)
    password = ensure_admin(settings)
    assert password
    assert len(password) >= 16
    assert ensure_admin(settings) is None
    assert recognise(settings, "admin", password)
    assert User.get().password_hash.startswith("$argon2id$")


def test_right_password_gives_a_session_cookie(own):
    with own.client(Origin=own.url) as client:
        answer = client.post("/sign-in", data={**RIGHT, "next": "/viewer/?a=b"})
        assert answer.status_code == 303
        assert answer.headers["location"] == "/viewer/?a=b"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert client.get("/api/jobs").status_code == 200
        value = client.cookies["mrisr-session"]
    # What the database holds opens nothing.
    assert WebSession.get().digest != value
    with own.client(Cookie=f"mrisr-session={WebSession.get().digest}") as client:
        assert client.get("/api/jobs").status_code == 401


def test_guessing_is_slowed_down(own):
    with own.client(Origin=own.url) as client:
        for _ in range(5):
            assert client.post("/sign-in", data=WRONG).status_code == 401
        answer = client.post("/sign-in", data=RIGHT)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert "set-cookie" not in answer.headers
        # Someone else is not locked out by it.
        other = {"username": "someone", "password": "else"}
        assert client.post("/sign-in", data=other).status_code == 401


def test_a_new_password_ends_all_sessions(own):
    with own.browser() as client:
        set_password("admin")
        assert client.get("/api/jobs").status_code == 401
    with pytest.raises(NodeError, match="no user"):
        set_password("nobody")


def test_https_makes_the_cookie_secure(make_settings):
    settings = make_settings(public_url="https://node.example")
    with served(settings) as own, own.client(Origin="https://node.example") as client:
        answer = client.post("/sign-in", data=RIGHT)
        assert answer.headers["set-cookie"].startswith("__Host-mrisr-session=")
        assert "Secure" in answer.headers["set-cookie"]
        assert "strict-transport-security" in answer.headers


def test_passwords_of_two_nodes_differ(tmp_path):
    settings = [load_settings(data_dir=tmp_path / name) for name in "ab"]
    assert len({ensure_admin(one) for one in settings}) == 2


def test_tokens_and_passwords_from_the_command_line(own, monkeypatch):
    monkeypatch.setenv("MRISR_DATA_DIR", str(own.settings.data_dir))
    run = CliRunner().invoke
    made = run(app, ["token", "slicer", "--days", "30"])
    with own.client(Authorization=f"Bearer {made.stdout.strip()}") as client:
        assert client.get("/api/jobs").status_code == 200
    fresh = run(app, ["password", "admin"]).stdout.strip()
    with own.client(Origin=own.url) as client:
        assert client.post("/sign-in", data=RIGHT).status_code == 401
        assert client.post("/sign-in", data={**RIGHT, "password": fresh}).status_code == 303
    assert run(app, ["password", "nobody"]).exit_code == 1
