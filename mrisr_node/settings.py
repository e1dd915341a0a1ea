"""Every setting of the node, once: name, default, unit and meaning.

Values come, strongest first, from the environment (``MRISR_`` and the name in capitals), from a
TOML file (``MRISR_CONFIG``, else ``mrisr.toml`` in the working directory, else
``/etc/mrisr_node/mrisr.toml``), and from the defaults below.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mrisr_node.addresses import Address, AETitle, Listener, Network, Port
from mrisr_node.choices import (
    BrainMethod,
    Delivery,
    MRObject,
    Recipe,
    ResultKind,
    StorageCommitment,
)
from mrisr_node.durable import sync
from mrisr_node.errors import SettingsError
from mrisr_node.locks import held
from mrisr_node.logs import LogFormat

__all__ = ["Settings", "load_settings"]

# In a checkout and in the image, orthanc/, ohif-config/ and checkpoints/ stand beside the package.
_ROOT = Path(__file__).resolve().parent.parent
_NOT_OURS = ("config", "web_bind")  # the second is Compose's alone


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


class Settings(BaseSettings):
    """The node's configuration; immutable once loaded."""

    # "none" in the environment takes back what the file says.
    model_config = SettingsConfigDict(
        env_prefix="MRISR_", env_parse_none_str="none", extra="forbid", frozen=True
    )

    data_dir: Path = Field(
        default=Path("var"), description="where the node keeps everything it must not lose"
    )
    log_format: LogFormat = Field(
        default=LogFormat.AUTO,
        description="text or json lines; auto: text on a terminal, json everywhere else",
    )

    # DICOM in
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

    # The PACS
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

    # Which series
    minimum_slices: int = Field(default=8, ge=2, description="fewer slices are no volume")
    minimum_slice_distance: float = Field(
        default=2.0, gt=0, description="mm; slices closer than this are thin already"
    )

    # Processing
    recipe: Recipe = Field(default=Recipe.NATIVE, description="which result a series gets")
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

    # DICOM out
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

    # Local copies: deleted only once the PACS shows the originals, and of what is done the result
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

    # Front door
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
    session_hours: float = Field(default=12.0, gt=0, description="life of a browser session")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Explicit arguments, then the environment, then the first TOML file that exists."""
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=_settings_file()),
        )

    @property
    def associations_per_process(self) -> int:
        """How many associations one receiver process takes."""
        return -(-self.maximum_associations // self.receiver_processes)

    def environment(self) -> dict[str, str]:
        """Return this process's environment with every setting in it: what its children need."""
        environment = dict(os.environ)
        for name, value in self.model_dump(mode="json").items():
            text = value if isinstance(value, str) else json.dumps(value)
            environment[f"MRISR_{name.upper()}"] = "none" if value is None else text
        return environment

    @property
    def database_path(self) -> Path:
        """The SQLite file of the records."""
        return self.data_dir / "records.sqlite"

    @property
    def queue_path(self) -> Path:
        """The SQLite file of the Huey queues."""
        return self.data_dir / "queues.sqlite"

    @property
    def spool_dir(self) -> Path:
        """Received instances, durable before they are acknowledged."""
        return self.data_dir / "spool"

    @property
    def quarantine_dir(self) -> Path:
        """What was received and cannot be used, each with its reason."""
        return self.data_dir / "quarantine"

    @property
    def work_dir(self) -> Path:
        """One folder per job, with what its stages made."""
        return self.data_dir / "jobs"

    @property
    def previews_dir(self) -> Path:
        """Small pictures of results, a folder per job; they stay until retention."""
        return self.data_dir / "previews"

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        """The checkpoints in use, in order of preference."""
        return tuple(self.checkpoint_folder(name) for name in self.checkpoint)

    def checkpoint_folder(self, name: str) -> Path:
        """Return the folder of a checkpoint: one that is installed, or a path with a slash."""
        return Path(name) if "/" in name else self.checkpoints / name

    @property
    def pacs_url(self) -> str:
        """Base URL of Orthanc's HTTP, without a slash at the end."""
        return (self.orthanc_url or f"http://127.0.0.1:{self.orthanc_http_port}").rstrip("/")

    def peer_address(self, title: str) -> Listener | None:
        """Return where a peer listens for our reports, or None where nobody has told us."""
        if title in self.commitment_peers:
            return Listener.at(self.commitment_peers[title])
        if title == self.pacs_ae_title:
            return Listener(self.pacs_host, self.pacs_port, self.pacs_tls)
        return None

    @property
    def viewer_url(self) -> str:
        """Base URL under which browsers reach the front door, without a slash at the end."""
        return (self.public_url or f"http://{self.web_host}:{self.web_port}").rstrip("/")

    def pacs_password(self) -> str:
        """Return Orthanc's password, generated at first use and kept readable to us alone."""
        return self.orthanc_password or self.secret("orthanc-password")

    def secret(self, name: str) -> str:
        """Return the secret kept under `name` in ``data_dir/secrets``, made at first use."""
        path = self.data_dir / "secrets" / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _has_words(path):
            # Several processes start at once: the first one makes it, and all read the same.
            with held(path.parent):
                if not _has_words(path):
                    draft = path.with_name(f".{name}")
                    made = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                    with os.fdopen(made, "w") as file:
                        file.write(secrets.token_urlsafe(24))
                    sync(draft)
                    draft.replace(path)
                    sync(path.parent)
        return path.read_text().strip()


def _has_words(path: Path) -> bool:
    """Tell whether a file is there and not empty, as a power cut may leave one."""
    return path.exists() and bool(path.read_text().strip())


def _settings_file() -> Path | None:
    named = os.environ.get("MRISR_CONFIG")
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"MRISR_CONFIG names {named}, which is no file")
        return Path(named)
    usual = (Path("mrisr.toml"), Path("/etc/mrisr_node/mrisr.toml"))
    return next((path for path in usual if path.is_file()), None)


def load_settings(**values: object) -> Settings:
    """Read the settings; `values` are stronger than file and environment.

    Raises
    ------
    SettingsError
        A value is missing, of the wrong kind or unknown; the message names it.
    """
    known = {f"MRISR_{name.upper()}" for name in (*Settings.model_fields, *_NOT_OURS)}
    if odd := sorted(n for n in os.environ if n.startswith("MRISR_") and n not in known):
        raise SettingsError(f"there is no setting {', '.join(odd)}")
    try:
        settings = Settings(**values)  # type: ignore[arg-type]
        data_dir = settings.data_dir.resolve()
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError("settings cannot be used: " + "; ".join(lines)) from error
    except (OSError, ValueError) as error:  # a file that is no TOML, a list that is no JSON
        raise SettingsError(f"settings cannot be read: {error}") from error
    return settings.model_copy(update={"data_dir": data_dir})
