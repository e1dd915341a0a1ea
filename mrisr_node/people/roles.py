"""What may be done at the front door, and which role may do it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Permission", "Role", "permissions_of"]


class Permission(StrEnum):
    """One thing that a person or a tool may be allowed to do."""

    READ = "read"
    """See series, jobs, results and images; search and retrieve by DICOMweb."""
    REPORT = "report"
    """Save measurements from the viewer, as Structured Reports."""
    STORE = "store"
    """Bring images in: uploads, STOW-RS."""
    OPERATE = "operate"
    """Begin, cancel, repeat and delete jobs; delete one's files; release from quarantine or delete
    there."""
    ADMIN = "admin"
    """Users, everybody's tokens, and the audit trail."""


class Role(StrEnum):
    """What a user is for the node."""

    VIEWER = "viewer"
    """A radiologist."""
    OPERATOR = "operator"
    """A radiographer."""
    ADMIN = "admin"
    SERVICE = "service"
    """A tool: it has no password, and each of its tokens says what it is for."""


_VIEWER = frozenset({Permission.READ, Permission.REPORT})
_OPERATOR = _VIEWER | {Permission.STORE, Permission.OPERATE}
_PERMISSIONS = {
    Role.VIEWER: _VIEWER,
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: frozenset(Permission),
    Role.SERVICE: _OPERATOR,
}


def permissions_of(role: Role) -> frozenset[Permission]:
    """Return the most that a role may do; a token may be for less."""
    return _PERMISSIONS[role]
