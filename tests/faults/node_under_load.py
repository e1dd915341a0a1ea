"""The load of the kill harness: who sends, and the processes of the node that die."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from mrisr_node.node.sample import SampleSeries
from mrisr_node.settings import Settings

HERE = Path(__file__).resolve().parent


class Sender:
    """Sends series from a thread, and remembers what was acknowledged."""

    def __init__(self, settings: Settings, calling: str) -> None:
        self._settings = settings
        self._calling = calling
        self.acknowledged: dict[str, Path] = {}
        """The file of each instance that was answered with success, by its UID."""
        self.stop = threading.Event()

    def send(self, sample: SampleSeries) -> None:
        """Send until everything is acknowledged."""
        left = list(sample.paths)
        while left and not self.stop.is_set():
            left = self._once(left)

    def _once(self, paths: Sequence[Path]) -> list[Path]:
        address = ("127.0.0.1", self._settings.receiver_port)
        try:
            # pynetdicom leaves its socket to the garbage collector when nobody listens.
            socket.create_connection(address, 5).close()
        except OSError:
            time.sleep(0.1)
            return list(paths)
        ae = AE(ae_title=self._calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
        ae.add_requested_context(MRImageStorage)
        association = ae.associate(*address, ae_title=self._settings.ae_title)
        left = list(paths)
        with suppress(RuntimeError):  # the association is gone
            for path in paths:
                status = association.send_c_store(path).get("Status")
                if status != 0x0000:
                    break
                self.acknowledged[path.name] = path
                left.remove(path)
        if association.is_established:
            association.release()
        else:
            association.abort()
        return left


class Processes:
    """Receiver and workers of one node, each under the eyes of ``fault_points``."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        environment = settings.environment()
        paths = [str(HERE), str(HERE.parent.parent), environment.get("PYTHONPATH", "")]
        self._environment = environment | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "FAULTS": str(folder),
            "FAULTS_DATA": str(settings.data_dir),
            "FAULTS_STAND_INS": "1",
        }
        self._log = (settings.data_dir / "processes.log").open("ab")
        self._receiver: subprocess.Popen[bytes] | None = None
        self._nursery = self._popen([str(HERE / "nursery.py")], stdin=subprocess.PIPE)

    def keep_up(self) -> None:
        """Start the receiver, again if it was killed."""
        if self._nursery.poll() is not None:
            raise RuntimeError("the workers' process ended; see processes.log")
        if self._receiver is None or self._receiver.poll() is not None:
            self._receiver = self._popen(["-m", "mrisr_node.cli", "receive"], role="receiver")

    def stop(self) -> None:
        """End all of them."""
        for process in (self._nursery, self._receiver):
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._nursery.stdin:
            self._nursery.stdin.close()
        self._log.close()

    def _popen(self, arguments: list[str], role: str = "", **keywords) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=self._environment | {"FAULTS_ROLE": role},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **keywords,
        )


@contextmanager
def running(settings: Settings, folder: Path) -> Iterator[Processes]:
    processes = Processes(settings, folder)
    try:
        yield processes
    finally:
        processes.stop()
