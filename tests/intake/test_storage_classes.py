"""Every storage class of the conformance statement enters, from a sender that is not ours."""

import subprocess

import pytest
from pydicom import dcmread
from pydicom.uid import (
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    generate_uid,
)

from mrisr_node.intake.receiver import Receiver
from mrisr_node.intake.spool import Spool
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.records import Series, open_records


@pytest.mark.parametrize(
    "sop_class",
    [MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage],
    ids=lambda uid: uid.name,
)
def test_each_class_is_accepted(make_settings, tmp_path, shared_data, sop_class):
    if sop_class == MRImageStorage:
        [path] = write_sample(tmp_path / "in", Acquisition(slices=1, matrix=32)).paths
    else:
        [found] = [p for p in shared_data("series/qa_xa30_T1_enh").rglob("*") if p.is_file()]
        path = tmp_path / "enhanced.dcm"
        dataset = dcmread(found)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path)
    settings = make_settings(data_dir=tmp_path / "node", minimum_free_bytes=0)
    open_records(settings.database_path)
    receiver = Receiver(settings)
    receiver.start()
    try:
        done = subprocess.run(
            ["storescu", "-R", "-aet", "ORTHANC", "-aec", "MRISR", "127.0.0.1",
             str(settings.receiver_port), str(path)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        receiver.stop()
    assert done.returncode == 0, done.stderr
    spool = Spool(settings.spool_dir, settings.quarantine_dir, 0)
    [kept] = spool.paths(Series.get())
    assert dcmread(kept).SOPClassUID == sop_class
    assert dcmread(kept).PixelData == dcmread(path).PixelData
