"""A real Orthanc whose files were damaged, or are gone: its fault, and not the request's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid
from test_forms import FILE, OCTETS, address, get
from web_door import Door, served
from web_samples import as_file, make_series

from mrisr_node.node.orthanc import OrthancProcess, storage_of

PARTS = f'multipart/related; type="{FILE}"'
AS_J2K = f"{PARTS}; transfer-syntax={JPEG2000Lossless}"
JP2 = 'multipart/related; type="image/jp2"'


def gone(file: Path) -> None:
    file.unlink()


def no_file(file: Path) -> None:
    file.unlink()
    file.mkdir()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2000])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def noise(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(10_000))


DAMAGES: tuple[Callable[[Path], None], ...] = (gone, no_file, cut, empty, noise)


@pytest.fixture(scope="module")
def pacs(needs_orthanc, make_settings) -> Iterator[tuple[Door, dict[str, Dataset]]]:
    settings = make_settings(stable_age=86_400)
    volume = np.random.default_rng(3).integers(0, 4000, (64, 80, 1)).astype(np.float32)
    images, files = {}, {}
    auth = (settings.orthanc_username, settings.pacs_password())
    with (
        OrthancProcess(settings) as orthanc,
        httpx.Client(base_url=orthanc.url, auth=auth, trust_env=False, timeout=60) as client,
    ):
        for name in ("intact", "rle", "j2k", *(damage.__name__ for damage in DAMAGES)):
            [image] = make_series(
                volume, 5.0, study=generate_uid(), frame=generate_uid(), description=name
            )
            if name in ("rle", "j2k"):
                image.compress(RLELossless if name == "rle" else JPEG2000Lossless)
            said = client.post("/instances", content=as_file(image)).raise_for_status().json()
            file = client.get(f"/instances/{said['ID']}/attachments/dicom/info").json()["Uuid"]
            images[name], files[name] = image, file
    # It keeps files in memory, too, as long as it runs.
    for damage in DAMAGES:
        [path] = storage_of(settings).rglob(files[damage.__name__])
        damage(path)
    with OrthancProcess(settings), served(settings) as door:
        yield door, images


@pytest.mark.parametrize("damage", [damage.__name__ for damage in DAMAGES])
def test_a_file_that_cannot_be_read_is_the_fault_of_the_pacs(pacs, damage):
    door, images = pacs
    path = address(images[damage])
    study = path.partition("/series/")[0]
    asked = [
        (f"{path}{part}", accept)
        for part, accepts in {
            "": (AS_J2K, f"{AS_J2K}, image/x"),
            "/frames/1": ("*/*", OCTETS, JP2, f"{JP2}, {OCTETS}", f"{OCTETS}; transfer-syntax=*"),
            "/frames/9": ("*/*",),
            "/bulk/7FE00010": ("*/*", OCTETS),
            "/rendered": ("image/jpeg", "image/png"),
            "/thumbnail": ("*/*",),
            "/frames/1/rendered": ("*/*",),
            "/metadata": ("*/*",),
        }.items()
        for accept in accepts
    ]
    asked += [(study, AS_J2K), (f"{study}/rendered", "*/*"), (f"{study}/metadata", "*/*")]
    # What is there of it is given out as it is.
    asked += [(path, FILE), (path, "*/*")] if damage in ("gone", "no_file") else []
    with door.tool() as tool:
        for resource, accept in asked:
            answer = get(tool, resource, accept)
            assert answer.status_code == 502, (resource, accept, answer.text)
            detail = answer.json()["detail"]
            assert detail.startswith("the PACS failed")
            assert "studies" not in detail


def test_what_cannot_be_converted_is_not_acceptable(pacs):
    door, images = pacs
    intact, rle, j2k = (address(images[name]) for name in ("intact", "rle", "j2k"))
    unknown = f"{OCTETS}; transfer-syntax=1.2.3.4"
    with door.tool() as tool:
        for path, accept in (
            (intact, AS_J2K), (intact, f"{PARTS}; transfer-syntax=1.2.3.4"),
            (intact, f"{PARTS}; transfer-syntax={RLELossless}"),
            (f"{intact}/frames/1", JP2), (f"{intact}/frames/1", unknown),
            (f"{intact}/frames/1", 'multipart/related; type="image/dicom-rle"'),
            (f"{intact}/frames/1", f"{JP2}, {JP2}; transfer-syntax=*"),
            (intact.partition("/series/")[0], AS_J2K),
            (f"{rle}/frames/1", unknown),
            (j2k, PARTS), (f"{j2k}/frames/1", OCTETS),
        ):  # fmt: skip
            answer = get(tool, path, accept)
            assert answer.status_code == 406, (path, accept, answer.text)
        assert get(tool, intact, f"{AS_J2K}, {FILE}").status_code == 200
        assert get(tool, f"{intact}/frames/2").status_code == 404
        picture = get(tool, f"{j2k}/rendered")
        assert (picture.status_code, "can be shown" in picture.json()["detail"]) == (404, True)
