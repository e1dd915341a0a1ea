"""A Storage SCU (PS3.4 B): files to a receiver or a PACS, as a scanner would send them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import dcmread
from pynetdicom import _config, build_context

from mrisr_node.errors import DeliveryError
from mrisr_node.intake.association import Destination, association

__all__ = ["Destination", "send_files"]

# Files go as they are: encoded anew, the same image would be other bytes to whoever has it already.
_config.STORE_SEND_CHUNKED_DATASET = True

_TIMEOUT = 60
# PS3.8 9.3.2: presentation context ids are the odd numbers below 256.
_MAXIMUM_CONTEXTS = 128
# As this node answers (docs/conformance-statement.md).
_MEANINGS = {
    0x0111: "it is there already, with other content",
    0x0122: "its SOP class is not accepted",
    0x0124: "our AE title may not store there",
    0xA700: "there is no room",
    0xA900: "it does not say the same of itself as its dataset",
    0xC000: "it cannot be read",
}


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
    contexts, renamed = set(), set()
    for path in paths:
        header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        meta = header.file_meta
        contexts.add((str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)))
        # The request names the instance of the file meta information, and a receiver compares;
        # whoever replaces UIDs may have left the old one there.
        if meta.get("MediaStorageSOPInstanceUID") != header.get("SOPInstanceUID"):
            renamed.add(path)
    if len(contexts) > _MAXIMUM_CONTEXTS:
        raise DeliveryError("too many kinds of objects for one association; send them apart")
    offered = [build_context(sop_class, syntax) for sop_class, syntax in sorted(contexts)]
    refused = []
    with association(destination, offered, _TIMEOUT) as peer:
        for number, path in enumerate(paths, start=1):
            try:
                status = peer.send_c_store(dcmread(path) if path in renamed else path).get("Status")
            except (ValueError, RuntimeError) as error:
                refused.append(f"{path.name}: {error}")
                continue
            if status is None or (status != 0x0000 and status >> 12 != 0xB):
                code = "no answer" if status is None else f"status 0x{status:04X}"
                words = f" ({_MEANINGS[status]})" if status in _MEANINGS else ""
                refused.append(f"{path.name}: {code}{words}")
            progress(number)
    return refused
