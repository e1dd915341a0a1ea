"""Put OHIF and NiiVue, prebuilt and as pinned in ``ohif.json`` and ``niivue.json``, in place.

``python ohif-config/fetch.py`` asks npm for each package, compares it with the pinned digest, and
unpacks what the node serves of it: OHIF into ``dist``, NiiVue into ``niivue``. OHIF is built to
live at ``/``; the node serves it at ``/viewer/``, so the few absolute paths in it are changed on
the way. A stamp makes a second run return at once. Only the standard library is used: this runs
before anything is installed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PREFIX = "/viewer/"

# Not for a viewer of MR: models for in-browser segmentation (which are fetched from elsewhere), the
# slide viewer, what calls out to others, and settings of other people's web servers.
UNWANTED = (
    "ort", "dicom-microscopy-viewer", "customizations", "sw.js", "google.js", "silent-refresh.html",
    "oidc-client.min.js", "app-config.js", "_headers", "_redirects", "serve.json",
)  # fmt: skip

# An ES module with all that it needs in it: no bundler, nothing fetched at run time.
NIIVUE_FILE = "dist/index.js"

# Which files name absolute paths, and how: (files, pattern, replacement). Each must be found.
PATHS: tuple[tuple[str, str, str], ...] = (
    ("*.js", r'(__webpack_require__\.p = ")/(")', r"\g<1>{prefix}\g<2>"),
    ("index.html", r'\b((?:href|src|content)=")/(?!/)', r"\g<1>{prefix}"),
    ("index.html", r'(window\.PUBLIC_URL=")/(")', r"\g<1>{prefix}\g<2>"),
    ("app.bundle.css", r"(url\()/(?!/)", r"\g<1>{prefix}"),
    ("manifest.json", r'"/assets/', r'"{prefix}assets/'),
)


class FetchError(Exception):
    """A package cannot be put in place; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """What is fetched, and where it goes."""

    name: str
    place: Path
    cut: Callable[[Path], Path]
    """Given the unpacked package, makes the folder that is served and returns it."""

    @property
    def pin(self) -> Path:
        """Return the file that says which package, version and digest the node was tested with."""
        return HERE / f"{self.name.lower()}.json"

    @property
    def pinned(self) -> dict[str, str]:
        """Return what the pin says."""
        said: dict[str, str] = json.loads(self.pin.read_text(encoding="utf-8"))
        return said

    @property
    def stamp(self) -> str:
        """Return what changes whenever the result would: the pin, and this script."""
        return hashlib.sha256(self.pin.read_bytes() + Path(__file__).read_bytes()).hexdigest()


def main() -> int:
    """Bring every package up to its pin; return the exit status."""
    failed = 0
    for package in PACKAGES:
        try:
            changed = ensure(package)
        except FetchError as error:
            print(f"{package.name}: {error}", file=sys.stderr)
            failed = 1
            continue
        if changed:
            print(f"{package.name} {package.pinned['version']} is in {package.place}")
    return failed


def ensure(package: Package) -> bool:
    """Fetch `package` unless its place holds what the pin and this script would make."""
    place, stamp = package.place, package.stamp
    stamp_file = place / ".stamp"
    if stamp_file.is_file() and stamp_file.read_text(encoding="utf-8") == stamp:
        return False
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as folder:
        archive = _pack(package.pinned, Path(folder))
        verify(archive, package.pinned["integrity"])
        fresh = package.cut(_unpack(archive, Path(folder)))
        (fresh / ".stamp").write_text(stamp, encoding="utf-8")
        if place.exists():
            shutil.rmtree(place)
        fresh.rename(place)
    return True


def verify(archive: Path, integrity: str) -> None:
    """Compare a package with its pinned digest (Subresource Integrity notation)."""
    name, _, expected = integrity.partition("-")
    actual = base64.b64encode(hashlib.new(name, archive.read_bytes()).digest()).decode()
    if not hmac.compare_digest(actual, expected):
        raise FetchError(
            f"{archive.name} is not the package that was pinned ({name} is {actual}); "
            "nothing was installed"
        )


def move_under_prefix(dist: Path, prefix: str) -> None:
    """Change OHIF's absolute paths from ``/`` to `prefix`."""
    for files, pattern, replacement in PATHS:
        changed = sum(
            _substitute(path, pattern, lambda m, r=replacement: m.expand(r.format(prefix=prefix)))
            for path in dist.glob(files)
        )
        if not changed:
            raise FetchError(
                f"no {files} of this OHIF has {pattern}: fetch.py must learn where its paths are"
            )


def _substitute(path: Path, pattern: str, replace: Callable[[re.Match[str]], str]) -> int:
    text = path.read_text(encoding="utf-8")
    text, changes = re.subn(pattern, replace, text)
    if changes:
        path.write_text(text, encoding="utf-8")
    return changes


def cut_ohif(package: Path) -> Path:
    """Leave out what a viewer of MR does not need, and move the rest to where it is served."""
    dist = package / "dist"
    for name in UNWANTED:
        path = dist / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in dist.rglob("*.map"):
        path.unlink()
    move_under_prefix(dist, PREFIX)
    return dist


def cut_niivue(package: Path) -> Path:
    """Take the one file that holds everything, shaders and font too."""
    served = package / "served"
    served.mkdir()
    try:
        (package / NIIVUE_FILE).rename(served / "niivue.js")
    except FileNotFoundError as error:
        raise FetchError(
            f"this NiiVue has no {NIIVUE_FILE}: fetch.py must learn where its bundle is"
        ) from error
    return served


def _pack(pin: dict[str, str], folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            "npm is needed to fetch it (Debian: apt-get install npm). The node runs without it, "
            "and its page says what is missing"
        )
    package = f"{pin['package']}@{pin['version']}"
    run = subprocess.run(
        [npm, "pack", "--silent", "--pack-destination", str(folder), package],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    archives = list(folder.glob("*.tgz"))
    if run.returncode != 0 or len(archives) != 1:
        raise FetchError(f"npm could not fetch {package}: {run.stderr.strip()[-500:]}")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        # The digest has vouched for the content; Debian 12's Python 3.11.2 has no filters yet.
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:
            tar.extractall(folder)  # noqa: S202
    return folder / "package"


PACKAGES = (
    Package("OHIF", HERE / "dist", cut_ohif),
    Package("NiiVue", HERE / "niivue", cut_niivue),
)


if __name__ == "__main__":
    sys.exit(main())
