"""The gateway, side by side with the Orthanc behind it: frames as a viewer fetches them.

    python bench/gateway.py [--frames 200] [--matrix 256] [--connections 1 6] [--rounds 5]
    python bench/gateway.py --study-mib 1024

Each round fetches every frame of a series once from Orthanc and once through each way to it, over
kept connections; the least time of the rounds counts. Prints milliseconds a frame, megabytes a
second and the ratio to Orthanc. With nginx installed (`docs/nginx.conf`), it is a way of its own.

With ``--study-mib`` a study of that size is stored by STOW-RS in one request and retrieved in one,
and the memory of the web process is printed before, at its peak, and the seconds.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from pydicom import dcmread
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).parent.parent))

from mrisr_node.node.orthanc import OrthancProcess, free_port, storage_of
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import ensure_admin
from mrisr_node.settings import Settings, load_settings
from tests.nginx import NGINX, proxied

_FRAMES = "multipart/related; type=application/octet-stream; transfer-syntax=*"
_STUDY = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass(frozen=True)
class Way:
    """One way to the same frames."""

    name: str
    port: int
    authorization: str


class Peer:
    """A connection that is kept, and costs as little as a browser's."""

    def __init__(self, way: Way) -> None:
        self._socket = socket.create_connection(("127.0.0.1", way.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: 127.0.0.1:{way.port}\r\nAuthorization: {way.authorization}\r\n"
        self._buffer = memoryview(bytearray(4 * 1024**2))

    def get(self, path: str, accept: str) -> int:
        """Return how many bytes came."""
        request = f"GET {path} HTTP/1.1\r\n{self._head}Accept: {accept}\r\n\r\n"
        self._socket.sendall(request.encode())
        read, end = 0, -1
        while end < 0:
            count = self._socket.recv_into(self._buffer[read:])
            if not count:
                raise ConnectionError
            read += count
            end = bytes(self._buffer[: min(read, 8192)]).find(b"\r\n\r\n")
        head = bytes(self._buffer[:end]).lower()
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(head.decode())
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        left = length - (read - end - 4)
        while left:
            count = self._socket.recv_into(self._buffer, min(left, len(self._buffer)))
            if not count:
                raise ConnectionError
            left -= count
        return length

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def fetched(way: Way, paths: Sequence[str], connections: int) -> tuple[float, int]:
    """Return seconds and bytes of fetching every frame."""
    with ExitStack() as stack:
        peers = [stack.enter_context(closing(Peer(way))) for _ in range(connections)]
        left, total, lock = iter(paths), [0], threading.Lock()

        def work(peer: Peer) -> None:
            while True:
                with lock:
                    path = next(left, None)
                if path is None:
                    return
                size = peer.get(path, _FRAMES)
                with lock:
                    total[0] += size

        threads = [threading.Thread(target=work, args=(peer,)) for peer in peers]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began, total[0]


def series(folder: Path, frames: int, matrix: int) -> Iterator[bytes]:
    """Give the files of a series, whose pixels are all alike."""
    [path, *_] = write_sample(folder, Acquisition(slices=2, matrix=matrix)).paths
    image = dcmread(path)
    pixels = np.resize(image.pixel_array, (matrix, matrix))
    image.Rows, image.Columns, image.PixelData = matrix, matrix, pixels.tobytes()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    for number in range(frames):
        image.InstanceNumber = number + 1
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        target = folder / "one.dcm"
        image.save_as(target, enforce_file_format=True)
        yield target.read_bytes()


@contextmanager
def served(settings: Settings) -> Iterator[psutil.Process]:
    """Run the front door as the node does, in a process of its own."""
    command = [sys.executable, "-m", "mrisr_node.cli", "serve"]
    with subprocess.Popen(command, env=settings.environment()) as process:
        try:
            until(lambda: httpx.get(f"http://127.0.0.1:{settings.web_port}/healthz").is_success)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def until(works: Callable[[], bool]) -> None:
    """Wait for something that is starting."""
    end = time.monotonic() + 60
    while True:
        try:
            if works():
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.1)


def compare(ways: Sequence[Way], paths: Sequence[str], connections: int, rounds: int) -> None:
    """Print a line for each way."""
    best: dict[str, tuple[float, int]] = {}
    for _ in range(rounds):
        for way in ways:
            found = fetched(way, paths, connections)
            best[way.name] = min(best.get(way.name, found), found)
    base, _ = best[ways[0].name]
    for name, (seconds, size) in best.items():
        print(
            f"{name:10} {connections} connections {1000 * seconds / len(paths):7.2f} ms a frame"
            f" {size / seconds / 1e6:8.1f} MB/s   ratio {seconds / base:.2f}"
        )


def in_one_request(web: psutil.Process, way: Way, folder: Path, mib: int) -> None:
    """Print what storing and retrieving a large study costs the web process."""
    files = series(folder, mib * 1024**2 // (512 * 512 * 2), 512)
    head = b"--X\r\nContent-Type: application/dicom\r\n\r\n"
    study = ""

    def body() -> Iterator[bytes]:
        nonlocal study
        for file in files:
            yield head + file + b"\r\n"
            if not study:
                (folder / "first.dcm").write_bytes(file)
                study = dcmread(folder / "first.dcm", stop_before_pixels=True).StudyInstanceUID
        yield b"--X--\r\n"

    headers = {"Authorization": way.authorization}
    kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=X'}
    url = f"http://127.0.0.1:{way.port}/dicom-web/studies"
    with httpx.Client(headers=headers, timeout=None, trust_env=False) as client:

        def store() -> int:
            answer = client.post(url, content=body(), headers=kind).raise_for_status()
            return len(answer.json()["00081199"]["Value"])

        def retrieve() -> int:
            with client.stream("GET", f"{url}/{study}", headers={"Accept": _STUDY}) as answer:
                return sum(map(len, answer.iter_raw()))

        client.get(f"{url}?limit=1").raise_for_status()
        for name, work in (("stored", store), ("retrieved", retrieve)):
            before, began = web.memory_info().rss, time.perf_counter()
            with peak_of(web) as peak:
                amount = work()
            print(
                f"{name} {amount} {'instances' if name == 'stored' else 'bytes'} in"
                f" {time.perf_counter() - began:.0f} s; web process"
                f" {before / 2**20:.0f} MiB before, {max(peak) / 2**20:.0f} MiB at the peak"
            )


@contextmanager
def peak_of(process: psutil.Process) -> Iterator[list[int]]:
    """Collect the memory of a process."""
    found, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            found.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--matrix", type=int, default=256)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--study-mib", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # Orthanc runs as another user
        names = ("orthanc_http_port", "pacs_port", "web_port")
        settings = load_settings(
            data_dir=folder / "data",
            **{name: free_port() for name in names},  # type: ignore[arg-type]
            stable_age=86_400,
        )
        try:
            with ExitStack() as stack:
                orthanc = stack.enter_context(OrthancProcess(settings))
                web = stack.enter_context(served(settings))
                ensure_admin(settings)
                token = create_token("admin", "bench")
                gateway = Way("gateway", settings.web_port, f"Bearer {token}")
                if options.study_mib:
                    in_one_request(web, gateway, folder, options.study_mib)
                    return
                login = f"{settings.orthanc_username}:{settings.pacs_password()}"
                basic = f"Basic {b64encode(login.encode()).decode()}"
                direct = Way("Orthanc", settings.orthanc_http_port, basic)
                paths = []
                with httpx.Client(headers={"Authorization": basic}, trust_env=False) as client:
                    for file in series(folder, options.frames, options.matrix):
                        client.post(f"{orthanc.url}/instances", content=file).raise_for_status()
                    for one in client.get(f"{orthanc.url}/dicom-web/instances").json():
                        uids = [
                            one[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018")
                        ]
                        path = "/dicom-web/studies/{}/series/{}/instances/{}/frames/1"
                        paths.append(path.format(*uids))
                ways = [direct, gateway]
                if NGINX:
                    port = free_port()
                    stack.enter_context(proxied(settings, folder, port))
                    ways.append(Way("nginx", port, f"Bearer {token}"))
                for connections in options.connections:
                    before = sum(web.cpu_times()[:2])
                    compare(ways, paths, connections, options.rounds)
                    spent = sum(web.cpu_times()[:2]) - before
                    a_frame = 1000 * spent / len(paths) / options.rounds
                    print(f"{'':10} {a_frame:.2f} ms of the processor a frame in the web process")
        finally:
            shutil.rmtree(storage_of(settings), ignore_errors=True)


if __name__ == "__main__":
    main()
