"""The upload page in a real browser: progress, a broken connection, keyboard, phone, dark."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect
from viewing import visit
from web_door import Door, served

from mrisr_node.intake.incoming import Part
from mrisr_node.jobs.uploads import Uploads
from mrisr_node.records import Job, Series, StoredFile, Upload

MIB = 1 << 20


@pytest.fixture(scope="module")
def door(make_settings) -> Iterator[Door]:
    """A front door, and what looks at whole uploads."""
    settings = make_settings(minimum_free_bytes=0)
    with served(settings) as running:
        stop = threading.Event()
        thread = threading.Thread(target=Uploads(settings).run, args=(stop,))
        thread.start()
        yield running
        stop.set()
        thread.join()


@pytest.fixture
def page(chromium: Browser, door: Door) -> Iterator[Page]:
    for table in (Job, Series, Upload, StoredFile):
        table.delete().execute()
    with visit(chromium, door, "/upload") as page:
        yield page


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    """A NIfTI file of some size, which no compression makes smaller."""
    data = np.random.default_rng(1).integers(0, 30_000, (512, 512, 80)).astype(np.int16)
    image = nib.Nifti1Image(data, np.diag([0.5, 0.5, 5.0, 1.0]))
    image.set_sform(image.affine, 1)
    path = tmp_path_factory.mktemp("head") / "head.nii"
    image.to_filename(path)
    return path


def assert_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def shot(page: Page, name: str) -> None:
    """Keep a picture, where somebody wants to look at it."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_it_goes_on_after_a_broken_connection(page, door, head):
    expect(page.get_by_text("No uploads yet.")).to_be_visible()
    broken: list[int] = []

    def break_off(route) -> None:
        # The second and the third piece are lost at first.
        if route.request.method == "PATCH" and int(route.request.headers["upload-offset"]) > 0:
            broken.append(1)
            if len(broken) < 3:
                shot(page, "upload-under-way")
                route.abort("connectionreset")
                return
        route.continue_()

    page.route("**/api/uploads/*", break_off)
    page.get_by_label("Choose files").set_input_files(head)
    row = page.get_by_role("row").filter(has_text="head.nii")
    expect(row.locator(".left")).to_contain_text("No connection. Trying again")
    shot(page, "upload-interrupted")
    expect(page.get_by_role("status")).to_contain_text("head.nii is uploaded")
    expect(row).to_contain_text("a volume of 512 × 512 × 80 voxels")
    assert len(broken) >= 3
    [file] = StoredFile.select()
    assert (door.settings.files_dir / file.key).read_bytes() == head.read_bytes()
    assert page.evaluate("localStorage.length") == 0


def test_it_goes_on_after_the_page_was_closed(page, door, head):
    page.route(
        "**/api/uploads/*",
        lambda route: (
            route.abort()
            if route.request.headers.get("upload-offset", "0") != "0"
            else route.continue_()
        ),
    )
    page.get_by_label("Choose files").set_input_files(head)
    row = page.get_by_role("row").filter(has_text="head.nii")
    expect(row.locator(".left")).to_contain_text("No connection")
    page.unroute_all(behavior="ignoreErrors")
    page.once("dialog", lambda dialog: dialog.accept())
    page.reload()
    expect(row).to_contain_text("Choose the same file again")
    page.get_by_label("Choose files").set_input_files(head)
    expect(row).to_contain_text("a volume of")
    assert Upload.select().count() == 1
    [file] = StoredFile.select()
    assert (door.settings.files_dir / file.key).read_bytes() == head.read_bytes()


def test_super_resolve_and_delete_by_keyboard(page, tmp_path):
    image = nib.Nifti1Image(np.ones((64, 64, 12), np.int16), np.diag([1.0, 1.0, 5.0, 1.0]))
    image.set_sform(image.affine, 1)
    image.to_filename(tmp_path / "small.nii.gz")
    (tmp_path / "junk.nii").write_bytes(b"junk" * 200)
    page.get_by_label("Choose files").set_input_files(
        [tmp_path / "small.nii.gz", tmp_path / "junk.nii"]
    )
    expect(page.get_by_text("neither NIfTI")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="small.nii.gz")
    button = row.get_by_role("button", name="Super-resolve small.nii.gz")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Slices along")).to_have_value("2")
    dialog.get_by_label("Contrast").select_option("T1w")
    dialog.get_by_label("Store it and the result").check()
    dialog.get_by_label("Patient ID").fill("P-1")
    shot(page, "upload-dialog")
    assert_accessible(page)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    shot(page, "upload-dialog-phone")
    # What cannot be is said where it was asked.
    dialog.get_by_label("Slice thickness").fill("50")
    dialog.get_by_role("button", name="Begin").click()
    expect(dialog.get_by_role("alert")).to_contain_text("thickness")
    dialog.get_by_label("Slice thickness").fill("")
    dialog.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("status")).to_contain_text("small.nii.gz is queued")
    expect(row.locator(".jobs .state")).to_have_text("queued")
    button.click()
    dialog.get_by_label("Contrast").select_option("T1w")
    dialog.get_by_role("button", name="Begin").click()
    expect(row.locator(".jobs li")).to_have_count(2)
    newest, oldest = Series.select().order_by(Series.id.desc())
    told = [f"Series {one.id} queued Waiting for its turn." for one in (newest, oldest)]
    expect(row.locator(".jobs li")).to_have_text(told)
    link = row.get_by_role("link", name=f"Series {newest.id}")
    expect(link).to_have_attribute("href", f"/series/{newest.id}")
    assert_accessible(page)
    page.emulate_media(color_scheme="dark")
    assert_accessible(page)
    shot(page, "upload-phone-dark")
    page.set_viewport_size({"width": 1280, "height": 800})
    shot(page, "upload-dark")
    page.emulate_media(color_scheme="light")
    shot(page, "upload")
    # A file that a job needs stays.
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    refused = page.get_by_role("listitem").filter(has_text="a job works with this file")
    expect(refused).to_contain_text("small.nii.gz: ")
    # It is said until it is read, however often the list is read anew.
    for _ in range(2):
        with page.expect_response("**/api/uploads?limit=100"):
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(refused).to_be_visible()
    shot(page, "upload-refused")
    assert_accessible(page)
    refused.get_by_role("button", name="Dismiss what is said about small.nii.gz").click()
    expect(refused).to_be_hidden()
    junk = page.get_by_role("row").filter(has_text="junk.nii")
    junk.get_by_role("button", name=re.compile("^Delete")).click()
    page.keyboard.press("Escape")
    expect(junk).to_be_visible()
    junk.get_by_role("button", name=re.compile("^Delete")).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(junk).to_be_hidden()


