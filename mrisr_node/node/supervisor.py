"""The node as a set of processes: started together, mended when one dies, gone together."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # made at import

from mrisr_node.errors import NodeError, SettingsError
from mrisr_node.locks import claim
from mrisr_node.node import logfiles
from mrisr_node.node.logfiles import last_line, open_log, rotate
from mrisr_node.node.orthanc import OrthancProcess, port_is_free
from mrisr_node.node.reaper import end_groups
from mrisr_node.people.users import ensure_admin
from mrisr_node.settings import Settings

__all__ = ["Node", "is_running", "stop_on_signals", "up"]

_log = logging.getLogger(__name__)

_COMMANDS: dict[str, list[str]] = {
    "receiver": ["receive"],
    "cpu-worker": ["work", "cpu"],
    "gpu-worker": ["work", "gpu"],
    "delivery-worker": ["work", "delivery"],
    "pairs-worker": ["work", "pairs"],
    "web": ["serve"],
}
_GRACE_SECONDS = 10.0
_FIRST_DELAY = 1.0
_LONGEST_DELAY = 60.0
# The status of a command that its settings kept from running (``cli.console``).
_SETTINGS = 2
_HEALTHY_SECONDS = 300.0
"""A process that lived so long is restarted without delay again."""
_LOCK = "node.lock"
_ANY_ADDRESS = {"", "0.0.0.0", "::"}  # noqa: S104 - compared, not bound


@dataclass
class _Child:
    """A supervised process."""

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    delay: float = _FIRST_DELAY
    not_before: float = 0.0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


def _print(line: str) -> None:
    with suppress(OSError):  # a full disk below it is no reason to end
        print(line, flush=True)


class Node:
    """All processes of one node, for one data directory.

    Use it as a context manager: inside, the node is ready; after, nothing of it runs. If this
    process is killed, the reaper ends what it started.

    Parameters
    ----------
    settings
        Shared by all processes.
    say
        Gets one readable line per event.

    Attributes
    ----------
    admin_password
        Of the user ``admin``, if this start made it; it can be read nowhere later.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None] = _print) -> None:
        self.settings = settings
        self.admin_password: str | None = None
        self._say = say
        self._orthanc = None if settings.orthanc_url else OrthancProcess(settings)
        self._children: list[_Child] = []
        self._error: Exception | None = None
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._ready = False
        self._lock: IO[str] | None = None
        self._reaper: subprocess.Popen[str] | None = None
        # One thread starts, mends and stops all: Orthanc dies with the thread that started it.
        self._thread = threading.Thread(target=self._supervise, name="supervisor")

    def __enter__(self) -> Node:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def processes(self) -> dict[str, int]:
        """Process ids of what runs now, by name."""
        return {c.name: c.process.pid for c in self._children if c.process and c.alive}

    def start(self) -> None:
        """Start every process; they are not ready at once.

        Raises
        ------
        SettingsError
            Another node runs on the data directory, a port is taken, or Orthanc cannot start.
        """
        self.settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._lock = _claim(self.settings.data_dir)
        for name in ("receiver_port", "web_port"):
            port = getattr(self.settings, name)
            if not port_is_free(port):
                raise SettingsError(f"TCP port {port} is taken: choose another {name}")
        self.admin_password = ensure_admin(self.settings)
        self._thread.start()
        self._started.wait()
        if self._error:
            raise self._error

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until the front door, the receiver and the PACS answer.

        Raises
        ------
        NodeError
            One of them gave no answer in time; the message names it and its log.
        """
        deadline = time.monotonic() + timeout
        checks = {"PACS": self._pacs_answers, "receiver": self._receiver_answers,
                  "web": self._web_answers}  # fmt: skip
        while checks:
            if self._error:
                raise self._error
            checks = {name: check for name, check in checks.items() if not check()}
            if checks and time.monotonic() > deadline:
                raise NodeError(
                    f"no answer from {' and '.join(checks)} in {timeout:.0f} s;"
                    f" see {self.settings.data_dir / 'logs'}"
                )
            if checks:
                time.sleep(0.2)
        self._ready = True

    def wait(self) -> None:
        """Wait until the node is stopped, or cannot go on: then its error is raised."""
        self._stopping.wait()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """End every process: the front door and the workers first, the PACS last."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._lock:
            self._lock.close()
            self._lock = None

    def _supervise(self) -> None:
        try:
            self._start_all()
            self._started.set()
            rotated = time.monotonic()
            while not self._stopping.wait(0.2):
                for child in self._children:
                    self._mend(child)
                if time.monotonic() - rotated >= logfiles.ROTATE_EVERY:
                    rotated = time.monotonic()
                    logs = self.settings.data_dir / "logs"
                    rotate(logs / f"{child.name}.log" for child in self._children)
        except (NodeError, OSError) as error:
            self._error = error
        finally:
            self._stopping.set()
            self._stop_all()
            self._started.set()

    def _start_all(self) -> None:
        environment = self.settings.environment()
        self._reaper = subprocess.Popen(
            [sys.executable, "-m", "mrisr_node.node.reaper"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if self._orthanc:
            self._start(_Child("orthanc", self._orthanc.start))
            self._orthanc.wait_ready()
            self._say(f"orthanc: {self.settings.pacs_ae_title} on port {self.settings.pacs_port}")
        for name, arguments in _COMMANDS.items():
            command = [sys.executable, "-m", "mrisr_node.cli", *arguments]
            log = self.settings.data_dir / "logs" / f"{name}.log"
            self._start(_Child(name, partial(_spawn, command, environment, log)))

    def _start(self, child: _Child) -> None:
        if child not in self._children:
            self._children.append(child)
        child.process = child.start()
        child.started_at = time.monotonic()
        self._tell_reaper("+", child.process.pid)

    def _mend(self, child: _Child) -> None:
        """Start a process that has died again, after a delay that grows while it keeps dying."""
        if child.alive:
            return
        now = time.monotonic()
        if child.process is not None:
            code = child.process.returncode
            how = f"signal {-code}" if code < 0 else f"status {code}"
            if code == _SETTINGS and not self._ready:
                # It would say so again and again: nobody gets ready until it is mended.
                log = self.settings.data_dir / "logs" / f"{child.name}.log"
                raise SettingsError(f"{child.name}: {last_line(log)}")
            if now - child.started_at > _HEALTHY_SECONDS:
                child.delay = _FIRST_DELAY
            child.not_before = now + child.delay
            self._say(f"{child.name}: ended with {how}, starts again in {child.delay:.0f} s")
            child.delay = min(2 * child.delay, _LONGEST_DELAY)
            self._clear(child)
        elif now >= child.not_before:
            try:
                self._start(child)
            except (NodeError, OSError) as error:  # OSError: a full disk, for one, and not for ever
                child.not_before = now + child.delay
                self._say(f"{child.name}: {error}")
                return
            self._say(f"{child.name}: runs again")

    def _clear(self, child: _Child) -> None:
        """Forget a process that has ended, and end what it left of its own children."""
        if child.process is not None:
            end_groups({child.process.pid}, 0.0)
            self._tell_reaper("-", child.process.pid)
            child.process = None

    def _stop_all(self) -> None:
        others = [c for c in reversed(self._children) if c.name != "orthanc"]
        for child in others:
            if child.process is not None and child.alive:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline and any(c.alive for c in others):
            time.sleep(0.05)
        for child in others:
            if child.process is not None and child.alive:
                _log.warning("%s did not end in %.0f s and is killed", child.name, _GRACE_SECONDS)
                child.process.kill()
                child.process.wait()
            self._clear(child)
        if self._orthanc:
            self._orthanc.stop()
        if self._reaper and self._reaper.stdin:
            self._reaper.stdin.close()
            self._reaper.wait()
            self._reaper = None

    def _tell_reaper(self, sign: str, group: int) -> None:
        if self._reaper and self._reaper.stdin and self._reaper.poll() is None:
            with suppress(BrokenPipeError):  # it has just died
                self._reaper.stdin.write(f"{sign}{group}\n")
                self._reaper.stdin.flush()

    def _pacs_answers(self) -> bool:
        auth = (self.settings.orthanc_username, self.settings.pacs_password())
        return _answers(f"{self.settings.pacs_url}/system", auth)

    def _web_answers(self) -> bool:
        return _answers(f"http://{_reach(self.settings.web_host)}:{self.settings.web_port}/healthz")

    def _receiver_answers(self) -> bool:
        address = _reach(self.settings.receiver_host), self.settings.receiver_port
        try:
            # pynetdicom leaves its socket open when nobody listens, so look before asking.
            socket.create_connection(address, 5).close()
        except OSError:
            return False
        peer = AE(ae_title=self.settings.ae_title)
        peer.connection_timeout = 5
        peer.add_requested_context(Verification)
        association = peer.associate(*address, ae_title=self.settings.ae_title)
        if not association.is_established:
            return False
        status = association.send_c_echo()
        association.release()
        return bool(status and status.Status == 0x0000)


def up(settings: Settings, say: Callable[[str], None] = _print) -> int:
    """Run the node until Ctrl-C or a request to end; return the exit status."""
    try:
        with stop_on_signals(), Node(settings, say) as node:
            say(f"receiver: {settings.ae_title} on port {settings.receiver_port}")
            if node.admin_password:
                say(f"web: user admin, password {node.admin_password} (shown only this once)")
            say(f"web: {settings.viewer_url}/")
            say(f"ready; data and logs are in {settings.data_dir}; Ctrl-C ends the node")
            node.wait()
    except KeyboardInterrupt:
        say("ended")
    return 0


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let every way of being asked to end raise KeyboardInterrupt, as Ctrl-C does."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_running(data_dir: Path) -> bool:
    """Tell whether a node runs on a data directory."""
    if not (data_dir / _LOCK).exists():
        return False
    try:
        _claim(data_dir).close()
    except SettingsError:
        return True
    return False


def _claim(data_dir: Path) -> IO[str]:
    """Return the open lock file, which belongs to one node at a time."""
    return claim(data_dir / _LOCK, f"another node runs on {data_dir}")


def _spawn(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C reaches only the supervisor."""
    with open_log(log) as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _reach(host: str) -> str:
    """Return the address at which a server that listens on `host` is reached from here."""
    return "127.0.0.1" if host in _ANY_ADDRESS else host


def _answers(url: str, auth: tuple[str, str] | None = None) -> bool:
    try:
        return httpx.get(url, auth=auth, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
