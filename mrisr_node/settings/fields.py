"""Every setting of the node, once: name, default, unit and meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from pydantic_settings import NoDecode

from mrisr_node.addresses import Address, AETitle, Network, Port
from mrisr_node.choices import (
    BrainMethod,
    Delivery,
    MRObject,
    Recipe,
    ResultKind,
    SeriesRecipe,
    StorageCommitment,
)
from mrisr_node.logs import LogFormat

__all__ = [
    "Archive", "Delivering", "FrontDoor", "Keeping", "Node", "People", "Processing", "Receiving",
    "Selecting", "Uploading",
]  # fmt: skip

# In a checkout and in the image, orthanc/, ohif-config/ and checkpoints/ stand beside the package.
_ROOT = Path(__file__).resolve().parents[2]


def _one_or_several(value: object) -> object:
    """Take one name or path as it is, so that nobody has to write JSON for the usual case."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json.loads(value)
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple(str(entry) if isinstance(entry, Path) else entry for entry in entries)


def _with_the_image(kinds: tuple[ResultKind, ...]) -> tuple[ResultKind, ...]:
    if ResultKind.IMAGE not in kinds:
        raise ValueError("image must be among them: the others are about it")
    return kinds


_Checkpoints = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_one_or_several)]
_ResultKinds = Annotated[
    tuple[ResultKind, ...],
    NoDecode,
    BeforeValidator(_one_or_several),
    AfterValidator(_with_the_image),
]


class Node(BaseModel):
    """Where the node keeps its data, and how it logs."""

    data_dir: Path = Field(
        default=Path("var"), description="where the node keeps everything it must not lose"
    )
    log_format: LogFormat = Field(
        default=LogFormat.AUTO,
        description="text or json lines; auto: text on a terminal, json everywhere else",
    )


class Receiving(BaseModel):
    """DICOM in."""

    ae_title: AETitle = Field(default="MRISR", description="AE title of the receiver")
    receiver_host: str = Field(default="127.0.0.1", description="address the receiver listens on")
    receiver_port: Port = Field(default=11112, description="TCP port of the receiver")
    accepted_ae_titles: tuple[AETitle, ...] = Field(
        default=("ORTHANC",), description="calling AE titles that may store; C-ECHO is open to all"
    )
    accepted_addresses: tuple[Network, ...] = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="networks that may connect to the receiver, C-ECHO included",
    )
    maximum_associations: int = Field(default=20, ge=1, description="associations at one time")
    maximum_associations_per_address: int = Field(
        default=16, ge=1, description="connections of one address at one time"
    )
    maximum_instance_bytes: int = Field(
        default=1024**3, ge=1024**2, description="largest C-STORE message; it is held in memory"
    )
    receiver_processes: int = Field(
        default=2, ge=1, le=64, description="processes that the receiver's associations share"
    )
    network_timeout: float = Field(default=30.0, gt=0, description="seconds without a byte")
    tls_port: Port | None = Field(
        default=None, description="TCP port of the receiver for DICOM TLS; none: no TLS"
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file: the node's certificate and the chain to its CA"
    )
    tls_key: Path | None = Field(default=None, description="PEM file: its private key")
    tls_ca: Path | None = Field(
        default=None, description="PEM file: CAs whose certificates peers must show"
    )
    minimum_free_bytes: int = Field(
        default=2 * 1024**3, ge=0, description="below this free space C-STORE answers 0xA700"
    )
    quiet_seconds: float = Field(
        default=10.0, gt=0, description="silence after the last instance that ends a series"
    )


class Archive(BaseModel):
    """The PACS."""

    orthanc_url: str | None = Field(
        default=None,
        description="an Orthanc that runs elsewhere, e.g. http://orthanc:8042; none: start our own",
    )
    orthanc_username: str = Field(default="mrisr", description="HTTP user of the node in Orthanc")
    orthanc_password: str | None = Field(
        default=None, description="its password; none: generated and kept in data_dir/secrets"
    )
    orthanc_http_port: Port = Field(default=18042, description="HTTP port of our own Orthanc")
    orthanc_dir: Path | None = Field(
        default=None, description="storage of our own Orthanc; none: data_dir/orthanc"
    )
    pacs_ae_title: AETitle = Field(default="ORTHANC", description="AE title of the PACS")
    pacs_host: str = Field(default="127.0.0.1", description="DICOM address of the PACS")
    pacs_port: Port = Field(default=14242, description="DICOM port of the PACS")
    pacs_tls: bool = Field(
        default=False, description="whether that port speaks DICOM TLS (C-STORE, commitment)"
    )
    stable_age: int = Field(
        default=5, ge=1, description="seconds after which our own Orthanc calls a series stable"
    )
    reconcile_seconds: float = Field(
        default=60.0, gt=0, description="how often the PACS is searched for series never forwarded"
    )

    reconcile_days: float = Field(
        default=3.0,
        gt=0,
        description="only series that changed in the PACS within so many days, or in an outage",
    )


class Selecting(BaseModel):
    """Which series are processed."""

    minimum_slices: int = Field(default=8, ge=2, description="fewer slices are no volume")
    minimum_slice_distance: float = Field(
        default=2.0, gt=0, description="mm; slices closer than this are thin already"
    )


