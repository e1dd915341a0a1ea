"""Put files on the spool and into quarantine as the receiver does, without a receiver."""

from pathlib import Path

from pydicom import dcmread

from mrisr_node.intake.screening import screen
from mrisr_node.intake.spool import Spool, StoreOutcome
from mrisr_node.settings import Settings


def _spool(settings: Settings) -> Spool:
    return Spool(settings.spool_dir, settings.quarantine_dir, 0)


def put(settings: Settings, path: Path, sender: str = "TEST") -> StoreOutcome:
    """Screen a file and store it."""
    dataset = dcmread(path, stop_before_pixels=True)
    spool = _spool(settings)
    draft = spool.draft(path.read_bytes())
    draft.sync()
    header = screen(draft.path, dataset.SOPClassUID, dataset.SOPInstanceUID)
    return spool.store(header, draft, sender)


def refuse(settings: Settings, encoded: bytes, reason: str, sender: str = "TEST") -> None:
    """Put bytes into quarantine."""
    spool = _spool(settings)
    draft = spool.draft(encoded)
    spool.reject(draft, reason, sender)
    draft.drop()
