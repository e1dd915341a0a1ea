"""The Storage and Verification SCP (PS3.4 A and B; upper layer in PS3.8), on pynetdicom."""

from __future__ import annotations

import logging
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)

from mrisr_node import records
from mrisr_node.errors import SettingsError
from mrisr_node.intake import commitment
from mrisr_node.intake.screening import SOP_CLASSES, TRANSFER_SYNTAXES, Rejected, screen
from mrisr_node.intake.spool import OutOfSpace, Spool, StoreOutcome
from mrisr_node.settings import Settings

__all__ = ["Receiver"]

_log = logging.getLogger(__name__)

_SUCCESS = 0x0000
_DUPLICATE = 0x0111
_NOT_AUTHORISED = 0x0124
_OUT_OF_RESOURCES = 0xA700
_CANNOT_UNDERSTAND = 0xC000
_MAXIMUM_PDU = 128 * 1024


class Receiver:
    """Listens for MR instances and puts them on the spool.

    C-ECHO is open to everyone, as on every PACS. C-STORE is open to the calling AE titles that the
    settings name.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spool = Spool(
            settings.spool_dir, settings.quarantine_dir, settings.minimum_free_bytes
        )
        self._server: Any = None

    def start(self) -> None:
        """Listen, in threads of our own.

        Raises
        ------
        SettingsError
            The address cannot be listened on.
        """
        settings = self._settings
        ae = AE(ae_title=settings.ae_title)
        ae.require_called_aet = True
        ae.maximum_associations = settings.maximum_associations
        ae.maximum_pdu_size = _MAXIMUM_PDU
        ae.network_timeout = settings.network_timeout
        ae.dimse_timeout = settings.network_timeout
        ae.acse_timeout = 5
        ae.add_supported_context(Verification)
        for sop_class in SOP_CLASSES:
            ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        # Peers ask us, and the PACS reports to us in the role of the SCP (PS3.4 J.3.3).
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_C_ECHO, lambda _: _SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            *commitment.handlers(settings),
        ]
        address = (settings.receiver_host, settings.receiver_port)
        try:
            self._server = ae.start_server(address, block=False, evt_handlers=handlers)
        except OSError as error:
            raise SettingsError(
                f"the receiver cannot listen on {address[0]}:{address[1]} ({error.strerror});"
                " set receiver_host and receiver_port"
            ) from error
        _log.info("receiver %s listens on %s:%d", settings.ae_title, *address)

    def stop(self) -> None:
        """Close the listening socket and the associations."""
        if self._server is not None:
            self._server.shutdown()

    def _on_open(self, event: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        # Without it a peer that says nothing holds its thread in recv for ever.
        event.assoc.dul.socket.socket.settimeout(self._settings.network_timeout)

    def _on_store(self, event: Any) -> int:  # noqa: ANN401 - pynetdicom's event
        sender = str(event.assoc.requestor.ae_title).strip()
        if sender not in self._settings.accepted_ae_titles:
            _log.warning("C-STORE from AE title %r refused: not in accepted_ae_titles", sender)
            return _NOT_AUTHORISED
        try:
            with records.connection():
                return self._store(event, sender)
        except OutOfSpace as error:
            _log.error("C-STORE from %s refused: %s", sender, error)
            return _OUT_OF_RESOURCES
        except Exception:  # noqa: BLE001
            # Whatever it was, the sender must not believe that we have the instance.
            _log.exception("C-STORE from %s failed", sender)
            return _OUT_OF_RESOURCES

    def _store(self, event: Any, sender: str) -> int:  # noqa: ANN401 - pynetdicom's event
        encoded: bytes = event.encoded_dataset()
        self._spool.check_space(len(encoded))
        request = event.request
        try:
            header = screen(
                encoded, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
            )
        except Rejected as error:
            _log.warning("instance from %s put into quarantine: %s", sender, error)
            self._spool.reject(encoded, str(error), sender)
            return error.status
        outcome = self._spool.store(header, encoded, sender)
        return _DUPLICATE if outcome == StoreOutcome.DIFFERENT else _SUCCESS
