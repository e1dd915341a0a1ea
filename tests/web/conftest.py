"""A front door with a real Orthanc behind it, and a real browser in front."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from result_samples import ResultSet, write_result_set
from viewing import PATIENCE, wait_for_images
from web_door import PASSWORD, Door, served
from web_samples import SampleStudy, as_file, make_study

from mrisr_node.choices import ResultKind
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.settings import Settings
from mrisr_node.web.viewer import comparison_path

ROOT = Path(__file__).resolve().parents[2]

# WebGL without a graphics card, and a browser that calls nobody by itself.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]


@pytest.fixture(scope="session")
def web_settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings of an Orthanc that forwards nothing: no series gets so old."""
    return make_settings(stable_age=86_400)


@pytest.fixture(scope="session")
def orthanc(needs_orthanc: None, web_settings: Settings) -> Iterator[OrthancProcess]:
    with OrthancProcess(web_settings) as process:
        yield process


@pytest.fixture(scope="session")
def store_study(web_settings: Settings, orthanc: OrthancProcess) -> Callable[..., SampleStudy]:
    """Return a function that puts another study with an original and its result into the PACS."""

    def store(change: Callable[[SampleStudy], None] = lambda _: None) -> SampleStudy:
        sample = make_study()
        change(sample)
        auth = (web_settings.orthanc_username, web_settings.pacs_password())
        with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
            for image in sample.instances:
                client.post("/instances", content=as_file(image)).raise_for_status()
        return sample

    return store


@pytest.fixture(scope="session")
def study(store_study: Callable[[], SampleStudy]) -> SampleStudy:
    """A study that all tests look at and none adds to."""
    return store_study()


@pytest.fixture(scope="session")
def results(
    tmp_path_factory: pytest.TempPathFactory, web_settings: Settings, orthanc: OrthancProcess
) -> ResultSet:
    """A study with everything that belongs to a result, in the PACS."""
    made = write_result_set(tmp_path_factory.mktemp("set"), "T1 with maps")
    auth = (web_settings.orthanc_username, web_settings.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for path in made.files:
            client.post("/instances", content=path.read_bytes()).raise_for_status()
    return made


@pytest.fixture(scope="module")
def door(web_settings: Settings, orthanc: OrthancProcess) -> Iterator[Door]:
    with served(web_settings) as running:
        yield running


@pytest.fixture(scope="session")
def ohif() -> None:
    """OHIF and NiiVue as the project pins them; fetched where `make setup` has not run."""
    script = ROOT / "ohif-config" / "fetch.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=CHROMIUM_FLAGS
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def signed_in(chromium: Browser, door: Door, ohif: None) -> Iterator[Page]:
    """A page that is signed in and has asked nobody but us for anything."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    strangers: list[str] = []
    refused: list[str] = []

    def watch(request) -> None:
        parts = urlsplit(request.url)
        rooms = ("/viewer/", "/dicom-web/", "/sign-in", "/pages/", "/results/", "/api/",
                 "/compare", "/niivue/")  # fmt: skip
        ours = f"{parts.scheme}://{parts.netloc}" == door.url and parts.path.startswith(rooms)
        # What a page makes for itself (blob:, data:) leaves nothing.
        if not ours and parts.scheme in ("http", "https", "ws", "wss"):
            strangers.append(request.url)

    context.on("request", watch)
    context.on(
        "console",
        lambda line: refused.append(line.text) if "Content Security" in line.text else None,
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    # As from a mail: the link leads through sign-in to what it names.
    page.goto(f"{door.url}/viewer/app-config.js")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{door.url}/viewer/app-config.js")
    yield page
    context.close()
    assert strangers == []
    assert refused == []


@pytest.fixture
def comparison(signed_in: Page, door: Door, results: ResultSet) -> Page:
    """The page with original and result of the whole set side by side."""
    image = results.series[ResultKind.IMAGE]
    source = results.study.source_uid
    signed_in.goto(
        door.url + comparison_path(image.study_instance_uid, source, image.series_instance_uid)
    )
    wait_for_images(signed_in, ["mrisr-source", "mrisr-result"])
    return signed_in
