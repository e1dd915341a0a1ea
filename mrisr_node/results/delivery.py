"""Results into the PACS, and the proof that they are there.

STOW-RS (PS3.18 10.5) or C-STORE (PS3.4 B) bring them; QIDO-RS (PS3.18 10.6) shows them afterwards,
since an answer of success is only a promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import build_context

from mrisr_node.choices import Delivery
from mrisr_node.counts import counted
from mrisr_node.errors import DeliveryError
from mrisr_node.intake.association import Destination, association
from mrisr_node.intake.tls import client_context
from mrisr_node.results.bounded_http import FAILURES, BoundedSession, named
from mrisr_node.results.originals import Comparison, Originals
from mrisr_node.results.stow_requests import batches
from mrisr_node.settings import Settings

__all__ = ["Pacs"]

# C-STOREs that delivery_timeout is for.
_BATCH = 24

# Success, and warnings of what is stored all the same (PS3.4 B.2.3).
_STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007})

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

    @property
    def destination(self) -> Destination:
        """Where it takes associations, and as whom we ask for them."""
        settings = self._settings
        return Destination(
            settings.pacs_host, settings.pacs_port, settings.pacs_ae_title, settings.ae_title
        )

    def store(self, paths: Sequence[Path], progress: Progress) -> None:
        """Send instances; those that the PACS already has are no error.

        Raises
        ------
        DeliveryError
            The PACS cannot be reached, takes too long, or refused an instance.
        """
        send = self._stow if self._settings.delivery is Delivery.STOW else self._c_store
        for done in send(paths):
            progress(done / len(paths))

    @contextmanager
    def originals(self, same: Comparison) -> Iterator[Originals]:
        """Give what keeps files at the PACS as they are: it forwards no C-STORE of ours."""
        with self._session() as session:
            yield Originals(session, self._settings.pacs_url, same)

    def instances(
        self, study_instance_uid: str, series_instance_uid: str, until: Collection[str] = ()
    ) -> set[str]:
        """Return the SOP Instance UIDs of a series that the PACS shows.

        Parameters
        ----------
        until
            Enough where all of these are among them; none: all.

        Raises
        ------
        DeliveryError
            The PACS cannot be asked.
        """
        shown: set[str] = set()
        try:
            with self._client() as client:
                # A PACS may answer in pages, and may ignore the offset: it ends with nothing new.
                while (
                    page := {
                        str(one["00080018"]["Value"][0])
                        for one in client.search_for_instances(
                            study_instance_uid, series_instance_uid, offset=len(shown) or None
                        )
                    }
                    - shown
                ):
                    shown |= page
                    if until and shown.issuperset(until):
                        break
        except FAILURES as error:
            raise DeliveryError(f"the PACS cannot be asked: {named(error)}") from error
        return shown

    def count(self, study_instance_uid: str, series_instance_uid: str) -> int:
        """Return how many instances of a series the PACS shows."""
        return len(self.instances(study_instance_uid, series_instance_uid))

    def retrieve(self, study_instance_uid: str, series_instance_uid: str) -> Iterator[Dataset]:
        """Fetch the instances of a series (WADO-RS, PS3.18 10.4), one at a time.

        Raises
        ------
        DeliveryError
            The PACS cannot be asked.
        """
        try:
            with self._client() as client:
                yield from client.iter_series(study_instance_uid, series_instance_uid)
        except FAILURES as error:
            raise DeliveryError(f"the PACS cannot be asked: {named(error)}") from error

    def confirm(self, study: str, series: str, sent: Collection[str]) -> None:
        """Raise `DeliveryError` unless the PACS shows exactly the instances that were sent."""
        shown = self.instances(study, series, until=sent)
        if missing := set(sent) - shown:
            there = len(sent) - len(missing)
            raise DeliveryError(f"the PACS shows {there} of {len(sent)} instances that it accepted")
        if more := shown - set(sent):
            odd = counted(len(more), "instance")
            raise DeliveryError(f"the PACS shows {odd} in the result's series beside its own")

    @contextmanager
    def _session(self) -> Iterator[BoundedSession]:
        settings = self._settings
        with BoundedSession(settings.network_timeout, settings.delivery_timeout) as session:
            session.auth = (settings.orthanc_username, settings.pacs_password())
            # Proxies of the environment are for the internet, not for the PACS.
            session.trust_env = False
            yield session

    @contextmanager
    def _client(self) -> Iterator[DICOMwebClient]:
        with self._session() as session:
            client = DICOMwebClient(url=self._dicomweb, session=session)
            # Trying again is for the job, whose delays grow.
            client.set_http_retry_params(retry=False)
            yield client

    @property
    def _dicomweb(self) -> str:
        return f"{self._settings.pacs_url}/dicom-web"

    def _stow(self, paths: Sequence[Path]) -> Iterator[int]:
        with self._client() as client:
            done = 0
            for some in batches(paths):
                batch = [dcmread(path) for path in some]
                try:
                    answer = client.store_instances(batch)
                except FAILURES as error:
                    raise DeliveryError(f"STOW-RS failed: {named(error)}") from error
                _check_stow(answer, {str(dataset.SOPInstanceUID) for dataset in batch})
                done += len(batch)
                yield done

    def _c_store(self, paths: Sequence[Path]) -> Iterator[int]:
        where, settings = self.destination, self._settings
        classes = sorted({str(read_file_meta_info(path).MediaStorageSOPClassUID) for path in paths})
        offered = [build_context(sop_class, ExplicitVRLittleEndian) for sop_class in classes]
        ends = 0.0
        tls = client_context(settings) if settings.pacs_tls else None
        with association(where, offered, settings.network_timeout, tls=tls) as peer:
            taken = {str(context.abstract_syntax) for context in peer.accepted_contexts}
            if refused := [UID(one).name for one in classes if one not in taken]:
                raise DeliveryError(
                    f"{where} does not take {', '.join(refused)}; result_series chooses what a"
                    " result consists of"
                )
            for number, path in enumerate(paths):
                if number % _BATCH == 0:
                    ends = time.monotonic() + settings.delivery_timeout
                if time.monotonic() > ends:
                    raise DeliveryError(
                        f"C-STORE to {where} took longer than {settings.delivery_timeout:.0f} s"
                        f" for {_BATCH} instances (delivery_timeout)"
                    )
                try:
                    status = peer.send_c_store(path)
                except RuntimeError as error:
                    raise DeliveryError(f"C-STORE to {where}: the association ended") from error
                if "Status" not in status or status.Status not in _STORED:
                    code = f"0x{status.Status:04X}" if "Status" in status else "no answer"
                    raise DeliveryError(f"C-STORE to {where} refused: {code}")
                yield number + 1


def _check_stow(answer: Dataset, sent: set[str]) -> None:
    """Raise `DeliveryError` unless the answer says of each instance that it is stored."""
    failed = answer.get("FailedSOPSequence") or []
    if failed:
        reason = int(failed[0].get("FailureReason") or 0)
        raise DeliveryError(
            f"STOW-RS: {counted(len(failed), 'instance')} refused, first with 0x{reason:04X}"
        )
    stored = {
        str(item.get("ReferencedSOPInstanceUID"))
        for item in answer.get("ReferencedSOPSequence") or []
    }
    if missing := sent - stored:
        raise DeliveryError(f"STOW-RS: {len(sent) - len(missing)} of {len(sent)} instances taken")
