"""Every page, to somebody who is signed in: axe finds nothing, light, dark and on a phone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from origins import FACTS, MADE_BY
from playwright.sync_api import Browser, Page, expect
from viewing import sign_in
from web_door import Door, served

from mrisr_node.choices import Recipe
from mrisr_node.jobs.findings import previews_of
from mrisr_node.jobs.stages import Stage
from mrisr_node.people.audit import Action, record
from mrisr_node.people.roles import Role
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import add_user
from mrisr_node.records import Job, Series, StageRun, State, StoredFile, Upload, UploadState
from mrisr_node.results.previews import write_previews
from mrisr_node.results.values import Window
from mrisr_node.settings import Settings
from mrisr_node.volumes.geometry import Volume
from tests import spooling

# A page, and something that is seen once it shows what it has; `{id}` is a series that is done.
PAGES = {
    "/": "T1 axial",
    "/series/{id}": "Finding the brain",
    "/results/{id}": "How faithful it is",
    "/quarantine": "cannot be read as DICOM",
    "/upload": "head.nii.gz",
    "/pairs": "head.nii.gz",
    "/compare": "Compare two NIfTI files",
    "/users": "ada",
    "/audit": "grace",
    "/account": "Slicer in room 7",
    "/nothing": "there is nothing at this address",
}


@pytest.fixture(scope="module")
def door(make_settings: Callable[..., Settings]) -> Iterator[Door]:
    with served(make_settings(minimum_free_bytes=0)) as running:
        yield running


@pytest.fixture(scope="module")
def series_id(door: Door) -> int:
    """Something of everything; the series that is done."""
    done = Series.create(
        series_instance_uid="1.1", study_instance_uid="1.2", description="T1 axial",
        state=State.DELIVERING.value, sender="SCANNER", patient_name="Doe^Jane",
    )  # fmt: skip
    job = Job.create(
        series=done, recipe=Recipe.NATIVE.value, result_series_uid="1.3", delivered_at=1.8e9,
        outcome=json.dumps(outcome()),
    )  # fmt: skip
    for stage in (Stage.BRAIN, Stage.SUPERRESOLVE):
        StageRun.create(job=job, stage=stage.value, started_at=1, seconds=9.5, finished=True)
    folder = previews_of(door.settings, job.id)
    folder.mkdir(parents=True)
    ramp = np.tile(np.arange(20, dtype=np.float32)[:, None, None] * 5, (1, 16, 8))
    thick = Volume(ramp, np.diag([1.0, 1.0, 5.0, 1.0]))
    write_previews(folder, thick, thick, ramp > 10, Window(50, 100))
    done.move(State.DONE, "the PACS shows it")
    for number, state in enumerate((State.RECEIVING, State.FAILED, State.RESOLVING)):
        series = Series.create(
            series_instance_uid=f"2.{number}", study_instance_uid="1.2", state=state.value,
            description="T2", reason="slices are missing" if state is State.FAILED else "",
        )  # fmt: skip
        Job.create(series=series, recipe=Recipe.MNI.value)
    spooling.refuse(door.settings, b"junk", "cannot be read as DICOM (Error)", "SCANNER")
    file = StoredFile.create(
        key="ab" * 16, owner="admin", name="head.nii.gz", size=1, sha256="",
        media_type="application/gzip", facts=json.dumps({"shape": [9, 9, 9]}),
    )  # fmt: skip
    Upload.create(key="cd" * 16, owner="admin", name=file.name, size=1, kind="nifti", file=file,
                  state=UploadState.DONE.value)  # fmt: skip
    Upload.create(key="ef" * 16, owner="admin", name="notes.txt", size=9, kind="nifti",
                  state=UploadState.REFUSED.value, reason="neither NIfTI nor DICOM")  # fmt: skip
    add_user("ada", Role.VIEWER)
    create_token("admin", "Slicer in room 7", 90)
    record(Action.TRANSFER, username="grace", patient_id="P-42", study_uid="1.2", method="GET")
    return done.id


def outcome() -> dict[str, object]:
    """Return what a job knows in the end."""
    inside, cubic = asdict(FACTS.residuals), asdict(FACTS.interpolated)
    return {
        "source": {"thickness_mm": 4.0, "contrast": "T1w", "field_strength": 3.0},
        "brain": {"method": FACTS.brain_method},
        "superresolve": {
            "checkpoint": MADE_BY.checkpoint, "digest": MADE_BY.digest, "profile": FACTS.profile,
            "spacing_in_mm": 5.0, "spacing_out_mm": 1.0,
            "fidelity": {"inside": inside, "cubic_inside": cubic},
        },
        "result": {
            "description": "Super-resolved through-plane",
            "series": {"image": {"series_instance_uid": "1.3", "instances": 40}},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(chromium: Browser, door: Door, series_id: int, ohif: None) -> Iterator[Page]:
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    sign_in(page, door, "/account")
    yield page
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(page, door, series_id, path):
    page.goto(door.url + path.format(id=series_id))
    expect(page.locator("main").get_by_text(PAGES[path]).first).to_be_visible(timeout=60_000)
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Whoever uses the keyboard gets past the navigation, and hears what a table is of.
    skip = page.locator("a.skip").get_attribute("href")
    assert page.locator(skip).count() == 1
    assert page.locator("table:not(:has(caption))").count() == 0
