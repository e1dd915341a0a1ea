"""Jobs on files that were given, over HTTP: the PACS, of which there is none here, has no part."""

from __future__ import annotations

import pytest
from given_samples import end, given, given_for_pairs
from web_door import served

from mrisr_node.records import Series


@pytest.fixture(scope="module")
def door(make_settings):
    with served(make_settings()) as running:
        yield running


@pytest.fixture
def tool(door):
    with door.tool() as client:
        yield client
    Series.delete().execute()


@pytest.mark.parametrize("make", [given, given_for_pairs])
def test_what_is_done_without_the_pacs_is_done(tool, door, make):
    job = make(door.settings)
    end(door.settings, job)
    assert tool.get(f"/api/jobs/{job.id}").json()["state"] == "done"
    listed = tool.get("/api/jobs", params={"state": "done"}).json()
    assert [one["id"] for one in listed["items"]] == [job.id]
    assert tool.get("/api/jobs", params={"state": "superseded"}).json()["total"] == 0
