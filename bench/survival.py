"""The survival list with its figures: what each attack led to, how long it took, and memory.

    python bench/survival.py [--name PART]…

Runs the cases of ``tests/survival`` against a receiver of its own (``mrisr-node receive``), after
each of which an honest instance is stored, and prints a row for each. The last column is by how
much the memory of the receiver has grown since the start: the process with the door, those that
serve associations, and their children. How the series of an object ends is what the tests assert.
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

sys.path.insert(0, str(Path(__file__).parent.parent))

from ingest import free_port

from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import open_records
from mrisr_node.settings import Settings, load_settings
from tests.survival.association_cases import ASSOCIATION_CASES
from tests.survival.message_cases import MESSAGE_CASES
from tests.survival.network_attack import Target
from tests.survival.object_cases import OBJECT_CASES, ObjectCase, honest
from tests.survival.peer import Peer, encoded
from tests.survival.process import ReceiverProcess

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
    if status:
        return f"0x{status:04X}, in quarantine with its reason"
    return f"stored; its series ends with: … {case.end} …" if case.end else "stored, and converted"


def _cases(target: Target) -> Iterator[tuple[str, Callable[[], str]]]:
    for case in [*MESSAGE_CASES, *ASSOCIATION_CASES]:
        attack = case.attack
        words = (attack.__doc__ or case.name).strip().splitlines()[0].rstrip(".")
        yield words, lambda attack=attack: attack(target)  # type: ignore[misc]
    for odd in OBJECT_CASES:
        yield odd.name, lambda odd=odd: _sent(target.port, target.path, odd)  # type: ignore[misc]


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
            network_timeout=15.0, log_format="json", quiet_seconds=3600, reconcile_seconds=3600,
        )  # fmt: skip
        open_records(settings.database_path)
        with ReceiverProcess(settings, Path(folder) / "log") as receiver:
            _print(receiver, settings, path, names)


def _print(receiver: ReceiverProcess, settings: Settings, path: Path, names: list[str]) -> None:
    def kept() -> int:
        folders = settings.spool_dir, settings.quarantine_dir
        return sum(file.is_file() for folder in folders for file in folder.rglob("*"))

    target = Target(settings.receiver_port, path, _MAXIMUM, kept)
    # What is loaded with the first instances does not count.
    for _ in range(8):
        _stored(target.port, path)
    start = receiver.memory()
    print(f"{start / 1024**2:.0f} MiB at the start")
    print("| input | what happened | seconds | MiB more |\n|---|---|---|---|")
    for words, attack in _cases(target):
        if names and not any(name in words for name in names):
            continue
        # Associations that have just ended take places for a moment more.
        time.sleep(0.5)
        began = time.monotonic()
        try:
            outcome = attack()
        except AssertionError as error:
            outcome = f"NOT AS EXPECTED: {error}"
        seconds = time.monotonic() - began
        time.sleep(0.5)
        _stored(target.port, path)
        more = (receiver.memory() - start) / 1024**2
        print(f"| {words} | {outcome} | {seconds:.1f} | {more:.0f} |", flush=True)


if __name__ == "__main__":
    main()
