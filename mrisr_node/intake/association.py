"""An association that we ask for, every step of which ends (PS3.8 7, PS3.7 D)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext

from mrisr_node.errors import DeliveryError
from mrisr_node.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["Destination", "association"]


@dataclass(frozen=True)
class Destination:
    """Where to send, and as whom."""

    host: str
    port: int
    called: str
    calling: str

    def __str__(self) -> str:
        return f"{self.called} at {self.host}:{self.port}"


@contextmanager
def association(
    destination: Destination,
    contexts: Sequence[PresentationContext],
    timeout: float,
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
    tls: ssl.SSLContext | None = None,
) -> Iterator[Any]:
    """Hold an association, and release it after.

    Parameters
    ----------
    timeout
        Seconds for each of: the connection, the negotiation, an answer, a byte sent or received.
    roles, handlers
        pynetdicom's role selections and event handlers.
    tls
        To speak TLS; the peer's certificate has to name its host.

    Raises
    ------
    DeliveryError
        No association comes about.
    """
    ae = AE(ae_title=destination.calling)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout

    def on_open(event: Any) -> None:  # noqa: ANN401 - pynetdicom's event
        # Without it a peer that reads nothing holds the sending thread for ever.
        event.assoc.dul.socket.socket.settimeout(timeout)

    try:
        peer = ae.associate(
            destination.host,
            destination.port,
            list(contexts),
            ae_title=destination.called,
            ext_neg=list(roles),
            evt_handlers=[(evt.EVT_CONN_OPEN, on_open), *handlers],
            tls_args=(tls, destination.host) if tls else None,
        )
    except OSError as error:
        raise DeliveryError(f"no association with {destination}: {error.strerror}") from error
    if not peer.is_established:
        raise DeliveryError(
            f"no association with {destination}; does it run, and know our AE title?"
        )
    try:
        yield peer
    finally:
        peer.release()
