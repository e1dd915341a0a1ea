"""What bench/quality.py writes about a checkpoint."""

import json
import shlex
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mrisr_node.cli import app
from mrisr_node.superres.checkpoints import Card
from mrisr_node.volumes.geometry import Volume

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return import_module("quality")


@pytest.fixture
def recorded(quality, head, environment, tiny_folder, tmp_path, monkeypatch):
    """Return the card and the tables of a checkpoint that was measured once."""
    monkeypatch.chdir(tmp_path)
    middle = np.ascontiguousarray(head.data[14:42, 10:50, 16:44])
    Volume(middle, head.affine).save(tmp_path / "middle.nii.gz")
    words = (
        f"quality.py middle.nii.gz --slices 4/0.5 --noise 0.01 --profile sinc --record "
        f"--partial-fourier 0.75 --method cubic --method ours --method eclare "
        f"--checkpoint {tiny_folder} --eclare {environment} --eclare-patches 20000"
    )
    monkeypatch.setattr(sys, "argv", words.split())
    quality.main()
    return Card.load(tiny_folder / "card.json"), (tiny_folder / "scores.md").read_text()


def test_the_printed_command_makes_the_figures_again(recorded, environment, tiny_folder):
    card, tables = recorded
    [score] = card.scores
    [command] = [line for line in tables.splitlines() if line.startswith("    mrisr-node ")]
    places = {
        "HEADS…": "middle.nii.gz",
        "ENVIRONMENT": environment,
        "checkpoints/tiny": tiny_folder,
    }
    words = [str(places.get(word, word)) for word in shlex.split(command)[1:]]
    assert words[words.index("--eclare-patches") + 1] == "20000"
    assert words[words.index("--eclare-batch") + 1] == "16"
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    again = json.loads(done.stdout)
    for name in ("thickness_mm", "gap_mm", "axis", "noise", "profile", "partial_fourier"):
        assert again[name] == score[name]
    assert [s["method"] for s in again["summaries"]] == list(score["methods"])
    for summary in again["summaries"]:
        assert round(summary["psnr_db"][0], 3) == score["methods"][summary["method"]]["psnr_db"]


def test_what_is_usual_is_not_printed_and_each_eclare_has_a_command(quality, recorded):
    [score] = recorded[0].scores
    usual = score | {"noise": 0.0, "profile": "gaussian", "partial_fourier": 1.0}
    usual["methods"] = {"cubic": score["methods"]["cubic"]}
    assert quality.command(usual, "tiny") == (
        "mrisr-node evaluate HEADS… --thickness 4 --gap 0.5 --axis y --method cubic "
        "--checkpoint checkpoints/tiny"
    )
    eclare = score["methods"]["eclare, shortened (20,000 patches)"]
    usual["methods"] |= {"eclare": eclare, "eclare, shortened (2,000 patches)": {}}
    first, second = quality.commands(usual, "tiny")
    assert "--method cubic --method eclare --checkpoint" in first
    assert first.endswith("--eclare ENVIRONMENT --eclare-patches 1000000 --eclare-batch 16")
    assert "--axis y --method eclare --checkpoint" in second
    assert second.endswith("--eclare ENVIRONMENT --eclare-patches 2000")
    usual["methods"] = {"cubic": score["methods"]["cubic"]}
    assert "along y, no noise, middle only\n" in quality.tables(usual, "tiny")
    assert "along y, 1 % noise, sinc profile, partial Fourier 0.75, middle only\n" in recorded[1]


def test_seconds_and_memory_are_shown_where_they_are_known(quality, recorded):
    card, tables = recorded
    [score] = card.scores
    ours = score["methods"]["ours"]
    assert ours["seconds"] > 0
    assert ours["peak_mib"] >= 0
    assert f"| {ours['seconds']:.2f} | {ours['peak_mib']} |" in tables
    for name in ("seconds", "peak_mib"):  # as in what was recorded before they were
        del ours[name]
    [row] = [r for r in quality.tables(score, "tiny").splitlines() if r.startswith("| the network")]
    assert row.endswith("| – | – |")
    assert "probably the same person" in tables
