"""A front door with a real Orthanc behind it, and a real browser in front."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright
from web_door import Door, served
from web_samples import SampleStudy, as_file, make_study

from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.settings import Settings

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
def study(web_settings: Settings, orthanc: OrthancProcess) -> SampleStudy:
    """A study with an original and its result, in the PACS."""
    sample = make_study()
    auth = (web_settings.orthanc_username, web_settings.pacs_password())
    with httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client:
        for image in sample.instances:
            client.post("/instances", content=as_file(image)).raise_for_status()
    return sample


@pytest.fixture(scope="module")
def door(web_settings: Settings, orthanc: OrthancProcess) -> Iterator[Door]:
    with served(web_settings) as running:
        yield running


@pytest.fixture(scope="session")
def ohif() -> None:
    """OHIF as the project pins it; fetched where `make setup` has not run."""
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
