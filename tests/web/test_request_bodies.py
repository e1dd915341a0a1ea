"""What a client misspells is refused, and not left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from web_door import Door, served

from mrisr_node.settings import Settings


@pytest.fixture
def door(make_settings: Callable[..., Settings]) -> Iterator[Door]:
    with served(make_settings()) as running:
        yield running


def test_every_json_body_says_which_fields_it_has(door):
    document = door.app.openapi()
    schemas = document["components"]["schemas"]
    asked = set()
    for item in document["paths"].values():
        for operation in item.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body and "$ref" in body["schema"]:
                asked.add(body["schema"]["$ref"].rsplit("/", 1)[1])
    assert {"Inference", "NewJob", "NewToken", "NewUser", "Pairs", "UserChange"} <= asked
    assert [name for name in asked if schemas[name].get("additionalProperties") is not False] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "wrong"),
    [
        ("PATCH", "/api/users/admin", {"disable": True}, "disable"),
        ("POST", "/api/users", {"username": "a", "role": "viewer", "passwort": "x"}, "passwort"),
        ("POST", "/api/auth/tokens", {"name": "a", "scope": ["read"]}, "scope"),
        ("POST", "/api/inference", {"file": "0", "thickness": 5.0}, "thickness"),
        ("POST", "/api/inference", {"file": "0", "study": {"patient": "x"}}, "patient"),
        ("POST", "/api/pairs", {"files": ["0"], "register": False}, "register"),
    ],
)
def test_a_misspelt_field_is_named(door, method, path, body, wrong):
    with door.browser() as client:
        answer = client.request(method, path, json=body)
    assert answer.status_code == 422
    assert wrong in str(answer.json()["errors"])
