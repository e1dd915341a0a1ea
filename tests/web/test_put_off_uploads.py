"""What the node cannot look at now is no fault of the file: it is kept, and looked at again."""

from __future__ import annotations

import os
import resource
import signal
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from test_odd_uploads import checked
from test_uploads import nifti
from tus_client import Sender
from web_door import Door, served

from mrisr_node.intake.examiner import NotNow, Unusable, examine
from mrisr_node.jobs.uploads import Uploads
from mrisr_node.records import StoredFile, Upload


@pytest.fixture(scope="module")
def door(make_settings):
    with served(make_settings(minimum_free_bytes=0)) as running:
        yield running


@pytest.fixture
def archive() -> bytes:
    """A ZIP file of something that calls itself DICOM."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.dcm", bytes(128) + b"DICM" + bytes(4 << 20))
    return file.getvalue()


def assert_waits(door: Door, key: str, reason: str, size: int) -> None:
    upload = Upload.get(Upload.key == key)
    assert upload.state == "sending"
    assert reason in upload.reason
    assert upload.reason.endswith("(tried 1 time); it will be tried again")
    [kept] = door.settings.uploads_dir.iterdir()
    assert (kept.name, kept.stat().st_size) == (key, size)
    Upload.update(not_before=0.0).execute()


def test_no_room_to_unpack_it(door, archive):
    with door.tool() as client:
        key = Sender(client).send(archive, "study.zip")
    checked(door.settings.model_copy(update={"minimum_free_bytes": 1 << 60}), key)
    assert_waits(door, key, "the node has no room to unpack it (minimum_free_bytes)", len(archive))
    # Only now it turns out to be none.
    upload = checked(door.settings, key)
    assert upload.state == "refused"
    assert "(in quarantine)" in upload.reason


def test_a_disk_that_takes_no_more_while_it_is_unpacked(door, archive, tmp_path):
    path = tmp_path / "study.zip"
    path.write_bytes(archive)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, usual[1]))
    try:
        with pytest.raises(NotNow, match=f"could not read or unpack it: {os.strerror(27)}"):
            examine(door.settings, path, tmp_path / "files")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert examine(door.settings, path, tmp_path / "files").kind == "zip"


def test_a_disk_that_does_not_read(door):
    content = nifti()
    with door.tool() as client:
        key = Sender(client).send(content)
    path = door.settings.uploads_dir / key
    path.unlink()
    path.symlink_to("/proc/self/mem")  # nothing can be read where it begins: EIO
    checked(door.settings, key)
    upload = Upload.get(Upload.key == key)
    assert (upload.state, path.is_symlink()) == ("sending", True)
    path.unlink()
    path.write_bytes(content)
    Upload.update(not_before=0.0).execute()
    assert checked(door.settings, key).state == "done"
    assert StoredFile.get(StoredFile.key == key).size == len(content)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGKILL, NotNow), (signal.SIGTERM, NotNow), (signal.SIGXCPU, Unusable)],
)
def test_whose_fault_it_is_that_its_process_ended(door, tmp_path, monkeypatch, number, kind):
    """Out of memory elsewhere, the node is ended, and a file that takes for ever."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        f"os.kill(os.getpid(), {int(number)})\n"
    )
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root)]))
    path = tmp_path / "head.nii"
    path.write_bytes(nifti())
    with pytest.raises(kind, match=f"ended with status -{int(number)}"):
        examine(door.settings, path, tmp_path / "files")


def test_a_process_that_takes_for_ever_says_so(door, tmp_path, monkeypatch):
    monkeypatch.setattr("mrisr_node.intake.examiner._SECONDS", 0)
    monkeypatch.setattr("mrisr_node.intake.examiner._SECONDS_PER_GIB", 0)
    path = tmp_path / "head.nii"
    path.write_bytes(nifti())
    with pytest.raises(NotNow, match="could not be looked at within"):
        examine(door.settings, path, tmp_path / "files")


def test_the_others_go_on(door, archive):
    with door.tool() as client:
        keys = [Sender(client).send(one) for one in (archive, nifti())]
    uploads = Uploads(door.settings.model_copy(update={"minimum_free_bytes": 1 << 60}))
    try:
        assert uploads.sweep() == 2
    finally:
        uploads.close()
    states = [Upload.get(Upload.key == key).state for key in keys]
    assert states == ["sending", "done"]
