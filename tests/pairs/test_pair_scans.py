"""Which scans are found, what they are called by, and which are refused."""

import shutil
from contextlib import closing

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from mrisr_node.errors import ConversionError, NotEligible, SettingsError
from mrisr_node.jobs.pairing import link_scans
from mrisr_node.node.sample import Acquisition, write_sample
from mrisr_node.pairs.dataset import MANIFEST, Dataset
from mrisr_node.pairs.options import PairOptions
from mrisr_node.pairs.run import make_pairs
from mrisr_node.pairs.scans import find_scans, read_scan

OPTIONS = PairOptions(contrast="T1w")


def write(path, shape=(20, 22, 24), spacing=(1.0, 1.0, 1.0), code=1, seed=0):
    data = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    image = nib.Nifti1Image(data, np.diag([*spacing, 1.0]))
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


def test_files_and_folders_are_searched_and_each_scan_counts_once(tmp_path):
    one = write(tmp_path / "in" / "sub-a_T1w.nii.gz")
    two = write(tmp_path / "in" / "deep" / "two.nii", seed=1)
    series = write_sample(tmp_path / "in" / "dicom", Acquisition(slices=3, matrix=32))
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    shutil.copyfile(one, tmp_path / "in" / "zz_copy.nii.gz")
    scans = find_scans([tmp_path / "in", one])
    assert [scan.paths for scan in scans] == [(two,), (one,), tuple(series.paths)]
    assert [scan.contrast for scan in scans] == [None, "T1w", "T1w"]
    assert not any(scan.named for scan in scans)
    assert find_scans([one])[0].named
    # Slices that are named one by one are one series all the same.
    [again] = find_scans(reversed(series.paths))
    assert again.sha256 == scans[2].sha256
    assert again.named


def test_uploaded_scans_are_grouped_by_the_names_that_they_came_with(tmp_path):
    names = (
        "sub-Doe7_ses-1_T1w.nii.gz", "Doe.nii", "sub-Doe8_T1w.nii", "sub-Doe7_ses-2_T1w.nii.gz",
        "sub-../../x_T1w.nii", "", "Sub-Doe7_T1w.nii",
    )  # fmt: skip
    # Their bytes are in files that are named after keys.
    sources = [tmp_path / f"{number:032x}" for number in range(len(names))]
    for number, source in enumerate(sources):
        write(tmp_path / "one.nii", seed=number).rename(source)
    links = link_scans(tmp_path / "scans", sources, names)
    assert [link.name for link in links] == [
        "sub-1_scan-001.nii", "scan-002.nii", "sub-2_scan-003.nii", "sub-1_scan-004.nii",
        "scan-005.nii", "scan-006.nii", "scan-007.nii",
    ]  # fmt: skip
    scans = find_scans(links)
    with closing(Dataset(tmp_path / "out")) as dataset:
        called = dataset.names(scans, OPTIONS)
    assert [called[scan.sha256].subject for scan in scans] == [
        "001", "002", "003", "001", "004", "005", "006",
    ]  # fmt: skip


def test_scans_of_one_person_are_one_subject_and_keep_their_names(tmp_path):
    write(tmp_path / "in" / "sub-a_T1w.nii.gz")
    write(tmp_path / "in" / "sub-a_acq-2_T1w.nii.gz", seed=1)
    write(tmp_path / "in" / "sub-a_T2w.nii.gz", seed=2)
    write(tmp_path / "in" / "other.nii.gz", seed=3)
    scans = find_scans(sorted((tmp_path / "in").iterdir()))
    dataset = Dataset(tmp_path / "out")
    names = [dataset.names(scans, OPTIONS)[scan.sha256] for scan in scans]
    assert [(n.subject, n.run, n.contrast) for n in names] == [
        ("001", 1, "T1w"), ("002", 1, "T1w"), ("002", 1, "T2w"), ("002", 2, "T1w"),
    ]  # fmt: skip
    drafts = tmp_path / "drafts"
    path = drafts / f"{names[3].high}.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1")
    dataset.add(scans[3], names[3], drafts)
    dataset.close()
    dataset = Dataset(tmp_path / "out")
    # Only those of the person that come now: the subject is known, and the first number stays free.
    later = dataset.names([scans[1], scans[3], scans[0]], OPTIONS)
    assert later[scans[3].sha256] == names[3]
    assert later[scans[1].sha256].subject == "002"
    assert later[scans[0].sha256].subject == "001"
    dataset.close()


