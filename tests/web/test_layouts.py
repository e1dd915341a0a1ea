"""Results with mask, maps and notice in OHIF, in a real browser."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from viewing import choose_layout, coloured, differ, look, look_in_colour, wait_for_images

NOTICE = re.compile(r"Super-resolved,\s*not acquired")


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


def test_the_pictures_of_series_show_them_in_their_windows(comparison, tmp_path):
    """Maps name a VOI LUT function, on which OHIF fails by itself."""
    page = comparison
    pictures = page.locator('[data-cy="study-browser-thumbnail"] img')
    expect(pictures).to_have_count(4)
    page.screenshot(path=tmp_path / "pictures.png")
    for picture in pictures.all():
        seen = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))
        assert (seen > 200).mean() > 0.02
    expect(page.get_by_text("Something went wrong")).to_have_count(0)


def test_windows_are_the_same_without_a_function(comparison):
    """Black and white lie where PS3.3 C.11.2.1 puts them."""
    for function, center, width in (
        ("LINEAR_EXACT", 25, 50), ("LINEAR_EXACT", 0, 0.25), ("LINEAR", 70, 140),
    ):  # fmt: skip
        said = comparison.evaluate(
            """async instance => {
              const { windowOfFunction } = await import('/viewer/ext/windows.js');
              return windowOfFunction(instance);
            }""",
            {"VOILUTFunction": function, "WindowCenter": [center, 1], "WindowWidth": [width, 9]},
        )
        exact = function == "LINEAR_EXACT"
        black = center - width / 2 if exact else center - 0.5 - (width - 1) / 2
        white = center + width / 2 if exact else center - 0.5 + (width - 1) / 2
        shown_center, shown_width = said["windowCenter"][0], said["windowWidth"][0]
        assert shown_center - 0.5 - (shown_width - 1) / 2 == pytest.approx(black)
        assert shown_center - 0.5 + (shown_width - 1) / 2 == pytest.approx(white)


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


def move_slider(page, key: str, value: str) -> None:
    """Move the slider of opacity to an end.

    OHIF shows its controls while the pointer is over them, lets nothing else click there, and may
    draw them anew at any time: so they are looked for again and again.
    """
    sliders = page.locator("[role=dialog] [role=slider]")
    for _ in range(60):
        now = sliders.evaluate_all("found => found[0]?.getAttribute('aria-valuenow')")
        if now == value:
            return
        if now is None:
            place = page.locator('[data-cy="opacityMenu-btn"]').first.bounding_box()
            page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        else:
            sliders.evaluate_all("found => found[0]?.focus()")
            page.keyboard.press(key)
        page.wait_for_timeout(500)
    pytest.fail("the slider does not move")


def test_a_slider_makes_the_map_clearer_or_denser(comparison, tmp_path):
    page = comparison
    choose_layout(page, "Fidelity in colour")
    name = "mrisr-fidelity-axial"
    wait_for_colour(page, name, 0.03)
    page.locator(f'[data-viewport-uid="{name}"]').first.hover()
    page.locator(f'[data-cy="dataOverlayMenu-{name}"]').first.click()
    page.locator("[role=dialog] [role=switch]").first.click()
    page.keyboard.press("Escape")
    move_slider(page, "Home", "0")
    page.screenshot(path=tmp_path / "slider.png")
    for _ in range(60):
        if not coloured(middle(look_in_colour(page, name))).any():
            break
        page.wait_for_timeout(500)
    assert not coloured(middle(look_in_colour(page, name))).any()
    move_slider(page, "End", "1")
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


def test_the_result_is_rendered_in_three_dimensions_and_turns(comparison, tmp_path):
    page = comparison
    choose_layout(page, "Result in 3D")
    wait_for_colour(page, "mrisr-3d", 0.5)
    page.screenshot(path=tmp_path / "3d.png")
    # The one picture in which nothing else would say so.
    expect(page.locator('[data-cy="viewport-pane"]')).to_contain_text(NOTICE)
    before = look(page, "mrisr-3d")
    place = page.locator('[data-viewport-uid="mrisr-3d"] canvas').first.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 150, y, steps=2)
    page.mouse.up()
    for _ in range(60):
        if differ(before, look(page, "mrisr-3d")):
            return
        page.wait_for_timeout(500)
    pytest.fail("it does not turn")
