"""Two echoes in one series, each with a result of its own: each beside its own original."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect
from viewing import look, wait_for_images
from web_samples import as_file, make_study

from mrisr_node.web.viewer import comparison_path

ECHO_TIMES = (13.0, 98.0)
SIDES = ["mrisr-source", "mrisr-result"]
SHOWN = """() => Object.fromEntries(window.cornerstone.getRenderingEngines()
  .flatMap(engine => engine.getViewports())
  .map(viewport => {
    const images = viewport.getImageIds().map(
      id => window.cornerstone.metaData.get('instance', id));
    return [viewport.id, [images.length, ...new Set(images.map(image => image.EchoTime))]];
  }))"""


@pytest.fixture(scope="module")
def study(web_settings, orthanc):
    """The second echo is the head with its intensities the other way round."""
    first, second = (make_study("PD T2") for _ in ECHO_TIMES)
    for echo, made in enumerate((first, second)):
        for image in made.instances:
            image.StudyInstanceUID = first.study
            image.FrameOfReferenceUID = first.source[0].FrameOfReferenceUID
            image.EchoTime = ECHO_TIMES[echo]
            if echo:
                pixels = image.pixel_array
                image.PixelData = np.where(pixels > 0, 140 - np.minimum(pixels, 140), 0).astype(
                    np.uint16
                ).tobytes()  # fmt: skip
        for image in made.source:
            image.SeriesInstanceUID = first.source_uid
            image.InstanceNumber = 100 * echo + image.InstanceNumber
        for image in made.result:
            image.SeriesDescription = f"SR 1mm PD T2 TE {ECHO_TIMES[echo]:g} ms"
            image.SeriesNumber = 1001 + 5000 * echo
    auth = (web_settings.orthanc_username, web_settings.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for image in (*first.instances, *second.instances):
            client.post("/instances", content=as_file(image)).raise_for_status()
    return first, second


@pytest.mark.parametrize("echo", [0, 1])
def test_a_result_is_shown_beside_the_echo_that_it_is_made_of(
    signed_in, door, study, tmp_path, echo
):
    page, first = signed_in, study[0]
    page.goto(door.url + comparison_path(first.study, first.source_uid, study[echo].result_uid))
    wait_for_images(page, SIDES)
    page.screenshot(path=tmp_path / "echo.png")
    shown = page.evaluate(SHOWN)
    assert shown["mrisr-source"] == [len(first.source), ECHO_TIMES[echo]]
    assert shown["mrisr-result"] == [len(first.result), ECHO_TIMES[echo]]
    # Both are listed, each by its name.
    for time in ECHO_TIMES:
        expect(page.get_by_text(f"PD T2 TE {time:g} ms", exact=True).first).to_be_visible()
    source, result = (look(page, side) for side in SIDES)
    assert abs(float(source.mean()) - float(result.mean())) < 0.2 * float(result.mean())


def test_only_series_of_several_volumes_are_split(signed_in, door):
    page = signed_in
    page.goto(f"{door.url}/viewer/ext/stacks.js")
    found = page.evaluate(
        """async () => {
          const { split, label } = await import('/viewer/ext/stacks.js');
          const images = (count, more = {}, at = 0) => [...Array(count).keys()].map(n => ({
            ImagePositionPatient: [0, 0, at + n], ImageOrientationPatient: [1, 0, 0, 0, 1, 0],
            Rows: 4, Columns: 4, ImageType: ['ORIGINAL', 'M'], EchoTime: 3, ...more }));
          const sizes = all => split(all).map(group => group.length);
          const sagittal = { ImageOrientationPatient: [0, 1, 0, 0, 0, -1] };
          const echoes = [...images(8), ...images(8, { EchoTime: 9 })];
          return {
            echoes: sizes(echoes),
            labels: split(echoes).map(group => label(group, echoes)),
            planes: sizes([...images(8), ...images(9, sagittal)]),
            withPhase: sizes([...images(8), ...images(8, { ImageType: ['ORIGINAL', 'P'] })]),
            volume: sizes(images(20)),
            oneVolumeOfTwoKinds: sizes([...images(9), ...images(9, { EchoTime: 4 }, 9)]),
            timeSeries: sizes([...images(8), ...images(8)]),
            localizer: sizes([...images(3), ...images(3, sagittal)]),
          };
        }"""
    )
    assert found == {
        "echoes": [8, 8],
        "labels": ["TE 3 ms", "TE 9 ms"],
        "planes": [8, 9],
        "withPhase": [8, 8],
        "volume": [],
        "oneVolumeOfTwoKinds": [],
        "timeSeries": [],
        "localizer": [],
    }