def test_dicom_of_one_patient_is_one_subject(tmp_path):
    for name in ("one", "two"):
        write_sample(tmp_path / name, Acquisition(slices=3, matrix=32))
    for path in (tmp_path / "two").iterdir():
        header = dcmread(path)
        header.PixelData = bytes(len(header.PixelData))
        header.save_as(path)
    scans = find_scans([tmp_path / "one", tmp_path / "two"])
    dataset = Dataset(tmp_path / "out")
    names = dataset.names(scans, OPTIONS)
    dataset.close()
    assert sorted((n.subject, n.run) for n in names.values()) == [("001", 1), ("001", 2)]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"spacing": (1, 1, 3)}, NotEligible, "3.00 mm long along z"),
        ({"code": 0}, ConversionError, "left and right"),
        ({"shape": (8, 8, 8, 4)}, ConversionError, "one volume"),
        ({"shape": (20, 22)}, ConversionError, "one volume"),
    ],
)
def test_what_is_no_sharp_volume_is_refused(tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        read_scan([write(tmp_path / "SECRET.nii.gz", **change)])


@pytest.mark.parametrize("content", [b"", b"no NIfTI", bytes(400)])
def test_what_is_damaged_is_refused_without_its_name(tmp_path, content):
    path = tmp_path / "SECRET.nii"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match="no NIfTI file") as caught:
        read_scan([path])
    assert "SECRET" not in str(caught.value)


def test_a_file_that_ends_too_early_is_refused(tmp_path):
    path = write(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ConversionError, match="damaged"):
        read_scan([path])


def test_axes_are_turned_and_one_volume_in_four_dimensions_is_one(tmp_path):
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5, 1)
    affine = np.array([[0, 0, 1, 5], [-1, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1.0]])
    nib.Nifti1Image(data, affine).to_filename(tmp_path / "a.nii")
    volume = read_scan([tmp_path / "a.nii"])
    assert volume.data.shape == (5, 3, 4)
    assert np.allclose(np.diag(volume.affine), 1)
    place = np.linalg.inv(volume.affine) @ affine @ [2, 1, 3, 1]
    assert volume.data[tuple(np.rint(place[:3]).astype(int))] == data[2, 1, 3, 0]


def test_only_a_folder_of_pairs_or_a_new_one_is_written_to(tmp_path):
    source = write(tmp_path / "in" / "a.nii.gz")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingsError, match="not empty"):
        make_pairs([source], other, OPTIONS)
    for target in (tmp_path / "in", tmp_path / "in" / "out"):
        with pytest.raises(SettingsError, match="must not lie in"):
            make_pairs([tmp_path / "in"], target, OPTIONS)
    dataset = Dataset(tmp_path / "out")
    with pytest.raises(SettingsError, match="another process"):
        make_pairs([source], tmp_path / "out", OPTIONS)
    dataset.close()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"files": {"../x": "0"}}', '{"files": {"/x": "0"}}', '{"scans": [{}]}',
     '{"scans": [{"source_sha256": "0", "subject": "001", "run": 1, "contrast": "T1w",'
     ' "options": {}, "files": ["a/../../x"]}]}'],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(SettingsError, match=r"manifest\.json"):
        Dataset(tmp_path)


def test_a_scan_of_unknown_contrast_is_told_so_and_takes_no_time(tmp_path):
    told = []
    source, target = write(tmp_path / "a.nii.gz"), tmp_path / "out"
    [outcome] = make_pairs([source], target, archive=True, ended=told.append)
    assert outcome.state == "failed"
    assert "contrast cannot be told" in outcome.reason
    assert told == [outcome]
    # Of nothing, no dataset is made.
    assert [path.name for path in target.iterdir()] == [".lock"]
    assert not (tmp_path / "out.zip").exists()
