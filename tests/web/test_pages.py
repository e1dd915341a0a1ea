"""The pages of series in a real browser."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from viewing import sign_in, visit
from web_door import Door, served

from mrisr_node.choices import Recipe
from mrisr_node.jobs.result_files import digests_of
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import Instance, Job, Series, StageRun, State, Transition, User
from mrisr_node.web.viewer import comparison_path

EVIL = "<img src=x onerror=\"document.title='owned'\"><b>T1</b>"


@pytest.fixture(scope="module")
def door(make_settings) -> Iterator[Door]:
    with served(make_settings()) as running:
        yield running


@pytest.fixture
def page(chromium: Browser, door: Door) -> Iterator[Page]:
    """The page of series, signed in; no series yet, no error in the browser's console allowed."""
    Series.delete().execute()
    with visit(chromium, door, "/") as page:
        yield page


def add(uid: str, state: State, description: str = "T1 axial", **job) -> Series:
    series = Series.create(
        series_instance_uid=uid, study_instance_uid="1.2.3", modality="MR", sender="SCANNER",
        state=state.value, description=description, expected_instances=24,
    )  # fmt: skip
    if job:
        Job.create(series=series, recipe=Recipe.NATIVE.value, **job)
        if state is State.FAILED:
            Transition.create(
                series=series, source=State.PREPARING.value, target=state.value, at=1.0
            )
    return series


def test_a_series_is_followed_without_a_reload(page):
    expect(page.get_by_text("No series yet")).to_be_visible()
    page.evaluate("window.sameDocument = true")
    series = add("1.1", State.RECEIVING)
    row = page.get_by_role("row", name="T1 axial")
    expect(row).to_contain_text("receiving")
    expect(row).to_contain_text("0 of 24 images from SCANNER")
    Series.update(expected_instances=1).execute()
    expect(row).to_contain_text("0 of 1 image from SCANNER")
    assert row.get_by_role("progressbar").count() == 0
    series.move(State.COMPLETE)
    series.move(State.QUEUED)
    Job.create(series=series, recipe=Recipe.NATIVE.value)
    expect(row).to_contain_text("Waiting for its turn")
    expect(row).to_contain_text("time left unknown")
    series.move(State.PREPARING)
    Job.update(stage=Stage.BRAIN.value, progress=0.5, lease_owner="somebody").execute()
    expect(row).to_contain_text("Finding the brain")
    bar = row.get_by_role("progressbar", name="Progress of T1 axial")
    expect(bar).to_have_js_property("value", 1.5 / 8)
    for stage in Stage:
        StageRun.create(job=Job.get(), stage=stage.value, started_at=1, seconds=30, finished=True)
    expect(row).to_contain_text(re.compile(r"about 3 min left \(\d+ (s|min) to \d+ min\)"))
    Job.update(stage=Stage.SUPERRESOLVE.value, progress=0.0, lease_owner=None).execute()
    expect(row).to_contain_text("Waiting for its turn: Super-resolving")
    expect(row).to_contain_text(re.compile(r"about \d+ (s|min) once it is its turn"))
    assert row.get_by_role("link", name="Compare").count() == 0
    series.move(State.RESOLVING)
    series.move(State.DELIVERING)
    Job.update(
        stage=Stage.CONFIRM.value, progress=1, result_series_uid="1.9", delivered_at=1.0
    ).execute()
    series.move(State.DONE)
    compare = row.get_by_role("link", name="Compare original and result of T1 axial")
    expect(compare).to_have_attribute("href", comparison_path("1.2.3", "1.1", "1.9"))
    assert page.evaluate("window.sameDocument")


