"""How peers are named in the settings: AE titles, networks, ports, and host:port."""

from __future__ import annotations

import ipaddress
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

__all__ = ["AETitle", "Address", "Listener", "Network", "Port"]

_TLS = "tls://"


class Listener(NamedTuple):
    """Where a peer listens for associations, and whether it speaks TLS there."""

    host: str
    port: int
    tls: bool = False

    @classmethod
    def at(cls, address: str) -> Listener:
        """Read ``host:port`` or ``tls://host:port``; an IPv6 host stands in brackets."""
        host, _, port = address.removeprefix(_TLS).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("an address is host:port or tls://host:port, e.g. 10.1.2.3:104")
        return cls(host.strip("[]"), int(port), address.startswith(_TLS))


def _ae_title(value: str) -> str:
    """PS3.5 6.2: at most 16 printable characters, no backslash, not only spaces."""
    if not value.strip() or len(value) > 16 or not value.isascii() or not value.isprintable():
        raise ValueError("an AE title is 1 to 16 printable ASCII characters")
    if "\\" in value:
        raise ValueError("an AE title holds no backslash")
    return value.strip()


def _network(value: str) -> str:
    """Return an address or network in its usual form."""
    return str(ipaddress.ip_network(value.strip()))


def _address(value: str) -> str:
    Listener.at(value)
    return value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1, le=65535)]
