"""Cards, weights, settings, messages, answers of the PACS, forms: read, or refused in words."""

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path
from unittest import mock
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mrisr_node.errors import CheckpointError, SettingsError
from mrisr_node.jobs.queues import Queues
from mrisr_node.jobs.reconcile import Reconciler
from mrisr_node.jobs.recovery import recover
from mrisr_node.jobs.stages import Queue
from mrisr_node.records import Series, database, open_records
from mrisr_node.settings import Settings, load_settings
from mrisr_node.superres.card import CARD, Card
from mrisr_node.superres.checkpoints import WEIGHTS, Checkpoint
from mrisr_node.web import signin
from mrisr_node.web.negotiation import Representation, representations
from mrisr_node.web.searching import parameters, search_query

SHIPPED = Settings.model_fields["checkpoints"].default / "thin-small"
CARD_FIELDS = json.loads((SHIPPED / CARD).read_text())
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**30, -1, "1" * 5000, "T1w", "../x", "folded-residual", {}, []]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)


# Cards and weights.


@given(st.binary(max_size=300) | st.text(max_size=100) | JSON.map(json.dumps))
@example("[" * 10_000)
def test_no_text_but_a_card_is_a_card(text):
    with pytest.raises(CheckpointError):
        Card.parse(text, "fuzz")


@given(st.dictionaries(st.sampled_from(sorted(CARD_FIELDS)), JSON, max_size=3))
def test_a_card_with_odd_fields_is_refused_or_comes_back_the_same(odd):
    try:
        card = Card.parse(json.dumps(CARD_FIELDS | odd), "fuzz")
    except CheckpointError:
        return
    assert "/" not in card.name
    assert isinstance(card.headline, str)
    if not any(c in repr(odd) for c in ("nan", "inf")):
        assert Card.parse(card.text(), "fuzz") == card


_DTYPES = ["F64", "F32", "F16", "BF16", "I64", "BOOL", "U16", "F8_E4M3", "F8_E8M0", "F4", "C64"]
_TENSORS = st.dictionaries(
    st.text(max_size=8),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(_DTYPES) | st.text(max_size=3),
            "shape": st.lists(st.sampled_from([0, 1, 2, 4, 2**31, 2**62, 2**64, -1]), max_size=3),
            "data_offsets": st.lists(st.sampled_from([0, 1, 4, 8, 16, 2**63, -1]), max_size=3),
        }
    ),
    max_size=3,
)


