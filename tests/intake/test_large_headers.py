"""What stands before and after the pixel data is limited, and is not held for a whole series."""

import tracemalloc

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from mrisr_node.choices import Recipe
from mrisr_node.errors import ConversionError
from mrisr_node.intake.assembly import Assembly
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.screening import Rejected, screen
from mrisr_node.intake.selection import SELECTION_TAGS, SelectionRules, select
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.jobs import workspace
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Instance, Rejection, Series, State, open_records
from tests.spooling import put

_MIB = 1024**2


@pytest.fixture
def settings(make_settings, tmp_path):
    made = make_settings(
        data_dir=tmp_path / "node", minimum_free_bytes=0, quiet_seconds=0.01, minimum_slices=4
    )
    open_records(made.database_path)
    return made


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("large"), Acquisition(slices=6, matrix=32))


def _stuffed(path, folder, size):
    """Return a copy with a private element of so many bytes."""
    dataset = dcmread(path)
    dataset.private_block(0x0009, "STUFF", create=True).add_new(0x10, "OB", bytes(size))
    dataset.save_as(folder / path.name)
    return folder / path.name


def test_a_large_header_is_refused_and_a_maker_s_usual_one_is_not(settings, sample, tmp_path):
    large = _stuffed(sample.paths[0], tmp_path, 33 * _MIB)
    usual = _stuffed(sample.paths[1], tmp_path, 8 * _MIB)
    receiver = Receiver(settings)
    receiver.start()
    try:
        where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
        [refused] = send_files([large, usual], where, lambda _: None)
    finally:
        receiver.stop()
    assert "0xC000" in refused
    assert "bytes before the pixel data; at most 33554432 are accepted" in Rejection.get().reason
    assert Instance.get().sop_instance_uid == dcmread(usual).SOPInstanceUID


@pytest.mark.parametrize("delimited", [False, True])
def test_a_header_of_very_many_items_is_refused(sample, tmp_path, delimited):
    whole = sample.paths[0].read_bytes()
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 250_001
    length = b"\xff\xff\xff\xff" if delimited else len(items).to_bytes(4, "little")
    end = b"\xfe\xff\xdd\xe0\0\0\0\0" if delimited else b""
    at = whole.rindex(b"\xe0\x7f\x10\x00")
    groups = b"\x00\x52\x30\x92SQ\0\0" + length + items + end
    (tmp_path / "many.dcm").write_bytes(whole[:at] + groups + whole[at:])
    dataset = dcmread(sample.paths[0])
    with pytest.raises(Rejected, match="250001 items in sequences before the pixel data"):
        screen(tmp_path / "many.dcm", dataset.SOPClassUID, dataset.SOPInstanceUID)


def test_a_series_is_assembled_without_its_large_elements_in_memory(settings, sample, tmp_path):
    for path in sample.paths:
        put(settings, _stuffed(path, tmp_path, 20 * _MIB))
    series = Series.get()
    assembly = Assembly(settings)
    tracemalloc.start()
    try:
        for header in assembly._headers(series):
            assert not [element for element in header if element.tag.is_private]
        Series.update(last_instance_at=0).execute()
        [job] = assembly.sweep()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert Series.get().state == State.QUEUED
    assert job.voxels == 32 * 32 * 6
    assert peak < 10 * _MIB


class _Watched(Dataset):
    """A header that says what it is asked for."""

    asked: set[str] = set()  # noqa: RUF012

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def __getattr__(self, name):
        if name[0].isupper():
            self.asked.add(name)
        return super().__getattr__(name)


def test_selection_looks_at_nothing_that_is_not_read(sample):
    headers = [dcmread(path, stop_before_pixels=True) for path in sample.paths]
    select((_Watched(header) for header in headers), SelectionRules(4, 2.0))
    assert "ImagePositionPatient" in _Watched.asked
    keywords = {key for key in _Watched.asked if isinstance(key, str)}
    assert keywords <= set(SELECTION_TAGS)


def _behind_pixels(sample, folder, syntax, elements):
    """Return a slice, and a file of it with elements after the pixel data."""
    dataset = dcmread(sample.paths[0])
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(folder / "slice.dcm")
    with (folder / "slice.dcm").open("ab") as file:
        file.write(elements)
    return dataset, folder / "slice.dcm"


def _sequence(items):
    """Return a private sequence of undefined length with empty items."""
    empty = b"\xfe\xff\x00\xe0\0\0\0\0"
    return b"\xe1\x7f\x10\x10SQ\0\0\xff\xff\xff\xff" + empty * items + b"\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (_sequence(250_001), "250001 items in sequences after the pixel data"),
        (_sequence(5_000_000), "40000020 bytes after the pixel data; at most 33554432"),
    ],
    ids=["items", "bytes"],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_what_follows_the_pixel_data_is_refused_alike(sample, tmp_path, behind, reason, syntax):
    dataset, path = _behind_pixels(sample, tmp_path, syntax, behind)
    with pytest.raises(Rejected, match=reason):
        screen(path, dataset.SOPClassUID, dataset.SOPInstanceUID)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_little_after_the_pixel_data_is_accepted(sample, tmp_path, syntax):
    dataset, path = _behind_pixels(sample, tmp_path, syntax, _sequence(1000))
    assert screen(path, dataset.SOPClassUID, dataset.SOPInstanceUID)


def test_the_headers_of_a_series_are_limited_together(settings, sample, tmp_path, monkeypatch):
    assert workspace._MOST_ITEMS < 6 * 250_000
    monkeypatch.setattr(workspace, "_MOST_ITEMS", 1000)
    items = _sequence(250).replace(b"\xe1", b"\xdf", 1)
    paths = []
    for path in sample.paths:
        whole = path.read_bytes()
        at = whole.rindex(b"\xe0\x7f\x10\x00")
        paths.append(tmp_path / path.name)
        paths[-1].write_bytes(whole[:at] + items + whole[at:])
    few = workspace.Workspace(tmp_path, tuple(paths[:3]), settings, Recipe.NATIVE)
    assert len(few.headers()) == 3
    many = workspace.Workspace(tmp_path, tuple(paths), settings, Recipe.NATIVE)
    with pytest.raises(ConversionError, match="1000 items in sequences"):
        many.headers()
