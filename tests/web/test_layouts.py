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


def middle(pixels: np.ndarray) -> np.ndarray:
    """Cut off where letters stand."""
    rows, columns = pixels.shape[:2]
    return pixels[rows // 4 : -rows // 4, columns // 8 : -columns // 8]


def wait_for_colour(page, name: str, part: float) -> np.ndarray:
    """Wait until so much of the middle of a viewport is coloured; return where."""
    for _ in range(120):
        seen = coloured(middle(look_in_colour(page, name)))
        if seen.mean() > part:
            return seen
        page.wait_for_timeout(500)
    pytest.fail(f"{name}: only {seen.mean():.3f} of it is coloured")


def test_a_result_says_in_its_corner_that_it_was_not_acquired(comparison, tmp_path):
    page = comparison
    page.screenshot(path=tmp_path / "notice.png")
    shown = page.locator('[data-cy="viewport-pane"]').filter(has_text=NOTICE)
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("thin-test")
    expect(shown).to_contain_text("residual 0.37 %")


def test_the_brain_lies_in_colour_over_the_result(comparison, tmp_path):
    page = comparison
    assert not coloured(middle(look_in_colour(page, "mrisr-result"))).any()
    choose_layout(page, "Result with brain")
    wait_for_colour(page, "mrisr-mask-stack", 0.4)
    wait_for_colour(page, "mrisr-mask-sagittal", 0.2)
    page.screenshot(path=tmp_path / "mask.png")


@pytest.mark.parametrize("layout", ["Fidelity in colour", "Change in colour"])
def test_a_map_lies_in_colour_where_it_is_high(comparison, tmp_path, layout):
    page = comparison
    choose_layout(page, layout)
    seen = wait_for_colour(page, f"mrisr-{layout.partition(' ')[0].lower()}-axial", 0.03)
    page.screenshot(path=tmp_path / "map.png")
    rows, columns = np.nonzero(seen)
    # The quarter that is left above, and not the other three.
    assert np.percentile(rows, 98) < 0.55 * seen.shape[0]
    assert np.percentile(columns, 98) < 0.55 * seen.shape[1]
    assert seen.mean() < 0.2


def test_a_slider_makes_the_map_clearer_or_denser(comparison, tmp_path):
    page = comparison
    choose_layout(page, "Fidelity in colour")
    name = "mrisr-fidelity-axial"
    wait_for_colour(page, name, 0.03)
    page.locator(f'[data-viewport-uid="{name}"]').first.hover()
    page.locator(f'[data-cy="dataOverlayMenu-{name}"]').first.click()
    page.locator("[role=dialog] [role=switch]").first.click()
    page.keyboard.press("Escape")
    # OHIF shows these controls while the pointer is over them, and lets nothing else click there.
    place = page.locator('[data-cy="opacityMenu-btn"]').first.bounding_box()
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    slider = page.locator("[role=dialog] [role=slider]").first
    slider.press("Home")
    page.screenshot(path=tmp_path / "slider.png")
    for _ in range(60):
        if not coloured(middle(look_in_colour(page, name))).any():
            break
        page.wait_for_timeout(500)
    assert not coloured(middle(look_in_colour(page, name))).any()
    slider.press("End")
    wait_for_colour(page, name, 0.03)


def test_a_key_changes_between_original_and_result_at_the_same_place(comparison, tmp_path):
    page = comparison
    choose_layout(page, "Flicker (key X)")
    wait_for_images(page, ["mrisr-flicker"])
    page.wait_for_timeout(1000)
    result = middle(look(page, "mrisr-flicker"))
    page.keyboard.press("x")
    page.wait_for_timeout(1000)
    original = middle(look(page, "mrisr-flicker"))
    page.screenshot(path=tmp_path / "flicker.png")
    page.keyboard.press("x")
    page.wait_for_timeout(1000)
    again = middle(look(page, "mrisr-flicker"))
    assert differ(result, original)
    assert not differ(result, again)
