"""Receiving, side by side: this receiver, a bare pynetdicom handler, Orthanc and DCMTK's storescp.

    python bench/ingest.py [--instances 200] [--associations 1 8]

Every receiver gets the same MR series from DCMTK's storescu, with one and
with eight associations. This receiver does all that it does in service: screening in a child
process, sync of file and folder, a committed row. The bare handler writes the file, with and
without syncing file and folder. Orthanc runs with SyncStorageArea, storescp with neither.

Prints instances and megabytes a second, their ratio to the bare handler that syncs, the memory of
all processes at the end, and for one association the median and the 99th percentile of one C-STORE.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid
from pynetdicom import AE

sys.path.insert(0, str(Path(__file__).parent.parent))

from mrisr_node.node.orthanc import OrthancProcess, storage_of
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import open_records
from mrisr_node.settings import Settings, load_settings
from tests.survival.process import ReceiverProcess

_HANDLER = """
import os, sys
from pathlib import Path
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage
port, folder, sync = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "sync"

def store(event):
    path = folder / event.request.AffectedSOPInstanceUID
    with path.open("wb") as file:
        file.write(event.encoded_dataset())
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if sync:
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return 0

ae = AE(ae_title="MRISR")
ae.maximum_pdu_size = 128 * 1024
ae.add_supported_context(MRImageStorage)
ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])
"""


def free_port() -> int:
    """Return a TCP port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def written(folder: Path, instances: int, parts: int) -> list[Path]:
    """Write one series of 256 × 256 pixels, divided among as many folders."""
    sample = write_sample(folder / "sample", Acquisition(slices=2, matrix=256))
    dataset: FileDataset = dcmread(sample.paths[0])
    folders = [folder / f"part{number}" for number in range(parts)]
    for number, part in enumerate(folders):
        part.mkdir()
        for _ in range(instances // parts):
            uid = generate_uid()
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
            dataset.InstanceNumber = number
            dataset.save_as(part / f"{uid}.dcm")
    return folders


def sent(folders: list[Path], port: int, called: str) -> float:
    """Send every folder by a storescu of its own, all at once; return the seconds."""
    started = time.monotonic()
    clients = [
        subprocess.Popen(
            ["storescu", "+sd", "-xe", "-aet", "ORTHANC", "-aec", called, "127.0.0.1", str(port),
             str(folder)],
            stdout=subprocess.DEVNULL,
        )
        for folder in folders
    ]  # fmt: skip
    if any(client.wait() for client in clients):
        raise SystemExit(f"a client of {called} failed")
    return time.monotonic() - started


def latencies(folder: Path, port: int, called: str) -> list[float]:
    """Send a folder by one association of pynetdicom; return the seconds of each C-STORE."""
    ae = AE(ae_title="ORTHANC")
    datasets = [dcmread(path) for path in sorted(folder.iterdir())]
    ae.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        raise SystemExit(f"no association with {called}")
    taken = []
    for dataset in datasets:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        started = time.monotonic()
        if association.send_c_store(dataset).Status != 0:
            raise SystemExit(f"{called} refused an instance")
        taken.append(time.monotonic() - started)
    association.release()
    return taken


def resident(pids: list[int]) -> float:
    """Return the resident memory of processes and their children, in MiB."""
    roots = [psutil.Process(pid) for pid in pids]
    family = {p.pid: p for root in roots for p in (root, *root.children(recursive=True))}
    return float(sum(p.memory_info().rss for p in family.values())) / 1024**2


@contextmanager
def spawned(command: list[str], port: int) -> Iterator[list[int]]:
    """Run a receiver until the block ends."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait_for(port)
        yield [process.pid]
        process.kill()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("a receiver did not start")


@contextmanager
def ours(settings: Settings) -> Iterator[list[int]]:
    """Run this receiver."""
    open_records(settings.database_path)
    with ReceiverProcess(settings, settings.data_dir / "receiver.log") as receiver:
        time.sleep(3)
        # The process with the door, and the rounds of `mrisr-node receive`; the others are below.
        yield [receiver.pid]


@contextmanager
def orthanc(settings: Settings) -> Iterator[list[int]]:
    """Run Orthanc as the node configures it, but for the script that forwards."""
    with OrthancProcess(settings) as process:
        yield [process.pid]
    shutil.rmtree(storage_of(settings), ignore_errors=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        for number in arguments.associations:
            series = folder / f"series{number}"
            series.mkdir()
            folders = written(series, arguments.instances, number)
            _compare(folder / f"run{number}", folders)


def _compare(run: Path, folders: list[Path]) -> None:
    size = sum(path.stat().st_size for part in folders for path in part.iterdir())
    count = sum(len(list(part.iterdir())) for part in folders)
    print(f"\n{len(folders)} association(s), {count} instances of {size / count / 1024:.0f} KiB")
    handler = run / "handler.py"
    run.mkdir()
    handler.write_text(_HANDLER)
    settings = load_settings(
        data_dir=run / "ours", receiver_port=free_port(), orthanc_http_port=free_port(),
        pacs_port=free_port(), minimum_free_bytes=0, log_format="json",
    )  # fmt: skip
    bare, unsynced, storescp = free_port(), free_port(), free_port()
    for part in ("bare", "unsynced", "storescp"):
        (run / part).mkdir()
    script = [sys.executable, str(handler)]
    receivers: dict[str, tuple[Callable[[], object], int, str]] = {
        "bare handler, synced": (
            lambda: spawned([*script, str(bare), str(run / "bare"), "sync"], bare), bare, "MRISR"),
        "this receiver": (lambda: ours(settings), settings.receiver_port, "MRISR"),
        "bare handler, not synced": (
            lambda: spawned([*script, str(unsynced), str(run / "unsynced"), "no"], unsynced),
            unsynced, "MRISR"),
        "Orthanc, synced": (lambda: orthanc(settings), settings.pacs_port, "ORTHANC"),
        "DCMTK storescp, not synced": (
            lambda: spawned(["storescp", "--fork", "-od", str(run / "storescp"), str(storescp)],
                            storescp), storescp, "STORESCP"),
    }  # fmt: skip
    print(f"{'':28}{'1/s':>8}{'MB/s':>8}{'ratio':>8}{'MiB':>8}{'median ms':>11}{'p99 ms':>8}")
    reference = 0.0
    for name, (start, port, called) in receivers.items():
        with start() as pids:  # type: ignore[attr-defined]
            seconds = sent(folders, port, called)
            memory = resident(pids)
            taken = latencies(folders[0], port, called) if len(folders) == 1 else []
        rate = count / seconds
        reference = reference or rate
        line = (
            f"{name:28}{rate:8.0f}{size / seconds / 1e6:8.1f}{rate / reference:8.2f}{memory:8.0f}"
        )
        if taken:
            median, worst = np.percentile(np.array(taken) * 1000, [50, 99])
            line += f"{median:11.1f}{worst:8.1f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
