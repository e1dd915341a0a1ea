"""Administrators look after users, and cannot lock themselves out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from argon2 import PasswordHasher
from typer.testing import CliRunner
from web_door import PASSWORD, Door, served

from mrisr_node.cli import app
from mrisr_node.people.passwords import UnfitPassword, new_password, require_fit
from mrisr_node.people.roles import Permission, Role
from mrisr_node.people.sign_in import recognise
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import UserError, add_user, all_users, set_role
from mrisr_node.records import User
from mrisr_node.settings import Settings


@pytest.fixture
def door(make_settings: Callable[..., Settings]) -> Iterator[Door]:
    with served(make_settings()) as running:
        yield running


def test_users_are_made_changed_disabled_and_enabled(door):
    with door.browser() as client:
        made = client.post("/api/users", json={"username": "ada", "role": "viewer"})
        assert made.status_code == 201
        password = made.json()["password"]
        assert len(password) >= 16
        assert recognise(door.settings, "ada", password)
        listed = client.get("/api/users").json()
        assert [(u["username"], u["role"]) for u in listed] == [
            ("ada", "viewer"),
            ("admin", "admin"),
        ]
        assert password not in str(listed)
        assert "argon2" not in str(listed)
        changed = client.patch("/api/users/ada", json={"role": "operator", "disabled": True})
        assert changed.json()["role"] == "operator"
        assert changed.json()["disabled_at"]
        enabled = client.patch("/api/users/ada", json={"disabled": False}).json()
        assert enabled["disabled_at"] is None
        fresh = client.post("/api/users/ada/password").json()["password"]
        assert fresh != password
        assert recognise(door.settings, "ada", fresh)


@pytest.mark.parametrize(
    "wanted",
    [
        {"username": "", "role": "viewer"},
        {"username": "../x", "role": "viewer"},
        {"username": "a b", "role": "viewer"},
        {"username": "ada", "role": "king"},
        {"username": "ada", "role": "viewer", "password": "short"},
        {"username": "ada", "role": "viewer", "password": "aaaaaaaaaaaaaaaa"},
        {"username": "ada", "role": "viewer", "password": "123456789012"},
        {"username": "tool", "role": "service", "password": "a few words of its"},
    ],
)
def test_what_no_user_can_be(door, wanted):
    with door.browser() as client:
        answer = client.post("/api/users", json=wanted)
        assert answer.status_code == (409 if wanted["username"] == "ADMIN" else 422)  # taken
        assert wanted.get("password", "?") not in answer.text
        assert len(client.get("/api/users").json()) == 1


def test_a_name_is_taken_whatever_its_case(door):
    with door.browser() as client:
        answer = client.post("/api/users", json={"username": "ADMIN", "role": "viewer"})
        assert answer.status_code == 409
        assert len(client.get("/api/users").json()) == 1


def test_the_last_admin_stays(door):
    with door.browser() as client:
        for change in ({"disabled": True}, {"role": "viewer"}):
            answer = client.patch("/api/users/admin", json=change)
            assert answer.status_code == 409
            assert "only administrator" in answer.json()["detail"]
        client.post("/api/users", json={"username": "second", "role": "admin"})
        assert client.patch("/api/users/second", json={"disabled": True}).status_code == 200
        # One that is disabled is none.
        assert client.patch("/api/users/admin", json={"disabled": True}).status_code == 409
        client.patch("/api/users/second", json={"disabled": False})
        assert client.patch("/api/users/admin", json={"role": "viewer"}).status_code == 200
        # And with the role went what they may do.
        assert client.get("/api/users").status_code == 403


def test_no_token_changes_users(door):
    """Not even one that may do all that an administrator may."""
    scoped = create_token("admin", "narrow", scopes=[Permission.ADMIN])
    for token in (door.token, scoped):
        with door.client(Authorization=f"Bearer {token}") as client:
            assert client.get("/api/users").status_code == 200
            for method, path, more in (
                ("POST", "/api/users", {"json": {"username": "eve", "role": "admin"}}),
                ("POST", "/api/users", {"json": {}}),
                ("PATCH", "/api/users/admin", {"json": {"disabled": False}}),
                ("POST", "/api/users/admin/password", {}),
                ("POST", "/api/users/admin/unlock", {}),
                ("POST", "/users", {"data": {"username": "eve", "role": "admin"}}),
                ("POST", "/users/admin", {"data": {"do": "password"}}),
            ):
                answer = client.request(method, path, **more)
                assert answer.status_code == 403, (method, path)
                assert "personal token" in answer.text
    assert recognise(door.settings, "admin", PASSWORD)
    assert [user.username for user in all_users()] == ["admin"]
    with door.client() as client:
        right = {"username": "admin", "password": PASSWORD}
        grant = client.post("/api/auth/login", json=right).json()
        client.headers["Authorization"] = f"Bearer {grant['access_token']}"
        made = client.post("/api/users", json={"username": "ada", "role": "viewer"})
        assert made.status_code == 201


def test_a_person_is_no_service(door):
    add_user("tool", Role.SERVICE)
    for name, role in (("tool", Role.ADMIN), ("admin", Role.SERVICE)):
        with pytest.raises(UserError):
            set_role(name, role)
    with door.browser() as client:
        assert client.patch("/api/users/tool", json={"role": "admin"}).status_code == 409
        assert client.post("/api/users/tool/password").status_code == 409
        assert client.get("/api/users/nobody").status_code == 404


def test_an_old_hash_is_made_anew_when_somebody_signs_in(door):
    old = PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD)
    User.update(password_hash=old).where(User.username == "admin").execute()
    assert recognise(door.settings, "admin", PASSWORD)
    new = User.get(User.username == "admin").password_hash
    assert new != old
    assert "m=65536" in new
    assert recognise(door.settings, "admin", PASSWORD)


@pytest.mark.parametrize(
    "password",
    [
        "123456789012", "passwordpassword", "qwertyuiopas", "abcdefghijkl", "Password123!",
        "iloveyou1234", "grace hopper is me", "ab" * 100,
    ],
)  # fmt: skip
def test_what_is_guessed_first_is_no_password(password):
    with pytest.raises(UnfitPassword):
        require_fit("Grace", password)


def test_a_few_words_make_a_password():
    words = [PASSWORD, "a few words of hers", "drei kleine Worte", "blue lamp river", PASSWORD * 9]
    for password in (*words, *(new_password() for _ in range(50))):
        require_fit("Grace", password)


def test_a_password_is_the_same_on_every_keyboard(door):
    add_user("ada", Role.VIEWER, "Mu\u0308nchen an der Isar")
    assert recognise(door.settings, "ada", "M\u00fcnchen an der Isar")


def test_users_from_the_command_line(door, monkeypatch):
    monkeypatch.setenv("MRISR_DATA_DIR", str(door.settings.data_dir))
    run = CliRunner().invoke
    password = run(app, ["user", "add", "ada", "--role", "operator"]).stdout.strip()
    assert recognise(door.settings, "ada", password)
    assert '"username": "ada"' in run(app, ["user", "list", "--json"]).stdout
    assert "operator" in run(app, ["user", "list"]).stdout
    assert run(app, ["user", "role", "ada", "admin"]).exit_code == 0
    assert run(app, ["user", "disable", "ada"]).exit_code == 0
    assert User.get(User.username == "ada").disabled_at
    refused = run(app, ["user", "disable", "admin"])
    assert refused.exit_code == 1
    assert "only administrator" in refused.stderr
    assert run(app, ["user", "enable", "ada"]).exit_code == 0
    service = run(app, ["user", "add", "tool", "--role", "service"])
    assert service.stdout == ""
    assert "`mrisr-node token NAME --user tool`" in service.stderr
    narrow = ["token", "x", "--user", "tool", "--scope", "read", "--scope", "store"]
    with door.client(Authorization=f"Bearer {run(app, narrow).stdout.strip()}") as client:
        assert client.get("/api/auth/me").json()["permissions"] == ["read", "store"]
    assert run(app, ["token", "x", "--user", "tool"]).exit_code == 1
    done = run(app, ["audit", "--json"]).stdout
    for words in ("user add ada", "user disable ada", "token --user tool", "command line"):
        assert words in done
    assert password not in done