def test_a_series_that_is_put_off_says_until_when_and_no_time_left(page):
    series = add("1.2", State.DELIVERING, stage=Stage.STORE.value, lease_owner="somebody")
    for stage in Stage:
        StageRun.create(job=Job.get(), stage=stage.value, started_at=1, seconds=2, finished=True)
    row = page.get_by_role("row", name="T1 axial")
    expect(row).to_contain_text("about 6 s left")
    at = int(time.time()) + 1800
    there = "new Date({} * 1000).toLocaleTimeString()"
    Series.update(reason="STOW-RS failed: ConnectionError; next try in 1800 s").execute()
    Job.update(lease_owner=None, not_before=at).execute()
    expect(row).to_contain_text(f"next try at {page.evaluate(there.format(at))}")
    expect(row).to_contain_text("STOW-RS failed: ConnectionError")
    expect(row).not_to_contain_text(re.compile(" left|once it is its turn"))
    # It begins again: why it waited is no news any more.
    Series.update(reason="").execute()
    Job.update(lease_owner="somebody").execute()
    expect(row).to_contain_text("about 6 s left")
    expect(row).not_to_contain_text("next try")
    Job.update(lease_owner=None).execute()
    page.goto(f"{page.url}series/{series.id}")
    expect(page.locator("#now")).to_contain_text(f"next try at {page.evaluate(there.format(at))}")
    # A promise of the PACS is waited for in one run, which is not broken off in between.
    StageRun.create(job=Job.get(), stage=Stage.COMMIT.value, started_at=1)
    Job.update(stage=Stage.COMMIT.value).execute()
    run = page.get_by_role("row", name="Waiting for the PACS to promise").last
    expect(run.get_by_role("cell").last).to_have_text("waiting")


def test_a_failed_series_says_why_and_can_be_tried_again(page):
    series = add("2.1", State.RESOLVING, stage=Stage.SUPERRESOLVE.value)
    series.move(State.FAILED, "the slices are 9 mm apart; the network was made for 3 to 6 mm")
    row = page.get_by_role("row", name="T1 axial")
    expect(row).to_contain_text("the slices are 9 mm apart")
    expect(row).to_contain_text("Stopped at: Super-resolving")
    button = row.get_by_role("button", name="Try again: T1 axial")
    expect(button).to_be_visible()
    skipped = add("2.2", State.RECEIVING, "scout")
    skipped.move(State.COMPLETE)
    skipped.move(State.SKIPPED, "a localizer")
    expect(page.get_by_role("row", name="scout")).to_contain_text("skipped")
    assert page.get_by_role("button", name="Try again: scout").count() == 0
    assert skipped.state == "skipped"


def test_results_that_the_pacs_did_not_take_are_sent_again(page, door):
    for number in range(3):
        series = add(f"2.{number}", State.FAILED, f"head {number}", stage=Stage.STORE.value)
        job = Job.get(Job.series == series)
        folder = door.settings.work_dir / str(job.id) / "result"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "1.dcm").touch()
        (folder.parent / "result.json").write_text('{"instances": 1}')
        digests = digests_of(folder)
        (folder.parent / "digests.json").write_text(json.dumps(digests))
    page.get_by_role("button", name="Send again: head 1").click()
    row = page.get_by_role("row", name="head 1")
    expect(row).to_contain_text("queued")
    expect(row.get_by_role("button", name="Send again")).to_have_count(0)
    page.get_by_role("button", name="Send all 2 undelivered results again").click()
    expect(page.get_by_role("button", name=re.compile("undelivered"))).to_have_count(0)
    expect(page.locator("[data-state=queued]")).to_have_count(3)


def test_one_box_finds_a_series_by_what_somebody_knows_of_it(page):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    mine = add("8.1", State.RECEIVING, "T1 tra")
    mine.patient_id, mine.patient_name = "P-77", "Müller^Anna Maria^^Dr=山田^花子"
    mine.accession_number, mine.study_date = "ACC9", "20261124"
    mine.save()
    add("8.2", State.DONE, "T2 cor")
    row = page.get_by_role("row", name="T1 tra")
    words = "Müller, Anna Maria Dr · 山田, 花子 · P-77 · accession ACC9 · 2026-11-24"
    expect(row).to_contain_text(words)
    box = page.get_by_role("searchbox", name="Search")
    for typed in ("anna mull", "acc9", "p-77", "花子"):
        box.fill(typed)
        expect(page.get_by_text("1 series", exact=True)).to_be_visible()
        expect(page.locator("#rows tr")).to_have_count(1)
    # It stays live while somebody looks for one.
    Instance.create(series=mine, sop_instance_uid="8.1.1", path="x", sha256="", size=1)
    expect(row).to_contain_text("1 of 24 images")
    box.fill("nobody")
    expect(page.get_by_text("No series like that has arrived.")).to_be_visible()
    box.fill("")
    expect(page.locator("#rows tr")).to_have_count(2)
    # Neither the history of the browser nor any log of addresses learns a name.
    assert not any("anna" in url.lower() or "nobody" in url for url in [*asked, page.url])
    assert page.evaluate("history.length") <= 3


