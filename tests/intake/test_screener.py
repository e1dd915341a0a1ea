"""The child that looks at files: what ends it, and what that means for the file and the others."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from pydicom import dcmread

from mrisr_node.intake import screener as module
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.screener import Screener
from mrisr_node.intake.screening import Rejected
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Rejection, open_records


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("child"), Acquisition(slices=2, matrix=16)).paths[0]


@pytest.fixture
def screener():
    running = Screener()
    running.start()
    yield running
    running.stop()


def _screen(screener, path, **keywords):
    dataset = dcmread(path, stop_before_pixels=True)
    return screener.screen(path, dataset.SOPClassUID, dataset.SOPInstanceUID, **keywords)


def _stop(screener):
    """Hold the child up; return its process id."""
    pid = screener._child.pid
    os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_file_whose_child_is_killed_once_is_looked_at_again(screener, path, number):
    pid, times = _stop(screener), []

    def kill():
        times.append(time.monotonic())
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)

    header = _screen(screener, path, meanwhile=kill)
    assert header.sop_instance_uid == dcmread(path).SOPInstanceUID
    assert len(times) == 1
    assert screener._child.pid != pid


def test_a_child_that_has_little_memory_left_makes_room(screener, path):
    _screen(screener, path)
    assert screener._child is not None
    # One for which what it has from the start is more than half of what it may have.
    screener.stop()
    program = (
        "from mrisr_node.intake import screener;"
        "screener._MEMORY = int(1.5 * screener._address_space()); screener.main()"
    )
    screener._child = small = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert _screen(screener, path)
    assert small.returncode is not None
    assert screener._child is None
    assert _screen(screener, path)


class _Doomed(Screener):
    """Its children die whatever they are asked."""

    started = 0

    def _living(self):
        child = super()._living()
        child.kill()
        self.started += 1
        return child


def test_a_file_whose_child_dies_twice_is_rejected(path):
    screener = _Doomed()
    with pytest.raises(Rejected, match="ended by a signal, twice"):
        _screen(screener, path)
    assert screener.started == 2
    screener.stop()


def test_the_processor_s_limit_is_the_file_s_own_fault(screener, path, caplog):
    pid = _stop(screener)

    def exceed():
        os.kill(pid, signal.SIGXCPU)
        os.kill(pid, signal.SIGCONT)

    with pytest.raises(Rejected, match="took more than 20 s of the processor"):
        _screen(screener, path, meanwhile=exceed)
    assert caplog.text.count("its process was started anew") == 1


def test_no_file_is_so_large_that_others_wait_for_long(screener, path, tmp_path, monkeypatch):
    assert module._LONGEST == 120
    monkeypatch.setattr(module, "_LONGEST", 1.0)
    large = tmp_path / "large.dcm"
    large.write_bytes(path.read_bytes())
    os.truncate(large, 1024**3)
    _stop(screener)
    begun = time.monotonic()
    with pytest.raises(Rejected, match="took more than 1 s"):
        _screen(screener, large)
    assert time.monotonic() - begun < 30
    monkeypatch.undo()
    assert _screen(screener, path)


def test_an_instance_whose_child_was_killed_from_outside_is_stored(make_settings, tmp_path, path):
    settings = make_settings(data_dir=tmp_path / "node", minimum_free_bytes=0, receiver_processes=1)
    open_records(settings.database_path)
    receiver = Receiver(settings)
    receiver.start()
    try:
        [child] = _children(receiver)
        child.suspend()
        where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
        refused = []
        sending = threading.Thread(
            target=lambda: refused.extend(send_files([path], where, lambda _: None))
        )
        sending.start()
        _until(lambda: any(settings.spool_dir.glob("drafts/*")))
        child.kill()
        sending.join()
    finally:
        receiver.stop()
    assert refused == []
    assert Instance.select().count() == 1
    assert Rejection.select().count() == 0


def _children(receiver):
    [pid] = receiver.processes
    _until(psutil.Process(pid).children)
    return psutil.Process(pid).children()


def _until(condition):
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)
