"""HTTP requests that end: their connection, each wait for a byte, and all of it together.

requests limits how long it waits for the next byte, and waits for ever on a server that sends one
now and then. So a timer cuts the connection when the whole has taken too long.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

__all__ = ["FAILURES", "BoundedSession", "named"]

FAILURES = (
    *(requests.RequestException, OSError),
    *(ValueError, KeyError, TypeError, AttributeError, SyntaxError),
)
"""What goes wrong on the way to a PACS, and what its answer makes raise where it is none."""

_PIECE = 1 << 20


def named(error: Exception) -> str:
    """Name an error without the addresses and UIDs that its text carries."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, requests.Timeout):
        return "it took too long (delivery_timeout)"
    return f"HTTP {status}" if status else type(error).__name__


class BoundedSession(requests.Session):
    """A session whose every request ends.

    Parameters
    ----------
    connect
        Seconds until the connection stands.
    total
        Seconds for the whole request and its answer.
    """

    def __init__(self, connect: float, total: float) -> None:
        super().__init__()
        self._connect, self._total = connect, total
        self._adapter = _Adapter()
        self.mount("http://", self._adapter)
        self.mount("https://", self._adapter)

    def request(self, *args: Any, **keywords: Any) -> requests.Response:  # noqa: ANN401
        """Make a request; the deadline of the session is stronger than the caller's."""
        keywords["timeout"] = (self._connect, self._total)
        with self._deadline():
            return super().request(*args, **keywords)

    def download(self, url: str, path: Path) -> None:
        """Write what is at an address to a file, piece by piece."""
        with self._deadline(), self.get(url, stream=True) as answer, path.open("wb") as file:
            answer.raise_for_status()
            for piece in answer.iter_content(_PIECE):
                file.write(piece)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Cut the connections of what takes too long."""
        overdue = threading.Event()

        def cut() -> None:
            overdue.set()
            self._adapter.cut()

        timer = threading.Timer(self._total, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (requests.RequestException, OSError) as error:
            if overdue.is_set():
                raise requests.Timeout from error
            raise
        finally:
            timer.cancel()
        if overdue.is_set():
            # A body that ends with the connection looks whole when it is cut.
            raise requests.Timeout


class _Adapter(HTTPAdapter):
    """Knows the connections that it made, so that they can be cut."""

    def init_poolmanager(self, *args: Any, **keywords: Any) -> None:  # noqa: ANN401
        made: WeakSet[HTTPConnection] = WeakSet()

        class Plain(HTTPConnection):
            def connect(self) -> None:
                made.add(self)
                super().connect()

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                made.add(self)
                super().connect()

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        super().init_poolmanager(*args, **keywords)
        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
        self._made = made

    def cut(self) -> None:
        """Shut every connection, whatever it waits for."""
        for connection in list(self._made):
            try:
                if connection.sock is not None:
                    connection.sock.shutdown(2)
            except OSError:
                continue  # it has ended by itself
