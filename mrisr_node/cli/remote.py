"""A node that runs elsewhere, over its API: what the commands do there with ``--server``."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from mrisr_node.errors import NodeError, SettingsError
from mrisr_node.results.stow_requests import Message, batches, refused_in

__all__ = ["Outcome", "Server", "ServerError"]

_TIMEOUT = httpx.Timeout(60.0, read=600.0)
_ASK_EVERY = 2.0
# Seconds without any image, after which what is missing is not forwarded to the node any more.
_STALLED = 180.0
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})
_ENDED = frozenset({"done", "skipped", "failed", "cancelled"})


class ServerError(NodeError):
    """The server cannot be reached, or does not do what it was asked for."""


@dataclass(frozen=True)
class Outcome:
    """What became of one series that was sent."""

    series_instance_uid: str
    state: str
    reason: str = ""
    folder: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Server:
    """A node's API, with the token of the environment.

    Parameters
    ----------
    url
        Of the front door, e.g. ``https://mrisr.hospital.example``.

    Raises
    ------
    SettingsError
        There is no token, or it would cross a network where anybody can read it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"--server wants an address as https://node.example, not {url}")
        if parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise SettingsError("--server wants https://: by http:// anybody could read the token")
        self._client = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {_token()}"},
            timeout=_TIMEOUT,
            # Proxies of the environment have no business with what is on this machine.
            trust_env=parts.hostname not in _LOCAL,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def series(self, **filters: Any) -> tuple[list[dict[str, Any]], int]:  # noqa: ANN401 - JSON
        """Return series as ``GET /api/series`` lists them, and how many there are in all."""
        given = {name: value for name, value in filters.items() if value is not None}
        page = self._ask("GET", "/api/series", params=given).json()
        return page["items"], page["total"]

    def retry(self, series_id: int) -> None:
        """Try a series again."""
        self._ask("POST", f"/api/series/{series_id}/retry")

    def store(self, paths: Sequence[Path], stored: Callable[[int], None]) -> list[str]:
        """Store DICOM files as they are (STOW-RS, PS3.18 10.5).

        Parameters
        ----------
        stored
            Told how many were sent.

        Returns
        -------
        list of str
            In words, what was not taken.
        """
        refused, done = [], 0
        for batch in batches(paths):
            message = Message(batch)
            answer = self._request(
                "POST", "/dicom-web/studies", content=message.body, headers=message.headers
            )
            if answer.status_code not in (200, 202, 409):
                raise _error(answer)
            refused += _refused(answer)
            done += len(batch)
            stored(done)
        return refused

    def wait(
        self,
        sent: dict[str, int],
        report: Callable[[dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> dict[str, Outcome]:
        """Wait until every series has come to its end, or nothing of any arrives any more.

        Parameters
        ----------
        sent
            How many instances of each series were sent, by its UID.
        report
            Told of each series whenever it was asked for.
        """
        ended: dict[str, Outcome] = {}
        arrived = dict.fromkeys(sent, 0)
        newest = clock()
        while True:
            missing = []
            for uid in sent.keys() - ended.keys():
                row = next(iter(self.series(series_instance_uid=uid)[0]), None)
                if row is not None and row["instances"] > arrived[uid]:
                    # The PACS sends one series after another: the others' turn may come.
                    arrived[uid], newest = row["instances"], clock()
                if row is not None and _stays(row, sent[uid]):
                    ended[uid] = Outcome(uid, row["state"], row["reason"])
                    continue
                # What it was before the instances arrived says nothing about them.
                if row is None or row["instances"] < sent[uid]:
                    missing.append(uid)
                    continue
                report(row)
                if row["state"] in _ENDED:
                    ended[uid] = Outcome(uid, row["state"], row["reason"])
            if clock() - newest > _STALLED:
                for uid in missing:
                    words = f"{arrived[uid]} of {sent[uid]} images reached the node from its PACS"
                    ended[uid] = Outcome(uid, "failed", f"{words}, and no more come")
            if len(ended) == len(sent):
                return ended
            sleep(_ASK_EVERY)

    def download(self, uid: str, place: Path) -> dict[str, float]:
        """Fetch the result of a series, all of its stacks, into a new folder.

        Returns
        -------
        dict of str to float
            The seconds that each stage took there.
        """
        row = self.series(series_instance_uid=uid)[0][0]["id"]
        result = self._ask("GET", f"/api/results/{row}").json()
        stacks = len(result["stacks"])
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mrisr-", dir=place.parent) as work:
            whole = Path(work) / "whole"
            for number in range(1, stacks + 1):
                folder = whole if stacks == 1 else whole / f"stack-{number}"
                self._unpack(f"/api/results/{row}/dicom?stack={number}", Path(work), folder)
            whole.rename(place)
        return dict(result["seconds"])

    def _unpack(self, path: str, work: Path, folder: Path) -> None:
        archive = work / "result.zip"
        with self._reaching(), self._client.stream("GET", path) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _error(answer)
            with archive.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                if not re.fullmatch(r"[a-z]+/[0-9]+\.dcm", name):
                    raise ServerError("the server's ZIP file holds something that is no result")
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(name) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)

    def _ask(self, method: str, path: str, **what: Any) -> httpx.Response:  # noqa: ANN401
        answer = self._request(method, path, **what)
        if not answer.is_success:
            raise _error(answer)
        return answer

    def _request(self, method: str, path: str, **what: Any) -> httpx.Response:  # noqa: ANN401
        with self._reaching():
            return self._client.request(method, path, **what)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise ServerError(
                f"the server cannot be reached, or gives no answer ({type(error).__name__})"
            ) from error


def _token() -> str:
    """Return the token: never from the command line, which everybody on the machine can read."""
    if token := os.environ.get("MRISR_TOKEN"):
        return token.strip()
    if named := os.environ.get("MRISR_TOKEN_FILE"):
        try:
            return Path(named).read_text().strip()
        except OSError as error:
            raise SettingsError(f"MRISR_TOKEN_FILE cannot be read ({error.strerror})") from error
    raise SettingsError("--server needs a token: set MRISR_TOKEN, or MRISR_TOKEN_FILE to its file")


def _stays(row: Mapping[str, Any], sent: int) -> bool:
    """Tell whether the node has looked at a series in its PACS and lets it stay there."""
    there = row["expected_instances"] or 0
    return row["state"] == "skipped" and row["instances"] == 0 and there >= sent


def _error(answer: httpx.Response) -> ServerError:
    if answer.status_code == 401:
        return ServerError(
            "the server answers 401: the token is wrong, or valid no more; put another one into"
            " MRISR_TOKEN, or into the file that MRISR_TOKEN_FILE names"
        )
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, LookupError, TypeError):
        detail = answer.reason_phrase
    return ServerError(f"the server answers {answer.status_code}: {detail}")


def _refused(answer: httpx.Response) -> list[str]:
    """Return what an answer says was not stored (PS3.18, table 10.5.3-1)."""
    try:
        return [f"{uid}: 0x{reason:04X}" for uid, reason in refused_in(answer.json()).items()]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ServerError(f"the server's answer {answer.status_code} is no STOW-RS one") from None
