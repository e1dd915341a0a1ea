"""Uploads over HTTP: the tus protocol, who may go on with them, and what becomes of each."""

from __future__ import annotations

import base64
import gzip
import hashlib
import socket
import struct
import time
import zipfile
from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from tus_client import TUS, Sender
from web_door import Door, served

from mrisr_node.intake.incoming import NotReceiving, Part, give_up
from mrisr_node.jobs.given_files import FILES_DELETED, FILES_READY
from mrisr_node.jobs.uploads import Uploads
from mrisr_node.node.orthanc import OrthancProcess
from mrisr_node.people.tokens import create_token
from mrisr_node.records import Rejection, Series, StoredFile, Upload, User

MIB = 1 << 20


@pytest.fixture(scope="module")
def door(make_settings):
    with served(make_settings(minimum_free_bytes=0, maximum_upload_bytes=64 * MIB)) as running:
        yield running


@pytest.fixture
def tool(door):
    with door.tool() as client:
        yield client


@pytest.fixture
def other(door: Door):
    """Somebody else, who may do as much."""
    if not User.get_or_none(User.username == "bob"):
        User.create(username="bob", password_hash="!", role="operator")
    with door.client(Authorization=f"Bearer {create_token('bob', 'tests')}") as client:
        yield client


@pytest.fixture
def sender(tool):
    return Sender(tool)


def nifti(shape=(24, 26, 8), spacing=(1.0, 1.0, 5.0)) -> bytes:
    data = np.random.default_rng(3).integers(0, 900, shape).astype(np.int16)
    image = nib.Nifti1Image(data, np.diag([*spacing, 1.0]))
    image.set_sform(image.affine, 1)
    return image.to_bytes()


def checked(door: Door, key: str) -> Upload:
    """Let the node look at what is whole."""
    uploads = Uploads(door.settings)
    try:
        uploads.sweep()
    finally:
        uploads.close()
    return Upload.get(Upload.key == key)


def test_what_the_server_speaks(tool):
    answer = tool.options("/api/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation", "expiration", "termination", "checksum"
    }  # fmt: skip
    assert answer.headers["tus-max-size"] == str(64 * MIB)


def test_piece_by_piece(door, tool, sender):
    content = nifti()
    where = sender.begin(len(content), "häd.nii")
    for start in range(0, len(content), 5000):
        assert sender.put(where, start, content[start : start + 5000]).status_code == 204
    upload = checked(door, where.rsplit("/", 1)[1])
    assert (upload.state, upload.kind, upload.name) == ("done", "nifti", "häd.nii"), upload.reason
    told = tool.get(where).json()
    assert told["reason"] == "a volume of 24 × 26 × 8 voxels"
    file = tool.get(f"/api/files/{told['file']}")
    assert file.content == content
    assert tool.get("/api/uploads").json()["items"][0] == told
    assert list(door.settings.uploads_dir.iterdir()) == []


def test_what_the_protocol_refuses(tool, sender):
    assert tool.post("/api/uploads", headers={"Upload-Length": "5"}).status_code == 412
    too_large = {**TUS, "Upload-Length": str(65 * MIB)}
    assert tool.post("/api/uploads", headers=too_large).status_code == 413
    for length in ("", "-1", "x", "1e3", "0", "٣"):
        bad = {**TUS, "Upload-Length": length.encode()}
        assert tool.post("/api/uploads", headers=bad).status_code == 400, length
    where = sender.begin(10)
    assert sender.put(where, 3, b"abc").status_code == 409
    assert sender.put(where, 0, b"abc" * 4).status_code == 413
    wrong = {**TUS, "Upload-Offset": "0", "Content-Type": "application/json"}
    assert tool.patch(where, headers=wrong, content=b"abc").status_code == 415
    assert sender.offset(where) == 0
    assert tool.head("/api/uploads/" + "0" * 32, headers=TUS).status_code == 404
    # A method in a header is no method: a browser would be asked for less than PATCH is.
    overridden = {**TUS, "X-HTTP-Method-Override": "DELETE"}
    tool.get(where, headers=overridden)
    assert sender.offset(where) == 0
    assert tool.delete(where, headers=TUS).status_code == 204
    assert tool.head(where, headers=TUS).status_code == 404


