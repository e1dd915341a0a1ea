"""Errors say what to do: to a tool as a problem document, to a person as a page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from web_door import Door, served

PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def door(make_settings) -> Iterator[Door]:
    with served(make_settings()) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/nothing", 404), ("GET", "/pages/nothing.css", 404), ("PUT", "/api/jobs", 405)],
)
def test_unknown_addresses_and_methods(door, method, path, status):
    with door.tool() as tool:
        answer = tool.request(method, path)
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert (answer.status_code, said["status"]) == (status, status)
    assert said["type"] == "about:blank"
    assert "/api/openapi.json" in said["detail"]


def test_a_person_is_shown_a_page(door):
    with door.browser() as browser:
        answer = browser.get("/nothing", headers=PAGE)
        assert answer.status_code == 404
        assert "there is nothing at this address" in answer.text
        form = browser.get("/sign-out", headers=PAGE)
        assert (form.status_code, "nothing to see at it" in form.text) == (405, True)
        for said in (answer, form):
            assert '<a href="/">Go to the list of series</a>' in said.text
            assert "openapi.json" not in said.text
        form = browser.post("/users/admin", data={}, headers=PAGE)
        assert form.status_code == 422
        assert form.headers["content-type"].startswith("text/html")
        assert "do: Field required" in form.text
        assert 'href="/account"' in form.text
        evil = "<b>Doe^Jane"
        series = browser.get(f"/series/{evil}", headers=PAGE)
        assert (series.status_code, "Doe" in series.text) == (422, False)


def test_a_script_is_told_which_field(door):
    with door.browser() as browser:
        answer = browser.post("/users/admin", data={})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"] == [{"where": ["body", "do"], "why": "Field required"}]
