"""Pairs over HTTP: scans are uploaded, made into a dataset by a real node, and downloaded."""

from __future__ import annotations

import gzip
import json
import time
import zipfile
from io import BytesIO

import httpx
import nibabel as nib
import numpy as np
import pytest
from tus_client import Sender

from mrisr_node.node.sample import find_head
from mrisr_node.people.tokens import create_token
from mrisr_node.records import open_records
from mrisr_node.volumes.geometry import Volume, resampled

PATIENCE = 900
SPACING = 1.4


@pytest.fixture(scope="module")
def client(node):
    open_records(node.settings.database_path)
    url = f"http://127.0.0.1:{node.settings.web_port}"
    headers = {"Authorization": f"Bearer {create_token('admin', 'pairs')}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as made:
        yield made


@pytest.fixture(scope="module")
def heads() -> list[bytes]:
    """A whole head on a grid just fine enough, twice: the second scan is brighter."""
    whole = Volume.load(find_head()[0])
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = whole.position((0, 0, 0))
    small = resampled(whole, affine, tuple(int(n / SPACING) for n in whole.data.shape)).data
    return [
        gzip.compress(nib.Nifti1Image(small * np.float32(k), affine).to_bytes(), 1) for k in (1, 2)
    ]


@pytest.fixture(scope="module")
def head(heads) -> bytes:
    return heads[0]


def until(ask, good):
    deadline = time.monotonic() + PATIENCE
    while not good(found := ask()):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def uploaded(client, content, name) -> str:
    key = Sender(client).send(content, name)
    ask = f"/api/uploads/{key}"
    view = until(lambda: client.get(ask).json(), lambda u: u["state"] in ("done", "refused"))
    assert view["state"] == "done", view
    return str(view["file"])


def test_uploaded_scans_become_a_dataset(client, heads):
    thick = nib.Nifti1Image(np.ones((40, 40, 12), np.float32), np.diag([1.0, 1.0, 5.0, 1.0]))
    files = [
        uploaded(client, heads[0], "sub-DoeJane_ses-1_T1w.nii.gz"),
        uploaded(client, thick.to_bytes(), "thick.nii"),
        uploaded(client, heads[1], "sub-DoeJane_ses-2_T1w.nii.gz"),
    ]
    asked = {"files": files, "slices": ["5/0.5"], "register_to_mni": False, "contrast": "T1w",
             "license": "CC0"}  # fmt: skip
    begun = client.post("/api/pairs", json=asked, headers={"Idempotency-Key": "once"})
    assert begun.status_code == 202, begun.text
    again = client.post("/api/pairs", json=asked, headers={"Idempotency-Key": "once"})
    assert again.json()["id"] == begun.json()["id"]
    assert client.delete(f"/api/files/{files[0]}").status_code == 409
    where = begun.headers["location"]
    view = until(lambda: client.get(where).json(), lambda v: v["state"] in ("done", "failed"))
    assert view["state"] == "done", view
    assert "scan 2 left out" in view["reason"]
    made = {file["name"]: client.get(file["url"]).content for file in view["files"]}
    assert set(made) == {"pairs.zip", "pairs.json"}
    report = json.loads(made["pairs.json"])
    assert [(one["scan"], one["state"], one["subject"]) for one in report] == [
        (1, "done", "001"), (2, "failed", ""), (3, "done", "001"),
    ]  # fmt: skip
    with zipfile.ZipFile(BytesIO(made["pairs.zip"])) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        told = b"".join(archive.read(name) for name in names if name.endswith((".json", ".tsv")))
    high = [name for name in names if name.endswith("_res-hr_desc-preproc_T1w.nii.gz")]
    assert [("/sub-001_" in name, "_run-2_" in name) for name in sorted(high, key=len)] == [
        (True, False), (True, True),
    ]  # fmt: skip
    assert b"Doe" not in told
    assert not any("Doe" in name for name in names)
    listed = client.get("/api/pairs").json()
    assert listed["items"][0]["id"] == view["id"]
    series = client.get(f"/api/series/{view['id']}").json()
    assert (series["recipe"], series["study_url"]) == ("pairs", None)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"files": []}, 422),
        ({"files": ["0" * 32]}, 404),
        ({"slices": ["5"]}, 422),
        ({"slices": ["5/0.5", "5/0.5"]}, 422),
        ({"slices": []}, 422),
        ({"axis": "w"}, 422),
        ({"contrast": "CT"}, 422),
    ],
)
def test_what_cannot_be_asked_for(client, head, change, status):
    asked = {"files": [uploaded(client, head, "head.nii.gz")]} if "files" not in change else {}
    answer = client.post("/api/pairs", json=asked | change)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_series_gets_no_pairs(client, head):
    file = uploaded(client, head, "head.nii.gz")
    answer = client.post("/api/inference", json={"file": file, "recipe": "pairs"})
    assert answer.status_code == 422
