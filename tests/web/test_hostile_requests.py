"""Requests that are meant to do harm get an error, and cost the node nothing."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, repeat

import httpx
import pytest
from pydicom.uid import generate_uid
from test_storing import KIND, message, post, stored
from test_upstream import FakePacs
from web_door import Door, flat_memory
from web_samples import as_file, make_study

from mrisr_node.web import storing

MiB = 1024**2
STORE = f"POST /dicom-web/studies HTTP/1.1\r\nContent-Type: {KIND}"


@pytest.fixture
def tool(door: Door) -> Iterator[httpx.Client]:
    with door.tool() as client:
        yield client


def raw(door: Door, head: str, pieces: Iterator[bytes] = iter(())) -> bytes:  # noqa: B008
    """Send what no client would, until it is answered; return the first line of the answer."""
    with closing(socket.create_connection(("127.0.0.1", door.settings.web_port), 30)) as peer:
        peer.sendall(f"{head}\r\nHost: x\r\nAuthorization: Bearer {door.token}\r\n".encode())
        peer.setblocking(False)
        answer = b""
        for piece in chain([b""], pieces):
            try:
                view = memoryview(piece)
                while view:
                    try:
                        view = view[peer.send(view) :]
                    except BlockingIOError:
                        time.sleep(0.001)
                    answer = _arrived(peer)
                    if answer:
                        return answer
            except OSError:
                break
        peer.settimeout(60)
        with closing(peer.makefile("rb")) as file:
            return answer or file.readline()


def _arrived(peer: socket.socket) -> bytes:
    try:
        return peer.recv(4096).partition(b"\r\n")[0]
    except BlockingIOError:
        return b""


def test_a_length_of_4_gib(door):
    with flat_memory():
        head = (
            f"POST /dicom-web/studies HTTP/1.1\r\nContent-Type: {KIND}\r\nContent-Length: {2**32}"
        )
        for method in (
            head,
            head.replace(str(2**32), str(2**64)),
            head.replace(str(2**32), "9" * 18),
        ):
            assert b" 413 " in raw(door, method, iter([b"\r\n"]))


def test_a_body_without_end(door, monkeypatch):
    with flat_memory():
        monkeypatch.setattr(storing, "LARGEST_STORE", 200 * MiB)
        head = f"{STORE}\r\nTransfer-Encoding: chunked"
        piece = b"%x\r\n%s\r\n" % (MiB, bytes(MiB))
        start = b"--X-y\r\n\r\n"
        first = b"\r\n%x\r\n%s\r\n" % (len(start), start)
        assert b" 413 " in raw(door, head, chain([first], repeat(piece)))


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        (repeat(b"X-Long: " + b"x" * 65536), 400),
        (repeat(b"A: b\r\n" * 10_000), 400),
        (repeat(b"\r\n--X-y\r\n\r\n" * 1000), 413),
        (repeat(b"\r\n--X-y\r\nA: b\r\n\r\nx" * 1000), 413),
        (repeat(b"no boundary anywhere " * 1000), 400),
    ],
)
def test_messages_of_too_much(tool, pieces, status):
    with flat_memory():

        def content() -> Iterator[bytes]:
            yield b"--X-y\r\n"
            yield from (next(pieces) for _ in range(2000))

        answer = post(tool, content())
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


def test_packed_bodies_are_not_unpacked(tool):
    with flat_memory():
        bomb = gzip.compress(bytes(256 * MiB))
        for encoding in ("gzip", "deflate", "br", "gzip, gzip"):
            answer = post(tool, bomb, **{"Content-Encoding": encoding})
            assert answer.status_code == 415
            assert answer.headers["accept-encoding"] == "identity"


def test_deep_json(tool):
    with flat_memory():
        deep = b"[" * 10_000_000
        json = 'multipart/related; type="application/dicom+json"; boundary=X-y'
        for kind in (json, "application/dicom+json", "application/json"):
            assert post(tool, deep, **{"Content-Type": kind}).status_code == 415


def test_thousands_of_parameters_and_ranges(tool):
    query = "&".join(f"PatientID={n}" for n in range(2000))
    assert tool.get(f"/dicom-web/studies?{query}").status_code == 400
    assert tool.get(f"/dicom-web/studies?{query[:20_000]}").status_code == 400
    many = "bytes=" + ",".join(f"{n}-{n}" for n in range(5000))
    accept = ",".join(["application/dicom;q=0.1"] * 2000)
    for name, value in (("Accept", accept), ("Accept", '"' * 30_000), ("Range", many)):
        answer = tool.get("/dicom-web/studies/1.2/series/1.3/instances/1.4", headers={name: value})
        assert answer.status_code in (400, 404, 406, 431)


def test_a_body_that_comes_too_slowly(door, tool, monkeypatch):
    monkeypatch.setattr(storing, "_SILENCE", 0.3)
    head = f"{STORE}\r\nContent-Length: 1000"
    assert b" 408 " in raw(door, head, iter([b"\r\n--X-y\r\n"]))
    # Nor does a byte now and then help.
    monkeypatch.setattr(storing, "_SILENCE", 30.0)
    monkeypatch.setattr(storing, "_FIRST_SECONDS", 0.3)

    def drip() -> Iterator[bytes]:
        yield b"\r\n--X-y\r\n\r\n"
        while True:
            time.sleep(0.05)
            yield b"-"

    assert b" 408 " in raw(door, head, drip())
    assert list((door.settings.data_dir / "stow").iterdir()) == []


def test_too_many_at_one_time(door, tool):
    limiter = door.app.state.stores.slots
    held = [object() for _ in range(int(limiter.total_tokens))]
    for one in held:
        limiter.acquire_on_behalf_of_nowait(one)
    image = make_study().source[0]
    answer = post(tool, message(as_file(image)))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    for one in held:
        limiter.release_on_behalf_of(one)
    assert stored(post(tool, message(as_file(image)))) == [image.SOPInstanceUID]


def test_addresses_in_data_are_not_followed(door, tool):
    def never(peer: socket.socket) -> None:
        raise AssertionError

    with closing(FakePacs(never)) as stranger:
        image = make_study().source[0]
        image.RetrieveURL = image.RetrieveURI = f"http://127.0.0.1:{stranger.port}/x"
        image.StudyInstanceUID = generate_uid()
        assert post(tool, message(as_file(image))).status_code == 200
        study = f"/dicom-web/studies/{image.StudyInstanceUID}"
        for path in (study, f"{study}/metadata", f"{study}/series", f"{study}/rendered"):
            assert tool.get(path).status_code == 200
        found = tool.get(f"{study}/series").text
        assert str(stranger.port) not in found
    assert stranger.requests == []