def test_a_checksum_that_is_wrong_drops_the_bytes(sender):
    where = sender.begin(9)
    right = base64.b64encode(hashlib.sha256(b"abc").digest()).decode()
    assert sender.put(where, 0, b"abc", **{"Upload-Checksum": f"sha256 {right}"}).status_code == 204
    damaged = sender.put(where, 3, b"abd", **{"Upload-Checksum": f"sha256 {right}"})
    assert (damaged.status_code, damaged.json()["title"]) == (460, "Checksum Mismatch")
    assert damaged.json()["type"].startswith("https://tus.io/")
    assert sender.offset(where) == 3
    for odd in ("md4 AA==", "sha256 ü".encode("latin-1")):
        assert sender.put(where, 3, b"abc", **{"Upload-Checksum": odd}).status_code == 400
    assert sender.put(where, 3, b"abc", **{"Upload-Checksum": f"sha256 {right}"}).status_code == 204
    assert sender.offset(where) == 6


def test_to_others_it_does_not_exist(door, tool, other, sender):
    content = nifti()
    where = sender.begin(len(content))
    stranger = Sender(other)
    assert stranger.put(where, 0, b"x").status_code == 404
    assert other.head(where, headers=TUS).status_code == 404
    assert other.delete(where, headers=TUS).status_code == 404
    assert other.get(where).status_code == 404
    assert other.get("/api/uploads").json()["total"] == 0
    sender.put(where, 0, content)
    key = checked(door, where.rsplit("/", 1)[1]).file.key
    for path in (f"/api/files/{key}", f"/api/files/{key}/info"):
        assert tool.get(path).status_code == 200
        assert other.get(path).status_code == 404
    assert other.delete(f"/api/files/{key}").status_code == 404
    with door.client() as nobody:
        assert nobody.get(f"/api/files/{key}").status_code == 401
        assert nobody.post("/api/uploads", headers=TUS).status_code in (401, 403)


def test_a_connection_that_breaks_off_leaves_what_came(door, sender):
    content = b"a" * (3 * MIB)
    where = sender.begin(len(content))
    with socket.create_connection(("127.0.0.1", door.settings.web_port)) as line:
        head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.token}\r\n"
        head += "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\n"
        head += f"Upload-Offset: 0\r\nContent-Length: {len(content)}\r\n\r\n"
        line.sendall(head.encode() + content[: 2 * MIB])
        part = door.settings.uploads_dir / where.rsplit("/", 1)[1]
        wait_until(lambda: part.exists() and part.stat().st_size > 0)
        # Two at a time would mix their bytes.
        assert sender.put(where, 7, b"b").status_code == 423
    wait_until(lambda: sender.offset(where) == 2 * MIB)
    assert sender.put(where, 2 * MIB, content[2 * MIB :]).status_code == 204


def test_what_never_became_durable_is_cut_off(door, sender):
    where = sender.begin(10)
    sender.put(where, 0, b"abc")
    path = door.settings.uploads_dir / where.rsplit("/", 1)[1]
    with path.open("ab") as file:
        file.write(b"from a server that was killed")
    assert sender.put(where, 3, b"def").status_code == 204
    assert path.read_bytes() == b"abcdef"


def test_a_request_that_comes_late_harms_nothing(door, sender):
    """It read the records before the last byte came, and goes on after it."""
    where = sender.begin(6)
    key = where.rsplit("/", 1)[1]
    late = Upload.get(Upload.key == key)
    assert sender.put(where, 0, b"abcdef").status_code == 204
    path = door.settings.uploads_dir / key
    for _ in range(2):
        with pytest.raises(NotReceiving):
            Part(door.settings, late)
        with pytest.raises(NotReceiving):
            give_up(door.settings, late)
        now = Upload.get(Upload.key == key)
        assert (now.offset, now.state, path.read_bytes()) == (6, "checking", b"abcdef")
    checked(door, key)
    assert not path.exists()
    with pytest.raises(NotReceiving):
        Part(door.settings, late)
    assert (Upload.get(Upload.key == key).offset, path.exists()) == (6, False)


