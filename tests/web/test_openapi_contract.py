"""The OpenAPI document is true: schemathesis asks every operation for what it says, and for more.

What is left out, and why, stands in ``schemathesis.toml`` and ``schemathesis_hooks.py``. The
figures are printed (``pytest -s``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from web_door import Door, served

from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.settings import Settings

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


def test_every_operation_answers_as_documented(door, tmp_path):
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
            "CONTRACT_HOOKS": str(HERE / "schemathesis_hooks.py"),
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert verdict.is_file(), run.stdout
    found = json.loads(verdict.read_text())
    print_figures(events, document.json(), found)
    if os.environ.get("CONTRACT_OUT"):
        Path("/work/run/contract/events.ndjson").write_text(events.read_text())
        Path(os.environ["CONTRACT_OUT"]).write_text(run.stdout)
    assert run.returncode == 0, run.stdout
    assert found["operations"]["tested"] == found["operations"]["total"]
    assert found["errors"] == []
