"""What schemathesis has to know of the node to reach more of it; loaded by it, in its process."""

from __future__ import annotations

import itertools
import json
import os

import schemathesis
from schemathesis.core.parameters import ParameterLocation

from mrisr_node.people.access_tokens import begin_api_session, holder_of_access_token
from mrisr_node.people.roles import Role
from mrisr_node.people.users import enable_user, find_user, set_role
from mrisr_node.records import open_records
from mrisr_node.settings import load_settings

_settings = load_settings(data_dir=os.environ["CONTRACT_DATA_DIR"])
open_records(_settings.database_path)
_known: dict[str, dict[str, str]] = json.loads(os.environ["CONTRACT_KNOWN"])
_numbers = itertools.count()

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")


@schemathesis.auth(refresh_interval=None, retry_on=[])
class Administrator:
    """A new session when a request has ended its own, or taken away what its user may do."""

    _token = ""

    def get(self, case, ctx) -> str:
        person = holder_of_access_token(_settings, self._token)
        if person is None or person.role is not Role.ADMIN:
            enable_user("admin")
            set_role("admin", Role.ADMIN)
            self._token = begin_api_session(_settings, find_user("admin")).access_token
        return self._token

    def set(self, case, data: str, ctx) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def before_call(ctx, case, kwargs) -> None:
    """Name every other time something that is there; choose each Idempotency-Key anew."""
    number = next(_numbers)
    known = _known.get(case.operation.label)
    wrong = case.meta is not None and case.meta.is_negative_at(ParameterLocation.PATH)
    if known and number % 2 and not wrong and case.method == case.operation.method.upper():
        case.path_parameters.update(known)
    key = case.headers.get("Idempotency-Key", "")
    if 0 < len(key) <= 255:
        case.headers["Idempotency-Key"] = f"{number:08}{key[8:]}"


@schemathesis.hook
def filter_case(ctx, case) -> bool:
    """Leave out what is wrong in the generated cases themselves.

    HTTP has a header ignored that nobody knows, and schemathesis 4.32 takes 0 for a checksum where
    it cannot make a text of that pattern in time.
    """
    if str(case.headers.get("Upload-Checksum")) == "0":
        return False
    return "x-schemathesis-unknown-property" not in case.headers
