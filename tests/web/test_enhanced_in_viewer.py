"""Results as Enhanced MR objects, one instance each, in OHIF."""

from __future__ import annotations

import httpx
import pytest
from result_samples import write_result_set
from viewing import POSITIONS, choose_layout, coloured, look_in_colour, wait_for_images

from mrisr_node.choices import ResultKind
from mrisr_node.results.enhanced_mr import write_enhanced
from mrisr_node.web.viewer import comparison_path

SIDES = ["mrisr-source", "mrisr-result"]


@pytest.fixture(scope="module")
def results(tmp_path_factory, web_settings, orthanc):
    made = write_result_set(tmp_path_factory.mktemp("set"), "T1 enhanced", write_enhanced)
    auth = (web_settings.orthanc_username, web_settings.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for path in made.files:
            client.post("/instances", content=path.read_bytes()).raise_for_status()
    return made


def test_an_enhanced_result_is_compared_scrolled_and_coloured(signed_in, door, results, tmp_path):
    image = results.series[ResultKind.IMAGE]
    assert len(image.paths) == 1
    page = signed_in
    page.goto(
        door.url
        + comparison_path(
            image.study_instance_uid, results.study.source_uid, image.series_instance_uid
        )
    )
    wait_for_images(page, SIDES)
    page.screenshot(path=tmp_path / "enhanced.png")
    before = page.evaluate(POSITIONS)
    place = page.locator('[data-viewport-uid="mrisr-source"]').first.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.wheel(0, 100)
    page.wait_for_function(
        f"before => Object.entries(({POSITIONS})()).every(([id, p]) => p[2] !== before[id][2])",
        arg=before,
    )
    choose_layout(page, "Fidelity in colour")
    for _ in range(240):
        if coloured(look_in_colour(page, "mrisr-fidelity-axial")).mean() > 0.01:
            break
        page.wait_for_timeout(500)
    page.screenshot(path=tmp_path / "fidelity.png")
    assert coloured(look_in_colour(page, "mrisr-fidelity-axial")).mean() > 0.01