def test_what_happens_is_heard_and_not_asked_for(page):
    series = add("9.1", State.RECEIVING)
    expect(page.locator("#rows tr")).to_have_count(1)
    page.wait_for_timeout(3000)  # what was under way is over
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(5000)
    assert asked == []
    series.move(State.COMPLETE)
    expect(page.get_by_role("row", name="T1 axial")).to_contain_text("complete")


def test_without_events_it_is_asked_for(chromium, door):
    """A proxy that lets none through."""
    Series.delete().execute()
    context = chromium.new_context()
    page = context.new_page()
    page.route("**/api/events**", lambda route: route.abort())
    sign_in(page, door, "/")
    add("9.2", State.RECEIVING)
    expect(page.get_by_role("row", name="T1 axial")).to_contain_text("receiving")
    context.close()


def test_one_series_with_its_history_and_jobs(page, door):
    series = add("10.1", State.RECEIVING)
    series.patient_name = "Doe^Jane"
    series.save()
    page.get_by_role("link", name="T1 axial", exact=True).click()
    expect(page.get_by_role("heading", name="T1 axial")).to_be_visible()
    expect(page.locator("#facts")).to_contain_text("Doe, Jane")
    expect(page.get_by_text("Nothing has been computed yet.")).to_be_visible()
    page.evaluate("window.sameDocument = true")
    series.move(State.COMPLETE, "all 24 are here")
    series.move(State.QUEUED, "24 slices, 5.00 mm apart")
    job = Job.create(series=series, recipe=Recipe.NATIVE.value, lease_owner="somebody")
    series.move(State.PREPARING)
    StageRun.create(job=job, stage="convert", started_at=1e9, seconds=2.5, finished=True)
    StageRun.create(job=job, stage="brain", started_at=1e9)
    Job.update(stage="brain").execute()
    history = page.get_by_role("table", name="Changes of state")
    expect(history).to_contain_text("all 24 are here")
    expect(history.get_by_role("row")).to_have_count(5)
    expect(page.get_by_role("heading", name=f"Job {job.id}: running")).to_be_visible()
    expect(page.get_by_role("row", name="Finding the brain")).to_contain_text("running")
    expect(page.get_by_role("row", name="Reading the slices")).to_contain_text("2.5")
    # By the keyboard alone, and not by accident.
    button = page.get_by_role("button", name="Cancel: T1 axial")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Stop working on this?")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert Series.get().state == State.PREPARING
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").press("Enter")
    expect(history).to_contain_text("cancelled by admin")
    expect(page.locator("#now")).to_contain_text("Stopped at: Finding the brain")
    page.get_by_role("button", name="Try again: T1 axial").click()
    expect(history).to_contain_text("tried again by admin")
    assert page.evaluate("window.sameDocument")
    with door.tool() as tool:
        assert tool.get("/series/4711").status_code == 404


def test_what_the_node_refuses_is_said(page):
    series = add("11.1", State.RESOLVING, stage="superresolve")
    page.goto(f"{page.url}series/{series.id}")
    page.get_by_role("button", name="Cancel: T1 axial").click()
    # Meanwhile it has come to its end.
    Job.update(stage="store").execute()
    StageRun.create(job=Job.get(), stage="store", started_at=1.0)
    with page.expect_response("**/cancel"):
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("is stored whole")


def test_what_was_deleted_is_not_said_to_be_there(page):
    series = add("11.2", State.DONE, stage="confirm", delivered_at=1.0, result_series_uid="11.3")
    address = f"{page.url}series/{series.id}"
    page.goto(address)
    page.get_by_role("button", name="Process again: T1 axial").click()
    expect(page.get_by_role("dialog")).to_contain_text("Make a new result of this series?")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete copies: T1 axial").click()
    expect(page.get_by_role("dialog")).to_contain_text("pictures of the result")
    page.keyboard.press("Escape")
    Job.update(deleted_at=1.8e9).execute()
    Series.update(copies_deleted_at=1.8e9).execute()
    page.goto(address)
    expect(page.get_by_text("The newest job was deleted on Jan 15, 2027")).to_be_visible()
    expect(page.get_by_text("Nothing has been computed yet.")).to_be_hidden()


