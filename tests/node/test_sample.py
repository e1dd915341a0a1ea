"""The sample: conformant, real, and where it says it is."""

import subprocess
import sysconfig
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from mrisr_node.errors import SettingsError
from mrisr_node.node import sample
from mrisr_node.node.sample import Acquisition, Plane, SampleSeries, Study, write_sample

BIN = Path(sysconfig.get_path("scripts"))
CASES = {
    "axial": Acquisition(slices=6, matrix=96),
    "sagittal with a gap": Acquisition(
        plane=Plane.SAGITTAL, thickness_mm=4.0, gap_mm=0.4, slices=5, matrix=80
    ),
    "coronal": Acquisition(plane=Plane.CORONAL, pixel_mm=1.2, slices=5),
    "oblique, noisy": Acquisition(rotation=(10.0, 5.0, -7.0), noise=0.02, slices=5, matrix=101),
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def series(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> SampleSeries:
    return write_sample(tmp_path_factory.mktemp("series"), CASES[request.param])


def test_dciodvfy_finds_nothing(series: SampleSeries) -> None:
    run = subprocess.run(
        [BIN / "dciodvfy", "-new", series.paths[0]], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0
    assert (run.stdout + run.stderr).split() == ["MRImage"]


def test_dcm2niix_sees_the_same_volume(series: SampleSeries, tmp_path: Path) -> None:
    subprocess.run(
        [BIN / "dcm2niix", "-z", "n", "-o", tmp_path, series.folder],
        check=True, capture_output=True,
    )  # fmt: skip
    (path,) = tmp_path.glob("*.nii")
    image = nib.nifti1.Nifti1Image.from_filename(path)
    shape = series.volume.data.shape
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
    to_theirs = np.linalg.inv(image.affine) @ series.volume.affine
    there = to_theirs[:3, :3] @ grid + to_theirs[:3, 3:]
    np.testing.assert_allclose(there, np.rint(there), atol=1e-3)
    i, j, k = np.rint(there).astype(int)
    np.testing.assert_array_equal(
        np.asarray(image.dataobj)[i, j, k].reshape(shape), series.volume.data
    )


def test_slices_are_where_the_head_is(sample_series: SampleSeries) -> None:
    head = sample.Volume.load(sample.find_head()[0])
    volume = sample_series.volume
    # The middle of the middle slice: the same place in the head has about the same brightness.
    index = tuple((n - 1) / 2 for n in volume.data.shape)
    middle = volume.position((index[0], index[1], index[2]))
    there = np.linalg.inv(head.affine) @ np.append(middle, 1.0)
    np.testing.assert_allclose(there[:3], (np.array(head.data.shape) - 1) / 2, atol=3.0)
    thick = volume.data.mean() / volume.data.max()
    assert 0.05 < thick < 0.5


def test_series_of_one_study_share_it(tmp_path: Path) -> None:
    study = Study()
    tiny = Acquisition(slices=2, matrix=16)
    one = write_sample(tmp_path / "one", tiny, study=study, series_uid="1.2.3")
    again = write_sample(tmp_path / "again", tiny, study=study, series_uid="1.2.3")
    other = write_sample(tmp_path / "other", tiny, study=study, series_number=2)
    assert one.study_uid == other.study_uid
    assert one.series_uid != other.series_uid

    def uids(series: SampleSeries) -> set[str]:
        return {str(pydicom.dcmread(path).SOPInstanceUID) for path in series.paths}

    assert uids(one) == uids(again)
    assert uids(one).isdisjoint(uids(other))


def test_without_colin_another_head_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_COLIN27", tmp_path / "absent")
    series = write_sample(tmp_path / "series", Acquisition(slices=2, matrix=16))
    assert "ICBM" in series.head
    monkeypatch.setattr(sample, "files", lambda _: tmp_path)
    with pytest.raises(SettingsError, match="mricron-data"):
        write_sample(tmp_path / "none")
