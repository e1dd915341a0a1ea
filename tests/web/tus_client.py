"""A small tus client for the tests."""

from __future__ import annotations

import base64

import httpx

TUS = {"Tus-Resumable": "1.0.0"}


class Sender:
    """Sends files over a client that is signed in."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def begin(self, size: int, name: str = "head.nii") -> str:
        """Begin an upload; return where it is."""
        encoded = base64.b64encode(name.encode()).decode()
        headers = {**TUS, "Upload-Length": str(size), "Upload-Metadata": f"filename {encoded}"}
        answer = self._client.post("/api/uploads", headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    def put(self, where: str, offset: int, content: bytes, **more: str) -> httpx.Response:
        """Send a piece."""
        headers = {
            **TUS,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            **more,
        }
        return self._client.patch(where, headers=headers, content=content)

    def offset(self, where: str) -> int:
        """Ask how much is there."""
        return int(self._client.head(where, headers=TUS).headers["upload-offset"])

    def send(self, content: bytes, name: str = "head.nii") -> str:
        """Send a file in one piece; return the key of its upload."""
        where = self.begin(len(content), name)
        assert self.put(where, 0, content).status_code == 204
        return where.rsplit("/", 1)[1]
