"""A series that is small on the line and would fill the worker's memory is refused before that."""

import struct
import tracemalloc
from contextlib import contextmanager

import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from mrisr_node.errors import ConversionError
from mrisr_node.intake.assembly import Assembly
from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.sending import Destination, send_files
from mrisr_node.jobs.resolve import resolve_folder
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Failure, Instance, Series, State, open_records
from mrisr_node.volumes import conversion

_MIB = 1024**2
_SIDE = 4096


@contextmanager
def _at_most(memory):
    """Check how many bytes Python and NumPy have taken meanwhile, at the peak."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < memory


def _bombs(folder, slices):
    """Write slices of 32 MiB of zeros each: half a megabyte as PS3.5 G.3 encodes runs of them."""
    sample = write_sample(folder, Acquisition(slices=slices, matrix=16))
    segment = b"\x81\x00" * (_SIDE**2 // 128)
    frame = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2
    for path in sample.paths:
        dataset = dcmread(path)
        dataset.Rows = dataset.Columns = _SIDE
        dataset.PixelSpacing = [0.05, 0.05]
        dataset.file_meta.TransferSyntaxUID = RLELossless
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
    return sample.paths


def test_more_voxels_than_memory_is_meant_for_are_not_decoded(make_settings, tmp_path):
    paths = _bombs(tmp_path / "bombs", slices=9)
    assert sum(path.stat().st_size for path in paths) < 5 * _MIB
    settings = make_settings(
        data_dir=tmp_path / "node", minimum_free_bytes=0, quiet_seconds=0.01, receiver_processes=1
    )
    open_records(settings.database_path)
    receiver = Receiver(settings)
    receiver.start()
    try:
        where = Destination("127.0.0.1", settings.receiver_port, "MRISR", "ORTHANC")
        assert send_files(paths, where, lambda _: None) == []
    finally:
        receiver.stop()
    assert Instance.select().count() == 9
    Series.update(last_instance_at=0).execute()
    with _at_most(32 * _MIB):
        assert Assembly(settings).sweep() == []
        [resolved] = resolve_folder(tmp_path / "bombs", tmp_path / "out", settings)
    reason = "9 slices of 4096 x 4096 voxels are 150994944; at most 134217728 are processed"
    series = Series.get()
    assert series.state == State.FAILED
    assert series.reason.startswith(reason)
    assert Failure.get().kind == "ConversionError"
    assert resolved.state == "failed"
    assert resolved.reason.startswith(f"convert: {reason}")


def test_conversion_does_not_read_what_follows_the_pixel_data(tmp_path):
    paths = write_sample(tmp_path, Acquisition(slices=4, matrix=32)).paths
    items = b"\xe1\x7f\x10\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000
    for path in paths:
        with path.open("ab") as file:
            file.write(items)
    # Parsed, each is some 400 MiB.
    with _at_most(32 * _MIB):
        assert conversion.convert(paths).volume.data.shape == (32, 32, 4)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("NumberOfFrames", 100_000, "holds 100000 frames and describes 1"),
        ("SamplesPerPixel", 60_000, "60000 samples per pixel"),
    ],
)
def test_pixel_data_of_more_than_the_slices_are_not_decoded(
    tmp_path, monkeypatch, name, value, reason
):
    paths = write_sample(tmp_path, Acquisition(slices=4, matrix=32)).paths
    dataset = dcmread(paths[2])
    setattr(dataset, name, value)
    dataset.save_as(paths[2])
    monkeypatch.setattr(conversion, "_run", lambda *_, **__: pytest.fail("it was converted"))
    with pytest.raises(ConversionError, match=reason):
        conversion.convert(paths)
