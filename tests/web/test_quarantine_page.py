"""The quarantine over HTTP and as a page in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from pydicom import dcmread
from viewing import sign_in, visit
from web_door import Door, served

from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.people.roles import Role
from mrisr_node.people.users import add_user
from mrisr_node.records import Instance, Rejection, Series
from tests import spooling

EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def door(make_settings) -> Iterator[Door]:
    with served(make_settings(minimum_free_bytes=0)) as running:
        yield running


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> bytes:
    """A sound MR image with a patient's name."""
    sample = write_sample(tmp_path_factory.mktemp("image"), Acquisition(slices=3, matrix=32))
    dataset = dcmread(sample.paths[0])
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "PID-4711"
    dataset.SeriesDescription = EVIL
    dataset.save_as(sample.paths[0])
    return sample.paths[0].read_bytes()


@pytest.fixture
def refuse(door):
    """Put bytes into an empty quarantine; return their key."""
    for table in (Rejection, Series):
        table.delete().execute()

    def put(encoded: bytes, reason: str = "cannot be read as DICOM (Error)") -> str:
        spooling.refuse(door.settings, encoded, reason, "SCANNER")
        return Rejection.select().order_by(Rejection.id.desc()).get().path[:16]

    return put


@pytest.fixture
def tool(door: Door):
    with door.tool() as client:
        yield client


def test_list_and_details(tool, refuse, image):
    first, second = refuse(b"junk"), refuse(image, "no valid UID")
    Rejection.update(address="10.1.2.3", at=time.time() + 9).where(
        Rejection.path.startswith(second)
    ).execute()
    page = tool.get("/api/quarantine", params={"limit": 1}).json()
    assert (page["total"], page["limit"], page["offset"]) == (2, 1, 0)
    [entry] = page["items"]
    assert (entry["key"], entry["reason"]) == (second, "no valid UID")
    assert (entry["sender"], entry["address"]) == ("SCANNER", "10.1.2.3")
    assert entry["size"] == len(image)
    details = tool.get(f"/api/quarantine/{second}").json()
    assert details["facts"]["Rows"] == "32"
    assert "Doe" not in str(details)
    assert "4711" not in str(details)
    assert "Problem" in tool.get(f"/api/quarantine/{first}").json()["facts"]


def test_release_and_delete(tool, refuse, image):
    junk, sound = refuse(b"junk"), refuse(image)
    refused = tool.post(f"/api/quarantine/{junk}/release")
    assert (refused.status_code, refused.json()["released"]) == (200, False)
    released = tool.post(f"/api/quarantine/{sound}/release").json()
    assert released == {"released": True, "outcome": "taken in", "series": Series.get().id}
    assert Instance.select().count() == 1
    assert tool.delete(f"/api/quarantine/{junk}").status_code == 204
    assert tool.get("/api/quarantine").json()["total"] == 0


def test_what_is_not_there(tool, refuse):
    refuse(b"junk")
    for method, path in (("GET", ""), ("POST", "/release"), ("DELETE", "")):
        for key in ("0" * 16, "..%2f..%2fetc%2fpasswd", "%25%25%25%25%25%25%25%25"):
            answer = tool.request(method, f"/api/quarantine/{key}{path}")
            assert answer.status_code in (404, 405)
    assert Rejection.select().count() == 1


def test_only_who_is_signed_in_and_comes_from_our_pages(door, refuse):
    key = refuse(b"junk")
    with door.client() as stranger:
        assert stranger.get("/quarantine").status_code == 401
        assert stranger.get("/api/quarantine").status_code == 401
        assert stranger.delete(f"/api/quarantine/{key}").status_code in (401, 403)
    with door.browser() as person:
        other = {"Origin": "https://evil.example"}
        assert person.delete(f"/api/quarantine/{key}", headers=other).status_code == 403
        assert person.post(f"/api/quarantine/{key}/release", headers=other).status_code == 403
    assert Rejection.select().count() == 1


@pytest.fixture
def page(chromium: Browser, door: Door) -> Iterator[Page]:
    with visit(chromium, door, "/quarantine") as page:
        yield page


def test_a_viewer_looks_and_is_told_what_the_rest_needs(chromium, door, refuse):
    refuse(b"junk")
    password = add_user("vera", Role.VIEWER)
    context = chromium.new_context()
    page = context.new_page()
    sign_in(page, door, "/quarantine", "vera", password)
    junk = page.get_by_role("row").filter(has_text="cannot be read")
    expect(junk.get_by_role("button")).to_have_text(["Show"])
    expect(page.get_by_text("needs the permission operate")).to_be_visible()
    page.goto(f"{door.url}/pairs")
    expect(page.get_by_text("needs the permission operate")).to_be_visible()
    expect(page.get_by_role("button", name="Make pairs")).to_have_count(0)
    context.close()


def test_the_page_shows_releases_and_deletes(refuse, image, page):
    expect(page.get_by_text("Nothing is in quarantine.")).to_be_visible()
    refuse(image, EVIL)
    refuse(b"junk")
    page.reload()
    expect(page.get_by_text("2 objects")).to_be_visible()
    sound = page.get_by_role("row").filter(has_text="onerror")
    expect(sound).to_contain_text("from SCANNER")
    sound.get_by_role("button", name=re.compile("^Show")).click()
    expect(sound).to_contain_text("MR Image Storage")
    assert "Doe" not in sound.inner_text()
    assert page.locator("#rows img").count() == 0
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    sound.get_by_role("button", name=re.compile("^Release")).click()
    expect(page.get_by_role("status")).to_contain_text("Released: taken in.")
    junk = page.get_by_role("row").filter(has_text="cannot be read")
    junk.get_by_role("button", name=re.compile("^Release")).click()
    expect(page.get_by_role("status")).to_contain_text("Not released: refused again")
    # Deleting asks first, and keeps by default.
    junk.get_by_role("button", name=re.compile("^Delete")).click()
    expect(page.get_by_role("dialog")).to_contain_text("for good?")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert Rejection.select().count() == 1
    junk.get_by_role("button", name=re.compile("^Delete")).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Nothing is in quarantine.")).to_be_visible()
    assert Rejection.select().count() == 0
    page.get_by_role("link", name="Series").click()
    expect(page.get_by_role("heading", name="Series")).to_be_visible()
