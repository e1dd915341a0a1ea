"""The page of pairs in a real browser: what is asked for, what is told, keyboard, phone, dark."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from viewing import visit
from web_door import Door, served

from mrisr_node.records import Job, PairsSeries, Series, State, StoredFile, Upload, UploadState


@pytest.fixture(scope="module")
def door(make_settings) -> Iterator[Door]:
    with served(make_settings()) as running:
        yield running


@pytest.fixture
def scan(door: Door) -> StoredFile:
    """An uploaded scan."""
    for table in (Job, PairsSeries, Series, Upload, StoredFile):
        table.delete().execute()
    file = StoredFile.create(
        key="ab" * 16, owner="admin", name="head <b>one</b>.nii.gz", size=1, sha256="",
        media_type="application/gzip", facts=json.dumps({"shape": [9, 9, 9]}),
    )  # fmt: skip
    Upload.create(key="cd" * 16, owner="admin", name=file.name, size=1, kind="nifti", file=file,
                  state=UploadState.DONE.value)  # fmt: skip
    return file


@pytest.fixture
def page(chromium: Browser, door: Door, scan: StoredFile) -> Iterator[Page]:
    with visit(chromium, door, "/pairs") as page:
        yield page


def test_pairs_are_asked_for_and_followed(page, scan, tmp_path):
    # Of two with one name, when and how large tells which is which.
    Upload.create(key="ce" * 16, owner="admin", name=scan.name, size=5000, kind="nifti", file=scan,
                  state=UploadState.DONE.value, created_at=1.8e9)  # fmt: skip
    page.reload()
    twin = page.get_by_label("head <b>one</b>.nii.gz 5 kB, Jan 15, 2027")
    expect(twin).to_be_visible()
    page.get_by_label("head <b>one</b>.nii.gz 1 byte").check()
    for unwanted in ("3/0", "4/0.4", "5/1"):
        page.get_by_label(unwanted, exact=True).uncheck()
    page.get_by_label("Others").fill("6/0.6, 6")
    page.get_by_label("Contrast").select_option("T1w")
    page.get_by_role("button", name="Make pairs").click()
    expect(page.get_by_text("is not thickness/gap in mm")).to_be_visible()
    page.get_by_label("Others").fill("6/0.6")
    page.get_by_label("Slices are").select_option("coronal")
    page.get_by_role("button", name="Make pairs").press("Enter")
    expect(page.get_by_role("row", name="1 scan")).to_contain_text("queued")
    asked = PairsSeries.get()
    assert json.loads(asked.files) == [scan.key]
    assert json.loads(asked.options) | {"profile": ""} == {
        "slices": ["5/0.5", "6/0.6"], "axis": "y", "profile": "", "register": True,
        "contrast": "T1w",
    }  # fmt: skip
    page.screenshot(path=tmp_path / "pairs.png", full_page=True)
    series = asked.series
    series.move(State.FAILED, "pairs: no pairs: scan 1 left out: it is thick")
    row = page.get_by_role("row", name="1 scan")
    expect(row).to_contain_text("it is thick")
    page.get_by_role("button", name="Try again: dataset of 1 scan").click()
    expect(row).to_contain_text("Waiting for its turn")
    Job.update(not_before=time.time() + 1800).execute()
    expect(row).to_contain_text("next try at")
    expect(row).not_to_contain_text("Waiting for its turn")
    page.get_by_role("button", name="Cancel: dataset of 1 scan").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(row).to_contain_text("cancelled by admin")
    page.screenshot(path=tmp_path / "pairs-cancelled.png", full_page=True)
    page.get_by_role("button", name="Delete: dataset of 1 scan").click()
    expect(page.get_by_role("dialog")).to_contain_text("Nobody else has it")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row.get_by_role("button", name=re.compile("^Delete"))).to_have_count(0)
    row.get_by_role("link", name="1 scan").click()
    expect(page.get_by_text("The newest job was deleted")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_axe_finds_nothing(page, tmp_path, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.get_by_label("head <b>one</b>.nii.gz")).to_be_visible()
    page.screenshot(path=tmp_path / f"pairs-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
