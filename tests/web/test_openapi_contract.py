"""The OpenAPI document is true: schemathesis asks every operation for what it says, and for more.

What is left out, and why, stands in ``schemathesis.toml`` and ``schemathesis_hooks.py``. The
figures are printed (``pytest -s``).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from given_samples import stored
from tus_client import Sender
from web_door import Door, served

from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.records import Job, Rejection, StoredFile
from mrisr_node.settings import Settings
from tests import spooling

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def door(needs_orthanc: None, make_settings: Callable[..., Settings]) -> Iterator[Door]:
    """A node's front door and its PACS, that nobody else needs afterwards."""
    many = 10**9
    settings = make_settings(
        stable_age=86_400, requests_per_minute=many, requests_per_minute_per_address=many
    )
    with OrthancProcess(settings), served(settings) as running:
        yield running


@pytest.fixture(scope="module")
def known(door: Door) -> dict[str, dict[str, str]]:
    """By operation, what it can be asked for that is there; what is deleted is nobody else's."""
    settings, known = door.settings, {}
    settings.files_dir.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(2):
        facts = {"shape": [8, 8, 8], "spacing_mm": [1.0, 1.0, 5.0]}
        key = f"{number:032x}"
        (settings.files_dir / key).write_bytes(b"scan")
        files.append(
            StoredFile.create(
                key=key, owner="admin", name="head.nii.gz", size=4, facts=json.dumps(facts),
                sha256=hashlib.sha256(b"scan").hexdigest(), media_type="application/gzip",
            ).key
        )  # fmt: skip
        spooling.refuse(settings, b"no DICOM" * (number + 1), "no DICOM", "SCANNER")
    last, first = (row.path[:16] for row in Rejection.select().order_by(Rejection.id.desc()))
    with door.tool() as client:
        going, given_up = (Sender(client).begin(100) for _ in range(2))
        wish = {"file": files[0]}
        alone = client.post("/api/inference", json=wish).raise_for_status().json()
        batch = client.post("/api/inference/batch", json={"items": [wish]}).raise_for_status()
        pairs = client.post("/api/pairs", json={"files": files[:1]}).raise_for_status().json()
        jobs = [one["id"] for one in client.get("/api/jobs").json()["items"]]
        client.post(f"/api/jobs/{jobs[0]}/cancel").raise_for_status()
    for series in (alone["id"], batch.json()["items"][0]["id"]):
        stored(settings, job=Job.get(Job.series == series))
    for path in ("/api/files/{key}", "/api/files/{key}/info"):
        known[f"GET {path}"] = {"key": files[0]}
    known["DELETE /api/files/{key}"] = {"key": files[1]}
    known["GET /api/quarantine/{key}"] = known["POST /api/quarantine/{key}/release"] = {"key": last}
    known["DELETE /api/quarantine/{key}"] = {"key": first}
    for method in ("GET", "HEAD", "PATCH"):
        known[f"{method} /api/uploads/{{key}}"] = {"key": going.rpartition("/")[2]}
    known["DELETE /api/uploads/{key}"] = {"key": given_up.rpartition("/")[2]}
    for end in ("", "/zip"):
        known[f"GET /api/inference/{{series_id}}{end}"] = {"series_id": alone["id"]}
        known[f"GET /api/inference/batch/{{key}}{end}"] = {"key": batch.json()["id"]}
    known["GET /api/pairs/{series_id}"] = {"series_id": pairs["id"]}
    for operation in ("GET {}", "GET {}/transitions", "POST {}/retry"):
        path = "/api/series/{series_id}"
        known[operation.format(path)] = {"series_id": alone["id"]}
    for operation in ("GET {}", "POST {}/cancel", "POST {}/retry", "POST {}/send-again"):
        known[operation.format("/api/jobs/{job_id}")] = {"job_id": jobs[-1]}
    known["DELETE /api/jobs/{job_id}"] = {"job_id": jobs[0]}
    return known


def print_figures(events: Path, document: dict, verdict: dict) -> None:
    """Print a row for each operation: cases, checks that were made, failures, and the answers."""
    paths = document["paths"]
    known = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    answers: dict[str, Counter[int]] = defaultdict(Counter)
    for line in events.read_text("utf-8").splitlines():
        scenario = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        names = {}
        for key, case in scenario.get("cases", {}).items():
            value = case["value"]
            name = f"{value['method']} {value['path']}"
            names[key] = name if name in known else "methods that a path does not have"
            rows[names[key]]["cases"] += 1
        for key, checks in scenario.get("checks", {}).items():
            rows[names[key]]["checks"] += len(checks)
            rows[names[key]]["failures"] += sum(one["status"] == "failure" for one in checks)
        for key, exchange in scenario.get("interactions", {}).items():
            if exchange.get("response"):
                answers[names[key]][exchange["response"]["status_code"]] += 1
    total: Counter[str] = Counter()
    print(f"\n{'':50}{'cases':>7}{'checks':>8}{'failures':>9}  answers")
    for name, row in sorted(rows.items(), key=lambda item: item[0].partition(" ")[::-1]):
        total += row
        codes = " ".join(f"{code}×{n}" for code, n in sorted(answers[name].items()))
        print(f"{name:50}{row['cases']:7}{row['checks']:8}{row['failures']:9}  {codes}")
    print(f"{'together':50}{total['cases']:7}{total['checks']:8}{total['failures']:9}")
    print(f"operations: {verdict['operations']}; generated: {verdict['test_cases']['generated']};")
    print(f"seconds: {verdict['running_time']:.0f}; schemathesis {verdict['schemathesis_version']}")


def test_every_operation_answers_as_documented(door, known, tmp_path):
    with door.tool() as client:
        document = client.get("/api/openapi.json").raise_for_status()
    schema = tmp_path / "openapi.json"
    schema.write_bytes(document.content)
    verdict, events = tmp_path / "verdict.json", tmp_path / "events.ndjson"
    run = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", HERE / "schemathesis.toml", "run", schema, "--url", door.url),
            *("--report", "json,ndjson", "--no-color"),
            *("--report-json-path", verdict, "--report-ndjson-path", events),
        ],
        cwd=tmp_path,
        env=os.environ
        | {
            "CONTRACT_DATA_DIR": str(door.settings.data_dir),
            "CONTRACT_KNOWN": json.dumps(known),
            "CONTRACT_HOOKS": str(HERE / "schemathesis_hooks.py"),
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert verdict.is_file(), run.stdout
    found = json.loads(verdict.read_text())
    print_figures(events, document.json(), found)
    assert run.returncode == 0, run.stdout
    assert found["operations"]["tested"] == found["operations"]["total"]
    assert found["errors"] == []
