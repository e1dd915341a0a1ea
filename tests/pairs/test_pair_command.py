"""What `mrisr-node pairs` says, and how it ends."""

import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from mrisr_node.cli import app
from mrisr_node.cli.pairs import _at_once, _left
from mrisr_node.pairs.making import PairStage
from mrisr_node.pairs.standing import Running, Standing


def pairs(*arguments):
    return CliRunner().invoke(app, ["pairs", *map(str, arguments)], env={"COLUMNS": "300"})


@pytest.fixture
def scan(tmp_path):
    data = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    path = tmp_path / "[bold] scan.nii"
    nib.Nifti1Image(data, np.eye(4)).to_filename(path)
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--slices", "4+0.4"], "not thickness/gap"),
        (["--slices", "4/0.4", "--slices", "4/0.4"], "none twice"),
        (["--axis", "k"], "axis: 'k' is none of x, y, z"),
        (["--profile", "box"], "profile: 'box' is none of gaussian, sinc"),
        (["--contrast", "CT"], "contrast: 'CT' is none of"),
    ],
)
def test_an_option_that_cannot_be_is_named(tmp_path, scan, options, words):
    done = pairs(scan, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_scan_that_cannot_be_used_is_named_and_the_exit_code_says_so(tmp_path, scan):
    done = pairs(scan, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert f"{scan}: failed: its contrast cannot be told" in done.stderr
    assert "0 of 1 scans are in" in done.stdout
    told = json.loads(pairs(scan, "--out", tmp_path / "out", "--json").stdout)
    assert [(one["source"], one["state"]) for one in told] == [(str(scan), "failed")]


def test_where_there_is_no_scan_it_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    done = pairs(tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "no NIfTI file and no DICOM series found" in done.stderr


def test_the_time_left_is_told_once_it_is_known():
    running = (Running(2, PairStage.BIAS),)
    assert "unknown" in _left(Standing(3, 0, running, 0.1, None))
    assert _left(Standing(3, 1, running, 0.4, 150.0)) == "about 2 min left"
    assert _left(Standing(3, 2, running, 0.9, 31.0)) == "less than a minute left"
    assert _left(Standing(3, 3, (), 1.0, 0.0)) == ""
    assert _at_once(Standing(3, 1, running, 0.4, 1.0, 3 * 2**30)) == ", 1 at once, 3.0 GiB each"
