"""What is seen in the browser, and how to move in OHIF."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from web_door import PASSWORD, Door

# Drawn by the processor, on a machine that does other things too.
PATIENCE = 150_000

POSITIONS = """() => Object.fromEntries(window.cornerstone.getRenderingEngines()
  .flatMap(engine => engine.getViewports())
  .map(viewport => [viewport.id, viewport.getCamera().focalPoint]))"""


def sign_in(
    page: Page, door: Door, path: str, name: str = "admin", password: str = PASSWORD
) -> None:
    """Go to a page of ours by way of the form that stands before it."""
    page.goto(door.url + path)
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    page.wait_for_url(door.url + path)


@contextmanager
def visit(chromium: Browser, door: Door, path: str) -> Iterator[Page]:
    """Show a page of ours to the admin; at the end no script has failed or met the CSP."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))

    def note(line: ConsoleMessage) -> None:
        # A refusal stands in the console, whatever the page makes of it.
        if line.type == "error" and "Failed to load resource" not in line.text:
            trouble.append(line.text)

    page.on("console", note)
    sign_in(page, door, path)
    yield page
    context.close()
    assert trouble == []


def wait_for_images(page: Page, names: list[str]) -> dict[str, np.ndarray]:
    """Wait until each viewport shows more than black; return what is seen."""
    page.wait_for_function(
        """names => {
          const ids = window.cornerstone?.getRenderingEngines()
            .flatMap(engine => engine.getViewports()).map(viewport => viewport.id) ?? [];
          return names.every(name => ids.includes(name));
        }""",
        arg=names,
    )
    for _ in range(120):
        seen = {name: look(page, name) for name in names}
        # Part of the head, not only the letters in the corners.
        if all((pixels > 60).mean() > 0.1 for pixels in seen.values()):
            return seen
        page.wait_for_timeout(500)
    pytest.fail(f"black: { {name: float((p > 60).mean()) for name, p in seen.items()} }")


def look(page: Page, name: str) -> np.ndarray:
    canvas = page.locator(f'[data-viewport-uid="{name}"] canvas').first
    return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("L"))


def scroll(page: Page, name: str, notches: int) -> None:
    page.locator(f'[data-viewport-uid="{name}"]').first.hover()
    for _ in range(abs(notches)):
        page.mouse.wheel(0, 100 if notches > 0 else -100)
        page.wait_for_timeout(200)


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    rows, columns = np.minimum(a.shape, b.shape)
    a, b = a[:rows, :columns].astype(int), b[:rows, :columns].astype(int)
    return bool((abs(a - b) > 10).mean() > 0.02)


def look_in_colour(page: Page, name: str) -> np.ndarray:
    """Return what a viewport shows, (row, column, RGB)."""
    canvas = page.locator(f'[data-viewport-uid="{name}"] canvas').first
    return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)


def coloured(pixels: np.ndarray) -> np.ndarray:
    """Tell where a picture is not grey."""
    return pixels.max(axis=2) - pixels.min(axis=2) > 25


def choose_layout(page: Page, name: str) -> None:
    page.locator('[data-cy="Layout"]').click()
    page.locator(f'[data-cy="{name}"]').click()
