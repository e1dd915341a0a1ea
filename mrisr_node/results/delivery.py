"""Results into the PACS, and the proof that they are there.

STOW-RS (PS3.18 10.5) or C-STORE (PS3.4 B) bring them; QIDO-RS (PS3.18 10.6) counts them afterwards,
since an answer of success is only a promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE

from mrisr_node.errors import DeliveryError
from mrisr_node.settings import Delivery, Settings

__all__ = ["Pacs"]

# Instances a request: enough to be quick, few enough that a request fits in memory.
_BATCH = 24
_TIMEOUT = 120

Progress = Callable[[float], None]


class Pacs:
    """The PACS that results go to.

    Parameters
    ----------
    settings
        Where it is, and the credentials for its DICOMweb.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def store(self, paths: Sequence[Path], progress: Progress) -> None:
        """Send instances; those that the PACS already has are no error.

        Raises
        ------
        DeliveryError
            The PACS cannot be reached, or refused an instance.
        """
        send = self._stow if self._settings.delivery is Delivery.STOW else self._c_store
        for done in send(paths):
            progress(done / len(paths))

    def count(self, study_instance_uid: str, series_instance_uid: str) -> int:
        """Return how many instances of a series the PACS shows.

        Raises
        ------
        DeliveryError
            The PACS cannot be asked.
        """
        try:
            with self._client() as client:
                found = client.search_for_instances(study_instance_uid, series_instance_uid)
        except (requests.RequestException, OSError) as error:
            raise DeliveryError(f"the PACS cannot be asked: {_short(error)}") from error
        return len(found)

    def confirm(self, study: str, series: str, expected: int) -> None:
        """Raise `DeliveryError` unless the PACS shows all instances of a series."""
        found = self.count(study, series)
        if found != expected:
            raise DeliveryError(f"the PACS shows {found} of {expected} instances that it accepted")

    @contextmanager
    def _client(self) -> Iterator[DICOMwebClient]:
        with _Session() as session:
            session.auth = (self._settings.orthanc_username, self._settings.pacs_password())
            # Proxies of the environment are for the internet, not for the PACS.
            session.trust_env = False
            yield DICOMwebClient(url=f"{self._settings.pacs_url}/dicom-web", session=session)

    def _stow(self, paths: Sequence[Path]) -> Iterator[int]:
        with self._client() as client:
            for start in range(0, len(paths), _BATCH):
                batch = [dcmread(path) for path in paths[start : start + _BATCH]]
                try:
                    answer = client.store_instances(batch)
                except (requests.RequestException, OSError) as error:
                    raise DeliveryError(f"STOW-RS failed: {_short(error)}") from error
                _check_stow(answer, len(batch))
                yield start + len(batch)

    def _c_store(self, paths: Sequence[Path]) -> Iterator[int]:
        settings = self._settings
        ae = AE(ae_title=settings.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = settings.network_timeout
        ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        where = f"{settings.pacs_ae_title} at {settings.pacs_host}:{settings.pacs_port}"
        association = ae.associate(
            settings.pacs_host, settings.pacs_port, ae_title=settings.pacs_ae_title
        )
        if not association.is_established:
            raise DeliveryError(f"no association with {where}")
        try:
            for number, path in enumerate(paths, start=1):
                status = association.send_c_store(path)
                if "Status" not in status or status.Status not in (0x0000, 0xB000, 0xB006, 0xB007):
                    code = f"0x{status.Status:04X}" if "Status" in status else "no answer"
                    raise DeliveryError(f"C-STORE to {where} refused: {code}")
                yield number
        finally:
            association.release()


def _check_stow(answer: Dataset, count: int) -> None:
    failed = answer.get("FailedSOPSequence") or []
    if failed:
        reason = int(failed[0].get("FailureReason") or 0)
        raise DeliveryError(f"STOW-RS: {len(failed)} instances refused, first with 0x{reason:04X}")
    stored = len(answer.get("ReferencedSOPSequence") or [])
    if stored != count:
        raise DeliveryError(f"STOW-RS: {stored} of {count} instances taken")


class _Session(requests.Session):
    """A session whose every request ends; requests itself waits for ever."""

    def request(self, *args: Any, **keywords: Any) -> requests.Response:  # noqa: ANN401
        keywords.setdefault("timeout", _TIMEOUT)
        return super().request(*args, **keywords)


def _short(error: Exception) -> str:
    """Name an error without the addresses and UIDs that its text carries."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return f"HTTP {status}" if status else type(error).__name__
