"""What is no backup, where none can be made, and what is no place to restore one."""

import hashlib
import io
import json
import resource
import tarfile

import pytest

from mrisr_node import migrations, records
from mrisr_node.errors import SettingsError
from mrisr_node.node.backup import BackupError, back_up, restore
from tests.spooling import refuse


def test_only_into_an_empty_folder(received, elsewhere, tmp_path):
    made = back_up(received, tmp_path / "a.tar")
    with pytest.raises(SettingsError, match="not empty"):
        restore(received, made.path)
    elsewhere.data_dir.mkdir()
    (elsewhere.data_dir / "notes").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"):
        restore(elsewhere, made.path)
    assert [path.name for path in elsewhere.data_dir.iterdir()] == ["notes"]
    (elsewhere.data_dir / "notes").rename(elsewhere.data_dir / ".restoring")
    (elsewhere.data_dir / ".restoring").unlink()
    # What an earlier try left is no obstacle.
    (elsewhere.data_dir / ".restoring" / "spool").mkdir(parents=True)
    restore(elsewhere, made.path)
    assert elsewhere.database_path.is_file()


def test_what_is_somebodys_own_is_no_leftover(received, elsewhere, tmp_path):
    made = back_up(received, tmp_path / "a.tar")
    for name in (".restoring", "spool", "notes"):
        (elsewhere.data_dir / name).mkdir(parents=True)
    with pytest.raises(SettingsError, match="not empty"):
        restore(elsewhere, made.path)
    (elsewhere.data_dir / "notes").rmdir()
    (elsewhere.data_dir / ".restoring").rmdir()
    with pytest.raises(SettingsError, match="not empty"):
        restore(elsewhere, made.path)
    assert (elsewhere.data_dir / "spool").is_dir()


def _rewritten(made, tmp_path, change):
    """Return a copy of a backup whose members and manifest were changed."""
    with tarfile.open(made.path) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    manifest = json.loads(members.pop("manifest.json"))
    change(members, manifest)
    members["manifest.json"] = json.dumps(manifest).encode()
    path = tmp_path / "changed.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _alter(members, _manifest):
    members["records.sqlite"] = b"x" + members["records.sqlite"][1:]


def _lose(members, _manifest):
    del members["records.sqlite"]


def _escape(members, manifest):
    members["../evil"] = b"x"
    manifest["files"]["../evil"] = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}


def _newer(_members, manifest):
    manifest["tables"] = 99


@pytest.mark.parametrize(
    ("change", "words"),
    [(_alter, "is not what its manifest says"), (_lose, "damaged"), (_escape, "none of a node's"),
     (_newer, "newer")],
)  # fmt: skip
def test_what_is_not_right_is_found_before_anything_is_written(
    received, elsewhere, tmp_path, change, words
):
    changed = _rewritten(back_up(received, tmp_path / "a.tar"), tmp_path, change)
    with pytest.raises(BackupError, match=words):
        restore(elsewhere, changed)
    assert not elsewhere.data_dir.exists()
    assert not (tmp_path / "evil").exists()


def test_what_is_no_backup(received, elsewhere, tmp_path):
    whole = back_up(received, tmp_path / "a.tar").path.read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "junk.tar").write_bytes(b"junk")
    for name in ("cut.tar", "junk.tar"):
        with pytest.raises(BackupError, match="damaged"):
            restore(elsewhere, tmp_path / name)
    assert not elsewhere.data_dir.exists()


def test_where_no_backup_can_be_made(received, elsewhere, tmp_path):
    with pytest.raises(SettingsError, match="no node"):
        back_up(elsewhere, tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(BackupError, match="there already"):
        back_up(received, tmp_path / "a.tar")
    with pytest.raises(BackupError, match="No such file"):
        back_up(received, tmp_path / "nowhere" / "a.tar")
    with pytest.raises(BackupError, match="there is no folder"):
        back_up(received, tmp_path / "unmounted")
    records.database.pragma("user_version", len(migrations.STEPS) - 1)
    with pytest.raises(BackupError, match="back them up with the version that wrote them"):
        back_up(received, tmp_path / "b.tar")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "node"]


@pytest.mark.parametrize("limit", [10_000, 200_000])
def test_a_full_disk_leaves_nothing_half_done(received, tmp_path, limit):
    refuse(received, bytes(300_000), "large", "X")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(BackupError, match="cannot be written"):
            back_up(received, tmp_path / "b.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["node"]
