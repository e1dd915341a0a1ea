"""What is created over HTTP: once, though the request comes twice, and where it is then."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from given_samples import stored
from tus_client import TUS, Sender
from web_door import served

from mrisr_node.people.access_tokens import begin_api_session
from mrisr_node.people.roles import Role
from mrisr_node.people.sign_in import recognise
from mrisr_node.people.tokens import tokens_of
from mrisr_node.people.users import find_user
from mrisr_node.records import IdempotencyKey, Upload, User

WORDS = "a few words of hers"


@pytest.fixture(scope="module")
def door(make_settings):
    with served(make_settings(minimum_free_bytes=0)) as running:
        yield running


@pytest.fixture
def person(door):
    """An administrator who has signed in."""
    grant = begin_api_session(door.settings, find_user("admin"))
    with door.client(Authorization=f"Bearer {grant.access_token}") as client:
        yield client


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


@pytest.fixture
def name() -> str:
    return f"ada-{uuid.uuid4().hex[:8]}"


def told_before(answer: httpx.Response, words: str) -> None:
    assert (answer.status_code, answer.headers["idempotency-replayed"]) == (409, "true")
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def records_hold(door, *secrets: str) -> bool:
    files = door.settings.data_dir.glob("records.sqlite*")
    held = b"".join(path.read_bytes() for path in files)
    return any(secret.encode() in held for secret in secrets)


def test_a_user_is_made_once_and_the_password_shown_once(door, person, key, name):
    wanted = {"username": name, "role": "viewer"}
    made, again = (person.post("/api/users", json=wanted, headers=key) for _ in range(2))
    assert made.status_code == 201
    password = made.json()["password"]
    told_before(again, "POST to /api/users/{username}/password")
    assert password not in again.text
    assert not records_hold(door, password)
    # The control: the search finds what the records do hold.
    assert records_hold(door, name)
    assert recognise(door.settings, name, password)
    other = wanted | {"role": "operator"}
    assert person.post("/api/users", json=other, headers=key).status_code == 422
    assert find_user(name).role == Role.VIEWER


@pytest.mark.parametrize("more", [{"role": "viewer", "password": WORDS}, {"role": "service"}])
def test_where_no_secret_is_answered_the_answer_comes_again(door, person, key, name, more):
    wanted = {"username": name, **more}
    made, again = (person.post("/api/users", json=wanted, headers=key) for _ in range(2))
    assert (made.status_code, again.status_code) == (201, 201)
    assert made.content == again.content == b'{"password":""}'
    assert made.headers["location"] == again.headers["location"] == f"/api/users/{name}"
    assert again.headers["idempotency-replayed"] == "true"
    assert not records_hold(door, WORDS)


def test_a_password_is_reset_once(door, person, key, name):
    person.post("/api/users", json={"username": name, "role": "viewer"})
    path = f"/api/users/{name}/password"
    made, again = (person.post(path, headers=key) for _ in range(2))
    told_before(again, "another Idempotency-Key")
    assert recognise(door.settings, name, made.json()["password"])
    assert not records_hold(door, made.json()["password"])


def test_a_token_is_made_once_and_shown_once(door, person, key, name):
    wanted = {"name": name}
    made, again = (person.post("/api/auth/tokens", json=wanted, headers=key) for _ in range(2))
    assert made.status_code == 201
    told_before(again, "revoke it")
    assert [token.name for token in tokens_of("admin")].count(name) == 1
    assert not records_hold(door, made.json()["token"])
    with door.client(Authorization=f"Bearer {made.json()['token']}") as tool:
        assert tool.get("/api/auth/me").status_code == 200
        # A token makes none, whatever was answered to its user.
        assert tool.post("/api/auth/tokens", json=wanted, headers=key).status_code == 403
    other = {"name": f"{name}'s"}
    assert person.post("/api/auth/tokens", json=other, headers=key).status_code == 422


def test_an_upload_is_begun_once(door, key):
    headers = {**TUS, "Upload-Length": "9", "Upload-Metadata": "filename aGVhZC5uaWk=", **key}
    with door.tool() as client:
        before = Upload.select().count()
        made, again = (client.post("/api/uploads", headers=headers) for _ in range(2))
        assert (made.status_code, again.status_code) == (201, 201)
        for header in ("location", "tus-resumable", "upload-expires"):
            assert made.headers[header] == again.headers[header]
        assert again.headers["idempotency-replayed"] == "true"
        assert Upload.select().count() == before + 1
        assert Sender(client).put(again.headers["location"], 0, b"123456789").status_code == 204
        # What is asked for stands in the headers.
        for other in ({"Upload-Length": "10"}, {"Upload-Metadata": "filename eC5uaWk="}):
            assert client.post("/api/uploads", headers=headers | other).status_code == 422
        refused = headers | {"Idempotency-Key": uuid.uuid4().hex, "Upload-Length": "0"}
        assert client.post("/api/uploads", headers=refused).status_code == 400
        assert client.post("/api/uploads", headers=refused | {"Upload-Length": "8"}).is_success


@pytest.mark.parametrize("what", ["user", "token", "upload"])
def test_two_at_once_create_one(door, person, key, name, what):
    path, json, more = {
        "user": ("/api/users", {"username": name, "role": "viewer"}, {}),
        "token": ("/api/auth/tokens", {"name": name}, {}),
        "upload": ("/api/uploads", None, {**TUS, "Upload-Length": "77"}),
    }[what]
    before = Upload.select().count()
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: person.post(path, json=json, headers=key | more), range(4))
        )
    made = [one for one in answers if one.status_code == 201]
    late = [one for one in answers if one.status_code == 409]
    assert len(made) + len(late) == 4
    assert len([one for one in made if "idempotency-replayed" not in one.headers]) == 1
    assert len({one.headers.get("location") for one in made}) == 1
    assert Upload.select().count() - before == (what == "upload")
    assert User.select().where(User.username == name).count() == (what == "user")
    assert [token.name for token in tokens_of("admin")].count(name) == (what == "token")


def test_what_was_made_is_where_the_answer_says(door, person, name):
    files = [stored(door.settings).key]
    item = {"file": files[0]}
    for path, body, status in (
        ("/api/users", {"username": name, "role": "viewer"}, 201),
        ("/api/inference", item, 202),
        ("/api/inference/batch", {"items": [item]}, 202),
        ("/api/pairs", {"files": files, "contrast": "T1w"}, 202),
    ):
        made = person.post(path, json=body)
        assert made.status_code == status, made.text
        found = person.get(made.headers["location"])
        assert found.status_code == 200
        same = "username" if path == "/api/users" else "id"
        assert found.json()[same] == (body | made.json())[same]
    begun = person.post("/api/uploads", headers={**TUS, "Upload-Length": "9"})
    assert person.get(begun.headers["location"]).json()["size"] == 9


def test_the_api_document_says_so(person):
    """Of every POST that creates; DICOM instances have names of their own."""
    paths = person.get("/api/openapi.json").json()["paths"]
    made = {
        path: item["post"]
        for path, item in paths.items()
        if {"201", "202"} & item.get("post", {}).get("responses", {}).keys()
    }
    ours = {path: post for path, post in made.items() if not path.startswith("/dicom-web")}
    assert ours.keys() == {
        "/api/users", "/api/auth/tokens", "/api/uploads", "/api/jobs", "/api/inference",
        "/api/inference/batch", "/api/pairs",
    }  # fmt: skip
    for path, post in ours.items():
        names = [one["name"] for one in post["parameters"]]
        assert names.count("Idempotency-Key") == 1, path
        assert {"409", "422"} <= post["responses"].keys()
        told = post["responses"].get("201") or post["responses"]["202"]
        # Of one token nothing can be asked; they are listed.
        assert ("Location" in told.get("headers", {})) == (path != "/api/auth/tokens")


def test_signing_in_takes_no_key(door, key):
    """Each sign-in is a session of its own, and its tokens are written down nowhere."""
    before = IdempotencyKey.select().count()
    with door.client() as client:
        right = {"username": "admin", "password": "correct horse battery staple"}
        first, again = (client.post("/api/auth/login", json=right, headers=key) for _ in range(2))
    assert first.json()["refresh_token"] != again.json()["refresh_token"]
    assert IdempotencyKey.select().count() == before
