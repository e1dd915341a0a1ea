"""The page that compares two NIfTI files, in a real browser: what is seen, and what moves."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect
from viewing import PATIENCE, differ
from web_door import Door, served
from web_samples import HEAD

DEPTH = 120
PLANTED = 60


@pytest.fixture(scope="module")
def door(make_settings) -> Iterator[Door]:
    with served(make_settings()) as running:
        yield running


@pytest.fixture(scope="module")
def head() -> nibabel.Nifti1Image:
    """The sample head in slices of 1 mm, 2 mm pixels; its middle is at the origin of space."""
    data = np.asarray(nibabel.load(HEAD).dataobj)[::2, ::2, 30 : 30 + DEPTH].astype(np.int16)
    affine = np.diag([2.0, 2.0, 1.0, 1.0])
    affine[:3, 3] = [-90, -108, -(DEPTH - 1) / 2]
    return nibabel.Nifti1Image(data, affine)


@pytest.fixture(scope="module")
def files(tmp_path_factory, head) -> Path:
    """A folder of files to choose: what a scanner, a network and a careless person have."""
    folder = tmp_path_factory.mktemp("files")
    data, affine = np.asarray(head.dataobj), head.affine
    head.to_filename(folder / "thin.nii.gz")
    below = affine.copy()
    below[:3, 2] *= 5
    below[:3, 3] += 2 * affine[:3, 2]
    thick = data.reshape(*data.shape[:2], DEPTH // 5, 5).mean(axis=3, dtype=np.float32)
    nibabel.Nifti1Image(thick, below).to_filename(folder / "thick.nii")
    other = data.copy()
    other[55:85, 65:95, 45:75] += PLANTED  # to the patient's right, in front
    other[10:40, 20:50, 45:75] -= PLANTED  # to the left, behind
    nibabel.Nifti1Image(other, affine).to_filename(folder / "planted.nii.gz")
    far = affine.copy()
    far[2, 3] += 500
    nibabel.Nifti1Image(data, far).to_filename(folder / "far.nii.gz")

    nibabel.Nifti1Image(data[:, :, : DEPTH // 2], affine).to_filename(folder / "lower-half.nii.gz")

    (folder / "letter.nii").write_text("Dear colleague, " * 100)
    (folder / "empty.nii.gz").write_bytes(b"")
    packed = (folder / "thin.nii.gz").read_bytes()
    (folder / "half-sent.nii.gz").write_bytes(packed[: len(packed) // 2])
    whole = (folder / "thick.nii").read_bytes()
    (folder / "half-saved.nii").write_bytes(whole[: len(whole) // 2])
    nibabel.save(nibabel.Nifti1Pair(data, affine), folder / "pair.img")
    (folder / "pair.nii").write_bytes((folder / "pair.hdr").read_bytes() + bytes(64))
    nowhere = nibabel.Nifti1Image(data, None)
    nowhere.set_sform(None, 0)
    nowhere.set_qform(None, 0)
    nowhere.to_filename(folder / "nowhere.nii")
    colours = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.Nifti1Image(colours, affine).to_filename(folder / "colours.nii")
    nibabel.Nifti1Image(data[:, :, 60], affine).to_filename(folder / "slice.nii")
    return folder


@pytest.fixture
def page(signed_in: Page, door: Door) -> Iterator[Page]:
    trouble: list[str] = []

    def note(error) -> None:
        trouble.append(str(error))

    expect.set_options(timeout=PATIENCE)
    signed_in.on("pageerror", note)
    signed_in.goto(f"{door.url}/compare")
    yield signed_in
    signed_in.remove_listener("pageerror", note)
    assert trouble == []


def choose(page: Page, **chosen: Path) -> None:
    for side, path in chosen.items():
        page.locator(f"#{side}").set_input_files(path)
        expect(page.locator(f"#{side}-facts")).to_contain_text(path.name)


def planes(page: Page, name: str) -> None:
    page.get_by_label("Planes").select_option(name)


def seen(page: Page, side: str = "first") -> np.ndarray:
    """Return what a pane shows, (row, column, RGB)."""
    picture = page.locator(f"#{side}-canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def place(page: Page, side: str = "first") -> np.ndarray:
    """Return where the cross of a pane is, in mm."""
    return np.array(page.locator(f"#{side}-place").inner_text().split(" · ")[0].split(", "), float)


def red(pixels: np.ndarray) -> np.ndarray:
    """Tell where the second is brighter; the cross is yellow."""
    return pixels[..., 0] - pixels[..., 1] > 80


def blue(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 2] - pixels[..., 0] > 80


def test_two_files_side_by_side_move_together(page, files, tmp_path):
    expect(page.get_by_text("Nothing is uploaded")).to_be_visible()
    expect(page.get_by_label("Overlay", exact=True)).to_be_disabled()
    choose(page, first=files / "thick.nii", second=files / "thin.nii.gz")
    expect(page.locator("#first-facts")).to_contain_text(
        "91 × 109 × 24 voxels of 2.00 × 2.00 × 5.00 mm"
    )
    expect(page.locator("#second-facts")).to_contain_text(
        "91 × 109 × 120 voxels of 2.00 × 2.00 × 1.00 mm"
    )
    page.screenshot(path=tmp_path / "side-by-side.png", full_page=True)
    planes(page, "SAGITTAL")
    before = {side: seen(page, side) for side in ("first", "second")}
    for pixels in before.values():
        assert (pixels > 60).mean() > 0.2
    # The same head, in thick slices and in thin ones.
    assert differ(before["first"][..., 0], before["second"][..., 0])

    planes(page, "AXIAL")
    before = {side: seen(page, side) for side in ("first", "second")}
    start = place(page)
    page.locator("#first-canvas").hover()
    page.mouse.wheel(0, 100)
    expect(page.locator("#first-place")).not_to_contain_text(f"{start[2]:.1f} ·")
    # A thick slice on, in both; then a thin one, in both.
    assert abs(place(page) - start) == pytest.approx([0, 0, 5], abs=0.11)
    assert place(page, "second") == pytest.approx(place(page), abs=0.11)
    for side, old in before.items():
        assert differ(old[..., 0], seen(page, side)[..., 0])
    start = place(page)
    page.locator("#second-canvas").hover()
    page.mouse.wheel(0, 100)
    expect(page.locator("#second-place")).not_to_contain_text(f"{start[2]:.1f} ·")
    assert abs(place(page, "second") - start) == pytest.approx([0, 0, 1], abs=0.11)
    assert place(page) == pytest.approx(place(page, "second"), abs=0.11)

    # A click moves the cross of both within the slice, too.
    box = page.locator("#first-canvas").bounding_box()
    page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
    expect(page.locator("#first-place")).not_to_contain_text(f"{start[0]:.1f}, {start[1]:.1f}")
    right, front, _ = place(page)
    assert right > 5
    assert front > 5
    assert place(page, "second") == pytest.approx(place(page), abs=0.11)

    old = {side: seen(page, side) for side in ("first", "second")}
    page.get_by_label("Zoom").fill("3")
    for side, pixels in old.items():
        assert differ(pixels[..., 0], seen(page, side)[..., 0])
    assert place(page, "second") == pytest.approx(place(page), abs=0.11)


def test_one_grey_scale_for_both_if_wanted(page, files):
    choose(page, first=files / "thick.nii", second=files / "thick.nii")
    planes(page, "AXIAL")
    normal = seen(page)
    assert not differ(normal[..., 0], seen(page, "second")[..., 0])
    page.get_by_label("Brightness").fill("1")
    for side in ("first", "second"):
        assert seen(page, side).mean() > 1.2 * normal.mean()


def test_the_slider_fades_from_one_to_the_other(page, files, tmp_path):
    choose(page, first=files / "thick.nii", second=files / "thin.nii.gz")
    planes(page, "SAGITTAL")
    page.get_by_label("Overlay", exact=True).check()
    expect(page.locator("#second-canvas")).to_be_hidden()
    expect(page.locator("#first-place")).to_contain_text(re.compile("second .* first"))
    slider = page.get_by_label("Opacity of the second over the first")
    looks = {}
    for part in ("0", "0.5", "1"):
        slider.fill(part)
        looks[part] = seen(page)
        page.screenshot(path=tmp_path / f"overlay-{part}.png", full_page=True)
    assert differ(looks["0"][..., 0], looks["1"][..., 0])
    between = (looks["0"] + looks["1"]) / 2
    assert abs(looks["0.5"] - between).mean() < 3
    # The thin slices are seen as they are: rows of a thick one differ, where it has but one.
    page.get_by_label("Side by side").check()
    expect(page.locator("#second-canvas")).to_be_visible()
    assert place(page, "second") == pytest.approx(place(page), abs=0.11)


def test_the_difference_is_coloured_where_it_is_and_nowhere_else(page, files, tmp_path):
    choose(page, first=files / "thin.nii.gz", second=files / "planted.nii.gz")
    page.get_by_label("Difference").check()
    expect(page.locator("#low")).to_have_text(f"−{PLANTED}")
    expect(page.locator("#high")).to_have_text(f"+{PLANTED}")
    page.screenshot(path=tmp_path / "difference.png", full_page=True)
    planes(page, "AXIAL")
    expect(page.locator("#first-place")).to_contain_text("difference 0")
    pixels = seen(page)
    page.screenshot(path=tmp_path / "difference-axial.png", full_page=True)
    rows, columns = (np.arange(count) / count for count in pixels.shape[:2])
    # The patient's right is on the left, the front above.
    for colour, quarter in (
        (red, np.outer(rows < 0.5, columns < 0.5)),
        (blue, np.outer(rows > 0.5, columns > 0.5)),
    ):
        coloured = colour(pixels)
        assert coloured[quarter].mean() > 0.1
        assert not coloured[~quarter].any()
    where = np.argwhere(red(pixels)).mean(axis=0)
    box = page.locator("#first-canvas").bounding_box()
    page.mouse.click(box["x"] + where[1], box["y"] + where[0])
    expect(page.locator("#first-place")).to_contain_text(f"difference {PLANTED}")

    choose(page, second=files / "thin.nii.gz")
    assert not (red(seen(page)) | blue(seen(page))).any()


def test_where_the_second_has_nothing_nothing_agrees(page, files, tmp_path):
    choose(page, first=files / "thin.nii.gz", second=files / "lower-half.nii.gz")
    page.get_by_label("Difference").check()
    expect(page.locator("#outside")).to_contain_text("50 % of the first")
    planes(page, "CORONAL")
    pixels = seen(page)
    page.screenshot(path=tmp_path / "outside.png", full_page=True)
    box = page.locator("#first-canvas").bounding_box()
    middle = box["x"] + box["width"] / 2
    page.mouse.click(middle, box["y"] + 0.25 * box["height"])
    expect(page.locator("#first-place")).to_contain_text("the second ends before")
    page.mouse.click(middle, box["y"] + 0.75 * box["height"])
    expect(page.locator("#first-place")).to_contain_text("difference 0")
    half = pixels.shape[0] // 2
    assert pixels[: half - 20].max(axis=2).mean() < pixels[half + 20 :].max(axis=2).mean()


def test_a_file_that_cannot_be_shown_says_why(page, files):
    choose(page, first=files / "thick.nii")
    planes(page, "AXIAL")
    before = seen(page)
    for name, why in (
        ("letter.nii", "is no NIfTI file"),
        ("empty.nii.gz", "is no NIfTI file"),
        ("half-sent.nii.gz", "is damaged or cut off"),
        ("half-saved.nii", "is cut off"),
        ("pair.nii", "is half of a pair"),
        ("nowhere.nii", "does not say where it lies"),
        ("colours.nii", "holds no plain numbers"),
        ("slice.nii", "holds no volume"),
    ):
        page.locator("#first").set_input_files(files / name)
        expect(page.get_by_role("alert")).to_contain_text(f"{name} {why}")
        # What was there stays, and says what it is.
        expect(page.locator("#first-facts")).to_contain_text("thick.nii")
    assert not differ(before[..., 0], seen(page)[..., 0])


def test_files_that_share_no_place_are_not_laid_over_each_other(page, files):
    choose(page, first=files / "thin.nii.gz", second=files / "far.nii.gz")
    expect(page.get_by_role("alert")).to_contain_text("no place in common")
    expect(page.get_by_label("Overlay", exact=True)).to_be_disabled()
    expect(page.get_by_label("Difference")).to_be_disabled()
    choose(page, second=files / "thick.nii")
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.get_by_label("Difference")).to_be_enabled()


def test_files_can_be_dropped(page, files):
    drop = """async ([names, data, target]) => {
      const files = new DataTransfer();
      for (const name of names) {
        const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
        files.items.add(new File([bytes], name));
      }
      document.querySelector(target).dispatchEvent(
        new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true }));
    }"""
    data = base64.b64encode((files / "thin.nii.gz").read_bytes()).decode()
    page.evaluate(drop, [["one.nii.gz", "two.nii.gz"], data, "h1"])
    expect(page.locator("#first-facts")).to_contain_text("one.nii.gz: 91 ×")
    expect(page.locator("#second-facts")).to_contain_text("two.nii.gz: 91 ×")
    page.evaluate(drop, [["three.nii.gz"], data, "#first-canvas"])
    expect(page.locator("#first-facts")).to_contain_text("three.nii.gz: 91 ×")
    expect(page.locator("#second-facts")).to_contain_text("two.nii.gz: 91 ×")


def test_a_file_chosen_before_the_script_is_there_is_shown(page, door, files):
    held: list[Route] = []
    page.route("**/niivue/niivue.js", lambda route: held.append(route))
    with page.expect_request("**/niivue/niivue.js"):
        page.goto(f"{door.url}/compare", wait_until="commit")
    page.locator("#first").set_input_files(files / "thick.nii")
    expect(page.locator("#first-facts")).to_be_empty()
    held[0].continue_()
    page.unroute("**/niivue/niivue.js")
    expect(page.locator("#first-facts")).to_contain_text("thick.nii: 91 ×")


def test_the_file_that_was_chosen_last_is_shown(page, files):
    """Even if another was chosen before it whose reading ends later."""
    page.evaluate("""() => {
      const read = Blob.prototype.arrayBuffer;
      const gate = new Promise(open => { window.readOn = open; });
      Blob.prototype.arrayBuffer = async function () {
        Blob.prototype.arrayBuffer = read;
        await gate;
        return read.call(this);
      };
    }""")
    page.locator("#first").set_input_files(files / "thin.nii.gz")
    expect(page.locator("#first-facts")).to_have_text("Reading …")
    choose(page, first=files / "thick.nii")
    page.evaluate("() => window.readOn()")
    # The other side takes as long to read as what is late.
    choose(page, second=files / "thin.nii.gz")
    expect(page.locator("#first-facts")).to_contain_text("thick.nii: 91 × 109 × 24")


def test_it_fits_a_phone(page, files, tmp_path):
    page.set_viewport_size({"width": 390, "height": 800})
    choose(page, first=files / "thick.nii", second=files / "thin.nii.gz")
    for view in ("Side by side", "Overlay", "Difference"):
        page.get_by_label(view, exact=True).check()
        assert (seen(page) > 60).mean() > 0.05
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.screenshot(path=tmp_path / f"phone-{view}.png", full_page=True)
    # A finger moves the cross of both.
    page.get_by_label("Side by side").check()
    start = page.locator("#first-place").inner_text()
    canvas = page.locator("#second-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    finger = page.context.new_cdp_session(page)
    point = {"x": box["x"] + 0.3 * box["width"], "y": box["y"] + 0.7 * box["height"]}
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    expect(page.locator("#first-place")).not_to_have_text(start)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert place(page, "second") == pytest.approx(place(page), abs=0.11)
    page.set_viewport_size({"width": 1280, "height": 800})


def test_only_who_is_signed_in(door, ohif):
    with door.client(Accept="text/html") as stranger:
        answer = stranger.get("/compare")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/sign-in?next=/compare"
    with door.client() as stranger:
        for path in ("/compare", "/niivue/niivue.js", "/pages/compare.js", "/pages/nifti.js"):
            assert stranger.get(path).status_code == 401
    with door.tool() as tool:
        policy = tool.get("/compare").headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "connect-src 'self';" in policy
        script = tool.get("/niivue/niivue.js")
        assert "max-age" in script.headers["cache-control"]
        known = {"If-None-Match": script.headers["etag"]}
        assert tool.get("/niivue/niivue.js", headers=known).status_code == 304
        for path in ("x.js", "%2e%2e/niivue.json", "../niivue.json"):
            assert tool.get(f"/niivue/{path}").status_code == 404
        front = tool.get("/").text
        assert 'href="/compare"' in front


def test_a_missing_niivue_says_how_to_get_it(make_settings, tmp_path: Path):
    with served(make_settings(niivue_dist=tmp_path / "none")) as door, door.tool() as tool:
        answer = tool.get("/compare")
        assert answer.status_code == 503
        assert "NiiVue has not been fetched" in answer.text
        assert tool.get("/niivue/niivue.js").status_code == 404
