"""Uploads all the way: NIfTI becomes files and studies, DICOM reaches the PACS and comes back."""

from __future__ import annotations

import gzip
import json
import os
import time
import zipfile
from io import BytesIO
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
from dicom_checks import dciodvfy
from pydicom import dcmread
from tus_client import Sender
from web_door import PASSWORD

from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import set_password
from mrisr_node.records import Instance, Rejection, Series, open_records
from mrisr_node.volumes.conversion import convert
from mrisr_node.volumes.registration import load_template

PATIENCE = 400


@pytest.fixture(scope="module")
def client(node):
    open_records(node.settings.database_path)
    url = f"http://127.0.0.1:{node.settings.web_port}"
    token = create_token("admin", "tests")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as made:
        yield made


@pytest.fixture(scope="module")
def head(sample_series) -> bytes:
    """Twelve thick slices, in an order of axes that is not DICOM's."""
    volume = convert(sample_series.paths).volume
    image = nib.Nifti1Image(volume.data, volume.affine)
    image = image.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    image.set_sform(image.affine, 1)
    image.header["descrip"] = b"Doe^Jane"
    return gzip.compress(image.to_bytes(), 1)


def until(ask, good, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not good(found := ask()):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def uploaded(client, content, name="head.nii.gz") -> dict:
    key = Sender(client).send(content, name)
    return until(
        lambda: client.get(f"/api/uploads/{key}").json(),
        lambda upload: upload["state"] in ("done", "refused"),
    )


def over(view: dict) -> bool:
    return view["state"] in ("done", "failed")


def test_a_file_becomes_files(client, head):
    upload = uploaded(client, head)
    assert upload["state"] == "done", upload
    asked = {"file": upload["file"], "contrast": "T1w"}
    key = {"Idempotency-Key": upload["id"]}
    begun = client.post("/api/inference", json=asked, headers=key)
    assert begun.status_code == 202, begun.text
    again = client.post("/api/inference", json=asked, headers=key)
    assert again.json() == begun.json()
    where = begun.headers["location"]
    assert client.delete(f"/api/files/{upload['file']}").status_code == 409
    view = until(lambda: client.get(where).json(), over)
    assert view["state"] == "done", view
    assert view["reason"] == "its files are ready"
    assert view["viewer_url"] is None
    files = {file["name"]: file["url"] for file in view["files"]}
    assert set(files) == {
        "thin.nii.gz", "thin.json", "brain.nii.gz", "fidelity.nii.gz", "change.nii.gz",
        *(f"{plane}-{side}.png" for plane in ("axial", "coronal", "sagittal")
          for side in ("acquired", "result")),
    }  # fmt: skip
    source = nib.Nifti1Image.from_bytes(gzip.decompress(head))
    content = client.get(files["thin.nii.gz"]).content
    thin = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    assert nib.aff2axcodes(thin.affine) == nib.aff2axcodes(source.affine)
    axis = int(np.argmax(source.header.get_zooms()))
    assert thin.header.get_zooms()[axis] < 2
    # The same field of view: the outer faces of both lie in the same places.
    for image in (source, thin):
        image.corners = image.affine @ [
            [-0.5, image.shape[0] - 0.5], [-0.5, image.shape[1] - 0.5],
            [-0.5, image.shape[2] - 0.5], [1, 1],
        ]  # fmt: skip
    np.testing.assert_allclose(thin.corners, source.corners, atol=1e-2)
    assert b"Doe^Jane" not in gzip.decompress(content)
    told = client.get(files["thin.json"]).json()
    assert (
        told["Source"]["SHA256"] == client.get(f"/api/files/{upload['file']}/info").json()["sha256"]
    )
    assert told["Fidelity"]["inside"]["relative_median"] < 0.1
    archive = zipfile.ZipFile(BytesIO(client.get(view["zip_url"]).content))
    assert archive.testzip() is None
    assert set(archive.namelist()) == set(files)


def test_by_choice_in_mni_space(client, head):
    """The brain alone, on the template's grid, where the template has its own."""
    upload = uploaded(client, head)
    asked = {"file": upload["file"], "contrast": "T1w", "recipe": "mni"}
    begun = client.post("/api/inference", json=asked)
    view = until(lambda: client.get(begun.headers["location"]).json(), over)
    assert view["state"] == "done", view
    files = {file["name"]: file["url"] for file in view["files"]}
    assert set(files) == {"thin.nii.gz", "thin.json"}
    thin = nib.Nifti1Image.from_bytes(gzip.decompress(client.get(files["thin.nii.gz"]).content))
    template = load_template()
    assert thin.shape == template.data.shape
    np.testing.assert_allclose(thin.affine, template.affine)
    assert thin.header["sform_code"] == 4  # MNI 152
    voxels = np.asanyarray(thin.dataobj)
    brain = template.data > 0.2 * template.data.max()
    assert np.abs(voxels[brain]).mean() > 20 * np.abs(voxels[~brain]).mean()
    told = client.get(files["thin.json"]).json()
    assert told["GeneratedBy"]["Recipe"] == "mni"
    assert "registered to ICBM 152" in told["Description"]


def test_by_choice_a_study_in_the_pacs(client, head, tmp_path):
    upload = uploaded(client, head)
    study = {"patient_name": "Test^Ann", "patient_id": "A-1", "series_description": "T1 axial"}
    asked = {"file": upload["file"], "contrast": "T1w", "study": study}
    where = client.post("/api/inference", json=asked).headers["location"]
    view = until(lambda: client.get(where).json(), over)
    assert view["state"] == "done", view
    assert view["reason"].startswith("the result is in the PACS")
    series = Series.get_by_id(view["id"])
    found = client.get(
        f"/dicom-web/studies/{series.study_instance_uid}/series",
        params={"includefield": "0008103E"},
    ).json()
    by_uid = {one["0020000E"]["Value"][0]: one for one in found}
    original = by_uid[series.series_instance_uid]
    assert original["0008103E"]["Value"] == ["T1 axial (from NIfTI)"]
    assert original["00201209"]["Value"] == [12]
    # Original, thin slices, two maps, brain and report.
    assert len(found) == 6
    archive = client.get(f"/api/results/{view['id']}/dicom").content
    files = zipfile.ZipFile(BytesIO(archive))
    slices = [dcmread(BytesIO(files.read(n))) for n in files.namelist() if n.startswith("original")]
    assert slices[0].ImageType[0] == "DERIVED"
    assert slices[0].PatientName == "Test^Ann"
    path = tmp_path / "slice.dcm"
    slices[0].save_as(path)
    assert dciodvfy(path) == []


def test_the_page_shows_what_came_of_them(client, node, head, chromium, tmp_path):
    (tmp_path / "t1-axial.nii.gz").write_bytes(head)
    set_password("admin", PASSWORD)
    page = chromium.new_page(viewport={"width": 1200, "height": 760})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{client.base_url}/upload")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_label("Choose files").set_input_files(tmp_path / "t1-axial.nii.gz")
    row = page.get_by_role("row").filter(has_text="t1-axial.nii.gz")
    row.get_by_role("button", name="Super-resolve").click()
    page.get_by_role("dialog").get_by_role("button", name="Begin").click()
    with page.expect_download() as download:
        row.get_by_role("link", name="All files").click()
    assert zipfile.ZipFile(download.value.path()).testzip() is None
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "upload-done.png")
    page.close()


