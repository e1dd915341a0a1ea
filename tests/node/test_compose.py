"""The compose file: the specification's own rules, and ours. No engine is needed."""

import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from mrisr_node.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"\$\{\w+(?::-(?P<default>[^}]*)|:\?[^}]*)\}")
COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def ours(compose: dict[str, Any]) -> dict[str, Any]:
    return {n: s for n, s in compose["services"].items() if s["image"].startswith("mrisr")}


def test_it_follows_the_specification(compose: dict[str, Any]) -> None:
    # Compose puts values in before it reads the structure.
    filled = VARIABLE.sub(lambda match: match["default"] or "secret", json.dumps(compose))
    PyCompose.from_yaml(filled)


@pytest.mark.parametrize(
    "wrong",
    [
        {"services": {"a": {"image": "x", "helthcheck": {}}}},
        {"services": {"a": {"image": "x", "depends_on": {"b": {"condition": "well"}}}}},
        {"services": {"a": {"image": "x", "ports": {"80": "80"}}}},
    ],
)
def test_the_check_would_see_a_mistake(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="services"):
        PyCompose.from_yaml(json.dumps(wrong))


def test_every_part_of_the_node_is_there(ours: dict[str, Any]) -> None:
    commands = {tuple(service["command"]) for service in ours.values()}
    assert commands == {
        ("receive",), ("serve",), ("work", "cpu"), ("work", "gpu"), ("work", "delivery"),
        ("work", "pairs"),
    }  # fmt: skip


def test_the_gpu_is_reserved(compose: dict[str, Any]) -> None:
    service = compose["services"]["gpu-worker"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    without = compose["services"]["gpu-worker-without-gpu"]
    assert service["profiles"] == ["gpu"]
    assert without["profiles"] == ["cpu"]


def test_every_service_has_a_health_check_and_no_rights(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["image"].endswith(":latest")
        assert ":" in service["image"]


def test_our_containers_are_read_only_and_not_root(ours: dict[str, Any]) -> None:
    assert all(service["read_only"] for service in ours.values())
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert "USER mrisr" in lines[lines.index("WORKDIR /opt/mrisr_node") :]


def test_there_is_no_default_password() -> None:
    for line in FILE.read_text().splitlines():
        if "MRISR_ORTHANC_PASSWORD" in line and not line.startswith("#"):
            assert "${MRISR_ORTHANC_PASSWORD:?" in line


def test_orthancs_http_is_not_published(compose: dict[str, Any]) -> None:
    assert compose["services"]["orthanc"]["ports"] == ["${MRISR_PACS_PORT:-4242}:4242"]
    assert compose["services"]["web"]["ports"] == ["${MRISR_WEB_BIND:-127.0.0.1:8080}:8080"]
    assert all("ports" not in compose["services"][n] for n in ("receiver", "cpu-worker"))
    assert compose["networks"]["inside"] == {"internal": True}


def test_settings_are_named_as_the_node_names_them(ours: dict[str, Any]) -> None:
    known = {f"MRISR_{name.upper()}" for name in Settings.model_fields}
    for service in ours.values():
        assert {n for n in service["environment"] if n.startswith("MRISR_")} <= known


def test_both_orthancs_are_configured_alike(compose: dict[str, Any]) -> None:
    template = string.Template((ROOT / "orthanc" / "orthanc.json").read_text())
    names = template.get_identifiers()
    alone = json.loads(COMMENT.sub("", template.substitute(dict.fromkeys(names, '"*"'))))
    together = json.loads(compose["services"]["orthanc"]["environment"]["ORTHANC_JSON"])
    differ = {name for name in together if alone.get(name) != together[name]}
    filled = {name for name in differ if "*" in json.dumps(alone.get(name))}
    # Ours answers on loopback only; in compose it does on the inner network.
    assert differ - filled == {"RemoteAccessAllowed"}
    mine = {name for name, value in alone["Mrisr"].items() if value != "*"}
    assert {n: alone["Mrisr"][n] for n in mine} == {n: together["Mrisr"][n] for n in mine}
