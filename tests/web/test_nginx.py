"""nginx before the node, as docs/nginx.conf has it: frames from Orthanc, where the node allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from nginx import NGINX, proxied
from test_storing import message, post, stored
from web_door import Door
from web_samples import SampleStudy, as_file, make_study
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from mrisr_node.people.tokens import create_token

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt: nginx-light)")

QUOTED = '"application/octet-stream"'
AS_OHIF = "multipart/related; type=application/octet-stream; transfer-syntax=*"


@pytest.fixture(scope="module")
def proxy(
    door: Door, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("nginx")
    with proxied(door.settings, folder, free_port()) as url:
        yield url, folder


@pytest.fixture
def tool(proxy: tuple[str, Path], door: Door) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {door.token}"}
    with httpx.Client(base_url=proxy[0], headers=headers, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def frame(study: SampleStudy) -> str:
    series = f"/dicom-web/studies/{study.study}/series/{study.source_uid}"
    return f"{series}/instances/{study.source[0].SOPInstanceUID}/frames/1"


def by_nginx(answer: httpx.Response) -> bool:
    """Tell who answered: the node gives a tag to each frame."""
    return answer.status_code == 200 and "etag" not in answer.headers


@pytest.mark.parametrize(
    "accept", ["*/*", AS_OHIF, AS_OHIF.replace("application/octet-stream", QUOTED)]
)
def test_frames_come_from_orthanc_itself(tool, frame, study, accept, proxy):
    answer = tool.get(frame, headers={"Accept": accept})
    assert by_nginx(answer)
    assert study.source[0].PixelData in answer.content
    # As the node would give it out, and no address of Orthanc.
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert f"Content-Location: {proxy[0]}/dicom-web/".encode() in answer.content


def test_what_nginx_does_not_do_the_node_does(tool, frame, study):
    for headers in (
        {"Accept": "application/octet-stream"},
        {"Accept": "*/*", "If-None-Match": '"x"'},
        {"Accept": "application/octet-stream", "Range": "bytes=0-9"},
    ):
        answer = tool.get(frame, headers=headers)
        assert answer.status_code in (200, 206)
        assert "etag" in answer.headers
    assert tool.get(f"{frame}?accept=application/octet-stream").content == study.source[0].PixelData
    assert "no such frame" in tool.get(frame.replace("frames/1", "frames/2")).json()["detail"]
    assert tool.get(frame, headers={"Accept": "text/html"}).status_code == 406
    assert tool.head(frame).headers["etag"]
    assert len(tool.get(f"/dicom-web/studies/{study.study}/series").json()) == 2
    image = make_study().source[0]
    assert stored(post(tool, message(as_file(image)))) == [image.SOPInstanceUID]


def test_who_may_not_gets_nothing(proxy, frame, door, tool):
    assert by_nginx(tool.get(frame))
    for authorization in ("", "Bearer mrisr_wrong", f"Bearer {door.token[:-1]}", "Basic eDp5"):
        headers = {"Authorization": authorization} if authorization else {}
        answer = httpx.get(proxy[0] + frame, headers=headers, trust_env=False)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
    # Somebody else's word is not his, nor one for another series.
    other = create_token("admin", "another")
    assert by_nginx(tool.get(frame, headers={"Authorization": f"Bearer {other}"}))
    with door.browser() as person:
        cookie = {"Cookie": f"mrisr-session={person.cookies['mrisr-session']}"}
    assert by_nginx(httpx.get(proxy[0] + frame, headers=cookie, trust_env=False))
    assert httpx.get(f"{proxy[0]}/mrisr_allowed", trust_env=False).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/dicom-web/studies/../series/1.2/instances/1.2/frames/1",
        "/dicom-web/studies/1.2/series/1.2/instances/../frames/1",
        "/x/../dicom-web/studies/%2e%2e/series/%2e%2e/instances/%2e%2e/frames/1",
        "/dicom-web/studies/1.2/series/1.2/instances/1..2/frames/1", "/instances", "/system",
        "/dicom-web/servers", "/dicom-web/../instances",
    ],
)  # fmt: skip
def test_nothing_else_of_orthanc_can_be_reached(tool, path):
    answer = tool.get(path)
    assert answer.status_code == 404
    assert "Orthanc" not in answer.text


def test_the_node_is_asked_once_for_a_series(tool, study, proxy):
    frames = [
        f"/dicom-web/studies/{study.study}/series/{study.result_uid}"
        f"/instances/{image.SOPInstanceUID}/frames/1"
        for image in study.result[:20]
    ]
    kept = proxy[1] / "allowed"
    before = len(list(kept.rglob("*")))
    assert all(by_nginx(tool.get(frame)) for frame in frames)
    assert len([path for path in kept.rglob("*") if path.is_file()]) >= 1
    assert len(list(kept.rglob("*"))) <= before + 2


def test_events_come_over_a_websocket(proxy, door):
    url = proxy[0].replace("http", "ws") + "/api/events/ws"
    headers = {"Authorization": f"Bearer {door.token}"}
    with connect(url, additional_headers=headers, proxy=None) as over:
        assert json.loads(over.recv(timeout=30))["event"] == "hello"
    with pytest.raises(InvalidStatus) as refused, connect(url, proxy=None):
        pass
    assert refused.value.response.status_code == 401
