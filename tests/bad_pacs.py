"""A PACS that speaks the few answers the node needs, and fails as it is told to.

DICOMweb's, and Orthanc's own for instances that are given one by one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

from pydicom import dcmread

STORED, REFUSED = "00081199", "00081198"


class BadPacs:
    """What it does with a request is its `mood`; what it stored is in `kept`, by UID: its series.

    Moods: ``good``, ``half`` (stores every other and says so, with `reason`, or `status` where they
    come one by one), ``refusing`` (answers each of these with `status`), ``liar`` (says success and
    stores nothing), ``forgetful`` (says success and stores half), ``silent``, ``drip`` (a byte now
    and then), ``hangs up``, ``tired`` (hangs up on every other POST), ``nonsense`` (success with a
    web page), ``pages`` (shows three instances an answer), or an HTTP status.
    """

    def __init__(self) -> None:
        self.mood: str | int = "good"
        self.reason, self.status = 0xA700, 400
        self.given = 0
        self.kept: dict[str, str] = {}
        self.requests: list[str] = []
        self.end = threading.Event()

    def _store(self, body: bytes) -> dict[str, object]:
        boundary = body.lstrip().partition(b"\r\n")[0]
        parts = [p.partition(b"\r\n\r\n")[2] for p in body.split(boundary)]
        sent = [dcmread(BytesIO(part)) for part in parts if b"DICM" in part[:200]]
        taken, refused = [], []
        for number, dataset in enumerate(sent):
            every_other = number % 2 == 0
            if self.mood == "half" and not every_other:
                refused.append(dataset)
                continue
            if self.mood != "liar" and (self.mood != "forgetful" or every_other):
                self.kept[str(dataset.SOPInstanceUID)] = str(dataset.SeriesInstanceUID)
            taken.append(dataset)
        answer: dict[str, object] = {STORED: {"vr": "SQ", "Value": [_item(d) for d in taken]}}
        if refused:
            items = [_item(d) | {"00081197": {"vr": "US", "Value": [self.reason]}} for d in refused]
            answer[REFUSED] = {"vr": "SQ", "Value": items}
        return answer

    def _take(self, body: bytes) -> tuple[int, object]:
        """Answer to an instance that comes alone."""
        self.given += 1
        if self.mood == "refusing" or (self.mood == "half" and self.given % 2 == 0):
            return self.status, {}
        dataset = dcmread(BytesIO(body))
        if self.mood != "liar":
            self.kept[str(dataset.SOPInstanceUID)] = str(dataset.SeriesInstanceUID)
        return 200, {"Status": "Success", "ID": "-".join(["01234567"] * 5)}

    def _show(self, path: str, query: dict[str, list[str]]) -> list[dict[str, object]]:
        series = path.partition("/series/")[2].partition("/")[0]
        shown = sorted(uid for uid, of in self.kept.items() if of == series)
        if self.mood == "pages":
            start = int(query.get("offset", ["0"])[0])
            shown = shown[start : start + 3]
        return [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in shown]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = _body(handler)
        self.requests.append(handler.command)
        if self.mood == "hangs up":
            return
        if self.mood == "tired" and handler.command == "POST" and self.requests.count("POST") % 2:
            return
        if self.mood == "silent":
            self.end.wait(60)
            return
        if self.mood == "drip":
            while not self.end.wait(0.05):
                try:
                    handler.wfile.write(b"H")
                except OSError:
                    return
            return
        status, kind = 200, "application/dicom+json"
        if isinstance(self.mood, int):
            status, payload = self.mood, b"{}"
        elif self.mood == "nonsense":
            kind, payload = "application/dicom+json", b"<html>Welcome</html>"
        elif handler.path == "/tools/lookup":
            payload = b"[]"
        elif handler.path == "/instances":
            status, said = self._take(body)
            payload = json.dumps(said).encode()
        elif handler.command == "POST":
            payload = json.dumps(self._store(body)).encode()
        else:
            asked = urlsplit(handler.path)
            payload = json.dumps(self._show(asked.path, parse_qs(asked.query))).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(payload)))
        handler.end_headers()
        handler.wfile.write(payload)


def _item(dataset) -> dict[str, object]:
    return {
        "00081150": {"vr": "UI", "Value": [str(dataset.SOPClassUID)]},
        "00081155": {"vr": "UI", "Value": [str(dataset.SOPInstanceUID)]},
    }


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if length := handler.headers.get("Content-Length"):
        return handler.rfile.read(int(length))
    body = b""
    if handler.headers.get("Transfer-Encoding") == "chunked":
        while size := int(handler.rfile.readline(), 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
    return body


@contextmanager
def bad_pacs(port: int) -> Iterator[BadPacs]:
    """Run one at a port."""
    pacs = BadPacs()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pacs.answer(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield pacs
    finally:
        pacs.end.set()
        server.shutdown()
        server.server_close()
        thread.join()
