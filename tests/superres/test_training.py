import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mrisr_node.cli import app
from mrisr_node.errors import CheckpointError, SettingsError
from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.distributed import World
from mrisr_node.superres.networks import FoldedResidual
from mrisr_node.superres.samples import (
    Acquire,
    AcquisitionRanges,
    Samples,
    Source,
    load_sources,
    vary_contrast,
)
from mrisr_node.superres.training import export, train
from mrisr_node.superres.training_config import CardFacts, TrainingConfig
from tests.superres.conftest import synthetic_head

CONFIG = """
data = "heads"
validation_data = "heads"
arguments = {{ width = 8, blocks = 1, in_plane_fold = 2 }}
patch = 16
slices = 4
batch = 2
steps = {steps}
threads = 1
validate_every = 3
validation_samples = 2
mixed_precision = false

[acquisition]
distance_mm = [2.0, 5.0]

[[sources]]
pattern = "a*.nii.gz"
axes = "xy"
weight = 2

[[sources]]
pattern = "b*.nii.gz"
axes = "xyz"
weight = 1
z_spacing_mm = 0.9

[[validation]]
pattern = "b*.nii.gz"
axes = "y"
weight = 1

[card]
name = "trial"
contrasts = ["T1w"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    (folder / "heads").mkdir()
    for name in "ab":
        synthetic_head((40, 44, 42), seed=ord(name)).save(folder / "heads" / f"{name}1.nii.gz")
    (folder / "training.toml").write_text(CONFIG.format(steps=5))
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return TrainingConfig.load(folder / "training.toml")


@pytest.fixture(scope="module", autouse=True)
def threads():
    """Training sets the number of threads for the whole process: put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def heads(config):
    return load_sources(config.data, config.sources)


