"""What happens, live, over real connections."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from web_door import Door, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from mrisr_node.people.tokens import create_token
from mrisr_node.records import ApiToken, Instance, Job, Series, State, Transition
from mrisr_node.web import events

MOST = 4


@pytest.fixture(scope="module")
def door(make_settings):
    with served(make_settings(maximum_event_streams=MOST)) as running:
        yield running


def add(uid: str) -> Series:
    return Series.create(series_instance_uid=uid, study_instance_uid="1.2", description="Müller")


class Stream:
    """Server-Sent Events as a browser reads them."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def next(self, *kinds: str) -> dict:
        """Return the next event of some kind, or of any but heartbeats."""
        event: dict = {}
        for line in self._lines:
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                continue
            if line:
                event[name] = json.loads(value) if name == "data" else value
            elif event and (not kinds or event["event"] in kinds):
                return event
            else:
                event = {}
        raise EOFError


@contextmanager
def followed(door: Door, token: str = "", last: str = "", **query) -> Iterator[Stream]:
    headers = {"Authorization": f"Bearer {token or door.token}"}
    if last:
        headers["Last-Event-ID"] = last
    with (
        httpx.Client(base_url=door.url, headers=headers, timeout=60, trust_env=False) as client,
        client.stream("GET", "/api/events", params=query) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield Stream(answer.iter_lines())
    drained(door)


def drained(door: Door) -> None:
    """Wait until nobody is counted any more who has left."""
    end = time.monotonic() + 30
    while (streams := open_streams(door)) > 0:
        assert time.monotonic() < end, streams
        time.sleep(0.05)


def open_streams(door: Door) -> int:
    return door.app.state.feed.streams


def test_what_happens_is_told_with_an_id_and_no_name(door):
    series = add("1.1")
    with followed(door) as stream:
        hello = stream.next()
        assert (hello["event"], hello["data"]) == ("hello", {})
        series.move(State.COMPLETE, "all 3 are here")
        event = stream.next("series")
    last = Transition.select().order_by(Transition.id.desc()).first()
    assert event["id"] == str(last.id)
    assert event["data"] == {
        "series": series.id, "source": "receiving", "target": "complete",
        "reason": "all 3 are here", "at": last.at,
    }  # fmt: skip


def test_who_comes_back_misses_nothing(door):
    series, other = add("2.1"), add("2.2")
    with followed(door) as stream:
        stream.next("hello")
        series.move(State.COMPLETE, "one")
        last = stream.next("series")["id"]
    series.move(State.SKIPPED, "two")
    other.move(State.COMPLETE, "three")
    for number in range(250):  # more than are read at one time
        Transition.create(series=other, source="queued", target="failed", reason=f"{number}", at=1)
    with followed(door, last=last) as stream:
        assert stream.next("hello")["id"] == last
        told = [stream.next("series")["data"]["reason"] for _ in range(252)]
    assert told == ["two", "three", *map(str, range(250))]
    with followed(door, last=last, series=series.id) as stream:
        assert stream.next("series")["data"]["reason"] == "two"
        series.move(State.RECEIVING, "four")
        assert stream.next("series")["data"]["reason"] == "four"
    # Of a database that was restored since: from now on.
    with followed(door, last="999999") as stream:
        assert int(stream.next("hello")["id"]) < 999999


def test_how_far_it_is_is_told_in_between(door):
    series = add("3.1")
    with followed(door, series=series.id) as stream:
        first = stream.next("progress")
        assert "id" not in first
        assert (first["data"]["state"], first["data"]["instances"]) == ("receiving", 0)
        Instance.create(series=series, sop_instance_uid="3.1.1", path="x", sha256="", size=1)
        assert stream.next("progress")["data"]["instances"] == 1
        for state in (State.COMPLETE, State.QUEUED, State.PREPARING):
            series.move(state)
        Job.create(
            series=series, recipe="native", stage="brain", progress=0.5, lease_owner="somebody"
        )
        told = stream.next("progress")["data"]
        # Handed on to another worker, which has no time yet.
        Job.update(stage="superresolve", progress=0.0, lease_owner=None).execute()
        waits = stream.next("progress")["data"]
        at = time.time() + 1000
        Series.update(reason="the PACS is down").where(Series.id == series.id).execute()
        Job.update(not_before=at).execute()
        while (put_off := stream.next("progress")["data"])["next_try_at"] is None:
            assert put_off["waiting_for"] == "gpu"
    assert (put_off["next_try_at"], put_off["waiting_for"]) == (at, None)
    assert put_off["reason"] == "the PACS is down"
    assert (told["waiting_for"], waits["waiting_for"]) == (None, "gpu")
    assert (told["stage_name"], told["progress"]) == ("Finding the brain", 0.5)
    assert told["overall"] == pytest.approx(1.5 / 8)
    assert told["time_left"]["seconds"] is None


def test_there_are_not_more_streams_than_allowed(door):
    with door.tool() as tool:
        streams = [tool.stream("GET", "/api/events") for _ in range(MOST)]
        opened = [stream.__enter__() for stream in streams]
        assert {answer.status_code for answer in opened} == {200}
        full = tool.get("/api/events")
        assert (full.status_code, full.headers["retry-after"]) == (503, "30")
        with websocket(door) as over, pytest.raises(ConnectionClosed) as closed:
            over.recv(timeout=30)
        assert closed.value.rcvd.code == 1013
        for stream in streams:
            stream.__exit__(None, None, None)
    drained(door)
    with followed(door) as stream:
        assert stream.next()["event"] == "hello"


def test_who_may_no_more_hears_no_more(door):
    token = create_token("admin", "short")
    with followed(door, token=token) as stream:
        stream.next("hello")
        ApiToken.delete().where(ApiToken.name == "short").execute()
        with pytest.raises(EOFError):
            stream.next("the end")


def test_who_may_not_read_hears_nothing(door):
    token = create_token("admin", "storing")
    ApiToken.update(scopes="store").where(ApiToken.name == "storing").execute()
    with door.client(Authorization=f"Bearer {token}") as client:
        assert client.get("/api/events").status_code == 403
    with door.client() as stranger:
        assert stranger.get("/api/events").status_code == 401
    for bad in ("", token):
        with pytest.raises(InvalidStatus) as refused, websocket(door, token=bad):
            pass
        assert refused.value.response.status_code == (403 if bad else 401)


def test_the_stream_is_in_the_api_document(door):
    with door.tool() as tool:
        stream = tool.get("/api/openapi.json").json()["paths"]["/api/events"]["get"]
    assert set(stream["responses"]["200"]["content"]) == {"text/event-stream"}
    assert {one["name"] for one in stream["parameters"]} == {"series", "last-event-id"}


def test_what_is_no_id_is_refused(door):
    with door.tool() as tool:
        for headers in ({"Last-Event-ID": "x"}, {"Last-Event-ID": "-1"}):
            assert tool.get("/api/events", headers=headers).status_code == 422
        assert tool.get("/api/events?series=x").status_code == 422


def websocket(door: Door, query: str = "", token: str | None = None):
    headers = {"Authorization": f"Bearer {door.token if token is None else token}"}
    if token == "":
        headers = {}
    url = door.url.replace("http", "ws") + f"/api/events/ws{query}"
    return connect(url, additional_headers=headers, proxy=None)


def to_the_end(over) -> None:
    while True:
        over.recv(timeout=30)


def test_the_same_over_a_websocket(door):
    series = add("4.1")
    with websocket(door) as over:
        hello = json.loads(over.recv(timeout=30))
        series.move(State.COMPLETE, "one")
        event = next(e for e in map(json.loads, over) if e["event"] == "series")
        assert event["data"]["reason"] == "one"
    series.move(State.SKIPPED, "two")
    with websocket(door, f"?series={series.id}&last_event_id={event['id']}") as over:
        told = next(e for e in map(json.loads, over) if e["event"] == "series")
        assert told["data"]["reason"] == "two"
    assert hello["id"] < event["id"] < told["id"]
    drained(door)


def test_a_websocket_ends_with_the_permission(door):
    token = create_token("admin", "brief")
    with websocket(door, token=token) as over:
        over.recv(timeout=30)
        ApiToken.delete().where(ApiToken.name == "brief").execute()
        with pytest.raises(ConnectionClosed) as closed:
            to_the_end(over)
    assert closed.value.rcvd.code == 1008
    drained(door)


def test_who_does_not_read_holds_nobody_up_and_is_cut_off(door, monkeypatch):
    monkeypatch.setattr(events, "_PATIENCE", 1.0)
    series = add("5.1")
    first = Transition.select().count()
    words = "x" * 2000
    with socket.create_connection(("127.0.0.1", door.settings.web_port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(
            f"GET /api/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.token}\r\n"
            "Last-Event-ID: 0\r\n\r\n".encode()
        )
        Transition.insert_many(
            {"series": series.id, "source": "a", "target": "b", "reason": words, "at": 1.0}
            for _ in range(5000)
        ).execute()
        with followed(door, last=str(first), series=series.id) as stream:
            for _ in range(5000):
                assert stream.next("series")["data"]["reason"] == words
        drained(door)  # the deaf one, too
    Transition.delete().where(Transition.reason == words).execute()


def test_the_end_of_the_server_ends_them(make_settings):
    ended = threading.Event()

    def listen(door: Door) -> None:
        with followed(door) as stream:
            stream.next("hello")
            ready.set()
            try:
                while True:
                    stream.next()
            except EOFError:
                ended.set()

    with ExitStack() as stack:
        with served(make_settings()) as door:
            ready = threading.Event()
            thread = threading.Thread(target=listen, args=(door,))
            thread.start()
            assert ready.wait(30)
            over = stack.enter_context(websocket(door))
            over.recv(timeout=30)
        # It was whole to its end: nothing was cut off.
        assert ended.wait(30)
        thread.join()
        with pytest.raises(ConnectionClosed) as closed:
            to_the_end(over)
    assert closed.value.rcvd.code in (1001, 1012)
