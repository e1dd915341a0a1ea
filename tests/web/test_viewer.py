"""The comparison in OHIF, in a real browser: what is seen, and what moves with what."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from playwright.sync_api import expect
from viewing import POSITIONS, differ, scroll, wait_for_images
from web_door import PASSWORD, served
from web_samples import make_study

from mrisr_node.records import WebSession
from mrisr_node.web.viewer import comparison_path, study_path

SIDES = ["mrisr-source", "mrisr-result"]


def test_original_left_and_result_right_scroll_together(signed_in, door, study, tmp_path):
    page = signed_in
    page.goto(door.url + comparison_path(study.study, study.source_uid, study.result_uid))
    seen = wait_for_images(page, SIDES)
    page.screenshot(path=tmp_path / "side-by-side.png")
    assert differ(seen["mrisr-source"], seen["mrisr-result"])
    left, right = (page.locator(f'[data-viewport-uid="{n}"]').first.bounding_box() for n in SIDES)
    assert left["x"] + left["width"] <= right["x"] + 5
    expect(page.get_by_text("SR 1mm T1 axial").first).to_be_visible()

    before = page.evaluate(POSITIONS)
    assert before["mrisr-source"][2] == pytest.approx(before["mrisr-result"][2], abs=2.5)
    # One thick slice on the left is five thin ones on the right.
    scroll(page, "mrisr-source", 3)
    page.wait_for_function(
        f"old => Math.abs(({POSITIONS})()['mrisr-result'][2] - old) > 10",
        arg=before["mrisr-result"][2],
    )
    after = page.evaluate(POSITIONS)
    assert abs(after["mrisr-source"][2] - before["mrisr-source"][2]) == pytest.approx(15)
    assert after["mrisr-source"] == pytest.approx(after["mrisr-result"], abs=0.01)
    assert differ(seen["mrisr-result"], wait_for_images(page, SIDES)["mrisr-result"])

    # And the other way: seven thin slices, at least one thick one.
    scroll(page, "mrisr-result", -7)
    page.wait_for_function(
        f"old => Math.abs(({POSITIONS})()['mrisr-source'][2] - old) > 4",
        arg=after["mrisr-source"][2],
    )
    last = page.evaluate(POSITIONS)
    assert last["mrisr-source"][2] == pytest.approx(last["mrisr-result"][2], abs=2.51)


def test_the_layout_menu_offers_the_planes(signed_in, door, study, tmp_path):
    """Without a pinned pair, a study that holds one opens in the comparison by itself."""
    page = signed_in
    page.goto(door.url + study_path(study.study))
    wait_for_images(page, SIDES)
    page.locator('[data-cy="Layout"]').click()
    page.locator('[data-cy="Sagittal, coronal"]').click()
    names = [f"mrisr-{role}-{o}" for o in ("sagittal", "coronal") for role in ("source", "result")]
    seen = wait_for_images(page, names)
    page.screenshot(path=tmp_path / "planes.png")
    for plane in ("sagittal", "coronal"):
        assert differ(seen[f"mrisr-source-{plane}"], seen[f"mrisr-result-{plane}"])
    before = page.evaluate(POSITIONS)
    scroll(page, "mrisr-source-sagittal", 4)
    page.wait_for_function(
        f"old => ({POSITIONS})()['mrisr-result-sagittal'][0] !== old",
        arg=before["mrisr-result-sagittal"][0],
    )
    after = page.evaluate(POSITIONS)
    assert after["mrisr-source-sagittal"] == pytest.approx(after["mrisr-result-sagittal"], abs=0.01)
    assert after["mrisr-source-coronal"] == before["mrisr-source-coronal"]


def test_an_original_without_a_window_is_no_negative(signed_in, door, store_study, tmp_path):
    """Scanners write a width of 0 where there is none."""

    def unset(sample):
        for image in sample.source:
            image.WindowCenter, image.WindowWidth = 0, 0

    sample = store_study(unset)
    page = signed_in
    page.goto(door.url + comparison_path(sample.study, sample.source_uid, sample.result_uid))
    shown = wait_for_images(page, SIDES)
    page.screenshot(path=tmp_path / "no-window.png")
    for name, seen in shown.items():
        # The air around the head, at the height of its middle.
        air = seen[seen.shape[0] // 2 - 20 : seen.shape[0] // 2 + 20, 4:14]
        assert air.mean() < 40, name


def test_a_result_that_was_deleted_leaves_the_original(signed_in, door):
    sample = make_study("on its own")
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {door.token}"
    with session:
        DICOMwebClient(f"{door.url}/dicom-web", session=session).store_instances(sample.source)
    page = signed_in
    page.goto(door.url + comparison_path(sample.study, sample.source_uid, sample.result_uid))
    page.wait_for_function(
        "() => window.cornerstone?.getRenderingEngines()[0]?.getViewports().length === 1"
    )
    expect(page.locator('[data-cy="viewport-pane"]').get_by_text("on its own")).to_be_visible()


def test_the_study_list_and_the_end_of_a_session(signed_in, door, study):
    page = signed_in
    page.goto(f"{door.url}/viewer/")
    expect(page.get_by_text("Colin").first).to_be_visible()
    WebSession.delete().execute()
    # Asking for a study inside the page is refused; the page leads to sign-in by itself.
    page.get_by_text("Colin").first.dblclick()
    page.wait_for_url("**/sign-in?next=*")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/viewer/*")


def test_pairs_are_found_by_what_results_refer_to(signed_in, door):
    page = signed_in
    page.goto(f"{door.url}/viewer/ext/pairing.js")
    found = page.evaluate(
        """async () => {
          const { choosePair, isResult, pinned } = await import('/viewer/ext/pairing.js');
          const series = (uid, description, type, more = {}) => ({
            SeriesInstanceUID: uid, SeriesDescription: description, Modality: 'MR',
            instances: [1, 2].map(n => ({ SOPInstanceUID: `${uid}.${n}`, ImageType: type,
              FrameOfReferenceUID: 'frame', SeriesDescription: description, ...more })),
          });
          const from = uid => ({ SourceImageSequence: [{ ReferencedSOPInstanceUID: `${uid}.2` }] });
          const original = ['ORIGINAL', 'PRIMARY', 'M'], derived = ['DERIVED', 'SECONDARY'];
          const t1 = series('1', 'T1', original), t2 = series('2', 'T2', original);
          const t1r = series('11', 'SR 1mm T1', derived, { ...from('1'), SeriesTime: '1' });
          const t2r = series('12', 'SR 1mm T2', derived, { ...from('2'), SeriesTime: '2' });
          const mpr = series('3', 'MPR', derived);
          const mni = series('15', 'SR MNI 1.0mm T1', derived, { ...from('1'), SeriesTime: '9' });
          const bare = series('13', 'SR 1mm T2', 'DERIVED\\\\SECONDARY');
          const lost = series('14', 'SR 1mm T1', derived, from('9'));
          const within = series('16', 'SR 1mm T1', derived,
            { ReferencedSeriesSequence: [{ SeriesInstanceUID: '1' }] });
          // Two display sets of series 1: its echoes.
          const echo = { ...t1, instances: [{ ...t1.instances[0], SOPInstanceUID: '1.9' }] };
          echo.instances.push(echo.instances[0]);
          const second = series('17', 'SR 1mm T1', derived, from('1'));
          const ofTwo = result =>
            choosePair([echo, t1, t2, result], { source: '1', result: result.SeriesInstanceUID });
          const uids = pair =>
            pair && [pair.source.SeriesInstanceUID, pair.result.SeriesInstanceUID];
          const all = [t1, t2, mpr, t1r, t2r];
          const ask = search => uids(choosePair(all, pinned(search)));
          return {
            newest: uids(choosePair(all)),
            byResult: ask('?SRseries=11'),
            bySource: ask('?srcSeries=1&StudyInstanceUIDs=5'),
            both: ask('?srcseries=1&srseries=12'),
            unknown: ask('?srseries=99'),
            noResult: uids(choosePair([t1, t2, mpr])),
            noSource: uids(choosePair([t1r])),
            lost: uids(choosePair([t1, t2, lost])),
            byName: uids(choosePair([t1, t2, bare])),
            byPlaceAlone: uids(choosePair([t1, series('13', 'SR 1mm', derived)])),
            oneOfTwoPlaces: uids(choosePair([t1, t2, series('13', 'SR 1mm', derived)])),
            bySeries: uids(choosePair([t1, t2, within])),
            echo: ofTwo(second).source === t1,
            noEcho: [lost, within, series('13', 'SR 1mm', derived)].map(ofTwo),
            lostButPinned: uids(choosePair([t1, lost], { source: '1', result: '14' })),
            mniIsNoPartner: uids(choosePair([...all, mni])),
            onlyMni: uids(choosePair([t1, mni])),
            mniAskedFor: uids(choosePair([...all, mni], pinned('?srSeries=15'))),
            results: [...all, mni].filter(isResult).map(one => one.SeriesInstanceUID),
          };
        }"""
    )
    assert found == {
        "newest": ["2", "12"],
        "byResult": ["1", "11"],
        "bySource": ["1", "11"],
        "both": ["1", "12"],
        "unknown": ["2", "12"],
        "noResult": None,
        "noSource": None,
        "lost": None,
        "byName": ["2", "13"],
        "byPlaceAlone": ["1", "13"],
        "oneOfTwoPlaces": None,
        "bySeries": ["1", "16"],
        "echo": True,
        "noEcho": [None, None, None],
        "lostButPinned": ["1", "14"],
        "mniIsNoPartner": ["2", "12"],
        "onlyMni": None,
        "mniAskedFor": ["1", "15"],
        "results": ["11", "12"],
    }


def test_what_accompanies_a_result_refers_to_it_or_to_its_original(signed_in, door):
    """Two originals with one number and description, their results made in the same second."""
    page = signed_in
    page.goto(f"{door.url}/viewer/ext/pairing.js")
    found = page.evaluate(
        """async () => {
          const { companionsOf } = await import('/viewer/ext/pairing.js');
          const at = { ContentDate: '20260101', ContentTime: '120000' };
          const series = (uid, SeriesDescription, SeriesNumber, Modality, more) => ({
            SeriesInstanceUID: uid, SeriesDescription, SeriesNumber, Modality, ...more });
          const made = (uid, description, number, of) => series(uid, description, number, 'MR', {
            instances: [{ ...at, SourceImageSequence: { ReferencedSOPInstanceUID: of } }] });
          const mask = (uid, of) => series(uid, 'Brain of SR 1mm T1', 4001, 'SEG', {
            instance: { ...at, ReferencedSeriesSequence: [{ SeriesInstanceUID: of }] } });
          const results = ['a', 'b'].map(of => made(`${of}1`, 'SR 1mm T1', 1001, of));
          const all = [
            ...results, mask('b4', 'b1'), mask('a4', 'a1'),
            ...['b', 'a'].map(of => made(`${of}2`, 'Fidelity of SR 1mm T1', 2001, of)),
            ...['a', 'b'].map(of => made(`${of}3`, 'Change by SR 1mm T1', 3001, of)),
          ];
          return results.map(result => Object.fromEntries(
            Object.entries(companionsOf(result, all)).map(([k, v]) => [k, v.SeriesInstanceUID])
          ));
        }"""
    )
    assert found == [
        {"fidelity": f"{of}2", "change": f"{of}3", "mask": f"{of}4"} for of in ("a", "b")
    ]


def test_files_of_the_viewer(door, ohif):
    with door.tool() as tool:
        for path in ("/viewer/", "/viewer/viewer?StudyInstanceUIDs=1", "/viewer/index.html"):
            answer = tool.get(path)
            assert 'src="/viewer/app-config.js"' in answer.text
            assert answer.headers["cache-control"] == "no-store"
            assert "unsafe-eval" in answer.headers["content-security-policy"]
        config = tool.get("/viewer/app-config.js")
        assert "mrisrSideBySide" in config.text
        assert config.headers["cache-control"] == "no-store"
        assert "dicomjson'" not in config.text
        bundle = next(door.settings.ohif_dist.glob("app.bundle.*.js")).name
        answer = tool.get(f"/viewer/{bundle}")
        assert answer.headers["content-type"].startswith("text/javascript")
        assert "max-age=604800" in answer.headers["cache-control"]
        again = tool.get(f"/viewer/{bundle}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        wasm = next(door.settings.ohif_dist.glob("*.wasm")).name
        assert tool.get(f"/viewer/{wasm}").headers["content-type"] == "application/wasm"
        for path in ("no-such.js", "ext/../ohif.json", "ext/%2e%2e/ohif.json", "%2e%2e/fetch.py",
                     "ext/no-such.js", "..%2f..%2fpyproject.toml", "sw.js"):  # fmt: skip
            assert tool.get(f"/viewer/{path}").status_code == 404
        assert tool.get("/viewer").headers["location"] == "/viewer/"
        assert tool.post("/viewer/").status_code == 405


def test_a_missing_distribution_says_how_to_get_it(make_settings, tmp_path: Path):
    settings = make_settings(ohif_dist=tmp_path / "none")
    with served(settings) as door, door.tool() as tool:
        answer: httpx.Response = tool.get("/viewer/viewer?StudyInstanceUIDs=1")
        assert answer.status_code == 503
        assert "make setup" in answer.text
