"""Rows of the audit trail for what is done with ``mrisr-node`` on the machine itself."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from peewee import PeeweeException

from mrisr_node.errors import NodeError
from mrisr_node.people.audit import Action, open_audit, record
from mrisr_node.settings import Settings

if TYPE_CHECKING:
    from mrisr_node.web.subjects import Subject

__all__ = ["record_done", "recorded", "whose_series"]


@contextmanager
def recorded(
    settings: Settings, action: Action, command: str, whose: Subject | None = None
) -> Iterator[None]:
    """Have what is done in the body recorded, once it is done; what fails is not.

    Nothing is announced, as at the front door: only one process does that (`people.audit`). But the
    trail is opened before, so that nothing is done where it cannot be.

    Parameters
    ----------
    command
        What was typed after ``mrisr-node``.
    whose
        Data; None: nobody's, or that of too many.

    Raises
    ------
    NodeError
        The trail cannot be opened, or what was done cannot be written there.
    """
    open_audit(settings.audit_path)
    yield
    _write(action, command, whose)


def record_done(settings: Settings, action: Action, command: str) -> None:
    """Record what was done before there was a trail; the parameters are those of `recorded`."""
    open_audit(settings.audit_path)
    _write(action, command, None)


def whose_series(series_id: int) -> Subject:
    """Return whose data a series is, by the id of its record."""
    from mrisr_node.web.subjects import series_of

    return series_of({"series_id": series_id})


def _write(action: Action, command: str, whose: Subject | None) -> None:
    # Of a path that is no text, what is.
    resource = f"mrisr-node {command}".encode(errors="replace").decode()
    facts = {}
    if whose is not None:
        facts = {
            "patient_id": whose.patient_id,
            "study_uid": whose.study_uid,
            "series_uid": whose.series_uid,
        }
    try:
        record(action, username=_account(), means="command line", resource=resource, **facts)
    except PeeweeException as error:
        raise NodeError(f"it is done, but the audit trail cannot be written: {error}") from error


def _account() -> str:
    """Return who it is for the machine, whatever the environment says."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in a container it may have no name
        return f"uid {number}"