class Processing(BaseModel):
    """How they are processed."""

    recipe: SeriesRecipe = Field(default=Recipe.NATIVE, description="which result a series gets")
    brain_method: BrainMethod = Field(default=BrainMethod.AUTO, description="which HD-BET")
    brain_folds: int = Field(
        default=1, ge=1, le=5, description="networks of the HD-BET ensemble to average"
    )
    checkpoints: Path = Field(
        default=_ROOT / "checkpoints", description="where checkpoints are installed"
    )
    checkpoint: _Checkpoints = Field(
        default=("thin-quick",),
        min_length=1,
        description="checkpoints in order of preference, by name or by path (with a slash in it);"
        " the first that is made for a series is used",
    )
    device: str = Field(default="auto", pattern="^(auto|cpu|cuda(:[0-9]+)?)$")
    maximum_attempts: int = Field(
        default=3, ge=1, description="times a stage may die before the series is failed"
    )
    stage_hours: float = Field(
        default=6.0, gt=0, description="hours after which a stage that hangs is ended: it has died"
    )


class Delivering(BaseModel):
    """DICOM out."""

    result_series: _ResultKinds = Field(
        default=tuple(ResultKind),
        description="which series a result consists of: image, fidelity, change, mask, report",
    )
    mr_object: MRObject = Field(
        default=MRObject.CLASSIC, description="what images and maps are written as"
    )
    report_refusals: bool = Field(
        default=False, description="tell the study why nothing was made of one of its series"
    )
    delivery: Delivery = Field(default=Delivery.STOW, description="how results reach the PACS")
    delivery_attempts: int = Field(
        default=36,
        ge=1,
        description="tries, with growing delays, before delivery is failed; 36 take about a day",
    )
    delivery_first_delay: float = Field(
        default=5.0, gt=0, description="seconds before the second try; doubles, at most one hour"
    )
    delivery_timeout: float = Field(
        default=120.0, gt=0, description="seconds for one request, or 24 instances by C-STORE"
    )
    storage_commitment: StorageCommitment = Field(
        default=StorageCommitment.AUTO, description="whether the PACS must promise to keep results"
    )
    commitment_wait: float = Field(
        default=3600.0, gt=0, description="seconds that the PACS may take to promise or refuse"
    )
    commitment_peers: dict[AETitle, Address] = Field(
        default={},
        description="where our own promises are sent to: AE title of a scanner, and its host:port,"
        " or tls://host:port; the PACS is known already",
    )


class Keeping(BaseModel):
    """How long local copies stay.

    They go only once the PACS shows the originals, and of what is done the result.
    """

    retention_days: float | None = Field(
        default=30.0, gt=0, description="days that copies of a finished series stay; none: for ever"
    )
    retention_failed_days: float | None = Field(
        default=90.0, gt=0, description="the same for skipped and failed series"
    )
    retention_quarantine_days: float | None = Field(
        default=90.0, gt=0, description="the same for quarantine"
    )
    retention_bytes: int | None = Field(
        default=None,
        ge=0,
        description="above this size of spool, quarantine and job folders together, the oldest"
        " finished series' copies go before their time; none: no limit",
    )


class Uploading(BaseModel):
    """Files from browsers and tools; `minimum_free_bytes` holds for them too."""

    maximum_upload_bytes: int = Field(
        default=4 * 1024**3, ge=1024, description="largest file that may be uploaded"
    )
    maximum_unpacked_bytes: int = Field(
        default=8 * 1024**3, ge=1024, description="most that an uploaded ZIP may unpack to"
    )
    upload_hours: float = Field(
        default=24.0, gt=0, description="hours without a byte until an unfinished upload is deleted"
    )
    retention_files_days: float | None = Field(
        default=30.0,
        gt=0,
        description="days that uploaded files, and those made of them, stay; none: for ever",
    )


class FrontDoor(BaseModel):
    """Web: API, pages, viewers."""

    web_host: str = Field(default="127.0.0.1", description="address the front door listens on")
    web_port: Port = Field(default=8080, description="TCP port of the front door")
    public_url: str | None = Field(
        default=None, description="how browsers reach the node, e.g. https://mrisr.hospital.example"
    )
    ohif_dist: Path = Field(
        default=_ROOT / "ohif-config" / "dist", description="the unpacked OHIF distribution"
    )
    niivue_dist: Path = Field(
        default=_ROOT / "ohif-config" / "niivue", description="NiiVue's script, as fetched"
    )
    ohif_config: Path = Field(
        default=_ROOT / "ohif-config",
        description="our configuration and extension for OHIF, and the pins of both viewers",
    )
    orthanc_config: Path = Field(
        default=_ROOT / "orthanc", description="our configuration template and script for Orthanc"
    )
    maximum_event_streams: int = Field(
        default=200, ge=1, description="pages and tools that follow /api/events at one time"
    )


class People(BaseModel):
    """Who may use the front door, and how much."""

    session_hours: float = Field(default=12.0, gt=0, description="life of a browser session")
    access_token_minutes: float = Field(
        default=15.0,
        gt=0,
        le=1440,
        description="life of an access token that a program signs in for",
    )
    refresh_days: float = Field(
        default=7.0, gt=0, description="days after which such a program has to sign in again"
    )
    lockout_minutes: float = Field(
        default=15.0,
        gt=0,
        description="longest wait after wrong passwords; it begins with 30 seconds after five",
    )
    requests_per_minute: int = Field(
        default=6000, ge=1, description="of one user; a viewer asks for each slice by itself"
    )
    requests_per_minute_per_address: int = Field(
        default=12000, ge=1, description="of one address, whoever they are"
    )
