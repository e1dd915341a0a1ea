import json
import tarfile

import numpy as np
import pytest
from typer.testing import CliRunner

from mrisr_node.cli import app
from mrisr_node.errors import ConversionError
from mrisr_node.superres.evaluation import evaluate
from mrisr_node.superres.methods import DEFAULT_METHODS
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.degradation import SliceProfile
from mrisr_node.volumes.geometry import Volume


@pytest.fixture
def files(head, tmp_path):
    head.save(tmp_path / "first.nii.gz")
    head.save(tmp_path / "second.nii.gz")
    return [tmp_path / "first.nii.gz", tmp_path / "second.nii.gz"]


def test_every_method_is_scored_on_every_subject(files, tiny):
    seen = []
    evaluation = evaluate(
        files, thickness_mm=4.0, gap_mm=0.5, axis="x", checkpoint=tiny, progress=seen.append
    )
    assert list(evaluation.scores) == seen
    assert {(s.subject, s.method) for s in seen} == {
        (subject, method) for subject in ("first", "second") for method in DEFAULT_METHODS
    }
    means = {summary.method: summary for summary in evaluation.summaries()}
    assert means["linear"].psnr_db[0] < means["cubic"].psnr_db[0] < means["cubic-bp"].psnr_db[0]
    mean, low, high = means["cubic"].psnr_db
    assert low == pytest.approx(mean) == pytest.approx(high)  # the two are the same head
    assert means["cubic-bp"].residual_median < 0.5 * means["cubic"].residual_median
    assert all(0 < s.residual_median < s.residual_p99 for s in seen)
    assert all(s.seconds > 0 and s.peak_mib >= 0 for s in seen)
    assert json.loads(json.dumps(evaluation.as_json()))["gap_mm"] == 0.5
    assert "cubic-bp" in evaluation.table()


def test_what_is_no_head_is_said(tmp_path):
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(ValueError, match=r"text.nii.gz is no NIfTI file"):
        load_ras(tmp_path / "text.nii.gz")
    for name, value, reason in (("nan", np.nan, "finite"), ("zero", 0.0, "shows nothing")):
        path = tmp_path / f"{name}.nii.gz"
        Volume(np.full((24, 24, 24), value, np.float32), np.eye(4)).save(path)
        with pytest.raises(ValueError, match=reason):
            evaluate([path], thickness_mm=4.0, gap_mm=0.0, methods=("cubic",))


def test_too_few_slices_to_find_a_head_in_are_said(files):
    with pytest.raises(ValueError, match="no head is found in 3 slices"):
        evaluate(files[:1], thickness_mm=8.0, gap_mm=9.0, methods=("cubic",))


def test_noise_costs_and_is_the_same_each_time(files):
    settings = {"thickness_mm": 4.0, "gap_mm": 0.0, "methods": ("cubic",)}
    clean = evaluate(files[:1], **settings).scores[0]
    noisy, again = (evaluate(files[:1], noise=0.05, **settings).scores[0] for _ in range(2))
    assert noisy.psnr_db == again.psnr_db < clean.psnr_db


