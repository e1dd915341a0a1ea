"""Results with mask, maps and notice in OHIF, in a real browser."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect
from result_samples import write_result_set
from viewing import choose_layout, coloured, differ, look, look_in_colour, wait_for_images

from mrisr_node.choices import ResultKind
from mrisr_node.web.viewer import comparison_path

SIDES = ["mrisr-source", "mrisr-result"]
NOTICE = "Super-resolved, not acquired"


@pytest.fixture(scope="module")
def results(tmp_path_factory, web_settings, orthanc):
    """A study with everything that belongs to a result, in the PACS."""
    made = write_result_set(tmp_path_factory.mktemp("set"), "T1 with maps")
    auth = (web_settings.orthanc_username, web_settings.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for path in made.files:
            client.post("/instances", content=path.read_bytes()).raise_for_status()
    return made


@pytest.fixture
def comparison(signed_in, door, results):
    """The page with original and result side by side."""
    image = results.series[ResultKind.IMAGE]
    source = results.study.source_uid
    signed_in.goto(
        door.url + comparison_path(image.study_instance_uid, source, image.series_instance_uid)
    )
    wait_for_images(signed_in, SIDES)
    return signed_in


def test_a_result_says_in_its_corner_that_it_was_not_acquired(comparison, tmp_path):
    page = comparison
    page.screenshot(path=tmp_path / "notice.png")
    shown = page.locator('[data-cy="viewport-pane"]').filter(has_text=NOTICE)
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("thin-test")
    expect(shown).to_contain_text("0.37 %")


def test_the_brain_lies_in_colour_over_the_result(comparison, tmp_path):
    page = comparison
    choose_layout(page, "Result with brain")
    names = ["mrisr-mask-stack", "mrisr-mask-sagittal"]
    wait_for_images(page, names)
    for name in names:
        page.wait_for_function("name => document.querySelector(`[data-viewport-uid=\"${name}\"]`)",
                               arg=name)  # fmt: skip
        for _ in range(60):
            seen = coloured(look_in_colour(page, name))
            if seen.mean() > 0.05:
                break
            page.wait_for_timeout(500)
        page.screenshot(path=tmp_path / "mask.png")
        assert seen.mean() > 0.05, name


@pytest.mark.parametrize("layout", ["Fidelity in colour", "Change in colour"])
def test_a_map_lies_in_colour_where_it_is_high(comparison, tmp_path, layout):
    page = comparison
    choose_layout(page, layout)
    name = f"mrisr-{layout.partition(' ')[0].lower()}-axial"
    wait_for_images(page, [name])
    page.wait_for_timeout(1000)
    page.screenshot(path=tmp_path / "map.png")
    seen = coloured(look_in_colour(page, name))
    rows, columns = np.nonzero(seen)
    assert seen.mean() > 0.005
    # The quarter that is left above, and not the other three.
    assert np.median(rows) < seen.shape[0] / 2
    assert np.median(columns) < seen.shape[1] / 2


def test_a_key_changes_between_original_and_result_at_the_same_place(comparison, tmp_path):
    page = comparison
    choose_layout(page, "Flicker (key X)")
    wait_for_images(page, ["mrisr-flicker"])
    page.wait_for_timeout(1000)
    result = look(page, "mrisr-flicker")
    page.keyboard.press("x")
    page.wait_for_timeout(1000)
    original = look(page, "mrisr-flicker")
    page.screenshot(path=tmp_path / "flicker.png")
    page.keyboard.press("x")
    page.wait_for_timeout(1000)
    again = look(page, "mrisr-flicker")
    assert differ(result, original)
    assert not differ(result, again)
