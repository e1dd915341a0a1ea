"""Guessing is slowed down, says nothing of who there is, and locks nobody out for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from web_door import PASSWORD, Door, served

from mrisr_node.people import lockout
from mrisr_node.people.lockout import TooManyFailures, forgive, locked_until
from mrisr_node.people.roles import Role
from mrisr_node.people.sign_in import Refused, recognise
from mrisr_node.people.users import add_user
from mrisr_node.records import SignInFailures
from mrisr_node.settings import Settings

WORDS = "a few words of hers"


@pytest.fixture
def door(make_settings: Callable[..., Settings]) -> Iterator[Door]:
    with served(make_settings(lockout_minutes=2)) as running:
        add_user("ada", Role.VIEWER, WORDS)
        yield running


@pytest.fixture
def settings(door: Door) -> Settings:
    return door.settings


def fail(settings: Settings, name: str, times: int) -> None:
    for _ in range(times):
        with pytest.raises(Refused):
            recognise(settings, name, "wrong words")


def pass_time(seconds: float) -> None:
    """Let what is remembered have been so much earlier."""
    SignInFailures.update(
        at=SignInFailures.at - seconds, locked_until=SignInFailures.locked_until - seconds
    ).execute()


def test_known_and_unknown_names_get_the_same_answers(door):
    answers = {}
    for name in ("ada", "nobody"):
        with door.client() as client:
            answers[name] = [
                client.post("/api/auth/login", json={"username": name, "password": "wrong"})
                for _ in range(6)
            ]
    for ada, nobody in zip(answers["ada"], answers["nobody"], strict=True):
        assert ada.status_code == nobody.status_code
        assert ada.headers.get("retry-after") == nobody.headers.get("retry-after")
        assert ada.json() == nobody.json()
    assert ada.status_code == 429
    assert 0 < int(ada.headers["retry-after"]) <= 30
    # And no row says which names were tried.
    assert not any(row.name in ("ada", "nobody") for row in SignInFailures.select())


def test_the_wait_grows_and_has_an_end(settings):
    fail(settings, "ada", 5)
    for longest in (30, 60, 120, 120, 120):
        with pytest.raises(TooManyFailures) as wait:
            recognise(settings, "ada", WORDS)
        assert longest - 5 <= wait.value.seconds <= longest
        # Trying meanwhile makes it no longer.
        pass_time(longest)
        fail(settings, "ada", 1)
    pass_time(120)
    assert recognise(settings, "ada", WORDS)
    assert locked_until(settings, "ada") is None
    assert not SignInFailures.select().exists()


def test_who_is_signed_in_stays_so_and_an_admin_unlocks(door):
    with door.client(Origin=door.url) as client:
        client.post("/sign-in", data={"username": "ada", "password": WORDS})
        fail(door.settings, "ada", 5)
        assert client.get("/api/jobs").status_code == 200
    with door.browser() as admin:
        assert admin.get("/api/users/ada").json()["locked_until"] > time.time()
        assert admin.post("/api/users/ada/unlock").json()["locked_until"] is None
    assert recognise(door.settings, "ada", WORDS)


def test_many_at_once_are_no_way_around_it(settings):
    for _ in range(5):
        lockout.enter(settings, "ada")  # none of them has been answered yet
    with pytest.raises(TooManyFailures):
        recognise(settings, "ada", WORDS)
    forgive(settings, "ada")
    assert recognise(settings, "ada", WORDS)


def test_made_up_names_do_not_fill_the_disk(settings):
    for number in range(20):
        lockout.enter(settings, f"name {number}")
    pass_time(90_000)
    lockout.enter(settings, "another")
    assert SignInFailures.select().count() == 1


def test_an_address_tries_only_so_many_names(door):
    with door.client() as client:
        answers = [
            client.post("/api/auth/login", json={"username": f"name{n}", "password": "wrong"})
            for n in range(51)
        ]
    assert {answer.status_code for answer in answers[:50]} == {401}
    assert answers[50].status_code == 429
    assert int(answers[50].headers["retry-after"]) > 0


def test_a_user_and_an_address_ask_only_so_often(make_settings):
    settings = make_settings(requests_per_minute=20, requests_per_minute_per_address=40)
    with served(settings) as door, door.tool() as client:
        statuses = [client.get("/api/auth/me").status_code for _ in range(21)]
        assert statuses == [200] * 20 + [429]
        answer = client.get("/api/jobs")
        assert answer.json()["title"] == "Too Many Requests"
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert "content-security-policy" in answer.headers
        with door.client() as stranger:
            statuses = [stranger.get("/api/jobs").status_code for _ in range(20)]
            assert statuses[0] == 401
            assert statuses[-1] == 429
            # Whoever watches the node is not held up by others.
            assert stranger.get("/healthz").status_code == 200


def test_a_viewer_is_not_held_up(door):
    with door.browser() as client:
        assert {client.get("/viewer/x").status_code for _ in range(600)} <= {200, 503}


def test_passwords_are_never_in_a_row(settings):
    fail(settings, PASSWORD, 1)
    assert PASSWORD.encode() not in settings.database_path.read_bytes()
