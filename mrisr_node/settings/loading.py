"""Where the settings (`fields`) come from, and what follows from them.

Values come, strongest first, from the environment (``MRISR_`` and the name in capitals), from a
TOML file (``MRISR_CONFIG``, else ``mrisr.toml`` in the working directory, else
``/etc/mrisr_node/mrisr.toml``), and from the defaults below.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mrisr_node.addresses import Listener
from mrisr_node.durable import sync
from mrisr_node.errors import SettingsError
from mrisr_node.locks import held
from mrisr_node.settings.fields import (
    Archive,
    Delivering,
    FrontDoor,
    Keeping,
    Node,
    People,
    Processing,
    Receiving,
    Selecting,
    Uploading,
)

__all__ = ["Settings", "load_settings"]

# Of Compose, and of commands for a node elsewhere.
_NOT_OURS = ("config", "web_bind", "token", "token_file")


class Settings(
    People,
    FrontDoor,
    Uploading,
    Keeping,
    Delivering,
    Processing,
    Selecting,
    Archive,
    Receiving,
    Node,
    BaseSettings,
):
    """The node's configuration; immutable once loaded."""

    # "none" in the environment takes back what the file says.
    model_config = SettingsConfigDict(
        env_prefix="MRISR_", env_parse_none_str="none", extra="forbid", frozen=True
    )

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
    def audit_path(self) -> Path:
        """The SQLite file of the audit trail."""
        return self.data_dir / "audit.sqlite"

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
    def uploads_dir(self) -> Path:
        """Uploads until they are whole and looked at, each under its key."""
        return self.data_dir / "uploads"

    @property
    def files_dir(self) -> Path:
        """Files that can be downloaded, each under its key."""
        return self.data_dir / "files"

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
        lines = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise SettingsError("settings cannot be used: " + "; ".join(lines)) from error
    except (OSError, ValueError) as error:  # a file that is no TOML, a list that is no JSON
        raise SettingsError(f"settings cannot be read: {error}") from error
    return settings.model_copy(update={"data_dir": data_dir})
