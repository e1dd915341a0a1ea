"""What cannot be recorded is not done: with an audit trail that really cannot be written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
from web_door import Door, served

from mrisr_node.people import audit
from mrisr_node.people.access_tokens import begin_api_session
from mrisr_node.people.audit import UNKNOWN, Action, Announced, AuditRow
from mrisr_node.people.tokens import token_key, tokens_of
from mrisr_node.people.users import find_user
from mrisr_node.records import Job, Series, State, User
from mrisr_node.settings import Settings

ADA = {"username": "ada", "role": "viewer"}


@pytest.fixture
def settings(make_settings) -> Settings:
    return make_settings()


@contextmanager
def door_with(settings: Settings, **pragmas: int) -> Iterator[Door]:
    """A front door whose connections to the audit trail are so limited."""
    with served(settings) as door:
        # Before the first request: each thread that answers opens a connection of its own.
        for name, value in pragmas.items():
            audit._database.pragma(name, value, permanent=True)
        yield door


@contextmanager
def signed_in(door: Door) -> Iterator[httpx.Client]:
    """An administrator who signed in while that could still be recorded."""
    grant = begin_api_session(door.settings, find_user("admin"))
    with door.client(Authorization=f"Bearer {grant.access_token}") as client:
        yield client


def refused(answer: httpx.Response, words: str) -> None:
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def running_job() -> Job:
    series = Series.create(
        series_instance_uid="1.1", study_instance_uid="1", state=State.PREPARING.value
    )
    return Job.create(series=series, recipe="native", stage="brain")


def fill(settings: Settings) -> int:
    """Leave no room for another row in the pages that the file has; return how many these are."""
    facts = "at, username, role, means, address, action, method, resource, query, patient_id"
    row = f"INSERT INTO audit ({facts}, study_uid, series_uid, status) VALUES (1e12, 'admin'"
    with closing(sqlite3.connect(settings.audit_path)) as file:
        [pages] = file.execute("PRAGMA page_count").fetchone()
        file.execute(f"PRAGMA max_page_count = {pages}")

        def add(words: str) -> None:
            file.execute(f"{row}, '', '', '', '', '', ?, '', '', '', '', 0)", [words])
            file.commit()

        for words in ("x" * 500, ""):
            with pytest.raises(sqlite3.OperationalError, match="full"):
                [add(words) for _ in range(10_000)]
    return pages


def test_nothing_is_changed_without_a_row(settings):
    with door_with(settings, query_only=1) as door, signed_in(door) as client:
        job = running_job()
        [token] = tokens_of("admin")
        for method, path, body in (
            ("POST", "/api/users", ADA),
            ("PATCH", "/api/users/admin", {"disabled": False}),
            ("POST", "/api/auth/tokens", {"name": "new"}),
            ("DELETE", f"/api/auth/tokens/{token_key(token)}", None),
            ("POST", f"/api/jobs/{job.id}/cancel", None),
            ("POST", "/api/auth/logout", None),
        ):
            refused(client.request(method, path, json=body), "nothing is shown or changed")
        assert [user.username for user in User.select()] == ["admin"]
        assert tokens_of("admin") == [token]
        assert Series.get_by_id(job.series_id).state == State.PREPARING.value
        # What is read is not shown either, and the session is still there.
        refused(client.get("/api/jobs"), "nothing is shown or changed")
        assert client.get("/api/auth/me").status_code == 200
    with served(settings) as door, signed_in(door) as client:
        assert client.post("/api/users", json=ADA).status_code == 201
        assert client.post(f"/api/jobs/{job.id}/cancel").json()["state"] == "cancelled"
    assert [row.resource for row in AuditRow.select()] == [
        "/api/users",
        f"/api/jobs/{job.id}/cancel",
    ]
    assert not Announced.select().exists()


def test_a_change_whose_outcome_is_lost_is_a_row_all_the_same(settings):
    with served(settings):
        pass
    pages = fill(settings)
    filled = AuditRow.select().count()
    with door_with(settings, max_page_count=pages) as door, signed_in(door) as client:
        refused(client.post("/api/users", json=ADA), "look whether it was done")
        assert User.get(User.username == "ada")
        assert AuditRow.select().count() == filled
        # From now on nothing: what is announced must not grow without end.
        bob = {"username": "bob", "role": "viewer"}
        refused(client.post("/api/users", json=bob), "nothing is shown or changed")
        assert User.get_or_none(User.username == "bob") is None
    with served(settings) as door, signed_in(door) as client:
        assert client.post("/api/users", json=bob).status_code == 201
    lost, made = AuditRow.select().where(AuditRow.id > filled).order_by(AuditRow.id)
    for row, status in ((lost, UNKNOWN), (made, 201)):
        assert (row.action, row.resource, row.status) == (Action.USERS, "/api/users", status)
        assert (row.username, row.means, row.address) == ("admin", "access token", "127.0.0.1")
    assert lost.at < made.at


def test_what_the_process_did_not_live_to_tell_is_told_by_the_next(settings):
    with served(settings):
        # As one that was killed leaves it.
        row = {"at": 5.0, "action": "Import", "username": "ada", "status": UNKNOWN}
        Announced.create(facts=json.dumps(row))
    with served(settings) as door, signed_in(door) as client:
        assert client.get("/api/audit").json()["total"] == 0
        assert client.post("/api/jobs/7/cancel").status_code == 404
        found = client.get("/api/audit").json()["items"]
        assert ">unknown</span>" in client.get("/audit").text
    assert [(row["username"], row["at"], row["status"]) for row in found if row["at"] < 9] == [
        ("ada", 5.0, 0)
    ]
    assert not Announced.select().exists()
