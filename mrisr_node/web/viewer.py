"""OHIF: where a comparison opens, and the files that OHIF is made of."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from mrisr_node.settings import Settings

__all__ = ["Viewer", "comparison_path", "comparison_url", "missing_page", "study_path"]

_MODE = "/viewer/viewer"
_MISSING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Viewer missing</title>
<link rel="stylesheet" href="/pages/style.css"><main class="card"><h1>The viewer is missing</h1>
<p>{name} has not been fetched yet. In the checkout of this node run <code>make setup</code>, or
<code>python ohif-config/fetch.py</code>, then load this page again.</p></main></html>"""

# The file name changes with the content, e.g. app.bundle.0f6159c501addfe9.js
_HASHED = re.compile(r"(?:.*\.)?[0-9a-f]{16}\.(?:js|wasm|woff2)")
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}


def comparison_path(study_uid: str, source_series_uid: str, result_series_uid: str) -> str:
    """Return the address, on this server, of original and result side by side."""
    # Without a hangingProtocolId: OHIF would obey it even when the result has been deleted, and
    # show two black viewports. Our extension finds the pair by itself, and these two pin it.
    query = {
        "StudyInstanceUIDs": study_uid,
        "srcseries": source_series_uid,
        "srseries": result_series_uid,
    }
    return f"{_MODE}?{urlencode(query)}"


def comparison_url(
    settings: Settings, study_uid: str, source_series_uid: str, result_series_uid: str
) -> str:
    """Return the whole address of original and result side by side."""
    return settings.viewer_url + comparison_path(study_uid, source_series_uid, result_series_uid)


def study_path(study_uid: str) -> str:
    """Return the address, on this server, of a study in OHIF."""
    return f"{_MODE}?{urlencode({'StudyInstanceUIDs': study_uid})}"


def missing_page(name: str) -> Response:
    """Return the page that says how to get a viewer that is not there."""
    return HTMLResponse(_MISSING.format(name=name), 503)


class Viewer(StaticFiles):
    """OHIF's distribution, with our configuration and extension in place of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(directory=settings.ohif_dist, check_dir=False)
        self._dist = settings.ohif_dist
        self._config = settings.ohif_config / "app-config.js"
        self._extensions = StaticFiles(directory=settings.ohif_config / "ext", check_dir=False)

    async def check_config(self) -> None:
        """Let a missing distribution be; `get_response` says what to do about it."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file; an address of OHIF's own (not of a file) gets the page that knows it."""
        if not (self._dist / "index.html").is_file():
            return missing_page("OHIF")
        if path == "app-config.js":
            return _fresh(FileResponse(self._config, media_type="text/javascript"))
        if path.startswith("ext/"):
            return _fresh(await self._extensions.get_response(path.removeprefix("ext/"), scope))
        try:
            answer = await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or Path(path).suffix:
                raise
            return _fresh(FileResponse(self._dist / "index.html"))
        if path == "." or path.endswith(".html"):
            return _fresh(FileResponse(self._dist / "index.html"))
        kind = _TYPES.get(Path(path).suffix)
        if kind:
            answer.headers["Content-Type"] = kind
        hashed = _HASHED.fullmatch(Path(path).name)
        answer.headers["Cache-Control"] = f"private, max-age={604_800 if hashed else 300}"
        return answer


def _fresh(answer: Response) -> Response:
    answer.headers["Cache-Control"] = "no-store"
    return answer
