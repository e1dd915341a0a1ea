"""How peers are named in the settings: AE titles, networks, ports, and host:port."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["AETitle", "Address", "Network", "Port"]


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
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("an address is host:port, e.g. 10.1.2.3:104")
    return value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1, le=65535)]