def _safetensors(header: object, data: bytes, length: int | None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _one_tensor(dtype: str, shape: list[int], data: bytes) -> bytes:
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    return _safetensors({"a": tensor}, data, None)


WEIGHT_FILES = st.builds(
    _safetensors,
    _TENSORS | JSON,
    st.binary(max_size=32) | st.just(bytes(16)),
    st.none() | st.none() | st.integers(0, 2**64 - 1),
) | st.binary(max_size=64)


@given(WEIGHT_FILES)
@example(_one_tensor("F4", [2], b"\0"))
@example(_one_tensor("F32", [0, 2**62], b""))
def test_no_file_but_weights_is_loaded(content):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        digest = hashlib.sha256(content).hexdigest()
        (folder / CARD).write_text(json.dumps(CARD_FIELDS | {"weights_sha256": digest}))
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(CheckpointError):
            Checkpoint.load(folder)


# Settings.

_TOML = st.builds(
    lambda name, value: f"{name} = {value}\n",
    st.sampled_from([*Settings.model_fields, "unknown", "[table]\na", '""']),
    st.sampled_from(
        ["1", "-1", "nan", "inf", "1e400", '"x"', '""', '"\\u0000"', "[]", '["A", "B"]', '["\\n"]',
         "{a = 1}", "true", "2026-01-01", "[[[1]]]", "'''", "9" * 5000]
    ),
)  # fmt: skip


@given(st.lists(_TOML, max_size=4).map("".join) | st.text(max_size=60) | st.binary(max_size=60))
@example('data_dir = "\\u0000"')
def test_any_settings_file_is_read_or_named(text):
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "mrisr.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
        named = mock.patch.dict(os.environ, {"MRISR_CONFIG": str(file)})
        with named, contextlib.suppress(SettingsError):
            assert load_settings().data_dir.is_absolute()


@given(
    st.sampled_from(sorted(Settings.model_fields)),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
)
@example("accepted_ae_titles", "ORTHANC")
@example("checkpoint", "[")
def test_any_environment_is_read_or_named(name, value):
    given_so = mock.patch.dict(os.environ, {f"MRISR_{name.upper()}": value})
    with given_so, contextlib.suppress(SettingsError):
        assert load_settings().data_dir.is_absolute()


# Queue messages.

_MESSAGES = st.binary(max_size=60) | st.one_of(JSON, st.lists(JSON, min_size=8, max_size=12)).map(
    lambda value: json.dumps(value).encode()
)


@pytest.fixture(scope="module")
def queues(make_settings):
    made = make_settings()
    open_records(made.database_path)
    yield Queues(made)
    database.close()


@hypothesis_settings(max_examples=25)
@given(messages=st.lists(_MESSAGES, min_size=1, max_size=3))
def test_what_is_no_message_keeps_no_job_from_being_woken(queues, messages):
    huey = queues._hueys[Queue.CPU]
    huey.flush()
    for message in messages:
        huey.storage.enqueue(message)
    queues.send(Queue.CPU, 7)
    assert 7 in queues.waiting(Queue.CPU)
    assert recover(queues) == 0
    jobs = []
    for _ in range(len(messages) + 1):
        try:
            task = huey.dequeue()
        except Exception:  # noqa: BLE001 - Huey's consumer logs it and goes on
            continue
        jobs.append(task.args[0])
    assert jobs[-1] == 7


# Answers of the PACS.

_ORTHANC_SERIES = st.fixed_dictionaries(
    {},
    optional={
        "ID": JSON,
        "IsStable": JSON | st.just(True),
        "Instances": JSON | st.just(["a"]),
        "LastUpdate": JSON | st.just("20991231T000000"),
        "ParentStudy": JSON,
        "MainDicomTags": JSON | st.just({"SeriesInstanceUID": "1.2"}),
    },
)
_ANSWERS = st.one_of(
    JSON,
    st.lists(
        st.fixed_dictionaries({"00201209": st.fixed_dictionaries({"Value": JSON})}), max_size=2
    ),
    st.lists(_ORTHANC_SERIES, max_size=3),
)


@pytest.fixture(scope="module")
def reconciler(make_settings):
    made = make_settings()
    open_records(made.database_path)
    reconciler = Reconciler(made)
    yield reconciler
    reconciler.close()
    database.close()


@given(answer=_ANSWERS, status=st.sampled_from([200, 200, 200, 204, 404, 500]))
@example([{"00201209": {"Value": [10**30]}}], 200)
@example([[]], 200)
@example(5, 200)
def test_whatever_the_pacs_answers_the_rounds_go_on(reconciler, answer, status):
    response = requests.Response()
    response.status_code, response._content = status, json.dumps(answer).encode()
    with mock.patch.object(reconciler._http, "request", return_value=response):
        expected = reconciler.expected_instances("1.2", "1.2.3")
        reconciler.sweep()
    assert expected is None or 0 <= expected < 2**31
    Series.delete().execute()


# Forms and addresses.


@given(st.text(max_size=60) | st.sampled_from(["//evil", "/\\evil", "/\t/evil", "/ok?a=b#c"]))
def test_a_form_never_leads_to_another_host(wanted):
    path = signin._own_path(wanted)
    where = urlsplit(urljoin("https://node.example/sign-in", path))
    assert (where.scheme, where.netloc) == ("https", "node.example")
    assert path.isprintable() or not path.isascii()


def _request(query: bytes) -> Request:
    scope = {"type": "http", "method": "POST", "headers": [], "query_string": query, "path": "/"}
    return Request(scope)


@given(st.binary(max_size=100))
def test_any_query_becomes_one_that_orthanc_understands(query):
    passed = b""
    with contextlib.suppress(HTTPException):  # too many, or a limit that is no number
        passed = search_query(parameters(_request(query=query)), "studies")
    assert passed.isascii()
    assert not set(passed) & set(b' %#"<>\\\r\n\0')


@given(st.text(max_size=60))
def test_any_accept_header_gets_what_there_is_or_a_refusal(wanted):
    offers = [Representation("application/dicom+json"), Representation("image/png")]
    found = offers
    with contextlib.suppress(HTTPException):
        found = representations(wanted, offers)
    assert found
    assert set(found) <= set(offers)
