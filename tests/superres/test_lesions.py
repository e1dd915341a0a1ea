import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mrisr_node.cli import app
from mrisr_node.superres.lesions import evaluate_lesions
from mrisr_node.superres.simulation import Protocol, foreground
from mrisr_node.superres.spheres import Lesions, Sphere, SphereOnGrid, place_spheres, plant

FEW = Lesions(diameters_mm=(3.0, 6.0), each=1, seed=2)


@pytest.fixture
def path(head, tmp_path):
    head.save(tmp_path / "head.nii.gz")
    return tmp_path / "head.nii.gz"


@pytest.mark.parametrize("diameter", [2.0, 3.0, 4.0, 6.0])
def test_a_sphere_covers_its_volume_wherever_its_centre_is(diameter):
    spacing = (1.0, 0.8, 1.2)
    for centre in ((20.0, 20.0, 20.0), (20.4, 19.7, 20.25)):
        grid = SphereOnGrid.of(centre, diameter, spacing, (40, 40, 40))
        volume = float(grid.covered.sum()) * np.prod(spacing)
        assert volume == pytest.approx(np.pi / 6 * diameter**3, rel=0.03)
        places = np.stack(np.indices(grid.covered.shape), axis=-1)
        mean = np.tensordot(grid.covered, places, axes=3) / grid.covered.sum()
        assert mean + [part.start for part in grid.window] == pytest.approx(centre, abs=0.05)


def test_a_sphere_has_its_contrast_and_changes_nothing_else():
    flat = np.full((30, 30, 30), 200.0, np.float32)
    sphere = Sphere((14.3, 15.1, 14.8), 4.0, bright=False)
    made, heights = plant(flat, [sphere], (1.0, 1.0, 1.0), 0.3)
    assert heights == pytest.approx([-60.0])
    assert made.min() == pytest.approx(140.0)
    assert made.max() == pytest.approx(200.0)
    grid = SphereOnGrid.of(sphere.centre, 4.0, (1.0, 1.0, 1.0), flat.shape)
    assert grid.projection(made - flat) == pytest.approx(-60.0)
    assert np.count_nonzero(made != flat) == np.count_nonzero(grid.covered)


def test_spheres_lie_in_tissue_apart_from_each_other_and_the_rim(head):
    spheres = place_spheres(head.data, head.spacing, FEW)
    assert [(s.diameter_mm, s.bright) for s in spheres] == [
        (3.0, True), (3.0, False), (6.0, True), (6.0, False),
    ]  # fmt: skip
    centres = np.array([s.centre for s in spheres])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    assert apart[np.triu_indices(4, 1)].min() >= 14.0
    inside = foreground(head.data)
    for centre in centres:
        ball = np.linalg.norm(np.moveaxis(np.indices(inside.shape), 0, -1) - centre, axis=-1) < 7.0
        assert inside[ball].all()
    assert place_spheres(head.data, head.spacing, FEW) == spheres
    with pytest.raises(ValueError, match="room for"):
        place_spheres(head.data, head.spacing, Lesions(each=50))


@pytest.mark.parametrize("axis", ["x", "z"])
def test_truth_is_perfect_and_sharper_methods_keep_more(path, axis):
    result = evaluate_lesions(
        [path], Protocol(4.0, 0.5, axis, noise=0.01), lesions=FEW, methods=("linear", "cubic-bp-9")
    )
    kept = {}
    for score in result.scores:
        kept.setdefault(score.method, []).append(score.recovered)
        assert score.planted == 1
        assert 0 <= score.false <= 1
    assert kept["truth"] == pytest.approx([1.0] * 4, abs=1e-4)
    assert np.mean(kept["linear"]) < np.mean(kept["cubic-bp-9"]) - 0.05
    assert np.mean(kept["cubic-bp-9"]) < 1.0
    assert "recovered" in result.table()


def test_the_command_prints_json_of_a_known_shape(path, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (
        f"evaluate-lesions {path} --thickness 4 --gap 0.5 --axis x --diameter 6 --each 1 "
        f"--method cubic --method ours --checkpoint {tiny_folder} --json"
    )
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert set(table) == {"protocol", "lesions", "subjects", "scores"}
    assert table["lesions"] == {
        "diameters_mm": [6.0], "contrast": 0.3, "each": 1, "seed": 0,
    }  # fmt: skip
    assert [(s["method"], s["bright"]) for s in table["scores"]] == [
        (method, bright) for bright in (True, False) for method in ("truth", "cubic", "ours")
    ]
    assert set(table["scores"][0]) == {
        "method", "diameter_mm", "bright", "planted", "recovered", "detected", "false",
    }  # fmt: skip