def test_back_projection_knows_the_profile_that_is_simulated(files):
    """And every other thing that a scanner does costs something."""
    settings = {"thickness_mm": 4.0, "gap_mm": 0.0, "methods": ("cubic-bp",)}
    plain, sinc, partial = (
        evaluate(files[:1], **settings, **more).scores[0]
        for more in ({}, {"profile": SliceProfile.SINC}, {"partial_fourier": 5 / 8})
    )
    assert sinc.residual_median < 1.3 * plain.residual_median
    assert sinc.psnr_db == pytest.approx(plain.psnr_db, abs=0.6)
    assert partial.psnr_db < plain.psnr_db - 0.5


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"axis": "w"}, "axes are x, y and z"),
        ({"gap_mm": -4.0}, "above zero"),
        ({"partial_fourier": 0.4}, "k-space"),
    ],
)
def test_impossible_protocols_are_errors(files, settings, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate(files, **{"thickness_mm": 4.0, "gap_mm": 0.0, "methods": ("linear",)} | settings)


@pytest.fixture
def typed(head, tmp_path, monkeypatch):
    """Return a function that runs the tool on a small head, in a world without settings."""
    monkeypatch.chdir(tmp_path)
    middle = np.ascontiguousarray(head.data[14:42, 10:50, 16:44])
    Volume(middle, head.affine).save(tmp_path / "middle.nii.gz")
    return lambda command, *words: CliRunner().invoke(
        app, [command, "middle.nii.gz", *map(str, words)]
    )


def test_the_command_prints_json_of_a_known_shape(typed, tiny_folder):
    done = typed(
        "evaluate", "--thickness", 4, "--gap", 0.5, "--axis", "x", "--profile", "sinc",
        "--noise", 0.01, "--partial-fourier", 0.75, "--json", "--checkpoint", tiny_folder,
        "--method", "cubic", "--method", "cubic-bp-2", "--method", "ours-flips",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    scores, summaries = table.pop("scores"), table.pop("summaries")
    assert table == {
        "thickness_mm": 4.0, "gap_mm": 0.5, "axis": "x", "profile": "sinc", "noise": 0.01,
        "partial_fourier": 0.75,
    }  # fmt: skip
    assert [s["method"] for s in scores] == ["cubic", "cubic-bp-2", "ours-flips"]
    names = {
        "method", "psnr_db", "ssim", "hfen", "seconds", "peak_mib", "residual_median",
        "residual_p99",
    }  # fmt: skip
    assert all(set(s) == {"subject", *names} for s in scores)
    assert all(set(s) == names for s in summaries)
    assert all(len(s[name]) == 3 for s in summaries for name in ("psnr_db", "ssim", "hfen"))
    assert all(isinstance(s[name], float) for s in scores for name in names - {"method"})


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--method", "magic"), "unknown method 'magic'"),
        (("--method", "eclare"), "needs the path of its environment"),
        (("--method", "linear", "--axis", "w"), "axes are x, y and z"),
        (("--method", "linear", "--profile", "square"), "'square'"),
        (("--method", "linear", "--thickness", 400), "thinner than one thick slice"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "evaluate-lesions"])
def test_the_commands_refuse_with_a_reason(typed, command, words, reason):
    done = typed(command, "--thickness", 4, *words)
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.split())


@pytest.mark.parametrize("command", ["evaluate", "evaluate-lesions"])
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((12, "--gap", 0), "the slices are 12.0 mm apart, and checkpoint tiny is made for 2 to 8"),
        ((2.5, "--gap", 2.5), "the slice thickness is 0.50 times the slice distance"),
    ],
)
def test_the_commands_refuse_what_the_network_is_not_made_for(
    typed, tiny_folder, command, words, reason
):
    words = (*words, "--method", "cubic", "--method", "ours-narrow", "--checkpoint", tiny_folder)
    done = typed(command, "--thickness", *words)
    assert done.exit_code == 1
    assert reason in " ".join(done.stderr.split())
    assert "cubic" not in done.stderr  # before any method has run


def test_a_thickness_that_is_told_wrong_on_purpose_is_not_refused(files, tiny):
    """4 mm without a gap told as 4.8 mm would be 1.2 times the distance, beyond the card's 1.1."""
    methods = ("ours-wide", "ours-narrow")
    for gap in (0.0, 1.0):
        found = evaluate(
            files[:1], thickness_mm=4.0, gap_mm=gap, methods=methods, checkpoint=tiny
        ).scores
        assert [score.method for score in found] == list(methods)


@pytest.mark.parametrize(
    ("methods", "reason"), [(("magic",), "unknown method 'magic'"), (("ours",), "checkpoint")]
)
def test_impossible_requests_are_errors(files, methods, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate(files, thickness_mm=4.0, gap_mm=0.0, methods=methods)


def test_an_archive_without_a_series_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("no DICOM here")
    with tarfile.open(tmp_path / "empty.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "note.txt", "note.txt")
    with pytest.raises(ConversionError, match="0 volumes instead of one"):
        load_ras(tmp_path / "empty.tar.xz")
