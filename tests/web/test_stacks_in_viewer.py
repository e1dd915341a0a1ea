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


IMAGES = """
  const images = (count, more = {}, at = 0) => [...Array(count).keys()].map(n => ({
    ImagePositionPatient: [0, 0, at + n], ImageOrientationPatient: [1, 0, 0, 0, 1, 0],
    PixelSpacing: [1, 1], Rows: 4, Columns: 4, ImageType: ['ORIGINAL', 'M'], EchoTime: 3,
    ...more }));
  const sagittal = (count, more = {}) => images(count, more).map((image, n) => ({
    ...image, ImagePositionPatient: [n, 0, 0], ImageOrientationPatient: [0, 1, 0, 0, 0, -1] }));
  const echo = { EchoTime: 9 };
  const phase = { ImageType: ['ORIGINAL', 'P'] };
"""


@pytest.fixture
def rules(signed_in, door):
    """Ask the script that tells the volumes apart, without OHIF."""
    signed_in.goto(f"{door.url}/viewer/ext/stacks.js")

    def ask(code: str) -> object:
        script = "async () => { const { split, labels } = await import('/viewer/ext/stacks.js');"
        return signed_in.evaluate(f"{script} {IMAGES} {code} }}")

    return ask


def test_only_series_of_several_volumes_are_split(rules):
    found = rules("""
      const sizes = all => split(all).map(group => group.length);
      return {
        echoes: sizes([...images(8), ...images(8, echo)]),
        oneImageMore: sizes([...images(2), ...images(1, echo)]),
        planes: sizes([...images(8), ...sagittal(9, echo)]),
        withPhase: sizes([...images(8), ...images(8, phase)]),
        echoesWithPhase: sizes([{}, echo].flatMap(more =>
          [...images(8, more), ...images(7, { ...more, ...phase })])),
        sizes: sizes([...images(8), ...images(9, { Rows: 8 })]),
        spacings: sizes([...images(8), ...images(9, { PixelSpacing: [2, 2] })]),
        // One volume whatever its images say; only the part of a plane that repeats is told apart.
        volume: sizes(images(20)),
        oneVolumeOfTwoKinds: sizes([...images(9), ...images(9, echo, 9)]),
        onlyTheEcho: sizes(images(8).flatMap((image, n) =>
          [{ ...image, RepetitionTime: n }, { ...image, ...echo, RepetitionTime: n }])),
        timeSeries: sizes([...images(8), ...images(8)]),
        echoesOfTimeSeries: sizes([{}, {}, echo, echo].flatMap(more => images(8, more))),
        oneOfEach: sizes([...images(1), ...images(1, echo)]),
        nowhere: sizes([{}, echo].flatMap(more =>
          images(8, { ...more, ImagePositionPatient: undefined }))),
        localizer: sizes([...images(9), ...sagittal(9)]),
        localizerWithAnEcho: sizes([...images(9), ...sagittal(9), ...sagittal(9, echo)]),
        radial: sizes([...Array(40).keys()].flatMap(n => {
          const cosines = [Math.cos(n / 40), Math.sin(n / 40), 0, 0, 0, -1];
          return images(2, { ImageOrientationPatient: cosines, EchoTime: n });
        })),
      };
    """)
    assert found == {
        "echoes": [8, 8],
        "oneImageMore": [2, 1],
        "planes": [8, 9],
        "withPhase": [8, 8],
        "echoesWithPhase": [8, 7, 8, 7],
        "sizes": [8, 9],
        "spacings": [8, 9],
        "volume": [],
        "oneVolumeOfTwoKinds": [],
        "onlyTheEcho": [8, 8],
        "timeSeries": [],
        "echoesOfTimeSeries": [],
        "oneOfEach": [],
        "nowhere": [],
        "localizer": [],
        "localizerWithAnEcho": [],
        "radial": [],
    }


def test_rounding_splits_nothing_and_joins_nothing(rules):
    found = rules("""
      const sizes = all => split(all).map(group => group.length);
      const rough = (all, off) => all.map((image, n) => {
        const by = off * (-1) ** n;
        return { ...image, ImageOrientationPatient: [1, by, 0, -by, 1, by],
          ImagePositionPatient: image.ImagePositionPatient.map(mm => mm + by),
          PixelSpacing: [1 + by, 1] };
      });
      return {
        volume: [1e-8, 4e-4].map(off => sizes(rough(images(20), off))),
        echoes: [1e-8, 4e-4].map(off => sizes(rough([...images(9), ...images(9, echo)], off))),
        timeSeries: sizes(rough([...images(9), ...images(9)], 4e-4)),
        // Half a degree is another plane.
        turned: sizes([...images(9), ...rough(images(9, echo), 9e-3)].slice(0, 10)),
      };
    """)
    assert found == {
        "volume": [[], []],
        "echoes": [[9, 9], [9, 9]],
        "timeSeries": [],
        "turned": [9, 1],
    }


def test_names_tell_volumes_apart_and_are_all_different(rules):
    found = rules("""
      const named = (...groups) => labels(split(groups.flat()));
      return {
        echoes: named(images(8, echo), images(8)),
        rounded: named(images(8), images(8, { EchoTime: 2.2999999523163 })),
        planes: named(images(8, echo), sagittal(8)),
        kinds: named(images(8), images(8, phase)),
        all: named(
          images(8, { InversionTime: 90, FlipAngle: 8, RepetitionTime: 2000 }),
          images(8, { InversionTime: 900, FlipAngle: 9, RepetitionTime: 1800, Rows: 8 })),
        oneWithoutWords: named(images(8), images(8, { ImageType: ['ORIGINAL', 'M', 'NORM'] })),
        spacings: named(images(8), images(8, { PixelSpacing: [2, 2] })),
        whatAllHave: named(images(8, { FlipAngle: 8 }), images(8, { FlipAngle: 8, ...echo })),
      };
    """)
    assert found == {
        "echoes": ["TE 3 ms", "TE 9 ms"],
        "rounded": ["TE 2.3 ms", "TE 3 ms"],
        "planes": ["axial, TE 9 ms", "sagittal, TE 3 ms"],
        "kinds": ["M", "P"],
        "all": [
            "4 x 4, TI 90 ms, flip angle 8 deg, TR 2000 ms",
            "4 x 8, TI 900 ms, flip angle 9 deg, TR 1800 ms",
        ],
        "oneWithoutWords": ["stack 1", "NORM"],
        "spacings": ["stack 1", "stack 2"],
        "whatAllHave": ["TE 3 ms", "TE 9 ms"],
    }
