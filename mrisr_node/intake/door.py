"""The door: accepts connections, lets in who may come, and hands each to a receiver process.

One thread watches all connections that have not said what they want yet, so that many of them cost
nothing. A connection goes on once its whole association request lies in the kernel's buffer
(PS3.8 9.3.2), or its first byte where it speaks TLS; what says nothing useful in time is closed.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pynetdicom.pdu import A_ASSOCIATE_RQ

from mrisr_node.errors import SettingsError
from mrisr_node.settings import Settings

__all__ = ["Door"]

_log = logging.getLogger(__name__)

_SECONDS = 5.0
"""For an association request to be complete."""
_LONGEST_REQUEST = 96 * 1024
"""Bytes; it has to fit into the kernel's buffer."""
_MOST_WAITING = 256
_ASSOCIATE_RQ = 0x01
_TLS_HANDSHAKE = 0x16
_RESTART_SECONDS = 1.0
_END_SECONDS = 2.0
"""For a receiver process that has let go of its channel to be gone."""


@dataclass(eq=False)
class _Process:
    """A receiver process, and the door's end of the socket to it."""

    child: subprocess.Popen[bytes]
    channel: socket.socket
    serving: dict[int, str] = field(default_factory=dict)
    """Addresses of the connections that it has, by number."""


@dataclass(eq=False)
class _Caller:
    """A connection that has not said yet what it wants."""

    connection: socket.socket
    address: str
    port: int
    until: float
    tls: bool


