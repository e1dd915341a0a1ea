"""A row of the audit trail for each request that shows or changes anything, or is refused.

It is written before the answer goes out. A change, which cannot be taken back then, is announced in
the trail before it is made.

What a request does is told by its address, so that a new route is recorded before anybody thinks of
it: all but a short list of what says nothing of patients.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Hashable
from typing import Any
from urllib.parse import parse_qsl

from peewee import PeeweeException
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrisr_node.logs import words_of
from mrisr_node.people.audit import UNKNOWN, Action, announce, let_go, record_all
from mrisr_node.people.person import Means, Person
from mrisr_node.settings import Settings
from mrisr_node.web.limits import client_address
from mrisr_node.web.problems import problem
from mrisr_node.web.subjects import PatientIds, Subject, series_of

__all__ = ["Announcements", "AuditTrail", "action_of"]

_STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Reading these says nothing of a patient: pages without their data, and the node itself.
_HARMLESS = re.compile(
    r"/(?:(?:quarantine|upload|pairs|users|account|compare|sign-in|healthz|readyz|metrics)?"
    r"|(?:pages|viewer|niivue)(?:/.*)?"
    r"|api/(?:openapi\.json|auth/.*|users(?:/.*)?|checkpoints(?:/.*)?))"
)
_SIGN_IN = frozenset({"/sign-in", "/api/auth/login"})
_SIGN_OUT = frozenset({"/sign-out", "/api/auth/logout"})
# By POST, as names have no business in an address; they change nothing.
_SEARCH_BY_BODY, _SEARCH_OF_AUDIT = "/api/series/search", "/api/audit/search"
# Of one series where `series` is asked for.
_OF_ONE_SERIES = frozenset({"/api/jobs", "/api/events", "/api/events/ws"})
_DOWNLOADS = re.compile(r"/api/(?:.*/(?:dicom|zip|download|content)|files/[^/]+)")
_OF_USERS = re.compile(r"/(?:users|account|api/(?:users|auth))(?:/.*)?")
_OF_AUDIT = re.compile(r"/(?:api/)?audit(?:/.*)?")

_UID = r"[0-9.]{1,64}"
_STUDY = re.compile(
    rf"/dicom-web(?:-allowed)?/studies/(?P<study>{_UID})(?:/series/(?P<series>{_UID}))?(?:/|$)"
)
_SEARCHES = re.compile(r"/dicom-web/(?:.*/)?(?:studies|series|instances)/?")
_LISTS = re.compile(r"/api/[a-z-]+(?:/[a-z-]+)?")
_ONE_STUDY = re.compile(_UID)
_ONE_PATIENT = re.compile(r"[^*?\\]{1,64}")

_QUIET = 60.0
"""Seconds in which the same person's same access to the same series is one row: PS3.15 A.5.3.3
records instances by study, and a viewer asks for each slice by itself."""
_QUIET_LISTS = 3600.0
"""The same for a page that asks for the same list again and again."""

_MOST_REMEMBERED = 50_000
_REFUSED = frozenset({401, 403, 429})

_CANNOT_BE_WRITTEN = "the audit trail cannot be written: %s"
_NOTHING = "nothing is shown or changed"
_OUTCOME = "what came of this is not shown; look whether it was done"

_log = logging.getLogger(__name__)


def action_of(method: str, path: str) -> Action | None:
    """Return what a request does, or None where it is nothing to record."""
    reads = method in _SAFE
    if _OF_AUDIT.fullmatch(path):
        return Action.AUDIT
    if path.startswith("/dicom-web-allowed/"):  # a proxy gives what is asked for (docs/nginx.conf)
        return Action.TRANSFER
    if path.startswith("/dicom-web/"):
        if not reads:
            return Action.IMPORT
        return Action.QUERY if _SEARCHES.fullmatch(path) else Action.TRANSFER
    if reads:
        if _HARMLESS.fullmatch(path):
            return None
        return Action.EXPORT if _DOWNLOADS.fullmatch(path) else Action.RECORD
    if path == _SEARCH_BY_BODY:
        return Action.QUERY
    if path in _SIGN_IN:
        return Action.LOGIN
    if path in _SIGN_OUT:
        return Action.LOGOUT
    if path == "/api/auth/refresh":
        return Action.RENEWAL
    if _OF_USERS.fullmatch(path):
        return Action.USERS
    return Action.IMPORT if path.startswith("/api/uploads") else Action.CHANGE


class AuditTrail:
    """Records what `app` answers, before the answer goes out."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._patients = PatientIds(settings)
        self._written: dict[Hashable, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; what cannot be recorded is not shown."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        begun = withheld = False

        async def send_recorded(message: Message) -> None:
            nonlocal begun, withheld
            if message["type"] in _STARTS and not begun:
                begun = True
                withheld = not await self._record(scope, message.get("status", 101))
                if withheld:
                    words = _OUTCOME if "announced" in scope["state"] else _NOTHING
                    await _unwritable(words)(scope, receive, send)
            if not withheld:
                await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        except Exception:
            if not begun:
                await self._record(scope, 500)
            raise
        finally:
            if "announced" in scope["state"]:
                let_go(scope["state"]["announced"])

    async def _record(self, scope: Scope, status: int) -> bool:
        """Write the rows that there are to be; return whether all is well."""
        state = scope["state"]
        subjects = state.get("subjects") or [state.get("subject", Subject())]
        rows = [row for one in subjects if (row := _row(scope, status, one)) is not None]
        # By what they are before more is found out about them.
        due = [
            (key, row) for row in rows if not self._has_been_said(key := _repeats(row), _quiet(row))
        ]
        announced = state.get("announced")
        if not due and announced is None:
            return True
        try:
            for _, row in due:
                await self._complete(row, scope)
            await run_in_threadpool(record_all, [row for _, row in due], announced)
        except (PeeweeException, OSError) as error:
            _log.error(_CANNOT_BE_WRITTEN, words_of(error))
            return False
        self._written |= {key: time.monotonic() for key, _ in due if key is not None}
        return True

    def _has_been_said(self, key: Hashable | None, quiet: float) -> bool:
        """Tell whether a row of a short while ago says the same."""
        if key is None:
            return False
        if len(self._written) > _MOST_REMEMBERED:
            self._written.clear()
        return time.monotonic() < self._written.get(key, -quiet) + quiet

    async def _complete(self, row: dict[str, Any], scope: Scope) -> None:
        """Say whose data it is, as far as the address does not."""
        parameters = scope["state"].get("path_params", {})
        asked = dict(parse_qsl(row["query"]))
        if scope["path"] in _OF_ONE_SERIES and "series" in asked:
            parameters = {"series_id": asked["series"]}
        if not row["study_uid"] and parameters:
            found = await run_in_threadpool(series_of, parameters)
            row |= {"study_uid": found.study_uid, "series_uid": found.series_uid}
            row["patient_id"] = row["patient_id"] or found.patient_id
        pacs = getattr(scope["app"].state, "pacs", None)
        if row["study_uid"] and not row["patient_id"] and row["status"] < 400 and pacs is not None:
            row["patient_id"] = await self._patients.of(row["study_uid"], pacs)


class Announcements:
    """Passes a change on to `app` once the audit trail has it that it is to be made.

    Inside the guard, which knows who asks: whoever it sends away changes nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; what cannot be recorded is not done."""
        if _changes(scope):
            row = _row(scope, UNKNOWN, Subject())
            assert row is not None  # noqa: S101 - only of what is read there is none
            try:
                scope["state"]["announced"] = await run_in_threadpool(announce, row)
            except (PeeweeException, OSError) as error:
                _log.error(_CANNOT_BE_WRITTEN, words_of(error))
                await _unwritable(_NOTHING)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _changes(scope: Scope) -> bool:
    """Tell whether a request may change anything."""
    if scope["type"] != "http" or scope["method"] in _SAFE:
        return False
    return scope["path"] not in (_SEARCH_BY_BODY, _SEARCH_OF_AUDIT)


def _unwritable(words: str) -> Response:
    """Return the answer where there is no room for a row."""
    return problem(
        503,
        f"the audit trail cannot be written, so {words}; is the disk full?",
        headers={"Retry-After": "30"},
    )


def _row(scope: Scope, status: int, subject: Subject) -> dict[str, Any] | None:
    """Return the row of a request on a subject, as far as the request itself tells."""
    state, path = scope["state"], scope["path"]
    method = scope.get("method", "WEBSOCKET")
    action = action_of("GET" if method == "WEBSOCKET" else method, path)
    if action is None:
        if status not in _REFUSED:
            return None
        action = Action.RESTRICTED
    person: Person | None = state.get("person")
    query = (subject.query or scope["query_string"].decode("latin-1"))[:2000]
    study, series, patient = subject.study_uid, subject.series_uid, subject.patient_id
    if of_study := _STUDY.match(path):
        study, series = study or of_study["study"], series or of_study["series"] or ""
    if action is Action.QUERY:
        asked = dict(parse_qsl(query))
        patient = patient or _one(_ONE_PATIENT, asked, "PatientID", "00100020")
        study = study or _one(_ONE_STUDY, asked, "StudyInstanceUID", "0020000D")
    return {
        "action": action,
        "username": person.username if person else subject.username,
        "role": person.role.value if person else "",
        "means": _means(person),
        "address": client_address(scope),
        "method": method,
        "resource": path[:1000],
        "query": query if action is not Action.LOGIN else "",
        "patient_id": patient,
        "study_uid": study,
        "series_uid": series,
        "status": status,
    }


def _one(pattern: re.Pattern[str], asked: dict[str, str], *names: str) -> str:
    """Return the value of a search for exactly one; empty where there is none."""
    value = next((asked[name] for name in names if name in asked), "")
    return value if pattern.fullmatch(value) else ""


def _quiet(row: dict[str, Any]) -> float:
    """Return for how long a row speaks for others like it."""
    is_list = row["action"] in (Action.RECORD, Action.QUERY) and _LISTS.fullmatch(row["resource"])
    return _QUIET_LISTS if is_list else _QUIET


def _repeats(row: dict[str, Any]) -> Hashable | None:
    """Return what a row has in common with those that need not be written; None: it has to be."""
    if row["status"] in _REFUSED and row["action"] is not Action.LOGIN:
        return (row["username"], row["means"], row["address"], row["action"], row["status"])
    if row["status"] == 429:
        return (row["username"], row["address"], row["action"])
    changes = row["method"] not in _SAFE and row["resource"] != _SEARCH_BY_BODY
    if changes or row["action"] in (Action.EXPORT, Action.AUDIT):
        return None
    if row["action"] is Action.TRANSFER and row["series_uid"]:
        return tuple(v for k, v in row.items() if k not in ("method", "resource", "query"))
    return tuple(row.values())


def _means(person: Person | None) -> str:
    if person is None:
        return ""
    return f"token {person.token}" if person.means is Means.TOKEN else person.means.value