def test_what_is_wrong_with_one_of_several_files_stays_to_be_read(page, tmp_path):
    good = nib.Nifti1Image(np.ones((64, 64, 12), np.int16), np.diag([1.0, 1.0, 5.0, 1.0]))
    (tmp_path / "zero.nii").touch()
    good.to_filename(tmp_path / "good.nii")
    for number in range(2):
        page.get_by_label("Choose files").set_input_files(
            [tmp_path / "zero.nii", tmp_path / "good.nii"]
        )
        expect(page.get_by_role("row").filter(has_text="a volume of")).to_have_count(number + 1)
        expect(page.get_by_role("status")).to_contain_text("good.nii is uploaded")
        expect(page.get_by_text("zero.nii: an empty file.")).to_have_count(1)
    good.to_filename(tmp_path / "zero.nii")
    page.get_by_label("Choose files").set_input_files(tmp_path / "zero.nii")
    expect(page.get_by_role("status")).to_contain_text("zero.nii is uploaded")
    expect(page.get_by_text("an empty file")).to_have_count(0)


def test_what_waits_says_for_what_and_how_long(page, door, sample_series):
    """No PACS runs here."""
    page.get_by_label("Choose files").set_input_files(sample_series.paths[0])
    row = page.get_by_role("row").filter(has_text=sample_series.paths[0].name)
    expect(row.locator(".state")).to_have_text("waiting")
    expect(row.locator(".reason")).to_contain_text(
        re.compile("the PACS cannot be asked.*it will be tried again, at [0-9]{1,2}:[0-9]{2}")
    )
    assert_accessible(page)
    shot(page, "upload-waiting")
    row.get_by_role("button", name=re.compile("^Delete")).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row).to_be_hidden()
    assert not Upload.select().exists()


@pytest.fixture
def slow_disk(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Nothing becomes durable before the second event; the first tells that it is begun."""
    begun, go_on, keep = threading.Event(), threading.Event(), Part.keep

    def slow(part: Part) -> None:
        begun.set()
        go_on.wait(120)
        keep(part)

    monkeypatch.setattr(Part, "keep", slow)
    yield begun, go_on
    go_on.set()


def ask_to_give_up(page: Page, head: Path, begun: threading.Event) -> tuple[Locator, str]:
    """Come to the dialog while the node writes; return the upload's row and key."""
    page.get_by_label("Choose files").set_input_files(head)
    assert begun.wait(60)
    row = page.get_by_role("row").filter(has_text="head.nii")
    row.get_by_role("button", name="Delete head.nii").click()
    return row, Upload.get().key


def test_giving_up_waits_for_what_is_still_written(page, door, head, slow_disk):
    """The connection is cut at once; the node syncs what came, and holds on to the file."""
    begun, go_on = slow_disk
    row, key = ask_to_give_up(page, head, begun)
    with page.expect_response(lambda answer: answer.status == 423):
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    assert Upload.select().count() == 1
    go_on.set()
    expect(page.get_by_role("status")).to_have_text("head.nii was given up.")
    expect(row).to_be_hidden()
    assert not Upload.select().exists()
    assert not (door.settings.uploads_dir / key).exists()
    assert page.evaluate("localStorage.length") == 0


def test_what_could_not_be_given_up_is_told(page, door, head, slow_disk):
    begun, go_on = slow_disk
    row, key = ask_to_give_up(page, head, begun)
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    said = page.get_by_text("head.nii: not deleted: another request is writing to this upload")
    expect(said).to_be_visible(timeout=60_000)
    assert_accessible(page)
    expect(row).to_contain_text("interrupted")
    expect(page.locator("#outcome")).to_be_empty()
    shot(page, "upload-not-deleted")
    expect(page.get_by_text("was given up")).to_have_count(0)
    # It is as after a connection that broke off: there, and still to be deleted.
    expect(row).to_contain_text("Choose the same file again")
    go_on.set()
    row.get_by_role("button", name="Delete head.nii").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status")).to_contain_text("head.nii is deleted.")
    assert not (door.settings.uploads_dir / key).exists()