def test_who_may_only_look_sees_no_buttons(chromium, door):
    Series.delete().execute()
    User.update(role="viewer").execute()
    context = chromium.new_context()
    page = context.new_page()
    try:
        series = add("12.1", State.FAILED, stage="brain")
        sign_in(page, door, "/")
        row = page.get_by_role("row", name="T1 axial")
        expect(row).to_contain_text("failed")
        assert row.get_by_role("button").count() == 0
        page.goto(f"{door.url}/series/{series.id}")
        expect(page.locator("#now .state")).to_have_text("failed")
        assert page.locator("main").get_by_role("button").count() == 0
    finally:
        User.update(role="admin").execute()
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_one_series_fits_the_screen(page, width, scheme, tmp_path):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    series = add("13.1", State.RECEIVING, "T1_mprage_" + "x" * 50)
    series.patient_id, series.patient_name = "P-" + "7" * 40, "Müller-Lüdenscheidt^Anna"
    series.save()
    series.move(State.COMPLETE, "all 24 instances that the PACS knows are here")
    series.move(State.QUEUED, "24 slices, 5.00 mm apart")
    job = Job.create(series=series, recipe=Recipe.NATIVE.value, stage="brain", progress=0.4,
                     lease_owner="x", attempts=1)  # fmt: skip
    series.move(State.PREPARING)
    for stage in Stage:
        StageRun.create(job=job, stage=stage.value, started_at=1.8e9, seconds=12.3, finished=True)
    page.goto(f"{page.url}series/{series.id}")
    expect(page.get_by_role("heading", name=f"Job {job.id}")).to_be_visible()
    page.screenshot(path=tmp_path / f"one-series-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(CONTRAST).values()) >= 4.5


def test_descriptions_are_text(page):
    add("3.1", State.RECEIVING, EVIL)
    expect(page.get_by_role("rowheader")).to_contain_text(EVIL)
    assert page.locator("#rows img, #rows b").count() == 0
    assert "Series" in page.title()


def test_filter_and_pages(page):
    for number in range(30):
        add(f"4.{number}", State.SKIPPED if number % 3 else State.DONE, f"series {number}")
    expect(page.get_by_text("30 series")).to_be_visible()
    expect(page.locator("#rows tr")).to_have_count(25)
    page.get_by_role("button", name="Older").click()
    expect(page.locator("#rows tr")).to_have_count(5)
    expect(page.get_by_text("26–30 of 30")).to_be_visible()
    page.get_by_label("Show").select_option("done")
    expect(page.get_by_text("10 series")).to_be_visible()
    expect(page.locator("#rows tr")).to_have_count(10)


def test_focus_stays_where_it_is(page):
    add("5.1", State.DONE, "old", stage="confirm", result_series_uid="5.2", delivered_at=1.0)
    link = page.get_by_role("row", name="old").get_by_role("link", name="Compare")
    link.focus()
    add("5.3", State.RECEIVING, "new")
    expect(page.get_by_role("row", name="new")).to_be_visible()
    expect(link).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 800, 390])
def test_it_fits_the_screen(page, width, scheme, tmp_path):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    add("6.1", State.RECEIVING, "T2 tse tra")
    add("6.2", State.SKIPPED, "localizer").move(State.RECEIVING)
    add("6.3", State.RESOLVING, "T1_mprage_" + "x" * 50, stage="superresolve", progress=0.4)
    add("6.4", State.PREPARING, "FLAIR", stage="brain").move(
        State.FAILED, "two slices have the same position, and the images differ"
    )
    confirmed = {"stage": "confirm", "result_series_uid": "6.6", "delivered_at": 1.0}
    add("6.5", State.DONE, "T1 se tra 5mm", **confirmed)
    expect(page.locator("#rows tr")).to_have_count(5)
    page.screenshot(path=tmp_path / f"series-{width}-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_colours_can_be_read(page):
    add("7.1", State.DONE, stage="confirm", result_series_uid="7.2", delivered_at=1.0)
    add("7.3", State.FAILED)
    add("7.4", State.QUEUED)
    add("7.5", State.RESOLVING, stage="superresolve")
    expect(page.locator("#rows tr")).to_have_count(4)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        # WCAG 1.4.3: 4.5 to 1 for text of this size.
        ratios = page.evaluate(CONTRAST)
        assert min(ratios.values()) >= 4.5, (scheme, ratios)


def test_the_end_of_the_session_leads_to_sign_in(page):
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Password")).to_be_visible()


CONTRAST = """() => {
  const parse = colour => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
    const brush = canvas.getContext('2d');
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = {};
  for (const e of document.querySelectorAll('.state, .quiet, .button, button, a, th, footer')) {
    if (!e.checkVisibility() || e.matches('.skip')) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found[`${e.className || e.tagName} ${e.textContent.trim().slice(0, 20)}`] = ratio;
  }
  return found;
}"""
