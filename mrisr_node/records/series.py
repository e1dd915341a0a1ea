"""What arrived, and where it is."""

from __future__ import annotations

import time
import unicodedata
from typing import Any

from peewee import CharField, FloatField, ForeignKeyField, IntegerField, TextField

from mrisr_node.logs import get_logger
from mrisr_node.records.engine import Record, database
from mrisr_node.records.states import NEXT, State, StateError

__all__ = [
    "DIED",
    "DISK_FULL",
    "Failure",
    "Instance",
    "RefusalReport",
    "Rejection",
    "Series",
    "Transition",
    "folded",
]

_log = get_logger(__name__)

DIED = "Died"
"""The kind of failure of a stage whose worker ended in the middle, killed or out of memory."""

_SEPARATORS = str.maketrans(dict.fromkeys("^=,;", " "))

DISK_FULL = "DiskFull"
"""The kind of failure of a stage that found no room for what it made."""


class Series(Record):
    """A received series and the state it is in."""

    series_instance_uid = CharField(unique=True)
    study_instance_uid = CharField(index=True)
    modality = CharField(default="")
    description = CharField(default="")
    patient_id = CharField(null=True)
    """Null until it has been looked at: older versions did not write it down."""
    patient_name = CharField(default="")
    """As in DICOM: ``Family^Given``, and after ``=`` the same in other scripts (PS3.5 6.2)."""
    accession_number = CharField(default="")
    study_date = CharField(default="")
    words = TextField(default="")
    """What it is searched by (`folded`); kept by `save`."""
    sender = CharField(default="")
    state = CharField(default=State.RECEIVING.value, index=True)
    reason = TextField(default="")
    state_at = FloatField(default=time.time)
    received_at = FloatField(default=time.time)
    last_instance_at = FloatField(default=time.time, index=True)
    expected_instances = IntegerField(null=True)
    copies_deleted_at = FloatField(null=True)
    """When its local copies were deleted (``jobs.retention``); its instances keep their rows."""
    format = CharField(default="dicom")
    """``dicom``; or what has no instances: ``nifti``, a file, of which `NiftiSeries` tells more, or
    ``pairs``, several (`PairsSeries`)."""

    def save(self, *args: Any, **keywords: Any) -> int:  # noqa: ANN401 - peewee's
        """Write the row, with the words that it is searched by."""
        named = self.patient_id, self.patient_name, self.accession_number, self.description
        self.words = folded(" ".join(filter(None, named)))
        return int(super().save(*args, **keywords))

    def move(self, to: State, reason: str = "") -> None:
        """Change the state, in one transaction with the line that says when and why.

        Raises
        ------
        StateError
            No way leads there from the state that the series has in the database now.
        """
        with database.atomic("IMMEDIATE"):
            now = Series.get_by_id(self.id)
            if to not in NEXT[State(now.state)]:
                raise StateError(f"series {self.id} cannot go from {now.state} to {to}")
            at = time.time()
            Series.update(state=to.value, reason=reason, state_at=at).where(
                Series.id == self.id
            ).execute()
            Transition.create(series=self, source=now.state, target=to.value, reason=reason, at=at)
        self.state, self.reason, self.state_at = to.value, reason, at
        # Inside a larger transaction this is said just before it is true; the rows are the truth.
        say = _log.warning if to is State.FAILED else _log.info
        say("series moved", series=self.id, source=now.state, target=to.value, reason=reason)


class Transition(Record):
    """One change of a series' state."""

    series = ForeignKeyField(Series, backref="transitions", on_delete="CASCADE")
    series_id: int  # peewee's own accessor of the foreign key's value
    source = CharField()
    target = CharField()
    reason = TextField(default="")
    at = FloatField()


class Instance(Record):
    """A SOP instance on the spool; the row exists only once its file is durable."""

    series = ForeignKeyField(Series, backref="instances", on_delete="CASCADE")
    series_id: int  # peewee's own accessor of the foreign key's value
    sop_instance_uid = CharField(unique=True)
    path = CharField(index=True)
    sha256 = CharField()
    size = IntegerField()
    sender = CharField(default="")
    received_at = FloatField(default=time.time)
    committed_at = FloatField(null=True)
    """When a peer was promised that it is kept (Storage Commitment)."""


class Rejection(Record):
    """A received object that was put into quarantine."""

    sop_instance_uid = CharField(default="")
    path = CharField()
    reason = TextField()
    sender = CharField(default="")
    address = CharField(default="")
    """Of the peer that sent it, where it is known."""
    at = FloatField(default=time.time)


class Failure(Record):
    """One time that something of a series did not work; what was tried again counts each time."""

    series = ForeignKeyField(Series, backref="failures", null=True, on_delete="SET NULL")
    stage = CharField()
    """Of the job; ``selection`` where there was none yet."""
    kind = CharField()
    """The error's class, or `DIED`."""
    at = FloatField(default=time.time)


class RefusalReport(Record):
    """A report in the PACS that says why nothing was made of a series."""

    series = ForeignKeyField(Series, backref="refusals", on_delete="CASCADE")
    series_instance_uid = CharField(index=True)
    """Of the report."""
    failed_at = FloatField()
    """When the series failed (`Series.state_at`): one that fails again is reported again."""
    sent_at = FloatField()


def folded(text: str) -> str:
    """Return words so that case, accents and the parts of a name do not matter in comparing."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(letters.translate(_SEPARATORS).split())
