"""Secrets that the node makes for itself."""

from __future__ import annotations

import stat
import threading

import pytest


@pytest.mark.parametrize("left", [None, b"", b"\n"])
def test_all_who_start_at_once_read_the_same_secret(make_settings, left):
    """Also over a file that a power cut has left empty."""
    settings = make_settings()
    path = settings.data_dir / "secrets" / "orthanc-password"
    if left is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(left)
    barrier, read = threading.Barrier(8), []

    def start():
        barrier.wait()
        read.append(settings.secret("orthanc-password"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 8
    assert len(set(read)) == 1
    assert len(read[0]) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["orthanc-password"]
    assert settings.secret("orthanc-password") == read[0]


def test_a_secret_is_on_the_disk_before_it_has_its_name(make_settings, monkeypatch):
    settings = make_settings()
    folder = settings.data_dir / "secrets"
    seen = []
    monkeypatch.setattr(
        "mrisr_node.settings.loading.sync",
        lambda path: seen.append((path.name, (folder / "one").exists(), path.stat().st_size > 0)),
    )
    settings.secret("one")
    assert seen == [(".one", False, True), ("secrets", True, True)]
