import hashlib
import json

import pytest
import torch

from mrisr_node.errors import CheckpointError, OutOfRange
from mrisr_node.superres.checkpoints import Card, Checkpoint, save_checkpoint
from mrisr_node.superres.networks import FoldedResidual
from tests.superres.conftest import tiny_card


def test_a_card_survives_a_round_trip(tiny_folder):
    card = Card.load(tiny_folder / "card.json")
    assert card == tiny_card(weights_sha256=card.weights_sha256)


def test_the_digest_is_that_of_the_weights(tiny):
    assert len(tiny.digest) == 64
    assert not any(p.requires_grad for p in tiny.network.parameters())


def test_one_changed_bit_is_refused(tiny_folder):
    path = tiny_folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the file that its card describes"):
        Checkpoint.load(tiny_folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "card.json"])
def test_a_missing_file_is_named(tiny_folder, name):
    (tiny_folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Checkpoint.load(tiny_folder)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("network", "os.system"),
        ("arguments", {"width": 9}),
        ("arguments", {"colour": 9}),
        ("distance_mm", [2.0]),
        ("surprise", 1),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tiny_folder, entry, value):
    path = tiny_folder / "card.json"
    table = json.loads(path.read_text())
    table[entry] = value
    path.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="tiny"):
        Checkpoint.load(tiny_folder)


def test_a_card_that_is_no_json_is_refused(tiny_folder):
    (tiny_folder / "card.json").write_text("[1, 2")
    with pytest.raises(CheckpointError, match=r"card\.json"):
        Checkpoint.load(tiny_folder)


def test_weights_that_are_no_safetensors_are_refused(tiny_folder):
    (tiny_folder / "weights.safetensors").write_bytes(b"not weights")
    digest = hashlib.sha256(b"not weights").hexdigest()
    tiny_card(weights_sha256=digest).save(tiny_folder)
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint.load(tiny_folder)


def test_saving_twice_gives_the_same_digest(tmp_path):
    torch.manual_seed(0)
    weights = FoldedResidual(width=8, blocks=1).state_dict()
    cards = [save_checkpoint(tmp_path / name, weights, tiny_card()) for name in "ab"]
    assert cards[0].weights_sha256 == cards[1].weights_sha256


def test_what_it_was_trained_for_passes(tiny):
    tiny.card.check_range(distance_mm=5.5, thickness_mm=5.0, in_plane_mm=0.9, contrast="T1w")
    tiny.card.check_range(distance_mm=1.99, thickness_mm=2.0, in_plane_mm=0.9)  # rounding in a header


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ({"distance_mm": 12.0, "thickness_mm": 10.0}, "12.0 mm apart.*2 to 8 mm"),
        ({"distance_mm": 1.0, "thickness_mm": 1.0}, "1.0 mm apart"),
        ({"distance_mm": 6.0, "thickness_mm": 3.0}, "0.50 times the slice distance"),
        ({"distance_mm": 3.0, "thickness_mm": 6.0}, "2.00 times"),
        ({"in_plane_mm": 3.0}, "pixels measure 3.00 mm"),
        ({"contrast": "DWI"}, "image is DWI"),
    ],
)
def test_anything_else_is_refused_with_its_reason(tiny, series, reason):
    usual = {"distance_mm": 5.0, "thickness_mm": 5.0, "in_plane_mm": 0.9}
    with pytest.raises(OutOfRange, match=reason):
        tiny.card.check_range(**(usual | series))
