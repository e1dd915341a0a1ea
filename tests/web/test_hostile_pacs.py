"""What must not be believed of the PACS, and what must not reach it; and a node's own limits."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import pytest
from test_storing import message, post
from test_upstream import FakePacs, reply
from web_door import Door, flat_memory, served
from web_samples import as_file, make_study

from mrisr_node.settings import Settings

MiB = 1024**2

Before = Callable[..., AbstractContextManager[tuple[Door, FakePacs]]]


@pytest.fixture
def before(make_settings: Callable[..., Settings]) -> Before:
    """Return a function that starts a door before a PACS that says one thing."""

    @contextmanager
    def start(said, **more: object) -> Iterator[tuple[Door, FakePacs]]:
        with closing(FakePacs(said)) as pacs:
            url = f"http://127.0.0.1:{pacs.port}"
            settings = make_settings(orthanc_url=url, orthanc_password="x", **more)
            with served(settings) as door:
                yield door, pacs

    return start


@pytest.mark.parametrize(
    ("status", "meant"),
    [
        ("200 OK", [502, 502, 502]),
        # For pixels it is asked in words that are the gateway's own.
        ("400 Bad Request", [400, 400, 502]),
        ("500 Internal", [502, 502, 502]),
    ],
)
def test_packed_answers_are_not_unpacked(before: Before, status: str, meant: list[int]):
    bomb = gzip.compress(bytes(256 * MiB))
    said = reply(status, bomb, "Content-Encoding: gzip", "Content-Type: application/json")
    with before(said) as (door, pacs), door.tool() as tool, flat_memory():
        paths = ("studies", "studies/1.2/metadata", "studies/1.2")
        for path, expected in zip(paths, meant, strict=True):
            answer = tool.get(f"/dicom-web/{path}", headers={"Accept-Encoding": "gzip"})
            assert answer.status_code == expected
            assert len(answer.content) < 1000
        file = as_file(make_study().source[0])
        assert post(tool, message(file)).status_code == 409
    assert all("accept-encoding: identity" in head.lower() for head in pacs.requests)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 1000, b"[{}]", b"{}", b"null", b"x", b""])
def test_odd_answers_to_a_store(before: Before, body: bytes):
    file = as_file(make_study().source[0])
    with before(reply("200 OK", body)) as (door, _), door.tool() as tool:
        answer = post(tool, message(file))
    assert answer.status_code == 409
    [failed] = answer.json()["00081198"]["Value"]
    assert failed["00081197"]["Value"] == [0x0110]


@pytest.mark.parametrize(
    "said",
    [
        reply("200 OK", b"x" * 10_000_000, "Content-Type: multipart/related; boundary=x"),
        reply("200 OK", b"--x\r\nContent-Type: a/b\r\n\r\n12", "Content-Type: multipart/related"),
        reply("200 OK", b"--x\r\nContent-Type: a/b\r\nContent-Length: 9\r\n\r\n12"),
        reply("200 OK", b"--x\r\nContent-Length: 2\r\n\r\n12"),
        reply("200 OK"),
    ],
)
def test_parts_that_are_none(before: Before, said: Callable):
    path = "/dicom-web/studies/1.2/series/1.3/instances/1.4"
    with before(said) as (door, _), door.tool() as tool:
        for part in ("", "/frames/1", "/bulk/7FE00010"):
            answer = tool.get(path + part)
            assert answer.status_code == 502
            assert answer.headers["content-type"] == "application/problem+json"


def test_paths_that_lead_elsewhere(before: Before):
    paths = (
        "%2e%2e/system", "%252e%252e/system", "%252e%252e%252fsystem", "..%252f..%252fsystem",
        "studies/%2e%2e%2f%2e%2e%2finstances", "studies/1.2%252f..%252f..", "studies/%c0%ae%c0%ae",
        "studies/1.2/%2e%2e/%2e%2e/%2e%2e/instances", "studies/1.2%00", "studies/1.2%0a",
        "studies/١.٢", "studies/1.2/series/1.2/instances/1.2/frames/１", "studies%0a",
    )  # fmt: skip
    with before(reply("200 OK", b"[]")) as (door, pacs), door.tool() as tool:
        for path in paths:
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                assert tool.request(method, f"/dicom-web/{path}").status_code in (400, 404), path
    assert pacs.requests == []


def test_a_part_that_is_larger_than_an_instance_may_be(before: Before):
    start = message(bytes(128) + b"DICM", end=b"")[:-2]
    with (
        before(reply("200 OK"), maximum_instance_bytes=MiB) as (door, pacs),
        door.tool() as tool,
        flat_memory(),
    ):
        content = (start, *[bytes(MiB)] * 200, b"\r\n--X-y--\r\n")
        answer = post(tool, iter(content))
        assert answer.status_code == 409
        assert answer.json()["0008119A"]["Value"][0]["00081197"]["Value"] == [0xA700]
        assert list((door.settings.data_dir / "stow").iterdir()) == []
    assert pacs.requests == []


def test_a_full_disk(before: Before):
    with before(reply("200 OK"), minimum_free_bytes=2**60) as (door, pacs), door.tool() as tool:
        answer = post(tool, message(as_file(make_study().source[0])))
        assert answer.json()["0008119A"]["Value"][0]["00081197"]["Value"] == [0xA700]
    assert pacs.requests == []


def test_a_pacs_that_is_down_is_no_fault_of_the_instances(make_settings):
    settings = make_settings(orthanc_url="http://127.0.0.1:9", orthanc_password="x")
    with served(settings) as door, door.tool() as tool:
        answer = post(tool, message(as_file(make_study().source[0])))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
