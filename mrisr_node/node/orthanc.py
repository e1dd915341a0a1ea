"""Our own Orthanc: configured from the settings, run without privileges, gone when we are."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pwd
import shutil
import signal
import socket
import string
import subprocess
import time
from pathlib import Path
from types import TracebackType

import httpx

from mrisr_node.errors import SettingsError
from mrisr_node.node.logfiles import open_log
from mrisr_node.settings import Settings

__all__ = [
    "OrthancProcess",
    "find_orthanc",
    "find_plugin",
    "free_port",
    "port_is_free",
    "storage_of",
]

_log = logging.getLogger(__name__)

_USER = "orthanc"
"""The user that Debian's package makes; root hands Orthanc over to it."""
_BINARIES = ("/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc", "/usr/bin/Orthanc")
_PLUGIN = "libOrthancDicomWeb.so"
_PLUGIN_DIRS = (
    Path("/usr/share/orthanc/plugins"),
    Path("/usr/lib/orthanc/plugins"),
    Path("/usr/local/share/orthanc/plugins"),
)
_SYSTEM_DIR = Path("/var/lib/mrisr_node")
_GRACE_SECONDS = 15.0
"""Orthanc closes its index on SIGTERM, for which it needs two seconds and more."""


def find_orthanc() -> Path | None:
    """Return the Orthanc binary, or None where it is not installed."""
    found = shutil.which("Orthanc")
    candidates = [Path(found)] if found else [Path(name) for name in _BINARIES]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def find_plugin() -> Path | None:
    """Return the DICOMweb plugin, or None where it is not installed."""
    return next((d / _PLUGIN for d in _PLUGIN_DIRS if (d / _PLUGIN).is_file()), None)