def test_ranges_and_conditions(door, tool, sender):
    content = nifti()
    key = checked(door, sender.send(content)).file.key
    whole = tool.get(f"/api/files/{key}")
    tag = whole.headers["etag"]
    part = tool.get(f"/api/files/{key}", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    last = tool.get(f"/api/files/{key}", headers={"Range": "bytes=-10", "If-Range": tag})
    assert (last.status_code, last.content) == (206, content[-10:])
    changed = tool.get(f"/api/files/{key}", headers={"Range": "bytes=-10", "If-Range": '"x"'})
    assert (changed.status_code, len(changed.content)) == (200, len(content))
    assert tool.get(f"/api/files/{key}", headers={"If-None-Match": tag}).status_code == 304
    beyond = {"Range": f"bytes={len(content)}-"}
    assert tool.get(f"/api/files/{key}", headers=beyond).status_code == 416
    assert tool.head(f"/api/files/{key}").headers["content-length"] == str(len(content))
    told = tool.get(f"/api/files/{key}/info").json()
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert told["facts"]["spacing_mm"] == [1.0, 1.0, 5.0]
    assert tool.delete(f"/api/files/{key}").status_code == 204
    assert tool.get(f"/api/files/{key}").status_code == 404
    assert list(door.settings.files_dir.glob(key)) == []
    for path in ("..%2f..%2frecords.sqlite", "../../records.sqlite", "%00", "a" * 3000):
        assert tool.get(f"/api/files/{path}").status_code in (404, 405)


def test_unfinished_ones_expire_and_old_files_go(door, tool, sender):
    where = sender.begin(100)
    sender.put(where, 0, b"abc")
    key = checked(door, sender.send(nifti())).file.key
    Upload.update(touched_at=time.time() - 25 * 3600).where(Upload.state == "receiving").execute()
    StoredFile.update(created_at=1.0).where(StoredFile.key == key).execute()
    old = {"format": "nifti", "state": "done", "state_at": 1.0, "reason": FILES_READY}
    series = Series.create(series_instance_uid="1.2.9", study_instance_uid="1.2", **old)
    Uploads(door.settings).sweep()
    assert Series.get_by_id(series.id).reason == FILES_DELETED
    series.delete_instance()
    assert tool.head(where, headers=TUS).status_code == 404
    assert tool.get(f"/api/files/{key}").status_code == 404
    assert list(door.settings.uploads_dir.iterdir()) == []
    assert not (door.settings.files_dir / key).exists()


def test_a_viewer_may_not_upload(door):
    if not User.get_or_none(User.username == "vera"):
        User.create(username="vera", password_hash="!", role="viewer")
    with door.client(Authorization=f"Bearer {create_token('vera', 'tests')}") as viewer:
        begun = viewer.post("/api/uploads", headers={**TUS, "Upload-Length": "5"})
        assert begun.status_code == 403
        assert viewer.get("/upload").status_code == 403
        assert viewer.get("/api/checkpoints").status_code == 200


def test_what_was_lost_is_not_taken_for_zeros(door, sender):
    where = sender.begin(6)
    sender.put(where, 0, b"abcd")
    path = door.settings.uploads_dir / where.rsplit("/", 1)[1]
    path.write_bytes(b"ab")
    assert sender.put(where, 4, b"ef").status_code == 409
    assert sender.offset(where) == 2
    assert sender.put(where, 2, b"cd").status_code == 204
    assert path.read_bytes() == b"abcd"


def test_the_installed_checkpoints(door, tool):
    found = tool.get("/api/checkpoints").json()
    assert [one["name"] for one in found if one["preference"]] == ["thin-small"]
    assert len(found) > 1
    one = tool.get("/api/checkpoints/thin-small").json()
    assert one == found[0]
    assert one["card"]["contrasts"]
    assert tool.get("/api/checkpoints/..%2fsecrets").status_code in (404, 405)


# From here on other front doors open their own records in this process.


def test_room_is_kept_free(make_settings, tmp_path):
    with served(make_settings(minimum_free_bytes=1 << 60)) as full, full.tool() as client:
        answer = client.post("/api/uploads", headers={**TUS, "Upload-Length": "5"})
        assert answer.status_code == 507
        assert "minimum_free_bytes" in answer.json()["detail"]


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1)


