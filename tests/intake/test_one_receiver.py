"""A data directory has one receiver."""

import os
import subprocess
import sys

import pytest

from mrisr_node.errors import SettingsError
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.spool import Spool
from mrisr_node.records import open_records


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(data_dir=tmp_path / "node", minimum_free_bytes=0, receiver_processes=1)
    open_records(made.database_path)
    return made


def test_a_second_one_says_so_and_leaves_the_first_one_s_drafts(settings, free_port):
    first = Receiver(settings)
    first.start()
    try:
        spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
        draft = spool.draft(b"under way")
        other = settings.model_copy(update={"receiver_port": free_port()})
        done = subprocess.run(
            [sys.executable, "-m", "mrisr_node.cli", "receive"],
            env={**os.environ, **other.environment(), "COLUMNS": "400"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert f"another receiver runs on {settings.data_dir}" in done.stderr
        assert draft.path.exists()
    finally:
        first.stop()
    second = Receiver(other)
    second.start()
    second.stop()
    assert not draft.path.exists()


def test_one_that_cannot_listen_lets_go(settings, free_port):
    first = Receiver(settings.model_copy(update={"receiver_host": "192.0.2.1"}))
    with pytest.raises(SettingsError, match="cannot listen"):
        first.start()
    second = Receiver(settings)
    second.start()
    second.stop()
