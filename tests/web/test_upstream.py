"""What the gateway tells the PACS, and what it makes of a PACS that misbehaves."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from web_door import Door, served

FRAMES = "/dicom-web/studies/1.2/series/1.3/instances/1.4/frames/1"


class FakePacs:
    """Answers each request by a script and keeps what it was sent."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self.broken = threading.Event()
        """Set when the other side hung up while we were sending."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(20)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += peer.recv(65536)
                self.requests.append(head.decode("latin-1"))
                try:
                    self._answer(peer)
                except OSError:
                    self.broken.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)


def reply(status: str, body: bytes = b"", *headers: str) -> Callable[[socket.socket], None]:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return lambda peer: peer.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@pytest.fixture
def before(make_settings) -> Callable[..., Iterator[tuple[Door, FakePacs]]]:
    @contextmanager
    def start(answer, **more):
        with closing(FakePacs(answer)) as pacs:
            url = f"http://127.0.0.1:{pacs.port}"
            settings = make_settings(orthanc_url=url, orthanc_password="of-the-pacs", **more)
            with served(settings) as door:
                yield door, pacs

    return start


def test_the_pacs_is_told_only_what_it_needs(before):
    with before(reply("200 OK", b"[]", "Set-Cookie: a=b", "Server: Orthanc")) as (door, pacs):
        with door.browser() as client:
            answer = client.get(
                "/dicom-web/studies?limit=1&PatientName=A%26B",
                headers={
                    "Accept": "application/dicom+json", "X-Forwarded-For": "1.2.3.4",
                    "TE": "trailers", "Proxy-Authorization": "Basic xxx", "X-Secret": "1",
                },
            )  # fmt: skip
            session = client.cookies["mrisr-session"]
        with door.tool() as tool:
            tool.get(FRAMES)
    assert answer.json() == []
    # Neither way: what the PACS sets for us stays here.
    assert "set-cookie" not in answer.headers
    assert "Orthanc" not in str(answer.headers)
    first, second = pacs.requests
    assert first.startswith("GET /dicom-web/studies?limit=1&PatientName=A?B HTTP/1.1\r\n")
    basic = base64.b64encode(b"mrisr:of-the-pacs").decode()
    for head in (first, second):
        names = {line.partition(":")[0].lower() for line in head.split("\r\n")[1:] if line}
        assert names <= {
            "host", "accept", "accept-encoding", "authorization", "forwarded", "connection",
            "user-agent",
        }  # fmt: skip
        assert f"Basic {basic}" in head
        assert session not in head
        assert door.token not in head
        assert f"host=127.0.0.1:{door.settings.web_port};proto=http" in head
    assert "of-the-pacs" not in answer.text + str(answer.headers)
    assert "transfer-syntax=*" in second


def test_dots_in_place_of_uids_never_reach_the_pacs(before):
    # Raw: every client of HTTP would take the dots out of the address by itself.
    paths = (
        "studies/..", "studies/../series/..", "studies/1.2/series/../instances/..",
        "studies/1.2/series/..", "studies/./series/1.3", "studies/%2e%2e/series/%2e%2e",
        "studies/../series/../instances/../frames/1", "studies/1..2",
    )  # fmt: skip
    with before(reply("200 OK", b"[]")) as (door, pacs):
        for method in ("GET", "POST"):
            for path in paths:
                with socket.create_connection(("127.0.0.1", door.settings.web_port), 10) as peer:
                    peer.sendall(
                        f"{method} /dicom-web/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
                        f"Authorization: Bearer {door.token}\r\nConnection: close\r\n\r\n".encode()
                    )
                    status = peer.makefile("rb").readline().split()[1]
                assert status in (b"400", b"404"), (method, path)
        assert pacs.requests == []


def test_queries_are_put_as_orthanc_understands_them(before):
    asked = {
        "includefield=00081030%2C00080060": "includefield=00081030,00080060",
        "PatientName=%2AM%C3%BCller%5EJ%C3%B6rg+x%2A": "PatientName=*M*ller^J*rg?x*",
        "StudyDate=20260101-20260102&limit=5": "StudyDate=20260101-20260102&limit=5",
        "x%0d%0aEvil=1&PatientID=1%0d%0aEvil:%201": "PatientID=1??Evil:?1",
        "00100010=a%2525%23": "00100010=a?25?",
        "StudyInstanceUID=1.2%5C1.3&AccessionNumber=": "StudyInstanceUID=1.2,1.3&AccessionNumber=",
    }
    with before(reply("200 OK", b"[]")) as (door, pacs), door.tool() as tool:
        for query in asked:
            assert tool.get(f"/dicom-web/studies?{query}").status_code == 200
    lines = [head.split(" HTTP")[0].partition("?")[2] for head in pacs.requests]
    assert lines == list(asked.values())


def test_addresses_lead_to_the_public_name(before):
    public = "https://node.example:8443"
    with before(reply("200 OK", b"[]"), public_url=public) as (door, pacs), door.tool() as tool:
        tool.get("/dicom-web/studies", headers={"Host": "evil.example"})
        tool.get("/dicom-web/studies", headers={"X-Forwarded-Host": "evil.example"})
    assert all("host=node.example:8443;proto=https" in head for head in pacs.requests)
    assert not any("evil" in head for head in pacs.requests)


@pytest.mark.parametrize(
    ("said", "status", "text"),
    [
        (reply("401 Unauthorized", b"", "WWW-Authenticate: Basic"), 502, "orthanc_password"),
        (reply("500 Internal", b'{"Message": "Disk full", "Details": "Doe"}'), 502, "Disk full"),
        (reply("400 Bad", b'{"Message": "Bad file", "OrthancStatus": 15}'), 502, "Bad file"),
        (reply("500 Internal", b'{"OrthancStatus": [], "Message": {}}'), 502, "failed"),
        (reply("500 Internal", b"<html>"), 502, "failed"),
        (reply("302 Found", b"", "Location: http://evil.example/"), 502, "failed"),
        (reply("400 Bad Request", b'{"Message": "Bad filter"}'), 400, "Bad filter"),
        (lambda peer: None, 503, "Orthanc running"),
        (lambda peer: peer.sendall(b"nonsense\r\n\r\n"), 503, "Orthanc running"),
    ],
)
def test_failures_of_the_pacs_are_explained(before, said, status, text):
    with before(said) as (door, _pacs), door.tool() as tool:
        answer = tool.get("/dicom-web/studies")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert text in answer.json()["detail"]
    assert "Doe" not in answer.text
    assert "location" not in answer.headers
    assert "www-authenticate" not in answer.headers


def test_a_pacs_that_is_down(make_settings):
    with served(make_settings()) as door, door.tool() as tool:
        answer = tool.get("/dicom-web/studies")
        assert answer.status_code == 503
        assert "Orthanc" in answer.json()["detail"]
        assert tool.get("/api/jobs").status_code == 200


def endless(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/related; boundary=x\r\n\r\n")
    while True:
        peer.sendall(bytes(65536))
        time.sleep(0.002)


def test_answers_are_streamed_and_end_when_the_client_goes(before):
    with before(endless) as (door, pacs):
        with door.tool() as tool, tool.stream("GET", "/dicom-web/studies/1.2") as answer:
            # It begins to come although it never ends.
            assert len(next(answer.iter_raw(1024))) == 1024
            assert not pacs.broken.is_set()
        assert pacs.broken.wait(15)


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(before):
    with before(reply("200 OK")) as (door, pacs):
        here = ("127.0.0.1", door.settings.web_port)
        head = (
            f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.token}\r\n"
            f"Content-Length: {2**32}\r\n\r\n"
        )
        with closing(socket.create_connection(here, 10)) as peer:
            peer.sendall(head.encode())
            assert b" 413 " in peer.makefile("rb").readline()
    assert pacs.requests == []
