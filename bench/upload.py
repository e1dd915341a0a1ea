"""An upload that is killed three times: its client, the server, and the connection.

    python bench/upload.py [--megabytes 1000]

Starts a front door in a process of its own and a client in another, with a relay between them
that counts bytes. After a quarter of the file the client is killed (SIGKILL) and started anew,
after half of it the server, after three quarters the connection is reset. The client does what
every tus client does: asks how much is there, and goes on.

Prints how long it took, how many bytes had to be sent twice, the memory of the server before and at
its peak, and whether the file that it keeps has the checksum of the one that was sent.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil

from mrisr_node.jobs.uploads import Uploads
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import ensure_admin
from mrisr_node.settings import Settings, load_settings

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = 1 << 18
PATIENCE = 120


class Relay:
    """Passes connections on to the server; does something once so many bytes have passed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.passed = 0
        self.plans: list[tuple[int, Callable[[], None]]] = []
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset all connections."""
        for end in list(self._open):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            for source, target, counts in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pump, args=(source, target, counts), daemon=True
                ).start()

    def _pump(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while content := source.recv(PIECE):
                target.sendall(content)
                if counts:
                    self.passed += len(content)
                    if self.plans and self.passed >= self.plans[0][0]:
                        self.plans.pop(0)[1]()
        except OSError:
            pass
        for end in (source, target):
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # closing waits for the other thread
            end.close()


def pieces(path: Path, offset: int) -> Iterator[bytes]:
    """Read a file from somewhere on."""
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE):
            yield piece


def send(url: str, token: str, path: Path) -> None:
    """Send what is missing of an upload until it is whole, as a process of its own."""
    size, ends = path.stat().st_size, time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        try:
            headers = {**TUS, "Authorization": f"Bearer {token}"}
            with httpx.Client(headers=headers, timeout=30, trust_env=False) as client:
                offset = int(client.head(url).raise_for_status().headers["Upload-Offset"])
                if offset == size:
                    return
                client.patch(
                    url,
                    content=pieces(path, offset),
                    headers={
                        "Upload-Offset": str(offset),
                        "Content-Length": str(size - offset),
                        "Content-Type": "application/offset+octet-stream",
                    },
                )
        except httpx.HTTPError:
            time.sleep(0.2)
    sys.exit("the upload did not get whole")


def write_head(path: Path, size: int) -> str:
    """Write a NIfTI file of about this size; return its SHA-256."""
    import nibabel as nib

    side = 512
    slices = max(2, size // (8 * side * side))
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((side, side, slices))
    header.set_zooms((0.5, 0.5, 1.0))
    header.set_sform(np.diag([0.5, 0.5, 1.0, 1.0]), 1)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    random = np.random.default_rng(0)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        plane_of = (random.random((side, side)) for _ in range(slices))
        for content in (header.binaryblock, bytes(4), *(p.tobytes() for p in plane_of)):
            file.write(content)
            digest.update(content)
    return digest.hexdigest()


class Server:
    """A front door that can be killed and comes again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.most = self.before = 0
        self._process = self._started()
        self.before = psutil.Process(self._process.pid).memory_info().rss
        threading.Thread(target=self._watch, daemon=True).start()

    def kill(self) -> None:
        """End it at once, and start it again."""
        self._process.kill()
        self._process.wait()
        self._process = self._started()

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "mrisr_node.cli", "serve"], env=self._settings.environment()
        )
        url = f"http://127.0.0.1:{self._settings.web_port}/healthz"
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            try:
                httpx.get(url, trust_env=False)
                return process
            except httpx.HTTPError:
                time.sleep(0.1)
        sys.exit("the front door did not start")

    def _watch(self) -> None:
        while True:
            with contextlib.suppress(psutil.Error):
                self.most = max(self.most, psutil.Process(self._process.pid).memory_info().rss)
            time.sleep(0.05)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(folder: Path, size: int) -> dict[str, object]:
    """Upload a file through all that happens to it."""
    path = folder / "head.nii"
    digest = write_head(path, size)
    size = path.stat().st_size
    settings = load_settings(
        data_dir=folder / "data", web_port=free_port(), minimum_free_bytes=0, log_format="text"
    )
    ensure_admin(settings)
    token = create_token("admin", "bench")
    server = Server(settings)
    relay = Relay(settings.web_port)
    url = f"http://127.0.0.1:{relay.port}"
    headers = {**TUS, "Authorization": f"Bearer {token}"}

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__, "--send", where, token, str(path)])

    def kill_client() -> None:
        nonlocal client
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        client = started()

    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as tool:
        made = tool.post("/api/uploads", headers={"Upload-Length": str(size)})
        where = url + made.raise_for_status().headers["Location"]
        relay.plans = [
            (size // 4, kill_client),
            (size // 2, server.kill),
            (3 * size // 4, relay.cut),
        ]
        begun = time.monotonic()
        client = started()
        while relay.plans != [] or client.poll() is None:
            time.sleep(0.05)
            if client.poll() not in (None, 0) and not relay.plans:
                sys.exit("the client gave up")
        seconds = time.monotonic() - begun
        uploads = Uploads(settings)
        uploads.sweep()
        uploads.close()
        with httpx.Client(
            base_url=f"http://127.0.0.1:{settings.web_port}",
            headers=headers, trust_env=False, timeout=60,
        ) as direct:  # fmt: skip
            told = direct.get(where.removeprefix(url)).json()
            if told["state"] != "done":
                sys.exit(told["reason"])
            kept = direct.get(f"/api/files/{told['file']}/info").json()
    server.stop()
    return {
        "megabytes": round(size / 1e6, 1),
        "seconds": round(seconds, 1),
        "megabytes_sent_twice": round((relay.passed - size) / 1e6, 1),
        "server_megabytes_before": round(server.before / 1e6),
        "server_megabytes_at_most": round(server.most / 1e6),
        "whole": kept["sha256"] == digest and kept["size"] == size,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--send", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send:
        url, token, path = arguments.send
        send(url, token, Path(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.megabytes * 10**6)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if not result["whole"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
