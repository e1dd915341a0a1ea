"""A Storage SCU (PS3.4 B): files to a receiver or a PACS, as a scanner would send them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import dcmread
from pynetdicom import build_context

from mrisr_node.errors import DeliveryError
from mrisr_node.intake.association import Destination, association

__all__ = ["Destination", "send_files"]

_TIMEOUT = 60
# PS3.8 9.3.2: presentation context ids are the odd numbers below 256.
_MAXIMUM_CONTEXTS = 128


def send_files(
    paths: Sequence[Path], destination: Destination, progress: Callable[[int], None]
) -> list[str]:
    """C-STORE files over one association.

    Returns
    -------
    list of str
        One line for each file that was not stored.

    Raises
    ------
    DeliveryError
        No association comes about.
    """
    contexts = set()
    for path in paths:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
        contexts.add((str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)))
    if len(contexts) > _MAXIMUM_CONTEXTS:
        raise DeliveryError("too many kinds of objects for one association; send them apart")
    offered = [build_context(sop_class, syntax) for sop_class, syntax in sorted(contexts)]
    refused = []
    with association(destination, offered, _TIMEOUT) as peer:
        for number, path in enumerate(paths, start=1):
            try:
                status = peer.send_c_store(path).get("Status")
            except (ValueError, RuntimeError) as error:
                refused.append(f"{path.name}: {error}")
                continue
            if status is None or (status != 0x0000 and status >> 12 != 0xB):
                code = "no answer" if status is None else f"status 0x{status:04X}"
                refused.append(f"{path.name}: {code}")
            progress(number)
    return refused
