"""The node as a whole: ready, mended, alone on its data, and gone without a trace."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mrisr_node.errors import SettingsError
from mrisr_node.node import logfiles
from mrisr_node.node.orthanc import storage_of
from mrisr_node.node.supervisor import Node, is_running
from mrisr_node.settings import Settings, load_settings

NAMES = {
    "orthanc",
    "receiver",
    "cpu-worker",
    "gpu-worker",
    "delivery-worker",
    "pairs-worker",
    "web",
}


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_process_runs(node: Node) -> None:
    assert set(node.processes) == NAMES
    assert is_running(node.settings.data_dir)


@pytest.mark.parametrize("name", ["web", "receiver"])
def test_a_killed_process_is_started_again(node: Node, name: str) -> None:
    before = node.processes[name]
    os.kill(before, signal.SIGKILL)
    assert wait_for(lambda: node.processes.get(name, before) != before)
    node.wait_ready(60)
    assert not alive(before)


def test_a_killed_orthanc_is_started_again(node: Node) -> None:
    before = node.processes["orthanc"]
    subprocess.run(["kill", "-9", str(before)], check=True)
    assert wait_for(lambda: node.processes.get("orthanc", before) != before)
    node.wait_ready(60)


def test_a_full_disk_delays_a_start_and_ends_nothing(node: Node) -> None:
    """Starting Orthanc writes its configuration: here, into the device that is always full."""
    script = storage_of(node.settings) / f".forward.lua.{os.getpid()}"
    script.symlink_to("/dev/full")
    others = {name: pid for name, pid in node.processes.items() if name != "orthanc"}
    os.kill(node.processes["orthanc"], signal.SIGKILL)
    [orthanc] = [child for child in node._children if child.name == "orthanc"]
    assert wait_for(lambda: orthanc.process is None)
    put_off = orthanc.not_before
    assert wait_for(lambda: orthanc.not_before > put_off), "a start was tried, and put off"
    assert {name: pid for name, pid in node.processes.items() if name in others} == others
    assert "orthanc" not in node.processes
    script.unlink()
    orthanc.not_before = 0.0
    assert wait_for(lambda: "orthanc" in node.processes)
    node.wait_ready(60)


def test_logs_are_rotated_while_their_processes_run(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, before = node.settings.data_dir / "logs", node.processes
    monkeypatch.setattr(logfiles, "ROTATE_EVERY", 0.2)
    monkeypatch.setattr(logfiles, "_MOST", 10)
    olds = [logs / f"{name}.old.log" for name in ("orthanc", "receiver")]
    assert wait_for(lambda: all(old.exists() for old in olds))
    assert node.processes == before
    for old in logs.glob("*.old.log"):
        old.unlink()


def test_settings_that_a_process_cannot_run_with_end_the_start(
    make_settings: Callable[..., Settings], needs_orthanc: None, free_port: Callable[[], int]
) -> None:
    node = Node(make_settings(tls_port=free_port()))
    node.start()
    try:
        with pytest.raises(SettingsError, match=r"receiver: .*tls_certificate is needed"):
            node.wait_ready()
    finally:
        node.stop()
    assert not node.processes


def test_one_data_directory_has_one_node(node: Node) -> None:
    with pytest.raises(SettingsError, match="another node"):
        Node(node.settings).start()


def test_children_see_the_same_settings(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = make_settings(accepted_ae_titles=("ONE", "TWO"), public_url=None)
    # A file that says otherwise must not reach the children.
    (tmp_path / "mrisr.toml").write_text('public_url = "http://elsewhere"\nae_title = "OTHER"\n')
    monkeypatch.setenv("MRISR_CONFIG", str(tmp_path / "mrisr.toml"))
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def start_up(settings: Settings) -> tuple[subprocess.Popen[str], list[int]]:
    """Run `mrisr-node up`; return it with the process ids of its children, once it is ready."""
    up = subprocess.Popen(
        [sys.executable, "-m", "mrisr_node.cli", "up"],
        env=settings.environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert up.stdout is not None
    for line in up.stdout:
        if line.startswith("ready"):
            break
    children = Path(f"/proc/{up.pid}/task").glob("*/children")
    return up, [int(pid) for file in children for pid in file.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_up_leaves_nothing_behind(
    needs_orthanc: None, make_settings: Callable[..., Settings], number: signal.Signals
) -> None:
    settings = make_settings()
    up, children = start_up(settings)
    with up:
        assert len(children) == len(NAMES) + 1  # and the reaper
        up.send_signal(number)
        status = up.wait(60)
    assert status == (-signal.SIGKILL if number is signal.SIGKILL else 0)
    assert wait_for(lambda: not any(alive(pid) for pid in children))
    assert not is_running(settings.data_dir)
    logs = {path.stem for path in (settings.data_dir / "logs").iterdir()}
    assert logs == NAMES


@pytest.mark.parametrize("name", ["web_port", "receiver_port"])
def test_a_taken_port_is_named(make_settings: Callable[..., Settings], name: str) -> None:
    settings = make_settings()
    with (
        socket.create_server(("", getattr(settings, name))),
        pytest.raises(SettingsError, match=name),
        Node(settings),
    ):
        pass
    assert not is_running(settings.data_dir)


def test_a_node_that_cannot_start_says_why_and_leaves_nothing(
    needs_orthanc: None, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    (tmp_path / "forward.lua").write_text("")
    (tmp_path / "orthanc.json").write_text('{"HttpPort": "not a number"}')
    settings = make_settings(orthanc_config=tmp_path)
    node = Node(settings)
    with pytest.raises(SettingsError, match="ended at start"), node:
        pass
    assert node.processes == {}
    assert not is_running(settings.data_dir)
