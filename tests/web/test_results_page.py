"""What is known of a result: its page in a real browser, its pictures and its files."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict

import httpx
import numpy as np
import pytest
from origins import FACTS, MADE_BY
from PIL import Image
from playwright.sync_api import expect
from pydicom import dcmread
from result_samples import SENTENCE, write_result_set

from mrisr_node.choices import Recipe, ResultKind
from mrisr_node.jobs.findings import previews_of
from mrisr_node.jobs.stages import Stage
from mrisr_node.records import Job, Series, StageRun, State
from mrisr_node.results.previews import PLANES, SIDES, write_previews
from mrisr_node.results.values import Window
from mrisr_node.volumes.geometry import Volume


@pytest.fixture(scope="module")
def results(tmp_path_factory, web_settings, orthanc):
    """A study with a whole result, in the PACS."""
    made = write_result_set(tmp_path_factory.mktemp("set"), "T1 with a page")
    auth = (web_settings.orthanc_username, web_settings.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for path in made.files:
            client.post("/instances", content=path.read_bytes()).raise_for_status()
    return made


def known(made) -> dict:
    inside = asdict(FACTS.residuals)
    return {
        "source": {"thickness_mm": 5.0, "contrast": "T1w", "field_strength": 3.0},
        "brain": {"method": FACTS.brain_method},
        "superresolve": {
            "checkpoint": MADE_BY.checkpoint,
            "digest": MADE_BY.digest,
            "profile": FACTS.profile,
            "spacing_in_mm": 5.0,
            "spacing_out_mm": 1.0,
            "fidelity": {"inside": inside, "cubic_inside": asdict(FACTS.interpolated)},
        },
        "result": {
            "description": SENTENCE,
            "series": {
                kind.value: {
                    "series_instance_uid": one.series_instance_uid,
                    "instances": len(one.paths),
                }
                for kind, one in made.series.items()
            },
        },
    }


@pytest.fixture(scope="module")
def series_id(door, results) -> int:
    """A series that is done, as the workers leave it behind."""
    image = results.series[ResultKind.IMAGE]
    series = Series.create(
        series_instance_uid=results.study.source_uid,
        study_instance_uid=image.study_instance_uid,
        description="T1 <b>with</b> a page",
        state=State.DONE.value,
    )
    job = Job.create(
        series=series,
        recipe=Recipe.NATIVE.value,
        result_series_uid=image.series_instance_uid,
        delivered_at=1.8e9,
        outcome=json.dumps(known(results)),
    )
    for stage, seconds in ((Stage.BRAIN, 10.25), (Stage.SUPERRESOLVE, 16.5)):
        StageRun.create(job=job, stage=stage.value, started_at=1, seconds=seconds, finished=True)
    folder = previews_of(door.settings, job.id)
    folder.mkdir(parents=True)
    ramp = np.tile(np.arange(20, dtype=np.float32)[:, None, None] * 5, (1, 16, 8))
    thick = Volume(ramp, np.diag([1.0, 1.0, 5.0, 1.0]))
    thin = Volume(np.repeat(ramp, 5, axis=2), np.diag([1.0, 1.0, 1.0, 1.0]))
    write_previews(folder, thick, thin, ramp > 10, Window(50, 100))
    return series.id


def test_figures_for_tools(door, series_id, results):
    with door.tool() as tool:
        view = tool.get(f"/api/results/{series_id}").json()
        assert view["residuals"]["relative_p99"] == FACTS.residuals.relative_p99
        assert view["seconds"] == {"brain": 10.25, "superresolve": 16.5}
        assert set(view["series"]) == {kind.value for kind in ResultKind}
        assert len(view["previews"]) == len(PLANES) * len(SIDES)
        for address in view["previews"]:
            answer = tool.get(address)
            assert answer.headers["content-type"] == "image/png"
            picture = Image.open(io.BytesIO(answer.content))
            assert max(picture.size) == 320
        # Across the slices the field of view is 40 mm of 20 mm, in both pictures alike.
        sizes = {Image.open(io.BytesIO(tool.get(f"/api/results/{series_id}/previews"
                 f"/coronal/{side}").content)).size for side in SIDES}  # fmt: skip
        assert sizes == {(160, 320)}
        assert (
            tool.get("/api/series")
            .json()["items"][0]["result_url"]
            .endswith(f"/results/{series_id}")
        )


@pytest.mark.parametrize("path", ["/api/results/4711", "/results/4711", "/api/results/4711/dicom"])
def test_of_what_is_not_there(door, path):
    with door.tool() as tool:
        assert tool.get(path).status_code == 404


def test_whoever_looks_for_what_is_not_there_sees_a_page(signed_in, door):
    series = Series.create(
        series_instance_uid="2.25.4714",
        study_instance_uid="2.25.4711",
        state=State.FAILED.value,
        reason="slices are missing",
    )
    answer = signed_in.goto(f"{door.url}/results/{series.id}")
    assert answer.status == 404
    words = f"series {series.id} has no result in the PACS; it is failed: slices are missing"
    expect(signed_in.get_by_text(words)).to_be_visible()
    expect(signed_in.get_by_role("link", name="Go to the list of series")).to_be_visible()


@pytest.mark.parametrize("path", ["previews/axial/..", "previews/x/acquired", "previews/a/b/c"])
def test_nothing_else_is_a_picture(door, series_id, path):
    with door.tool() as tool:
        assert tool.get(f"/api/results/{series_id}/{path}").status_code in (404, 422)


def test_all_files_in_one(door, series_id, results):
    with door.tool() as tool:
        answer = tool.get(f"/api/results/{series_id}/dicom")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        found = {
            str(dcmread(io.BytesIO(archive.read(name))).SOPInstanceUID)
            for name in archive.namelist()
        }
    sent = {
        str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        for one in results.series.values()
        for path in one.paths
    }
    assert found == sent


def test_each_stack_of_a_series_has_its_page(signed_in, door, results):
    one = known(results)
    job = Job.create(
        series=Series.create(
            series_instance_uid="2.25.4712", study_instance_uid="2.25.4711", description="T2 two"
        ),
        recipe=Recipe.NATIVE.value,
        result_series_uid="2.25.4713",
        delivered_at=1.8e9,
        outcome=json.dumps(
            {
                "stacks": [
                    {"label": "TE 13 ms", **one},
                    {"label": "TE 98 ms", **one, "source": {"thickness_mm": 6.0}},
                ]
            }
        ),
    )
    with door.tool() as tool:
        second = tool.get(f"/api/results/{job.series_id}", params={"stack": 2}).json()
        assert second["stacks"] == ["TE 13 ms", "TE 98 ms"]
        assert (second["stack"], second["acquired_thickness_mm"]) == (2, 6.0)
        for stack, status in ((3, 404), (0, 422)):
            answer = tool.get(f"/api/results/{job.series_id}", params={"stack": stack})
            assert answer.status_code == status
    page = signed_in
    page.goto(f"{door.url}/results/{job.series_id}")
    stacks = page.get_by_role("navigation", name="Stacks of the series")
    expect(stacks.get_by_text("TE 13 ms")).to_have_attribute("aria-current", "page")
    stacks.get_by_role("link", name="TE 98 ms").click()
    expect(page).to_have_url(f"{door.url}/results/{job.series_id}?stack=2")
    expect(stacks.get_by_text("TE 98 ms")).to_have_attribute("aria-current", "page")


@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_says_what_a_reader_needs(signed_in, door, series_id, tmp_path, width):
    page = signed_in
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{door.url}/results/{series_id}")
    expect(page.get_by_role("heading", name="T1 <b>with</b> a page")).to_be_visible()
    expect(page.get_by_text("Super-resolved, not acquired")).to_be_visible()
    back = page.get_by_role("link", name="The series of this result")
    expect(back).to_have_attribute("href", f"/series/{series_id}")
    expect(page.get_by_role("row", name="this result")).to_contain_text("0.25 %")
    expect(page.get_by_role("row", name="cubic interpolation")).to_contain_text("2.50 %")
    expect(page.get_by_text("16.5 s")).to_be_hidden()
    page.get_by_text("How long it took").click()
    expect(page.get_by_text("16.5 s")).to_be_visible()
    assert page.locator("figure img").count() == 6
    assert page.evaluate(
        "() => [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )
    # Nothing sticks out of a phone.
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "result.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 800})
