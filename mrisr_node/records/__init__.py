"""The node's memory: what arrived, what became of it, and who may ask.

One SQLite file (peewee), shared by every process of the node, and the only truth about state: a
queue message is a wake-up, never a fact. Times are seconds since the epoch, UTC.
"""

from mrisr_node.records.engine import connection, database, owner_name, transaction
from mrisr_node.records.idempotency import IdempotencyKey
from mrisr_node.records.jobs import Job, ResultSeries, StageRun
from mrisr_node.records.opening import open_records
from mrisr_node.records.peers import Beat, CommitmentReport, CommitmentRequest
from mrisr_node.records.people import ApiSession, ApiToken, SignInFailures, User, WebSession
from mrisr_node.records.series import (
    DIED,
    DISK_FULL,
    Failure,
    Instance,
    RefusalReport,
    Rejection,
    Series,
    Transition,
    folded,
)
from mrisr_node.records.states import ACTIVE, State, StateError
from mrisr_node.records.uploads import (
    Batch,
    NiftiSeries,
    PairsSeries,
    StoredFile,
    Upload,
    UploadState,
)

__all__ = [
    "ACTIVE", "DIED", "DISK_FULL", "ApiSession", "ApiToken", "Batch", "Beat", "CommitmentReport",
    "CommitmentRequest", "Failure", "IdempotencyKey", "Instance", "Job", "NiftiSeries",
    "PairsSeries", "RefusalReport", "Rejection", "ResultSeries", "Series", "SignInFailures",
    "StageRun", "State", "StateError", "StoredFile", "Transition", "Upload", "UploadState",
    "User", "WebSession", "connection", "database", "folded", "open_records", "owner_name",
    "transaction",
]  # fmt: skip
