"""The survival list with its figures: what each attack led to, how long it took, and memory.

    python bench/survival.py [--name PART]…

Runs the cases of ``tests/survival`` against a receiver of its own, after each of which an honest
instance is stored, and prints a row for each. The last column is by how much the memory of the
receiver's processes has grown since the start.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from pydicom import dcmread

sys.path.insert(0, str(Path(__file__).parent.parent))

from ingest import free_port

from mrisr_node.intake.receiver import Receiver
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import open_records
from mrisr_node.settings import load_settings
from tests.survival.network_cases import NETWORK_CASES, Target
from tests.survival.object_cases import OBJECT_CASES, ObjectCase, honest
from tests.survival.peer import Peer, encoded

_MAXIMUM = 6


def _stored(port: int, path: Path) -> None:
    dataset = honest(str(path))
    with Peer(port, "127.0.0.1") as peer:
        peer.establish()
        if peer.store(encoded(dataset), str(dataset.SOPInstanceUID)) != 0:
            raise SystemExit("an honest instance was not stored")


def _sent(port: int, path: Path, case: ObjectCase) -> str:
    data, instance = case.make(honest(str(path)))
    with Peer(port, "127.0.0.1") as peer:
        peer.establish(transfer=case.transfer)
        status = peer.store(data, instance)
    if status != case.status:
        raise SystemExit(f"{case.name}: {status}")
    return "stored" if status == 0 else f"0x{status:04X}, in quarantine with its reason"


def _cases(port: int, path: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    dataset = dcmread(path)
    target = Target(port, encoded(dataset), str(dataset.SOPInstanceUID), _MAXIMUM)
    for attack in NETWORK_CASES:
        words = (attack.__doc__ or attack.__name__).strip().splitlines()[0].rstrip(".")
        yield words, lambda attack=attack: attack(target)  # type: ignore[misc]
    for case in OBJECT_CASES:
        yield case.name, lambda case=case: _sent(port, path, case)  # type: ignore[misc]


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", action="append", default=[], help="only those with this in them")
    names = parser.parse_args().name
    warnings.simplefilter("ignore")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample(Path(folder) / "sample", Acquisition(slices=2, matrix=64)).paths[0]
        settings = load_settings(
            data_dir=Path(folder) / "node", receiver_port=free_port(), minimum_free_bytes=0,
            maximum_associations=_MAXIMUM, maximum_associations_per_address=12,
            network_timeout=15.0, log_format="json",
        )  # fmt: skip
        open_records(settings.database_path)
        receiver = Receiver(settings)
        receiver.start()
        port = settings.receiver_port

        def memory() -> float:
            roots = [psutil.Process(pid) for pid in receiver.processes]
            family = [p for root in roots for p in (root, *root.children(recursive=True))]
            return sum(p.memory_info().rss for p in family) / 1024**2

        for _ in range(4):
            _stored(port, path)
        start = memory()
        print("| input | what happened | seconds | MiB more |\n|---|---|---|---|")
        for words, attack in _cases(port, path):
            if names and not any(name in words for name in names):
                continue
            began = time.monotonic()
            outcome = attack()
            seconds = time.monotonic() - began
            _stored(port, path)
            print(f"| {words} | {outcome} | {seconds:.1f} | {memory() - start:.0f} |", flush=True)
        receiver.stop()


if __name__ == "__main__":
    main()
