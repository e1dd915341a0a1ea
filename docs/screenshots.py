"""Make docs/screenshots again: the sample head in the node's pages and the viewer's layouts.

In a checkout, after ``make setup``: ``.venv/bin/python docs/screenshots.py``. It runs the demo on
data of its own, looks at it with Debian's Chromium, and ends it: a few minutes.
"""

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from mrisr_node.node.sample import write_sample

FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
]  # fmt: skip
FOLDER = Path(__file__).with_name("screenshots")
SIZE = {"width": 1200, "height": 760}
# A picture, the layout that it shows, and that layout's viewports.
LAYOUTS = {
    "side-by-side": ("Original | result", ["source", "result"]),
    "planes": ("Sagittal, coronal", [f"{r}-{o}" for o in ("sagittal", "coronal")
                                     for r in ("source", "result")]),
    "three-planes": ("Three planes", [f"{r}-{o}" for o in ("axial", "sagittal", "coronal")
                                      for r in ("source", "result")]),
    "brain": ("Result with brain", ["mask-stack", "mask-sagittal"]),
    "fidelity": ("Fidelity in colour", ["fidelity-axial", "fidelity-sagittal"]),
    "change": ("Change in colour", ["change-axial", "change-sagittal"]),
    "3d": ("Result in 3D", ["3d"]),
    "flicker": ("Flicker (key X)", ["flicker"]),
}  # fmt: skip


@contextmanager
def demo() -> Iterator[tuple[str, str, str]]:
    """Run the demo; give the comparison's address, the list's, and the password."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mrisr_node.cli", "demo"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        said = ""
        for line in process.stdout or ():
            sys.stdout.write(line)
            said += line
            if found := re.search(
                r"^ +(http\S+)\nAll series: (\S+)\nSign in as admin with the password (\S+)$",
                said,
                re.MULTILINE,
            ):
                yield found[1], found[2], found[3]
                break
        else:
            raise SystemExit("the demo ended without a result")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def settled(what: Locator) -> Image.Image:
    """Return what is seen once it is no longer black and changes no more."""
    before, same = b"", 0
    for _ in range(120):
        seen = what.screenshot()
        same = same + 1 if seen == before and len(seen) > 10_000 else 0
        if same == 3:
            return Image.open(io.BytesIO(seen))
        before = seen
        time.sleep(1.5)
    raise SystemExit("a picture does not come to rest")


def keep(name: str, picture: Image.Image) -> None:
    """Write a picture in few bytes: with greys for the images and colours for what is beside."""
    picture = picture.convert("RGB")
    greys = [step * 255 // 63 for step in range(64) for _ in "RGB"]
    rest = picture.quantize(128, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(greys + rest[: 3 * 128])
    path = FOLDER / f"{name}.png"
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} kB")


def keep_layouts(page: Page, grid: Locator) -> None:
    """Choose each layout from the menu and keep what it shows."""
    for name, (title, viewports) in LAYOUTS.items():
        page.locator('[data-cy="Layout"]').click()
        page.locator(f'[data-cy="{title}"]').click()
        for viewport in viewports:
            page.locator(f'[data-viewport-uid="mrisr-{viewport}"] canvas').first.wait_for()
        # Where the controls of a viewport do not appear.
        page.mouse.move(0, 0)
        picture = settled(grid)
        if name == "flicker":
            page.keyboard.press("x")
            picture = halves(settled(grid), picture)
        keep(name, picture)


def halves(left: Image.Image, right: Image.Image) -> Image.Image:
    """Put the left half of one picture beside the right half of another."""
    middle = left.width // 2
    left.paste(right.crop((middle, 0, right.width, right.height)), (middle, 0))
    return left


def keep_documents(page: Page, address: str, grid: Locator) -> None:
    """Measure a length, and open the report."""
    page.goto(address)
    settled(grid)
    result = page.locator('[data-viewport-uid="mrisr-result"]').first
    result.click()
    page.locator('[data-cy="dataOverlayMenu-mrisr-result"]').first.wait_for()
    page.locator('[data-cy="Length"]').first.click()
    place = result.bounding_box() or {}
    x, y = place["x"] + 0.35 * place["width"], place["y"] + 0.45 * place["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 10, steps=5)
    page.mouse.move(x + 120, y + 20, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Yes", exact=True).click()
    page.locator('[data-cy="trackedMeasurements-btn"]').click()
    keep("measurement", settled(page.locator("body")))

    page.goto(address)
    settled(grid)
    documents = page.locator('[data-cy="study-browser-thumbnail-no-image"]')
    documents.filter(has_text="Report on SR").dblclick()
    page.get_by_text("Report on super-resolution").wait_for()
    keep("report", settled(grid))


def keep_upload(page: Page, door: str) -> None:
    """Upload a file, and keep the page while it is super-resolved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t1-axial.nii.gz")
        write_sample(Path(folder, "series")).volume.save(path)
        page.goto(urljoin(door, "/upload"))
        page.get_by_label("Choose files").set_input_files(path)
        page.get_by_role("button", name="Super-resolve").click()
        page.get_by_role("dialog").get_by_role("button", name="Begin").click()
        page.locator(".jobs .state").wait_for()
    keep("upload", settled(page.locator("body")))