def test_several_together(client, head):
    one = uploaded(client, head)
    flat = nib.Nifti1Image(np.ones((64, 64, 12), np.int16), np.diag([1.0, 1.0, 5.0, 1.0]))
    flat.set_sform(flat.affine, 1)
    other = uploaded(client, flat.to_bytes(), "flat.nii")
    items = [{"file": upload["file"]} for upload in (one, other)]
    begun = client.post("/api/inference/batch", json={"items": items})
    assert begun.status_code == 202
    view = until(
        lambda: client.get(begun.headers["location"]).json(), lambda b: b["state"] != "running"
    )
    assert (view["state"], view["done"], view["total"]) == ("partly_done", 1, 2)
    assert "no signal" in view["items"][1]["reason"]
    archive = zipfile.ZipFile(BytesIO(client.get(view["zip_url"]).content))
    assert "001/thin.nii.gz" in archive.namelist()
    told = json.loads(archive.read("manifest.json"))
    assert [(one["name"], one["state"]) for one in told] == [
        ("head.nii.gz", "done"), ("flat.nii", "failed")
    ]  # fmt: skip
    # All or none is begun.
    items.append({"file": "0" * 32})
    before = Series.select().count()
    assert client.post("/api/inference/batch", json={"items": items}).status_code == 404
    assert Series.select().count() == before


def test_what_cannot_be_processed_is_said_at_once(client):
    thin = nib.Nifti1Image(np.ones((32, 32, 32), np.int16), np.eye(4))
    thin.set_sform(thin.affine, 1)
    upload = uploaded(client, thin.to_bytes(), "thin.nii")
    refused = client.post("/api/inference", json={"file": upload["file"]})
    assert refused.status_code == 422
    assert "1.0 mm apart" in refused.json()["detail"]


def test_uploaded_dicom_reaches_the_pacs_and_comes_from_there(client, sample_series):
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("README.txt", "a CD")
        for path in sample_series.paths:
            archive.write(path, f"DICOM/{path.name}")
        archive.writestr("DICOM/broken", bytes(128) + b"DICM" + b"junk")
    # Others use this node, too.
    by_others = Rejection.sender != "admin"
    before = Rejection.select().where(by_others).count()
    upload = uploaded(client, content.getvalue(), "cd.zip")
    assert upload["state"] == "done", upload
    assert f"{len(sample_series.paths)} images are in the PACS" in upload["reason"]
    assert "1 file is no DICOM" in upload["reason"]
    assert Rejection.select().where(Rejection.sender == "admin").count() == 1
    uid = str(dcmread(sample_series.paths[0]).SeriesInstanceUID)
    until(lambda: Series.get_or_none(Series.series_instance_uid == uid), bool)
    [known] = until(lambda: client.get(f"/api/uploads/{upload['id']}").json()["series"], bool)
    assert Series.get_by_id(known).series_instance_uid == uid
    # What came back from the PACS is what was sent: nothing of it is in quarantine.
    until(lambda: Series.get_by_id(known).state, lambda state: state == "done")
    assert Rejection.select().where(by_others).count() == before
    # What was made of a file, and was in the PACS before, has made no such round.
    made = list(Series.select().where(Series.format == "nifti"))
    assert not Instance.select().where(Instance.series.in_(made)).exists()
    studies = [series.study_instance_uid for series in made]
    assert Series.select().where(Series.study_instance_uid.in_(studies)).count() == len(made)
    until(lambda: Series.get_by_id(known).sender, lambda sender: sender == "admin", 100)
