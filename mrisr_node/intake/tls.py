"""DICOM TLS: the BCP 195 profile (PS3.15 B.9), with certificates on both sides."""

from __future__ import annotations

import ssl
from contextlib import suppress

from mrisr_node.errors import SettingsError
from mrisr_node.intake.guard import GuardedTLSSocket
from mrisr_node.settings import Settings

__all__ = ["client_context", "server_context"]

# TLS 1.2 with forward secrecy and authenticated encryption; those of TLS 1.3 are all in order.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what the receiver speaks TLS with, or None where no ``tls_port`` is set.

    Raises
    ------
    SettingsError
        Certificate, key or CA are missing or unusable.
    """
    if settings.tls_port is None:
        return None
    context = _context(settings, ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = GuardedTLSSocket
    return context


def client_context(settings: Settings) -> ssl.SSLContext:
    """Return what the node speaks TLS with to others; their certificate must name their host.

    Raises
    ------
    SettingsError
        Certificate, key or CA are missing or unusable.
    """
    context = _context(settings, ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _ClientSocket
    return context


class _ClientSocket(ssl.SSLSocket):
    """A socket that may be shut down unconnected: pynetdicom closes only what that succeeds for."""

    def shutdown(self, how: int) -> None:
        with suppress(OSError):
            super().shutdown(how)


def _context(settings: Settings, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    files = {name: getattr(settings, name) for name in ("tls_certificate", "tls_key", "tls_ca")}
    for name, path in files.items():
        if path is None:
            raise SettingsError(f"{name} is needed for DICOM TLS")
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files["tls_certificate"], files["tls_key"])
        context.load_verify_locations(files["tls_ca"])
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"tls_certificate, tls_key or tls_ca cannot be used ({error.strerror or error})"
        ) from error
    return context
