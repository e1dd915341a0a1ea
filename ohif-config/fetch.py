"""Put OHIF's prebuilt distribution, as pinned in ``ohif.json``, into ``dist``.

``python ohif-config/fetch.py`` asks npm for the package, compares it with the pinned digest, and
unpacks it. OHIF is built to live at ``/``; the node serves it at ``/viewer/``, so the few absolute
paths in it are changed on the way. A stamp makes a second run return at once. Only the standard
library is used: this runs before anything is installed.
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
from pathlib import Path

HERE = Path(__file__).resolve().parent
DIST = HERE / "dist"
PREFIX = "/viewer/"

# Not for a viewer of MR: models for in-browser segmentation (which are fetched from elsewhere), the
# slide viewer, what calls out to others, and settings of other people's web servers.
UNWANTED = (
    "ort", "dicom-microscopy-viewer", "customizations", "sw.js", "google.js", "silent-refresh.html",
    "oidc-client.min.js", "app-config.js", "_headers", "_redirects", "serve.json",
)  # fmt: skip

# Which files name absolute paths, and how: (files, pattern, replacement). Each must be found.
PATHS: tuple[tuple[str, str, str], ...] = (
    ("*.js", r'(__webpack_require__\.p = ")/(")', r"\g<1>{prefix}\g<2>"),
    ("index.html", r'\b((?:href|src|content)=")/(?!/)', r"\g<1>{prefix}"),
    ("index.html", r'(window\.PUBLIC_URL=")/(")', r"\g<1>{prefix}\g<2>"),
    ("app.bundle.css", r"(url\()/(?!/)", r"\g<1>{prefix}"),
    ("manifest.json", r'"/assets/', r'"{prefix}assets/'),
)


class FetchError(Exception):
    """The distribution cannot be put in place; the message says what to do."""


def main() -> int:
    """Bring ``dist`` up to the pin; return the exit status."""
    try:
        changed = ensure(DIST)
    except FetchError as error:
        print(f"OHIF: {error}", file=sys.stderr)
        return 1
    if changed:
        print(f"OHIF {pinned()['version']} is in {DIST}")
    return 0


def pinned() -> dict[str, str]:
    """Return which package, version and digest the node was tested with."""
    pin: dict[str, str] = json.loads((HERE / "ohif.json").read_text(encoding="utf-8"))
    return pin


def ensure(dist: Path) -> bool:
    """Fetch into `dist` unless it is already what the pin and this script would make."""
    stamp = stamp_text()
    stamp_file = dist / ".stamp"
    if stamp_file.is_file() and stamp_file.read_text(encoding="utf-8") == stamp:
        return False
    with tempfile.TemporaryDirectory(dir=dist.parent, prefix=".ohif-") as folder:
        archive = _pack(Path(folder))
        verify(archive, pinned()["integrity"])
        fresh = _unpack(archive, Path(folder))
        _drop_unwanted(fresh)
        move_under_prefix(fresh, PREFIX)
        (fresh / ".stamp").write_text(stamp, encoding="utf-8")
        if dist.exists():
            shutil.rmtree(dist)
        fresh.rename(dist)
    return True


def stamp_text() -> str:
    """Return what changes whenever the result would: the pin, and this script."""
    return hashlib.sha256(
        (HERE / "ohif.json").read_bytes() + Path(__file__).read_bytes()
    ).hexdigest()


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


def _pack(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            "npm is needed to fetch the viewer (Debian: apt-get install npm). The node runs "
            "without it, and /viewer/ says what is missing"
        )
    pin = pinned()
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
    return folder / "package" / "dist"


def _drop_unwanted(dist: Path) -> None:
    for name in UNWANTED:
        path = dist / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in dist.rglob("*.map"):
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
