"""A receiver process: the Storage and Verification SCP on connections that the door hands over.

``python -m mrisr_node.intake.provider DESCRIPTOR`` serves the connections that come through a
Unix socket until that is closed (PS3.4 A and B; upper layer in PS3.8, by pynetdicom).
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import ssl
import sys
import threading
import time
from dataclasses import dataclass, field
from socketserver import BaseServer
from typing import Any, cast

from peewee import PeeweeException
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RQ, P_DATA_TF
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from mrisr_node import records
from mrisr_node.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from mrisr_node.intake import commitment
from mrisr_node.intake.guard import MAXIMUM_PDU, Guard, GuardedSocket, GuardedTLSSocket
from mrisr_node.intake.part_10 import in_file_format
from mrisr_node.intake.screener import Screener
from mrisr_node.intake.screening import SOP_CLASSES, TRANSFER_SYNTAXES, Rejected
from mrisr_node.intake.spool import OutOfSpace, Spool, StoreOutcome
from mrisr_node.intake.statuses import StoreStatus
from mrisr_node.intake.tls import server_context
from mrisr_node.logs import start_logging
from mrisr_node.settings import Settings, load_settings

__all__ = ["HandedOverServer", "StorageProvider", "main"]

_log = logging.getLogger(__name__)

_PROVIDER = 2
"""Source of an A-ABORT (PS3.8 9.3.8): the upper layer, where 0 is whoever uses it."""


@dataclass
class _Visit:
    """One connection, for the line that is logged at its end."""

    address: tuple[str, int]
    guard: Guard
    since: float = field(default_factory=time.monotonic)
    calling: str = ""
    reason: str = ""
    """Why it ended, where the upper layer knows; the first one that is found counts."""
    released: bool = False
    heard: float = field(default_factory=time.monotonic)
    """When its last PDU came."""
    answers: dict[str, int] = field(default_factory=dict)

    def answered(self, status: int) -> None:
        key = f"0x{status:04X}"
        self.answers[key] = self.answers.get(key, 0) + 1

    def ending(self, why: str) -> str:
        """Return why it ended; nothing where it ended as it should.

        Parameters
        ----------
        why
            What the socket says.
        """
        if self.reason or why or self.released:
            return "; ".join(words for words in (self.reason, why) if words)
        if self.guard.in_message:
            return "its last message was unfinished, or could not be read"
        return "it ended without a release"


class HandedOverServer(ThreadedAssociationServer):
    """An association server whose connections come through a Unix socket, already accepted.

    Everything that is overridden is the interface of Python's ``socketserver``.

    Parameters
    ----------
    channel
        Gives a descriptor and a JSON message for each connection, and takes one when it ends.
    settings
        Limits.
    tls
        For connections that are to speak TLS.
    """

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - pynetdicom's own
        channel: socket.socket,
        settings: Settings,
        tls: ssl.SSLContext | None,
        **keywords: Any,  # noqa: ANN401 - pynetdicom's own
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._tls = tls
        self.visits: dict[tuple[str, int], _Visit] = {}
        self.orphaned = threading.Event()
        super().__init__(*arguments, **keywords)

    def server_bind(self) -> None:
        """Take the channel in the place of a listening socket."""
        if self.socket is not None:
            self.socket.close()
        self.socket = self._channel

    def server_activate(self) -> None:
        """Do nothing: the door listens."""

    def shutdown(self) -> None:
        """Stop serving; pynetdicom's own also wants to have started the server itself."""
        BaseServer.shutdown(self)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Return the next connection.

        Raises
        ------
        OSError
            The door is gone, or the connection is.
        """
        message, descriptors, _, _ = socket.recv_fds(self._channel, 4096, 1)
        if not message:
            self.orphaned.set()
            raise OSError("the door is gone")
        told = json.loads(message)
        number, address = int(told["id"]), (str(told["address"]), int(told["port"]))
        visit = _Visit(address, Guard(self._settings.maximum_instance_bytes))
        if not descriptors:
            self._ended(number, visit, "no file descriptor is left for it")
            raise OSError("no file descriptor is left")
        try:
            connection = self._guarded(descriptors[0], tls=told["tls"])
        except OSError as error:
            self._ended(number, visit, str(error))
            raise
        self.visits[address] = visit
        connection.watch(visit.guard, lambda why: self._ended(number, visit, why))
        return connection, address

    def _guarded(self, descriptor: int, *, tls: bool) -> GuardedSocket | GuardedTLSSocket:
        connection = GuardedSocket(fileno=descriptor)
        if not tls or self._tls is None:
            return connection
        wrapped = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return cast(GuardedTLSSocket, wrapped)  # the context was told so

    def _ended(self, number: int, visit: _Visit, why: str) -> None:
        """Log a connection's line, and tell the door."""
        self.visits.pop(visit.address, None)
        answers = ", ".join(f"{n} × {status}" for status, n in sorted(visit.answers.items()))
        _log.info(
            "association of %s from %s:%d ended after %.1f s: %s; %d bytes%s",
            repr(visit.calling) if visit.calling else "nobody",
            *visit.address,
            time.monotonic() - visit.since,
            f"answered {answers}" if answers else "nothing stored",
            visit.guard.received_bytes,
            f"; {ending}" if (ending := visit.ending(why)) else "",
        )
        try:
            self._channel.send(json.dumps({"ended": number}).encode())
        except OSError:
            self.orphaned.set()


