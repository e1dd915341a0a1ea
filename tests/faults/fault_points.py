"""Points at which a process of a node kills itself, or finds the disk full, when a plan says so.

The node's own code knows nothing of it: files are watched by an audit hook and by wrapping what
``os`` offers, the rest by wrapping what peewee, Huey, requests and pynetdicom offer, as soon as
they are imported. So a point is where something becomes durable or known to others, before and
after, whatever our code looks like.

A plan is one line in ``$FAULTS/plan-ROLE``: a point, a number, a name. The process of that role
which reaches the point for the n-th time since gives the plan that name and is gone; where the name
begins with ``full``, it goes on with what a full disk raises there. `install` is called in every
process; without a role (``FAULTS_ROLE``) nothing happens.
"""

import errno
import functools
import importlib.abc
import importlib.util
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(os.environ.get("FAULTS", "/nonexistent"))
DATA = os.environ.get("FAULTS_DATA", "/nonexistent")
_WRITING = os.O_WRONLY | os.O_RDWR

_state = threading.local()
_counts: Counter[str] = Counter()
_seen = ""
role = os.environ.get("FAULTS_ROLE", "")


def reach(point: str) -> None:
    """Tell that a point is reached; it may be the end."""
    if not role or getattr(_state, "busy", False):
        return
    _state.busy = True
    try:
        _look(point)
    finally:
        _state.busy = False


def _look(point: str) -> None:
    global _seen
    plan = FOLDER / f"plan-{role}"
    try:
        text = plan.read_text()
        wanted, number, name = text.split()
    except (OSError, ValueError):
        return
    if text != _seen:
        _seen = text
        _counts.clear()
    _counts[point] += 1
    if point != wanted or _counts[point] < int(number):
        return
    try:
        plan.rename(FOLDER / name)
    except FileNotFoundError:  # another process of this role was first
        return
    if name.startswith("full"):
        raise _full(point)
    os.kill(os.getpid(), signal.SIGKILL)


def _full(point: str) -> Exception:
    """Return what a write raises at a point where the disk is full."""
    if point.startswith("commit"):
        return sys.modules["peewee"].OperationalError("database or disk is full")
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def around(name: str, function: Callable) -> Callable:
    """Return `function` with a point before and one after it."""

    @functools.wraps(function)
    def watched(*arguments, **keywords):
        reach(f"{name}.before")
        answer = function(*arguments, **keywords)
        reach(f"{name}.after")
        return answer

    return watched


def install() -> None:
    """Watch this process."""
    sys.addaudithook(_on_audit)
    os.fsync = around("sync", os.fsync)
    os.fdatasync = around("sync", os.fdatasync)
    for name in ("replace", "rename", "link"):
        setattr(os, name, around("rename", getattr(os, name)))
    os.unlink = around("unlink", os.unlink)
    sys.meta_path.insert(0, _Patching())


def _on_audit(event: str, arguments: tuple) -> None:
    if event == "open" and role:
        path, _, flags = arguments
        if flags & _WRITING and isinstance(path, str) and path.startswith(DATA):
            reach("write.before")


class _Patching(importlib.abc.MetaPathFinder):
    """Runs the functions of ``_PATCHES`` on modules that have just been imported."""

    def find_spec(self, name, path, target=None):
        patch = _PATCHES.get(name)
        if patch is None:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_patch(module):
                execute(module)
                patch(module)

            spec.loader.exec_module = execute_and_patch
        return spec


def _peewee(module) -> None:
    database = module.Database
    database.commit = around("commit", database.commit)
    execute = database.execute_sql

    @functools.wraps(execute)
    def execute_sql(self, sql, *arguments, **keywords):
        alone = not self.in_transaction() and not sql.startswith(("SELECT", "BEGIN"))
        if alone:
            reach("commit.before")
        answer = execute(self, sql, *arguments, **keywords)
        if alone:
            reach("commit.after")
        return answer

    database.execute_sql = execute_sql


def _huey(module) -> None:
    module.Huey.enqueue = around("enqueue", module.Huey.enqueue)
    dequeue = module.Huey.dequeue

    @functools.wraps(dequeue)
    def watched(self):
        task = dequeue(self)
        if task is not None:
            reach("dequeue.after")
        return task

    module.Huey.dequeue = watched


def _requests(module) -> None:
    send = module.Session.send

    @functools.wraps(send)
    def watched(self, request, **keywords):
        # What is stored in the PACS, and what is asked of it.
        name = "instance" if request.method == "POST" else "confirmation"
        return around(name, send)(self, request, **keywords)

    module.Session.send = watched


def _association(module) -> None:
    kind = module.Association
    kind.send_c_store = around("instance", kind.send_c_store)
    kind.send_n_action = around("promise", kind.send_n_action)


def _pipeline(module) -> None:
    import stand_ins

    work_of = module._STAGES | (stand_ins.STAGES if "FAULTS_STAND_INS" in os.environ else {})
    for stage, work in work_of.items():
        module._STAGES[stage] = around(f"stage-{stage.value}", work)


def _rounds(module) -> None:
    # The harness waits for recovery again and again; nothing depends on how often it looks.
    module._RECOVER_EVERY = 0.5


def _records(module) -> None:
    if "FAULTS_PATIENCE" in os.environ:
        opened = module.open_records

        def open_records(path):
            opened(path)
            milliseconds = int(os.environ["FAULTS_PATIENCE"])
            module.database.obj.pragma("busy_timeout", milliseconds, permanent=True)

        module.open_records = open_records


_PATCHES = {
    "mrisr_node.records": _records,
    "peewee": _peewee,
    "huey.api": _huey,
    "requests.sessions": _requests,
    "pynetdicom.association": _association,
    "mrisr_node.jobs.pipeline": _pipeline,
    "mrisr_node.jobs.rounds": _rounds,
}
