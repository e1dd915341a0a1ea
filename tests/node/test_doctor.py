"""The doctor: sees what is missing, names how to mend it, and changes nothing."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mrisr_node.choices import BrainMethod
from mrisr_node.node import doctor
from mrisr_node.node.doctor import Finding, examine
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.node.supervisor import Node
from mrisr_node.settings import Settings


def problems(settings: Settings) -> list[Finding]:
    return [finding for finding in examine(settings) if finding.level == "problem"]


def said(settings: Settings) -> str:
    return " ".join(finding.what for finding in problems(settings))


def test_a_good_machine_has_no_problem(
    needs_orthanc: None, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings()
    assert problems(settings) == []
    assert list(settings.data_dir.iterdir()) == []


def test_a_running_node_is_seen(node: Node) -> None:
    findings = {finding.what: finding.level for finding in examine(node.settings)}
    assert findings["the node runs"] == "ok"
    assert findings[f"the PACS at {node.settings.pacs_url} answers DICOMweb"] == "ok"
    assert "problem" not in findings.values()


def test_every_problem_says_how_to_mend_it(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_orthanc", lambda: None)
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=99", "no-such-package"])
    monkeypatch.setattr(doctor, "_OLDEST_CLOCK", 1e12)
    settings = make_settings(
        checkpoint=tmp_path,
        brain_method=BrainMethod.HD_BET,
        minimum_free_bytes=10**18,
        device="cuda:7",
    )
    found = problems(settings)
    assert all(finding.mend for finding in found)
    text = said(settings)
    for words in (
        "numpy is", "no-such-package is missing", "Orthanc is not installed", "card.json",
        "hd-bet 2", "C-STORE is refused", "cuda:7", "clock",
    ):  # fmt: skip
        assert words in text


def test_a_missing_viewer_is_a_warning(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(ohif_dist=tmp_path, niivue_dist=tmp_path)
    levels = {f.what: f.level for f in examine(settings)}
    for name in ("OHIF", "NiiVue"):
        assert levels[f"the viewer {name} is not in {tmp_path}"] == "warning"


def test_a_taken_port_is_seen(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    with socket.create_server(("", settings.receiver_port)):
        assert f"TCP port {settings.receiver_port} is taken" in said(settings)


def test_a_wrong_password_and_a_missing_pacs_are_seen(
    orthanc: OrthancProcess,
    make_settings: Callable[..., Settings],
    free_port: Callable[[], int],
) -> None:
    wrong = make_settings(orthanc_url=orthanc.url, orthanc_password="wrong")
    assert "refuses our user or password" in said(wrong)
    absent = make_settings(orthanc_url=f"http://127.0.0.1:{free_port()}", orthanc_password="x")
    assert "no answer from" in said(absent)