class Door:
    """Listens, and keeps the receiver processes running.

    Parameters
    ----------
    settings
        Addresses, limits, and how many processes.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._networks = [ipaddress.ip_network(n) for n in settings.accepted_addresses]
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._callers: set[_Caller] = set()
        self._processes: list[_Process] = []
        self._start_after = 0.0
        self._number = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="door")

    @property
    def associations(self) -> int:
        """How many connections the receiver processes serve now."""
        return sum(len(process.serving) for process in self._processes)

    @property
    def process_ids(self) -> list[int]:
        """The receiver processes."""
        return [process.child.pid for process in self._processes]

    def open(self) -> None:
        """Listen, and start the receiver processes.

        Raises
        ------
        SettingsError
            An address cannot be listened on.
        """
        settings = self._settings
        self._listen(settings.receiver_port, tls=False)
        if settings.tls_port is not None:
            self._listen(settings.tls_port, tls=True)
        for _ in range(settings.receiver_processes):
            self._start_process()
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end the receiver processes with what they are at."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for listener in self._listeners:
            listener.close()
        for process in self._processes:
            process.child.terminate()
        for process in self._processes:
            try:
                process.child.wait(5)
            except subprocess.TimeoutExpired:
                process.child.kill()
                process.child.wait()
            process.channel.close()
        for caller in self._callers:
            caller.connection.close()
        self._selector.close()

    def _listen(self, port: int, *, tls: bool) -> None:
        host = self._settings.receiver_host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            for other in self._listeners:
                other.close()
            raise SettingsError(
                f"the receiver cannot listen on {host}:{port} ({error.strerror});"
                f" set receiver_host and {'tls_port' if tls else 'receiver_port'}"
            ) from error
        listener.setblocking(False)
        self._listeners.append(listener)
        self._selector.register(listener, selectors.EVENT_READ, tls)
        kind = "TLS" if tls else "no TLS"
        _log.info("receiver %s listens on %s:%d, %s", self._settings.ae_title, host, port, kind)

    def _start_process(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-m", "mrisr_node.intake.provider", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=self._settings.environment(),
                stdin=subprocess.DEVNULL,
            )
        ours.setblocking(False)
        process = _Process(child, ours)
        self._processes.append(process)
        self._selector.register(ours, selectors.EVENT_READ, process)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select(0.2):
                try:
                    match key.data:
                        case bool() as tls:
                            self._accept(key.fileobj, tls)  # type: ignore[arg-type]
                        case _Process() as process:
                            self._hear(process)
                        case _Caller() as caller:
                            self._look_at(caller)
                except Exception:  # noqa: BLE001
                    # Whatever happened to one connection, the others go on.
                    _log.warning("a connection failed at the door", exc_info=True)
            now = time.monotonic()
            for caller in [c for c in self._callers if c.until <= now]:
                self._turn_away(caller, f"said nothing useful in {_SECONDS:.0f} s")
            missing = self._settings.receiver_processes - len(self._processes)
            if missing and now >= self._start_after:
                self._start_after = now + _RESTART_SECONDS
                try:
                    self._start_process()
                except OSError:
                    _log.exception("a receiver process cannot be started; it is tried again")

    def _accept(self, listener: socket.socket, tls: bool) -> None:
        try:
            connection, (address, port, *_) = listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        caller = _Caller(connection, address, port, time.monotonic() + _SECONDS, tls)
        at_once = Counter(c.address for c in self._callers)
        at_once.update(a for process in self._processes for a in process.serving.values())
        self._callers.add(caller)
        if not self._may_come(address):
            self._turn_away(caller, "is not in accepted_addresses")
        elif at_once[address] >= self._settings.maximum_associations_per_address:
            self._turn_away(caller, "has maximum_associations_per_address already")
        elif len(self._callers) > _MOST_WAITING:
            self._turn_away(caller, f"came while {_MOST_WAITING} others were waiting")
        else:
            self._selector.register(connection, selectors.EVENT_READ, caller)

    def _may_come(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._networks)

    def _look_at(self, caller: _Caller) -> None:
        """Go by what has arrived, which stays in the kernel's buffer for whoever serves it."""
        try:
            head = caller.connection.recv(6, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if not head:
            self._forget(caller)  # a health check: connected and closed
            return
        if head[0] != (_TLS_HANDSHAKE if caller.tls else _ASSOCIATE_RQ):
            self._turn_away(caller, "does not start with an association request")
        elif caller.tls:
            self._hand_over(caller)
        elif len(head) < 6:
            self._wait_for(caller, 6)
        else:
            self._whole(caller, 6 + struct.unpack(">xxL", head)[0])

    def _whole(self, caller: _Caller, length: int) -> None:
        if length > _LONGEST_REQUEST:
            self._turn_away(caller, f"claims an association request of {length} bytes")
            return
        request = caller.connection.recv(length, socket.MSG_PEEK)
        if len(request) < length:
            self._wait_for(caller, length)
        elif _is_well_formed(request):
            self._hand_over(caller)
        else:
            self._turn_away(caller, "sent an association request that cannot be read")

    def _wait_for(self, caller: _Caller, length: int) -> None:
        """Have the selector be silent until so many bytes are there, if more may come."""
        if _has_ended(caller.connection):
            self._turn_away(caller, "ended in the middle of its association request")
        else:
            caller.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, length)

    def _hand_over(self, caller: _Caller) -> None:
        """Give a connection to the process that has the fewest."""
        if not self._processes:
            self._turn_away(caller, "came while the receiver process was starting")
            return
        process = min(self._processes, key=lambda process: len(process.serving))
        self._number += 1
        message = {
            "id": self._number,
            "address": caller.address,
            "port": caller.port,
            "tls": caller.tls,
        }
        caller.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        descriptors: Sequence[int] = [caller.connection.fileno()]
        try:
            socket.send_fds(process.channel, [json.dumps(message).encode()], descriptors)
        except OSError:
            self._turn_away(caller, "could not be handed to a receiver process")
            return
        process.serving[self._number] = caller.address
        self._forget(caller)

    def _hear(self, process: _Process) -> None:
        """Take note of a connection's end, or of the process's own."""
        try:
            message = process.channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            process.serving.pop(json.loads(message)["ended"], None)
            return
        self._selector.unregister(process.channel)
        process.channel.close()
        self._processes.remove(process)
        try:
            code = process.child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.child.kill()
            code = process.child.wait()
        self._start_after = time.monotonic() + _RESTART_SECONDS
        _log.error(
            "a receiver process ended with status %d and %d associations; it starts again",
            code,
            len(process.serving),
        )

    def _turn_away(self, caller: _Caller, why: str) -> None:
        _log.warning("connection from %s closed: it %s", caller.address, why)
        self._forget(caller)

    def _forget(self, caller: _Caller) -> None:
        self._callers.discard(caller)
        if caller.connection.fileno() in self._selector.get_map():
            self._selector.unregister(caller.connection)
        caller.connection.close()


def _has_ended(connection: socket.socket) -> bool:
    """Tell whether a peer sends nothing more; what it has sent may still be there."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _is_well_formed(request: bytes) -> bool:
    """Tell whether an A-ASSOCIATE-RQ can be read; one that cannot would hold a thread a while."""
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(request)
        pdu.to_primitive()
    except Exception:  # noqa: BLE001 - pynetdicom raises anything on such bytes
        return False
    return pdu.user_information is not None
