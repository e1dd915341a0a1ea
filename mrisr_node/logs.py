"""The log: one line per event, the same for our own code and for the libraries below it.

JSON lines for programs, columns for a terminal. Whatever is logged passes `_without_identifiers`
and `_told`, so that no UID gets in, and nothing that a library quotes from a header.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from enum import StrEnum
from types import TracebackType
from typing import Any

import structlog
from peewee import PeeweeException
from structlog.typing import EventDict, Processor

from mrisr_node.errors import NodeError

__all__ = ["LogFormat", "get_logger", "start_logging", "words_of"]

# At import, not at the start: unconfigured, structlog prints to standard output, which belongs to
# what a command answers.
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)


class LogFormat(StrEnum):
    """What a line of the log looks like."""

    AUTO = "auto"
    """``text`` where standard error is a terminal, else ``json``."""
    JSON = "json"
    TEXT = "text"


# Five components and more, or those made of a UUID: an IPv4 address has four, a version three. The
# root of the standard itself names classes and transfer syntaxes, never a patient's object.
_UID = re.compile(r"(?<![\d.])(?!1\.2\.840\.10008\.)(?:2\.25(?:\.\d+)+|[0-2](?:\.\d+){4,})")

# Their messages are made of what the system or a computation says. Others (ValueError, KeyError,
# those of pydicom and httpx) like to quote the header value or the address they choked on.
_QUOTES_NOTHING = (
    NodeError, OSError, sqlite3.Error, PeeweeException, MemoryError, RuntimeError, ImportError,
)  # fmt: skip

_FIRST = ("at", "level", "process", "logger", "event")

# Their INFO lines repeat every request, with UIDs in them.
_QUIET = ("dicomweb_client", "httpx", "httpcore", "pynetdicom", "huey", "uvicorn")
# It logs and warns of the header values that it does not like; what matters of it, it raises.
_MUTE = "pydicom"


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger that takes fields beside the words: ``log.info("stored", series=7)``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def words_of(error: BaseException) -> str:
    """Return what may be said of an error: its kind, and its message unless that may quote."""
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, _QUOTES_NOTHING) else kind


def start_logging(process: str = "", form: LogFormat = LogFormat.AUTO) -> None:
    """Log to standard error, from now on and for the whole process.

    Parameters
    ----------
    process
        Its name in every line: ``cpu-worker``; none for a command that a person runs, whose
        warnings and uncaught errors then stay as Python shows them.
    form
        What a line looks like.
    """
    text = form is LogFormat.TEXT or (form is LogFormat.AUTO and sys.stderr.isatty())

    def in_order(_logger: object, _method: str, event: EventDict) -> EventDict:
        # Those that every line has come first, so that lines can be read one below the other.
        event["process"] = process
        first = {name: event.pop(name, None) for name in _FIRST}
        return {name: value for name, value in first.items() if value} | dict(event)

    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="at")
        if text
        else structlog.processors.JSONRenderer(default=str)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
                _told,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_identifiers,
                in_order,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(_MUTE).setLevel(logging.CRITICAL)
    if not process:
        return
    # Warnings and uncaught errors quote, too.
    warnings.filterwarnings("ignore", module=_MUTE)
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_thread


def _told(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its kind, its message where that is safe, and where it was raised."""
    of = event.pop("exc_info", None)
    if of is True or (isinstance(of, tuple) and not any(of)):
        of = sys.exc_info()
    error = of[1] if isinstance(of, tuple) else of
    if isinstance(error, BaseException):
        chain, seen = [], set()
        cause: BaseException | None = error
        while cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            chain.append(f"{words_of(cause)} at {_place(cause)}")
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        event["exception"] = " <- ".join(chain)
    return event


def _place(error: BaseException) -> str:
    """Return the calls that led to an error, outermost first, without values or source lines."""
    frames = traceback.extract_tb(error.__traceback__)
    return " > ".join(f"{_module(f.filename)}:{f.lineno} {f.name}" for f in frames) or "?"


def _module(filename: str) -> str:
    """Return the last two parts of a file's name: enough to find it."""
    return "/".join(filename.split("/")[-2:])


def _without_identifiers(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Take UIDs out of everything that is said, and what would begin another line."""
    return {key: _scrubbed(value) for key, value in event.items()}


def _scrubbed(value: Any) -> Any:  # noqa: ANN401 - whatever is logged
    if isinstance(value, str):
        plain = (
            value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)
        )
        return _UID.sub("(UID)", plain)
    if isinstance(value, Mapping):
        return {_scrubbed(k): _scrubbed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(v) for v in value]
    return value


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    logging.getLogger("py.warnings").warning(
        "%s at %s:%d", category.__name__, _module(filename), lineno
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("mrisr_node").critical("ended by an error", exc_info=(kind, error, trace))


def _log_thread(of: threading.ExceptHookArgs) -> None:
    """Log the end of a thread; its process goes on."""
    error = of.exc_value or of.exc_type()
    logging.getLogger("mrisr_node").error(
        "thread %s ended by an error",
        of.thread.name if of.thread else "?",
        exc_info=(of.exc_type, error, of.exc_traceback),
    )