class StorageProvider:
    """What is answered to C-ECHO and C-STORE.

    Parameters
    ----------
    settings
        Who may store, and where to.
    channel
        From the door.
    tls
        For connections that are to speak TLS.
    """

    def __init__(
        self, settings: Settings, channel: socket.socket, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )
        self._screener = Screener()
        ae = AE(ae_title=settings.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.require_called_aet = True
        ae.maximum_associations = settings.associations_per_process
        ae.maximum_pdu_size = MAXIMUM_PDU
        ae.network_timeout = settings.network_timeout
        ae.dimse_timeout = settings.network_timeout
        ae.acse_timeout = 5
        # What pynetdicom offers unless told otherwise has Deflated in it, and decodes it whole.
        plain = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]
        ae.add_supported_context(Verification, plain)
        for sop_class in SOP_CLASSES:
            ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        # Peers ask us, and the PACS reports to us in the role of the SCP (PS3.4 J.3.3).
        ae.add_supported_context(StorageCommitmentPushModel, plain, scu_role=True, scp_role=True)
        handlers: list[Any] = [
            *commitment.handlers(settings, self._spool),
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_REJECTED, self._on_rejection),
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_PDU_SENT, self._on_our_pdu),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_DIMSE_SENT, self._on_answer),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
        ]
        self._server: HandedOverServer = cast(
            HandedOverServer,
            ae.make_server(
                (settings.receiver_host, settings.receiver_port),
                evt_handlers=handlers,
                server_class=HandedOverServer,
                channel=channel,
                settings=settings,
                tls=tls,
            ),
        )

    def run(self, stop: threading.Event) -> None:
        """Serve until told to stop, or until the door is gone."""
        self._screener.start()
        thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True)
        thread.start()
        # With the last connection SQLite ends its log, and the next one makes it anew, which takes
        # longer than a commit: this one stays.
        with records.connection():
            while thread.is_alive() and not self._server.orphaned.is_set() and not stop.wait(0.1):
                continue
        for association in self._server.active_associations:
            association.abort()
        self._server.shutdown()
        self._screener.stop()

    def _visit(self, event: Any) -> _Visit | None:  # noqa: ANN401 - pynetdicom's event
        peer = event.assoc.requestor
        return self._server.visits.get((peer.address, peer.port))

    def _on_request(self, event: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        if visit := self._visit(event):
            visit.calling = _printable(event.assoc.requestor.primitive.calling_ae_title)

    def _on_rejection(self, event: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        if visit := self._visit(event):
            called = _printable(event.assoc.requestor.primitive.called_ae_title)
            visit.reason = (
                f"rejected: it called {called!r}, and ae_title is {self._settings.ae_title!r}"
                if called != self._settings.ae_title
                else "rejected: too many associations (maximum_associations)"
            )

    def _on_pdu(self, event: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        if not (visit := self._visit(event)):
            return
        visit.heard = time.monotonic()
        visit.released |= isinstance(event.pdu, A_RELEASE_RQ)
        if isinstance(event.pdu, A_ABORT_RQ):
            visit.reason = visit.reason or "aborted by its peer"
        if isinstance(event.pdu, P_DATA_TF):
            self._limit_memory(event, visit)

    def _limit_memory(self, event: Any, visit: _Visit) -> None:  # noqa: ANN401 - pynetdicom's event
        """Hold a message to little memory unless it comes where an instance may."""
        storage = {
            context.context_id
            for context in event.assoc.accepted_contexts
            if context.abstract_syntax in SOP_CLASSES
            and visit.calling in self._settings.accepted_ae_titles
        }
        # A fragment of another context counts, too: the one that ends the command decides.
        if not storage.issuperset(
            part.presentation_context_id for part in event.pdu.presentation_data_value_items
        ):
            visit.guard.message_holds_no_instance()

    def _on_our_pdu(self, event: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        visit = self._visit(event)
        if visit is None or not isinstance(event.pdu, A_ABORT_RQ):
            return
        if not event.assoc.accepted_contexts:
            words = "aborted: none of what it proposed is accepted"
        elif event.pdu.source == _PROVIDER:
            words = "aborted: it sent what is no PDU, or no message, of an association"
        elif time.monotonic() - visit.heard >= self._settings.network_timeout:
            words = "aborted: silent for longer than network_timeout"
        else:
            words = "aborted: it asked for what there is no service for, or the receiver ends"
        visit.reason = visit.reason or words

    def _on_message(self, event: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        if visit := self._visit(event):
            visit.guard.message_ended()

    def _on_answer(self, event: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        if visit := self._visit(event):
            visit.guard.message_sent()

    def _on_echo(self, event: Any) -> int:  # noqa: ANN401 - pynetdicom's event
        return self._answered(event, StoreStatus.SUCCESS)

    def _on_store(self, event: Any) -> int:  # noqa: ANN401 - pynetdicom's event
        sender = _printable(event.assoc.requestor.ae_title)
        if sender not in self._settings.accepted_ae_titles:
            _log.warning("C-STORE from AE title %r refused: not in accepted_ae_titles", sender)
            return self._answered(event, StoreStatus.NOT_AUTHORISED)
        try:
            with records.connection():
                return self._answered(event, self._store(event, sender))
        except OutOfSpace as error:
            _log.error("C-STORE from %s refused: %s", sender, error)
        except (OSError, PeeweeException) as error:
            _log.error("C-STORE from %s refused: it cannot be kept (%s)", sender, error)
        except Exception:  # noqa: BLE001
            # Whatever it was, the sender must not believe that we have the instance.
            _log.exception("C-STORE from %s failed", sender)
        return self._answered(event, StoreStatus.OUT_OF_RESOURCES)

    def _answered(self, event: Any, status: int) -> int:  # noqa: ANN401 - pynetdicom's event
        if visit := self._visit(event):
            visit.answered(status)
        return status

    def _store(self, event: Any, sender: str) -> int:  # noqa: ANN401 - pynetdicom's event
        request = event.request
        encoded = in_file_format(
            event.encoded_dataset(include_meta=False),
            request.AffectedSOPClassUID,
            request.AffectedSOPInstanceUID,
            event.context.transfer_syntax,
        )
        address = str(event.assoc.requestor.address)
        self._spool.check_space(len(encoded))
        draft = self._spool.draft(encoded)
        try:
            try:
                header = self._screener.screen(
                    draft.path,
                    str(request.AffectedSOPClassUID),
                    str(request.AffectedSOPInstanceUID),
                    meanwhile=draft.sync,
                )
            except Rejected as error:
                _log.warning("instance from %s put into quarantine: %s", sender, error)
                self._spool.reject(draft, str(error), sender, address=address)
                return error.status
            outcome = self._spool.store(header, draft, sender, address)
        finally:
            draft.drop()
        return StoreStatus.DUPLICATE if outcome is StoreOutcome.DIFFERENT else StoreStatus.SUCCESS


def _printable(title: str) -> str:
    """Return an AE title without what could forge a line of the log."""
    return "".join(c if c.isprintable() else "?" for c in str(title)).strip()


def main(descriptor: int) -> int:
    """Serve the connections that come through an inherited Unix socket."""
    settings = load_settings()
    start_logging("receiver", settings.log_format)
    # It would put every PDU into words that nobody reads.
    _config.LOG_HANDLER_LEVEL = "none"
    records.open_records(settings.database_path)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    channel = socket.socket(fileno=descriptor)
    StorageProvider(settings, channel, server_context(settings)).run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
