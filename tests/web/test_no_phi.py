"""Patients' names, IDs and accession numbers stay out of logs, errors and addresses.

They are planted in a study and in requests, right ones and wrong ones, and then searched for in all
that the front door and the PACS wrote. The same search finds them where they may be: in the images
that were asked for, and in the audit trail.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from web_door import PASSWORD
from web_samples import SampleStudy, as_file, make_study

from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import ensure_admin, set_password
from mrisr_node.records import Rejection, Series
from mrisr_node.settings import Settings

PLANTED = {
    "PatientName": "Zyxomma^Petiolatum",
    "PatientID": "ZYX-40711",
    "AccessionNumber": "ACC-ZYX-9",
    "PatientBirthDate": "19070314",
}
TOLD = [b"Zyxomma", b"zyxomma", b"Petiolatum", b"ZYX-40711", b"ACC-ZYX", b"19070314"]


def told(data: bytes) -> list[bytes]:
    return [word for word in TOLD if word in data]


@dataclass
class Served:
    """The front door as a process, and what came out of it."""

    url: str
    token: str
    log: Path
    answers: list[httpx.Response] = field(default_factory=list)

    def client(self, **headers: str) -> httpx.Client:
        def keep(answer: httpx.Response) -> None:
            answer.read()
            self.answers.append(answer)

        return httpx.Client(
            base_url=self.url, headers=headers, timeout=60, trust_env=False,
            event_hooks={"response": [keep]},
        )  # fmt: skip


@pytest.fixture
def study(web_settings: Settings, orthanc) -> SampleStudy:
    sample = make_study()
    auth = (web_settings.orthanc_username, web_settings.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for image in sample.source:
            for keyword, value in PLANTED.items():
                setattr(image, keyword, value)
            client.post("/instances", content=as_file(image)).raise_for_status()
    return sample


@pytest.fixture
def door(web_settings: Settings, study, free_port, tmp_path) -> Iterator[Served]:
    settings = web_settings.model_copy(update={"web_port": free_port()})
    ensure_admin(settings)
    set_password("admin", PASSWORD)
    token = create_token("admin", "tests")
    log = tmp_path / "web.log"
    environment = settings.environment() | {"MRISR_LOG_FORMAT": "json"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mrisr_node.cli", "serve"], env=environment, stderr=file
        )
    url = f"http://127.0.0.1:{settings.web_port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{url}/healthz", trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield Served(url, token, log)
    finally:
        process.terminate()
        process.wait(30)


def ask_rightly(door: Served, study: SampleStudy) -> None:
    image = study.source[0]
    of_study = f"/dicom-web/studies/{image.StudyInstanceUID}"
    with door.client(Authorization=f"Bearer {door.token}") as client:
        for keyword, value in PLANTED.items():
            found = client.get("/dicom-web/studies", params={keyword: value})
            assert found.status_code in (200, 204)
        client.get(f"{of_study}/metadata")
        client.post("/api/audit/search", json={"patient_id": PLANTED["PatientID"]})
        client.get("/api/jobs")
        client.get("/api/quarantine")


def ask_wrongly(door: Served, study: SampleStudy) -> None:
    name, number = PLANTED["PatientName"], PLANTED["PatientID"]
    mixed = {"patient": name, "PatientID": number, "state": number, "limit": name, "q": name}
    paths = (
        "/", "/users", "/audit", "/viewer/", "/results/1", "/api/jobs", "/api/jobs/999999",
        f"/api/jobs/{number}", f"/api/results/{number}", f"/api/quarantine/{number}",
        f"/api/users/{number}", f"/dicom-web/studies/{number}", f"/dicom-web/{name}",
        f"/api/auth/tokens/{number}", f"/{number}", f"/results/{number}", f"/pages/{number}",
        "/dicom-web/studies/1.2.3/series", "/api/audit",
    )  # fmt: skip
    ways = (
        {}, {"Authorization": f"Bearer {name}"}, {"Cookie": f"mrisr-session={number}"},
        {"Authorization": f"Bearer {door.token}"},
    )  # fmt: skip
    image = study.source[0]
    for headers in ways:
        with door.client(**headers) as client:
            for path in paths:
                for method in ("GET", "POST", "DELETE", "PATCH"):
                    given = {"json": mixed} if method in ("POST", "PATCH") else {}
                    client.request(method, path, params=mixed, **given)
            for path in ("/api/auth/login", "/api/auth/refresh", "/api/users", "/api/auth/tokens"):
                for body in ({"username": name, "password": number}, {name: number}, [name], name):
                    client.post(path, json=body)
                client.post(path, content=f"{{{name}".encode())
            half = as_file(image)[:700]
            parts = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + half + b"\r\n--x--\r\n"
            kind = 'multipart/related; type="application/dicom"; boundary=x'
            for body, header in ((parts, kind), (half, kind), (half, f"text/{number}")):
                client.post(
                    f"/dicom-web/studies/{image.StudyInstanceUID}",
                    content=body, headers={"Content-Type": header},
                )  # fmt: skip
    # Browsers are led to the sign-in page.
    with door.client(Accept="text/html", Origin=door.url) as browser:
        for path in ("/", "/audit", "/results/1", "/compare", "/viewer/viewer"):
            browser.get(path, params=mixed)
        browser.post("/sign-in", data={"username": name, "password": number})
        browser.post(
            "/sign-in", data={"username": "admin", "password": number, "next": f"//{name}"}
        )
    with socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2])), 10) as peer:
        peer.sendall(f"{name} /{number} HTTP/9\r\n{number}\r\n\r\n".encode())
        peer.recv(4096)


def test_patients_are_named_nowhere_but_where_they_may_be(
    door, study, orthanc, web_settings, tmp_path
):
    Series.create(
        series_instance_uid=study.source[0].SeriesInstanceUID,
        study_instance_uid=study.source[0].StudyInstanceUID,
    )
    kept = web_settings.quarantine_dir / f"{'a' * 40}.dcm"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(as_file(study.source[0]))
    Rejection.create(path=kept.name, reason="other content")
    with door.client(Authorization=f"Bearer {door.token}") as client:
        assert client.get(f"/api/quarantine/{'a' * 8}").json()["facts"]
    ask_rightly(door, study)
    ask_wrongly(door, study)

    # The control: what was asked for rightly tells, and so does the audit trail.
    assert any(told(a.content) for a in door.answers if a.status_code == 200)
    trail = b"".join(
        path.read_bytes() for path in web_settings.data_dir.glob("audit.sqlite*") if path.exists()
    )
    assert set(told(trail)) >= {b"Zyxomma", b"ZYX-40711", b"ACC-ZYX"}
    failed = [a for a in door.answers if a.status_code >= 400]
    assert {400, 401, 403, 404, 413, 422} - {413, 400} <= {a.status_code for a in failed}
    assert len(failed) > 200
    log = door.log.read_bytes()
    assert b"sign-in refused" in log

    for answer in failed:
        assert told(answer.content) == [], (answer.request.method, answer.request.url.path)
    led = [a.headers["location"] for a in door.answers if "location" in a.headers]
    assert led
    for address in led:
        assert told(address.encode()) == [], address
    for answer in door.answers:
        assert told(b" ".join(k + b":" + v for k, v in answer.headers.raw)) == []
    assert told(log) == []
    assert told(orthanc.log_path.read_bytes()) == []
    quarantine = [a for a in door.answers if a.request.url.path.startswith("/api/quarantine")]
    assert [told(a.content) for a in quarantine if a.status_code == 200] == [[]] * sum(
        a.status_code == 200 for a in quarantine
    )
    assert os.access(web_settings.audit_path, os.R_OK)
