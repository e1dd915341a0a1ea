"""The process around ECLARE. The program itself is not here: a stand-in keeps to its interface."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from mrisr_node.cli import app
from mrisr_node.errors import StageError
from mrisr_node.superres.methods import build_methods
from mrisr_node.superres.peers import Eclare
from mrisr_node.superres.simulation import Protocol, simulate
from mrisr_node.volumes.degradation import SliceProfile


@pytest.fixture
def thick(head):
    return simulate(head, Protocol(4.0, 0.7, "z")).thick


def test_its_slices_are_moved_to_the_positions_that_are_asked_for(environment, thick):
    method = build_methods(["eclare"], eclare=Eclare(environment))["eclare"]
    result = method(thick)
    assert result.shape == (*thick.slices.shape[:2], len(thick.positions))
    inner = slice(4, -4)
    expected = np.broadcast_to(thick.positions[inner], result[..., inner].shape)
    assert result[..., inner] == pytest.approx(expected, abs=0.02)


def test_it_is_told_thickness_profile_and_patches(environment, thick, tmp_path):
    eclare = Eclare(environment / "bin" / "python", patches=2000, batch=16)
    thick = replace(thick, profile=SliceProfile.SINC, in_plane_mm=0.8)
    words = eclare.command(tmp_path / "thick.nii.gz", tmp_path / "out", thick)
    assert words[0] == os.fspath(environment / "bin" / "run-eclare")
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert float(options["--relative-slice-thickness"]) == pytest.approx(5.0)
    assert options["--relative-slice-profile-type"] == "rf-pulse-slr"
    assert (options["--n-patches"], options["--batch-size"]) == ("2000", "16")


def test_its_name_tells_when_it_is_shortened(environment):
    assert Eclare(environment).name == "eclare"
    assert Eclare(environment, 2000).name == "eclare, shortened (2,000 patches)"


def test_its_failure_is_told(environment, thick, tmp_path):
    with pytest.raises(StageError, match="status 1: no luck today"):
        Eclare(environment, patches=13).restore(thick)
    with pytest.raises(StageError, match="not installed"):
        Eclare(tmp_path).restore(thick)


@pytest.mark.parametrize("command", ["evaluate", "evaluate-lesions --diameter 6 --each 1"])
def test_the_commands_take_its_options(environment, head, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)  # no settings there
    head.save(tmp_path / "head.nii.gz")
    done = CliRunner().invoke(
        app,
        [
            *command.split(), "head.nii.gz", "--thickness", "4", "--noise", "0.02", "--json",
            "--method", "eclare", "--eclare", str(environment), "--eclare-patches", "2000",
            "--eclare-batch", "16",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    methods = {score["method"] for score in json.loads(done.stdout)["scores"]}
    assert methods - {"truth"} == {"eclare, shortened (2,000 patches)"}