def test_an_interrupted_run_resumes_to_the_same_bits(config, tmp_path):
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", pause_at=2)
    parts = train(config, tmp_path / "parts", resume=True)
    assert whole.step == parts.step == 5
    for name, tensor in whole.averaged.items():
        assert torch.equal(tensor, parts.averaged[name]), name
    files = [tmp_path / run / "weights.safetensors" for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()

    entries = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [3, 5]
    assert list((tmp_path / "whole").glob("events.out.tfevents*"))

    card = export(config, tmp_path / "whole", tmp_path / "trial")
    loaded = Checkpoint.load(tmp_path / "trial")
    assert loaded.card == card
    assert loaded.card.training["samples"] == 10
    assert loaded.card.distance_mm == (2.0, 5.0)


def test_a_run_that_was_killed_while_it_logged_resumes_and_is_exported(config, tmp_path):
    log = tmp_path / "run" / "log.jsonl"
    train(config, tmp_path / "run", pause_at=3)
    whole = log.read_text()
    log.write_text(
        whole + whole.replace('"step": 3', '"step": 4') + '{"step": 5, "lo'
    )  # the state was not saved
    # The card tells of the weights that there are.
    assert export(config, tmp_path / "run", tmp_path / "early").training["steps"] == 3
    assert (tmp_path / "early" / "log.jsonl").read_text() == whole
    train(config, tmp_path / "run", resume=True)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [3, 5]
    assert whole == log.read_text()[: len(whole)]
    assert entries[1]["seconds"] > entries[0]["seconds"]
    assert export(config, tmp_path / "run", tmp_path / "trial").training["steps"] == 5
    assert (tmp_path / "trial" / "log.jsonl").read_text() == log.read_text()


def torchrun(*words):
    """Run a script, or a module after -m, in two processes that train together."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *map(str, words),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def together(folder):
    """Return the folder of two processes' run, and what they exported in its ``checkpoint``."""
    run = folder / "together"
    torchrun(
        *("-m", "--", "mrisr_node.cli", "train", folder / "training.toml"),
        *("--run", run, "--export", run / "checkpoint"),
    )
    return run


def test_two_processes_train_what_one_trains(config, together, tmp_path):
    alone = train(config, tmp_path)
    weights = load_file(together / "weights.safetensors")
    for name, tensor in alone.averaged.items():
        assert torch.allclose(tensor, weights[name], atol=1e-4), name
    assert len((together / "log.jsonl").read_text().splitlines()) == 2
    assert Checkpoint.load(together / "checkpoint").card.name == "trial"


def test_two_interrupted_processes_resume_to_the_same_bits(folder, together, tmp_path):
    script = tmp_path / "begin.py"
    script.write_text(
        "from pathlib import Path\n"
        "from mrisr_node.superres.training import train\n"
        "from mrisr_node.superres.training_config import TrainingConfig\n"
        f"config = TrainingConfig.load(Path({str(folder / 'training.toml')!r}))\n"
        f"train(config, Path({str(tmp_path / 'run')!r}), pause_at=2)\n"
    )
    torchrun(script)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 2
    torchrun(
        *("-m", "--", "mrisr_node.cli", "train", folder / "training.toml"),
        *("--run", tmp_path / "run", "--resume"),
    )
    whole, parts = (run / "weights.safetensors" for run in (together, tmp_path / "run"))
    assert whole.read_bytes() == parts.read_bytes()


def test_the_samples_of_a_step_are_shared_evenly_or_not_at_all():
    shares = [World(rank, 2, torch.device("cpu")).share(4, 12, 4) for rank in range(2)]
    assert shares == [[4, 5, 8, 9], [6, 7, 10, 11]]
    with pytest.raises(SettingsError, match=r"6 samples .* 4 processes"):
        World(0, 4, torch.device("cpu")).share(0, 6, 6)


def test_resuming_where_nothing_was_trained_yet_starts(config, tmp_path):
    assert train(config, tmp_path, resume=True, pause_at=1).step == 1


def test_a_run_goes_on_with_the_settings_it_was_begun_with(config, tmp_path):
    train(config, tmp_path, pause_at=3)
    before = (tmp_path / "state.pt").read_bytes()
    other = dataclasses.replace(config, seed=2, batch=4)
    with pytest.raises(SettingsError, match="begun with another batch, seed"):
        train(other, tmp_path, resume=True)
    assert (tmp_path / "state.pt").read_bytes() == before
    elsewhere = dataclasses.replace(config, workers=1)  # makes the same samples
    assert train(elsewhere, tmp_path, resume=True).step == 5


def test_what_has_become_no_number_is_not_saved(config, tmp_path, monkeypatch):
    train(config, tmp_path, pause_at=3)
    before = {name: (tmp_path / name).read_bytes() for name in ("state.pt", "log.jsonl")}
    monkeypatch.setattr(
        "mrisr_node.superres.training.relative_error", lambda thin, _: thin.sum() * float("nan")
    )
    with pytest.raises(SettingsError, match="loss is nan at step 5"):
        train(config, tmp_path, resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_checkpoint_with_scores_is_not_exported_over(config, folder, tmp_path):
    train(config, tmp_path / "run")
    card = export(config, tmp_path / "run", tmp_path / "new")
    export(config, tmp_path / "run", tmp_path / "new")  # has no scores yet
    dataclasses.replace(card, scores=({"thickness_mm": 4.0},)).save(tmp_path / "new")
    with pytest.raises(SettingsError, match="new holds a checkpoint that was scored"):
        export(config, tmp_path / "run", tmp_path / "new")
    words = ["train", folder / "training.toml", "--run", tmp_path / "other"]
    done = CliRunner().invoke(app, [*map(str, words), "--export", str(tmp_path / "new")])
    assert done.exit_code != 0
    assert not (tmp_path / "other").exists()


def test_a_run_is_not_overwritten_by_accident(config, tmp_path):
    train(config, tmp_path, pause_at=1)
    with pytest.raises(SettingsError, match="--resume"):
        train(config, tmp_path)


def test_without_tensorboard_training_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    words = ["train", str(folder / "training.toml"), "--run", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "pip install 'mrisr-node[train]'" in " ".join(done.stderr.split())


def test_weights_of_another_shape_are_no_start(config, tmp_path):
    train(config, tmp_path / "run", pause_at=1)
    export(config, tmp_path / "run", tmp_path / "trial")
    assert (tmp_path / "trial" / "log.jsonl").is_file()
    narrower = {"width": 4, "blocks": 2, "in_plane_fold": 2}
    other = dataclasses.replace(config, start=tmp_path / "trial", arguments=narrower)
    with pytest.raises(SettingsError, match="start: trial does not fit"):
        train(other, tmp_path / "on")


@pytest.mark.parametrize(("blocks", "planar"), [(1, 0), (3, 0), (1, 2)])
def test_a_network_grows_from_a_smaller_one_without_a_change(tiny, blocks, planar):
    torch.manual_seed(1)
    tiny.network.geometry[2].weight.normal_(std=0.1)
    large = FoldedResidual(width=20, blocks=blocks, in_plane_fold=2, planar_blocks=planar)
    large.grow_from(tiny.network)
    folded, geometry = torch.rand(2, 8, 12, 10, 5), torch.rand(2, 3)
    assert torch.allclose(large(folded, geometry), tiny.network(folded, geometry), atol=1e-5)


def test_a_network_never_shrinks(tiny):
    with pytest.raises(ValueError, match="shrink"):
        tiny.network.grow_from(FoldedResidual(width=20, blocks=1, in_plane_fold=2))
    with pytest.raises(ValueError, match="added"):
        tiny.network.grow_from(FoldedResidual(width=4, blocks=2, in_plane_fold=2))
    planar = FoldedResidual(width=4, blocks=0, in_plane_fold=2, planar_blocks=1)
    with pytest.raises(ValueError, match="kernel"):
        tiny.network.grow_from(planar)


def test_training_goes_on_from_a_checkpoint(config, tmp_path):
    train(config, tmp_path / "run")
    export(config, tmp_path / "run", tmp_path / "trial")
    on = dataclasses.replace(config, start=tmp_path / "trial", steps=1, learning_rate=1e-9)
    state = train(on, tmp_path / "on")
    for name, tensor in load_file(tmp_path / "run" / "weights.safetensors").items():
        assert torch.allclose(state.averaged[name], tensor, atol=1e-3, rtol=1e-3), name  # rounded


def test_training_lowers_the_loss(config, tmp_path):
    long = dataclasses.replace(
        config,
        arguments={"width": 16, "blocks": 1, "in_plane_fold": 1},
        steps=300,
        validate_every=300,
        learning_rate=3e-3,
        ema=0.95,
        validation_samples=8,
        acquisition=AcquisitionRanges(noise=(0.0, 0.0), contrast_change=0.0, spacing_jitter=0.0),
    )
    train(long, tmp_path)
    assert json.loads((tmp_path / "log.jsonl").read_text())["gain_db"] > 0.02


def test_a_sample_depends_on_seed_and_index_alone(config, heads):
    def stream(seed):
        return Samples(heads, Acquire(config.acquisition, 16, 4), seed)

    first = stream(7)
    [first[index] for index in range(3)]  # what was drawn before must not matter
    again, other = stream(7)[5], stream(8)[5]
    assert torch.equal(first[5].thick, again.thick)
    assert torch.equal(first[5].thin, again.thin)
    assert not torch.equal(first[5].thick, other.thick)


def test_a_sample_is_an_acquisition_of_its_truth(heads):
    """With a known profile and no noise, the truth degraded again gives the inner slices."""
    ranges = AcquisitionRanges(
        noise=(0.0, 0.0), profile_error=0.0, thickness_ratio=(0.7, 0.7), sinc_profile=0.0
    )
    samples = Samples(heads, Acquire(ranges, 16, 4), seed=0)
    for index in range(20):
        sample = samples[index]
        again = sample.thin @ sample.operators.degrade
        inner = slice(1, -1)
        assert torch.allclose(again[..., inner], sample.thick[..., inner], atol=0.02)
        assert sample.thin.shape[-1] == len(sample.inner)


def test_thick_originals_are_never_the_sharp_axis(heads):
    for head in heads:
        assert head.data.mean() > 0.2  # scaled to about one inside
        assert head.data.flags.c_contiguous
    assert heads[1].spacing[2] == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(6))
def test_contrast_changes_keep_air_dark_and_the_scale(seed):
    random = np.random.RandomState(seed)
    image = np.linspace(0.0, 1.8, 4000, dtype=np.float32).reshape(10, 20, 20)
    changed = vary_contrast(image, random)
    assert changed.flat[0] == 0.0
    assert changed.min() > -0.05
    assert changed[image > 0.5].mean() == pytest.approx(1.0, abs=1e-3)
    assert np.abs(np.diff(changed.ravel())).max() < 0.05  # smooth


def test_a_volume_smaller_than_the_patch_is_padded(heads):
    samples = Samples(heads, Acquire(AcquisitionRanges(distance_mm=(7.0, 8.0)), 64, 8), seed=0)
    assert samples[0].thick.shape == (64, 64, 8)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("steps = 0", "steps: must be at least 1"),
        ("patch = 8", "patch: must be at least 9"),
        ("slices = 1", "slices: must be at least 2"),
        ("validation_samples = 0", "validation_samples: must be at least 1"),
        ('network = "os.system"', "network: 'os.system' is none of"),
        ("colour = 1", "unknown colour"),
        ("ema = 1.0", "ema"),
        ('network = "swin-unetr"', "not trained here"),
        ("arguments = { depth = 3 }", "arguments: .*depth"),
        ("arguments = { in_plane_fold = 4 }", "arguments: in_plane_fold must be 1 or 2, not 4"),
        ("steps = ", "wrong.toml: .*line 1"),
    ],
)
def test_a_wrong_setting_is_named(folder, line, reason):
    name = line.split(" =")[0]
    kept = [
        entry for entry in CONFIG.format(steps=5).splitlines() if not entry.startswith(f"{name} =")
    ]
    path = folder / "wrong.toml"
    path.write_text("\n".join([line, *kept]))
    with pytest.raises(SettingsError, match=reason):
        TrainingConfig.load(path)


def test_a_wrong_card_is_told_before_the_training(folder):
    path = folder / "card.toml"
    path.write_text(CONFIG.format(steps=5).replace('["T1w"]', '["CT"]'))
    with pytest.raises(CheckpointError, match="contrasts"):
        TrainingConfig.load(path)


@pytest.mark.parametrize(
    "values",
    [{"axes": "xq"}, {"axes": ""}, {"weight": 0.0}],
)
def test_a_wrong_source_is_an_error(values):
    with pytest.raises(ValueError, match="must be"):
        Source(**({"pattern": "*", "axes": "x", "weight": 1.0} | values))


def test_a_pattern_without_files_is_an_error(config):
    with pytest.raises(SettingsError, match="nothing"):
        load_sources(config.data, [Source("nothing*", "x", 1.0)])


def test_card_facts_have_defaults():
    assert CardFacts().patch % 2 == 0