def zipped(**members: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def link_in_zip() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return file.getvalue()


def sheared() -> bytes:
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[0, 2] = 1.5
    image = nib.Nifti1Image(np.ones((9, 9, 9), np.int16), affine)
    image.set_sform(affine, 1)
    return image.to_bytes()


def with_shorts(start: int, *values: int) -> bytes:
    """A NIfTI file with other numbers at a place of its header."""
    content = bytearray(nifti())
    struct.pack_into(f"<{len(values)}h", content, start, *values)
    return bytes(content)


def complex_numbers() -> bytes:
    return nib.Nifti1Image(np.ones((9, 9, 9), np.complex64), np.eye(4)).to_bytes()


BAD = {
    "junk": (b"nothing of that kind" * 40, "neither NIfTI"),
    "short": (nifti()[:-10], "less than"),
    "long": (nifti() + b"x", "more than"),
    "bomb": (packed(nifti() + bytes(40 * MIB)), "more than"),
    "broken gzip": (packed(nifti())[:-900], "damaged"),
    "gzip of junk": (packed(b"junk" * 100), "none of NIfTI"),
    "four dimensions": (nifti((8, 8, 8, 3)), "4 dimensions"),
    "no place": (with_shorts(252, 0, 0), "sform and qform"),
    "huge": (with_shorts(40, 3, 4000, 4000, 4000), "voxels are no volume"),
    "sheared": (sheared(), "not perpendicular"),
    "complex": (complex_numbers(), "no single numbers"),
    "zip-slip": (zipped(**{"../../evil.dcm": b"x"}), "lead out of it"),
    "absolute": (zipped(**{"/etc/evil.dcm": b"x"}), "lead out of it"),
    "backslash": (zipped(**{"..\\evil.dcm": b"x"}), "lead out of it"),
    "drive": (zipped(**{"C:\\evil.dcm": b"x"}), "lead out of it"),
    "symbolic link": (link_in_zip(), "symbolic links"),
    "zip of zip": (zipped(a=zipped(b=b"x")), "ZIP files"),
    "zip bomb": (zipped(a=bytes(128) + b"DICM" + bytes(70 * MIB)), "unpacks to more"),
    "many members": (zipped(**{f"{n}": b"" for n in range(50_001)}), "members"),
    "zip of nothing": (zipped(a=b"x"), "no DICOM"),
    "broken zip": (zipped(a=b"x" * 999)[:-9], "damaged"),
}


@pytest.fixture(scope="module")
def careful(make_settings):
    settings = make_settings(minimum_free_bytes=0, maximum_unpacked_bytes=64 * MIB)
    with served(settings) as running:
        yield running


@pytest.mark.parametrize("name", BAD)
def test_bad_ones_are_refused_with_a_reason(careful, name):
    content, reason = BAD[name]
    with careful.tool() as client:
        key = Sender(client).send(content)
        upload = checked(careful, key)
        assert upload.state == "refused"
        assert reason in upload.reason
        assert list(careful.settings.uploads_dir.iterdir()) == []
        assert client.delete(f"/api/uploads/{key}", headers=TUS).status_code == 204


def test_dicom_that_is_refused_goes_to_quarantine(careful):
    with careful.tool() as client:
        key = Sender(client).send(bytes(128) + b"DICM" + b"junk" * 50)
    upload = checked(careful, key)
    assert upload.state == "refused"
    assert "in quarantine" in upload.reason
    row = Rejection.get()
    assert row.sender == "admin"
    assert (careful.settings.quarantine_dir / row.path).stat().st_size == 332


def test_dicom_waits_for_a_pacs_that_is_down(make_settings, needs_orthanc, sample_series):
    settings = make_settings(minimum_free_bytes=0)
    with served(settings) as running, running.tool() as client:
        key = Sender(client).send(sample_series.paths[0].read_bytes(), "slice.dcm")
        upload = checked(running, key)
        assert upload.state == "sending"
        assert "it will be tried again" in upload.reason
        assert (settings.uploads_dir / key).stat().st_size == upload.size
        Upload.update(not_before=0.0).execute()
        with OrthancProcess(settings):
            upload = checked(running, key)
        assert (upload.state, upload.reason) == ("done", "1 image is in the PACS")
        assert list(settings.uploads_dir.iterdir()) == []


def wait_until(true) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