def keep_one_series(page: Page, door: str) -> None:
    """Keep the page of the series that is done."""
    page.goto(door)
    page.get_by_role("row").filter(has=page.locator("a.result")).locator("a.description").click()
    page.wait_for_url("**/series/*")
    page.locator("#jobs section").first.wait_for()
    keep("one-series", settled(page.locator("body")))


def keep_pairs(page: Page, door: str) -> None:
    """Ask for pairs of the uploaded file, and keep the page."""
    page.goto(urljoin(door, "/pairs"))
    page.locator("#scans input").first.check()
    page.get_by_label("Contrast").select_option("T1w")
    page.get_by_role("button", name="Make pairs").click()
    page.locator("#rows .state").first.wait_for()
    keep("pairs", settled(page.locator("body")))


def keep_people(page: Page, door: str) -> None:
    """Add users and a token, and keep the pages about people."""
    page.goto(urljoin(door, "/users"))
    for name, role in (("ada", "viewer"), ("grace", "operator")):
        page.get_by_label("User name").fill(name)
        page.get_by_role("combobox", name="Role", exact=True).select_option(role)
        page.get_by_role("button", name="Add user").click()
        page.get_by_role("button", name=f"Disable {name}").wait_for()
    page.goto(urljoin(door, "/account"))
    page.get_by_label("What it is for").fill("3D Slicer")
    page.get_by_role("button", name="Make token").click()
    page.get_by_role("button", name="Revoke the token 3D Slicer").wait_for()
    # Without what is shown only once.
    for name in ("users", "account", "audit"):
        page.goto(urljoin(door, f"/{name}"))
        whole = settled(page.locator("body"))
        keep(name, whole.crop((0, 0, whole.width, min(whole.height, 900))))  # the trail is long


def main() -> None:
    """Take all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with demo() as (address, door, password), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(180_000)
        page.goto(door)
        page.get_by_label("User name").fill("admin")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        result = page.locator("a.result").first
        result.wait_for()
        keep("series", settled(page.locator("body")))
        result.click()
        page.wait_for_url("**/results/*")
        keep("result", settled(page.locator("body")))
        keep_one_series(page, door)
        keep_upload(page, door)
        page.goto(address)
        grid = page.locator('[data-cy="viewport-grid"]')
        settled(grid)
        page.locator('[data-cy="Layout"]').click()
        keep("viewer", settled(page.locator("body")))
        page.keyboard.press("Escape")
        keep_layouts(page, grid)
        keep_documents(page, address, grid)
        keep_pairs(page, door)
        keep_people(page, door)
        browser.close()


if __name__ == "__main__":
    main()
