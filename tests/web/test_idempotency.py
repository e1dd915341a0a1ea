"""The same request again, over a real connection, to a route that counts what it made."""

from __future__ import annotations

import threading
import uuid

import pytest
from fastapi import APIRouter, HTTPException
from peewee import OperationalError
from pydantic import BaseModel
from starlette.responses import JSONResponse
from web_door import served

from mrisr_node.people.roles import Permission
from mrisr_node.people.tokens import create_token
from mrisr_node.records import ApiToken, IdempotencyKey, database
from mrisr_node.web.idempotency import IdempotentRoute
from mrisr_node.web.permissions import allow

TABLE = IdempotencyKey._meta.table_name

made: list[str] = []
hold = threading.Event()
entered = threading.Event()


class Order(BaseModel):
    what: str


@pytest.fixture(scope="module")
def door(make_settings):
    router = APIRouter(route_class=IdempotentRoute, dependencies=[allow(Permission.OPERATE)])

    @router.post("/api/orders", status_code=201)
    def order(order: Order) -> dict[str, int]:
        if order.what == "slow":
            entered.set()
            hold.wait(30)
        if order.what == "refused":
            raise HTTPException(409, "not now")
        made.append(order.what)
        if order.what == "locked":
            raise OperationalError("database is locked")
        if order.what == "mistaken":
            raise KeyError(order.what)
        if order.what == "unwritable":
            database.execute_sql(f"ALTER TABLE {TABLE} RENAME TO away")
        return {"number": len(made)}

    @router.post("/api/elsewhere")
    def elsewhere() -> JSONResponse:
        made.append("elsewhere")
        return JSONResponse({}, 202, {"Location": f"/api/orders/{len(made)}"})

    with served(make_settings()) as running:
        running.app.include_router(router)
        running.app.openapi_schema = None
        yield running


@pytest.fixture
def tool(door):
    made.clear()
    with door.tool() as client:
        yield client


def post(client, what, key, path="/api/orders"):
    return client.post(path, json={"what": what}, headers={"Idempotency-Key": key} if key else {})


def test_a_request_that_comes_again_creates_nothing(tool):
    key = uuid.uuid4().hex
    first, again = post(tool, "tea", key), post(tool, "tea", key)
    assert (first.status_code, first.json()) == (201, {"number": 1})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert post(tool, "tea", uuid.uuid4().hex).json() == {"number": 2}
    assert post(tool, "tea", None).json() == {"number": 3}


def test_where_to_look_is_part_of_the_answer(tool):
    key = uuid.uuid4().hex
    first, again = (post(tool, "", key, "/api/elsewhere") for _ in range(2))
    assert first.headers["location"] == again.headers["location"] == "/api/orders/1"


def test_a_key_with_another_request_is_refused(tool):
    key = uuid.uuid4().hex
    post(tool, "tea", key)
    other = post(tool, "coffee", key)
    assert (other.status_code, "choose a new one" in other.json()["detail"]) == (422, True)
    assert post(tool, "tea", key, "/api/elsewhere").status_code == 422
    assert made == ["tea"]


def test_a_key_is_its_users_own_and_of_what_they_may_do(tool, door):
    key = uuid.uuid4().hex
    post(tool, "tea", key)
    narrow = create_token("admin", "narrow")
    ApiToken.update(scopes="read").where(ApiToken.name == "narrow").execute()
    with door.client(Authorization=f"Bearer {narrow}") as client:
        assert post(client, "tea", key).status_code == 403
    assert made == ["tea"]


def test_what_was_refused_can_be_asked_again(tool):
    key = uuid.uuid4().hex
    assert post(tool, "refused", key).status_code == 409
    assert post(tool, "tea", key).status_code == 201


def test_two_at_once_create_one(tool, door):
    key = uuid.uuid4().hex
    answers = []
    with door.tool() as other:
        thread = threading.Thread(target=lambda: answers.append(post(other, "slow", key)))
        thread.start()
        assert entered.wait(30)
        early = post(tool, "slow", key)
        hold.set()
        thread.join()
    assert (early.status_code, early.headers["retry-after"]) == (409, "1")
    assert answers[0].status_code == 201
    assert post(tool, "slow", key).content == answers[0].content
    assert made == ["slow"]


def told_to_look(answer) -> bool:
    return answer.status_code == 409 and "look whether it was done" in answer.json()["detail"]


def test_what_a_process_that_died_left_is_not_done_again(tool):
    key = uuid.uuid4().hex
    post(tool, "tea", key)
    IdempotencyKey.update(status=None).execute()
    again = post(tool, "tea", key)
    assert told_to_look(again)
    assert "retry-after" not in again.headers
    assert post(tool, "coffee", key).status_code == 422
    assert made == ["tea"]


@pytest.mark.parametrize(
    ("what", "status", "words"), [("locked", 503, "look whether"), ("mistaken", 500, "log says")]
)
def test_what_failed_after_it_was_made_is_not_made_again(tool, door, what, status, words):
    key = uuid.uuid4().hex
    with door.tool() as other:  # the server ends the connection on which it made a mistake
        first = post(other, what, key)
    assert (first.status_code, words in first.json()["detail"]) == (status, True)
    assert told_to_look(post(tool, what, key))
    assert made == [what]


def test_an_answer_that_cannot_be_remembered_is_given_once(tool):
    key = uuid.uuid4().hex
    try:
        first = post(tool, "unwritable", key)
    finally:
        database.execute_sql(f"ALTER TABLE away RENAME TO {TABLE}")
    assert first.status_code == 201
    assert told_to_look(post(tool, "unwritable", key))
    assert made == ["unwritable"]


def test_a_key_is_forgotten_after_a_day(tool):
    key = uuid.uuid4().hex
    post(tool, "tea", key)
    IdempotencyKey.update(at=IdempotencyKey.at - 90_000).execute()
    assert post(tool, "tea", key).json() == {"number": 2}
    assert IdempotencyKey.select().count() == 1


def test_a_key_that_is_none(tool):
    assert post(tool, "tea", "x" * 256).status_code == 422


def test_the_header_is_in_the_api_document(tool):
    paths = tool.get("/api/openapi.json").json()["paths"]
    names = [p["name"] for p in paths["/api/orders"]["post"]["parameters"]]
    assert names == ["Idempotency-Key"]