def port_is_free(port: int, host: str = "") -> bool:
    """Tell whether a server could listen on a TCP port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a TCP port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def storage_of(settings: Settings) -> Path:
    """Return the folder of our own Orthanc: its objects, its index and its configuration.

    Root's Orthanc runs as another user, who may be unable to enter the data directory (below
    ``/root``, say, or a private temporary folder). It then lives under ``/var/lib/mrisr_node``, in
    a folder named after the data directory.
    """
    home = settings.orthanc_dir or settings.data_dir / "orthanc"
    if os.geteuid() != 0 or _usable_by_orthanc(home):
        return home
    digest = hashlib.sha256(os.fsencode(settings.data_dir.resolve())).hexdigest()[:12]
    return _SYSTEM_DIR / f"orthanc-{digest}"


class OrthancProcess:
    """An Orthanc of our own, for one data directory.

    It dies with the thread that started it, so start it from one that lives as long as it should.

    Parameters
    ----------
    settings
        Where it keeps its objects, its ports, titles and password.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.orthanc_http_port}"
        self.log_path = settings.data_dir / "logs" / "orthanc.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OrthancProcess:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id, or None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> subprocess.Popen[bytes]:
        """Write the configuration and start the process; it is not ready at once.

        Raises
        ------
        SettingsError
            Orthanc or its plugin is not installed, or a port is taken.
        """
        binary, plugin = find_orthanc(), find_plugin()
        if binary is None or plugin is None:
            raise SettingsError(
                "Orthanc and its DICOMweb plugin are not installed: run `make setup` (Debian:"
                " packages orthanc and orthanc-dicomweb), or name an Orthanc that runs elsewhere"
                " with orthanc_url"
            )
        for name in ("orthanc_http_port", "pacs_port"):
            port = getattr(self.settings, name)
            if not port_is_free(port):
                raise SettingsError(f"TCP port {port} is taken: choose another {name}")
        prefix = _without_privileges()
        config = self._prepare(plugin)
        command = [*prefix, str(binary), str(config)]
        with open_log(self.log_path) as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=config.parent,
                start_new_session=True,
            )
        _log.info("Orthanc starts as process %d in %s", self._process.pid, config.parent)
        return self._process

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until Orthanc answers over HTTP.

        Raises
        ------
        SettingsError
            It ended, or gave no answer in time; the message carries the end of its log.
        """
        auth = (self.settings.orthanc_username, self.settings.pacs_password())
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise SettingsError(f"Orthanc ended at start:\n{self._log_end()}")
            try:
                answer = httpx.get(f"{self.url}/system", auth=auth, timeout=5, trust_env=False)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code == 200:
                return
            raise SettingsError(
                f"port {self.settings.orthanc_http_port} answers with status"
                f" {answer.status_code}: another server, or another password"
            )
        raise SettingsError(f"Orthanc did not answer in {timeout:.0f} s:\n{self._log_end()}")

    def stop(self) -> None:
        """End the process: politely, then by force."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("Orthanc did not end in %.0f s and is killed", _GRACE_SECONDS)
            process.kill()
            process.wait()

    def _prepare(self, plugin: Path) -> Path:
        """Make Orthanc's folder and write its configuration; return the configuration's path."""
        _let_through(self.settings.data_dir)
        home = storage_of(self.settings)
        if home.is_relative_to(_SYSTEM_DIR):
            _log.warning("Orthanc cannot enter %s: it keeps its objects in %s",
                         self.settings.data_dir, home)  # fmt: skip
            _SYSTEM_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        for folder in (home, home / "db", home / "tmp"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _hand_over(folder)
        script = home / "forward.lua"
        source = self.settings.orthanc_config
        _write_private(script, (source / "forward.lua").read_text(encoding="utf-8"))
        template = string.Template((source / "orthanc.json").read_text(encoding="utf-8"))
        values = self._values(home, plugin, script)
        filled = template.substitute({name: json.dumps(value) for name, value in values.items()})
        config = home / "orthanc.json"
        _write_private(config, filled)
        return config

    def _values(self, home: Path, plugin: Path, script: Path) -> dict[str, object]:
        settings = self.settings
        everywhere = settings.receiver_host in {"", "0.0.0.0", "::"}  # noqa: S104 - compared only
        return {
            "storage_dir": str(home / "db"),
            "temporary_dir": str(home / "tmp"),
            "plugins": [str(plugin)],
            "scripts": [str(script)],
            "http_port": settings.orthanc_http_port,
            "users": {settings.orthanc_username: settings.pacs_password()},
            "pacs_ae_title": settings.pacs_ae_title,
            "pacs_port": settings.pacs_port,
            "ae_title": settings.ae_title,
            "receiver_host": "127.0.0.1" if everywhere else settings.receiver_host,
            "receiver_port": settings.receiver_port,
            "stable_age": settings.stable_age,
        }

    def _log_end(self, lines: int = 15) -> str:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def _without_privileges() -> list[str]:
    """Return the command prefix that drops privileges and ties the child's life to ours."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if os.geteuid() == 0:
            raise SettingsError(
                "setpriv (package util-linux) is missing: Orthanc never runs as root"
            )
        return []
    prefix = [setpriv, "--no-new-privs", "--pdeathsig", "KILL"]
    if os.geteuid() == 0:
        if not any(entry.pw_name == _USER for entry in pwd.getpwall()):
            raise SettingsError(
                f"Orthanc never runs as root, and there is no user {_USER}: make one"
            )
        prefix += ["--reuid", _USER, "--regid", _USER, "--init-groups", "--inh-caps=-all"]
    return [*prefix, "--"]


def _usable_by_orthanc(folder: Path) -> bool:
    """Tell whether the user orthanc could work in `folder`, which may not exist yet, by trying."""
    while not folder.exists():
        folder = folder.parent
    owned = folder.owner() == _USER
    test = ["/usr/bin/test", "-x", str(folder), *(["-a", "-w", str(folder)] if owned else [])]
    return subprocess.run([*_without_privileges(), *test], check=False).returncode == 0


def _let_through(folder: Path) -> None:
    """Let Orthanc's user pass through a private folder of ours, without seeing what is in it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    private = not folder.stat().st_mode & 0o001
    if os.geteuid() == 0 and private and folder.owner() == folder.group() == "root":
        shutil.chown(folder, group=_USER)
        folder.chmod(0o710)


def _hand_over(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, _USER, _USER)


def _write_private(path: Path, text: str) -> None:
    """Replace a file by one that only Orthanc's user may read."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    _hand_over(draft)
    draft.replace(path)
