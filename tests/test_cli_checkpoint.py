"""``mrisr-node checkpoint``, as a user types it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from mrisr_node.cli import app
from mrisr_node.superres.networks import FoldedResidual

IMPORT = [
    "--network", "folded-residual", "--argument", "width=8", "--argument", "blocks=1",
    "--argument", "in_plane_fold=2", "--contrast", "T1w", "--contrast", "FLAIR",
    "--distance", "2", "6.5", "--description", "Random weights [of a test].",
]  # fmt: skip


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Return a function that runs ``mrisr-node checkpoint``, in a world with no checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRISR_CHECKPOINTS", str(tmp_path / "installed"))
    monkeypatch.setenv("MRISR_CHECKPOINT", "second")
    torch.manual_seed(8)
    torch.save(
        {"model_state_dict": FoldedResidual(width=8, blocks=1, in_plane_fold=2).state_dict()},
        tmp_path / "seed.pth",
    )
    return lambda *words: CliRunner().invoke(app, ["checkpoint", *map(str, words)])


def test_import_list_show_and_verify(typed, tmp_path, monkeypatch):
    for name in ("first", "second"):
        done = typed("import", "seed.pth", "--name", name, *IMPORT)
        assert done.exit_code == 0, done.output
    text = typed("list").stdout.splitlines()
    assert text[0].split()[:3] == ["use", "name", "version"]
    assert text[1].split()[:2] == ["1", "second"]
    assert text[2].split()[:2] == ["-", "first"]
    rows = json.loads(typed("list", "--json").stdout)
    assert [(row["name"], row["in_use"]) for row in rows] == [("second", 1), ("first", None)]
    assert rows[0]["contrasts"] == ["T1w", "FLAIR"]
    assert rows[0]["distance_mm"] == [2.0, 6.5]

    assert "Random weights [of a test]." in typed("show", "first").stdout
    card = json.loads(typed("show", "first", "--json").stdout)
    assert card["training"]["imported_from"] == "seed.pth"

    assert typed("verify").exit_code == 0
    weights = tmp_path / "installed" / "first" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = typed("verify")
    assert done.exit_code == 1
    assert "✓ second" in done.stdout
    assert "first: weights.safetensors is not the file that its card describes" in done.stderr
    assert typed("verify", "second").exit_code == 0

    (tmp_path / "installed" / "first" / "card.json").write_text("{}")
    assert "name: Field required" in typed("list").stdout
    # A path outside of the folder of installed checkpoints is one as well.
    (tmp_path / "installed" / "second").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("MRISR_CHECKPOINT", json.dumps([str(tmp_path / "elsewhere")]))
    assert typed("list").stdout.splitlines()[1].split()[:2] == ["1", "elsewhere"]
    assert typed("verify", "./elsewhere").exit_code == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["import", "seed.pth", "--name", "../x", *IMPORT], "name: "),
        (["import", "seed.pth", "--name", "x"], "network: Field required"),
        (["import", "seed.pth", "--name", "x", *IMPORT, "--argument", "width=9"], "head.weight"),
        (["import", "seed.pth", "--name", "x", *IMPORT, "--argument", "width"], "NAME=NUMBER"),
        (["import", "seed.pth", "--name", "x", *IMPORT, "--contrast", "T3w"], "contrasts.2: "),
        (["show", "x"], "x: card.json cannot be read"),
        (["verify", "x"], "x: card.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(typed, tmp_path, words, reason):
    done = typed(*words)
    assert done.exit_code in (1, 2)
    assert reason in done.stderr.replace("\n", " ")
    assert not (tmp_path / "installed" / "x").exists()
