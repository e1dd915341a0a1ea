"""Make docs/comparison.png again: the sagittal and coronal comparison of a running demo.

Run ``make demo`` in one terminal; it prints an address and a password. In another one:
``.venv/bin/python docs/comparison.py ADDRESS PASSWORD``.
"""

import sys
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

FLAGS = [
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]  # fmt: skip
PICTURE = Path(__file__).with_name("comparison.png")
VIEWPORTS = [f"mrisr-{role}-{o}" for o in ("sagittal", "coronal") for role in ("source", "result")]


def main(address: str, password: str) -> None:
    """Sign in, open the planes, wait until all is drawn, and keep the picture."""
    parts = urlsplit(address)
    door = f"{parts.scheme}://{parts.netloc}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(180_000)
        page.goto(f"{door}/viewer/app-config.js")
        page.get_by_label("User name").fill("admin")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{door}/viewer/app-config.js")
        page.goto(address)
        page.locator('[data-cy="Layout"]').click()
        page.locator('[data-cy="Sagittal, coronal"]').click()
        page.wait_for_function(
            """names => {
              const shown = window.cornerstone?.getRenderingEngines()
                .flatMap(engine => engine.getViewports()).map(viewport => viewport.id) ?? [];
              return names.every(name => shown.includes(name));
            }""",
            arg=VIEWPORTS,
        )
        # Volumes fill slice by slice, and nothing tells when the last one is drawn.
        page.wait_for_timeout(25_000)
        page.locator('[data-cy="viewport-grid"]').screenshot(path=PICTURE)
        browser.close()
    print(f"{PICTURE} is made")


if __name__ == "__main__":
    main(*sys.argv[1:])
