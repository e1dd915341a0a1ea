"""Structured Reports in OHIF, in a real browser: what a person measures, and what the node says."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from playwright.sync_api import expect
from pydicom import dcmread
from pydicom.uid import EnhancedSRStorage
from web_samples import PIXEL

from mrisr_node.choices import ResultKind
from mrisr_node.web.annotations import SOP_CLASSES

NAME = "Across the ventricles"


def open_document(page, name: str) -> None:
    page.locator('[data-cy="study-browser-thumbnail-no-image"]').filter(has_text=name).dblclick()


def measure(page, name: str) -> None:
    """Draw a length through the middle of a viewport."""
    viewport = page.locator(f'[data-viewport-uid="{name}"]').first
    # Only the active viewport is drawn in: the first press chooses it.
    viewport.click()
    page.locator(f'[data-cy="dataOverlayMenu-{name}"]').first.wait_for()
    page.locator('[data-cy="Length"]').first.click()
    place = viewport.bounding_box()
    x, y = place["x"] + 0.4 * place["width"], place["y"] + 0.5 * place["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y + 10, steps=5)
    page.mouse.move(x + 100, y + 20, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Yes", exact=True).click()


def numbers(item) -> list:
    """Measurements, and where they were made, anywhere below an item of a report."""
    below = [found for child in item.get("ContentSequence", []) for found in numbers(child)]
    return ([item] if item.get("ValueType") == "NUM" else []) + below


def test_a_length_is_saved_in_the_pacs_and_comes_back(comparison, door, results, tmp_path):
    page = comparison
    measure(page, "mrisr-result")
    page.locator('[data-cy="trackedMeasurements-btn"]').click()
    page.get_by_text("Create SR").click()
    page.get_by_placeholder("Report name").fill(NAME)
    with page.expect_response(lambda answer: answer.request.method == "POST") as stored:
        page.get_by_role("button", name="Save").click()
    assert stored.value.status == 200
    page.screenshot(path=tmp_path / "saved.png")

    study = f"/dicom-web/studies/{results.study.study}"
    with door.tool() as tool:
        series = tool.get(f"{study}/series?Modality=SR&includefield=0008103E").json()
        [uid] = [
            one["0020000E"]["Value"][0] for one in series if one["0008103E"]["Value"] == [NAME]
        ]
        whole = tool.get(f"{study}/series/{uid}").content
    report = dcmread(io.BytesIO(whole[whole.index(b"DICM") - 128 : whole.rindex(b"\r\n--")]))
    assert report.SOPClassUID == EnhancedSRStorage
    assert report.SOPClassUID in SOP_CLASSES
    assert report.PatientID == results.study.source[0].PatientID
    image = results.series[ResultKind.IMAGE]
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert evidence.SeriesInstanceUID == image.series_instance_uid
    shown = evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert shown in {dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in image.paths}
    [length] = numbers(report)
    millimetres = float(length.MeasuredValueSequence[0].NumericValue)
    start, end = np.reshape(length.ContentSequence[0].GraphicData, (2, 2))
    assert millimetres == pytest.approx(PIXEL * np.linalg.norm(end - start), rel=1e-3)
    assert millimetres > 10

    page.reload()
    open_document(page, NAME)
    page.get_by_role("button", name="Yes", exact=True).click()
    page.locator('[data-cy="trackedMeasurements-btn"]').click()
    expect(page.get_by_text("Measurements (1)")).to_be_visible()
    expect(page.locator("svg text").first).to_contain_text(f"{millimetres:.1f} mm")
    page.screenshot(path=tmp_path / "again.png")


def test_the_report_on_a_result_is_read_in_the_viewer(comparison, tmp_path):
    page = comparison
    open_document(page, "Report on SR")
    report = page.locator('[data-cy="viewport-pane"]').filter(has_text="Report on super-resolution")
    expect(report).to_be_visible()
    page.screenshot(path=tmp_path / "report.png")
    for name, value in (
        ("Spacing between slices", "5 mm"),
        ("Spacing between slices", "1 mm"),
        ("Contrast seen", "T1-weighted"),
        ("Median residual over the mean of the brain", "0.25 %"),
        ("Algorithm Name", "mrisr_node"),
    ):
        expect(report.get_by_text(re.compile(f"^{name}: {re.escape(value)}"))).to_have_count(1)
    expect(page.get_by_text("Something went wrong")).to_have_count(0)
