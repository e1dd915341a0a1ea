import hashlib
import json
import subprocess

import jsonschema
import pytest
import torch
from safetensors.torch import load_file

from mrisr_node.errors import CheckpointError, OutOfRange
from mrisr_node.settings import load_settings
from mrisr_node.superres.acceptance import verify
from mrisr_node.superres.card import Card, card_schema
from mrisr_node.superres.checkpoints import Checkpoint, choose, save_checkpoint
from mrisr_node.superres.networks import FoldedResidual
from tests.superres.conftest import tiny_card

SHIPPED = load_settings().checkpoints


def changed(folder, **entries):
    """Write other values into a card, past every check; ... takes a field away."""
    path = folder / "card.json"
    table = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({k: v for k, v in table.items() if v is not ...}))


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
    ("field", "value"),
    [
        ("name", "../tiny"),
        ("name", ".tiny"),
        ("name", "tiny\n"),
        ("name", "a" * 24),
        ("name", ...),
        ("version", 1),
        ("description", None),
        ("network", ""),
        ("network", "os.system"),
        ("arguments", {"width": 9.5}),
        ("arguments", {"width": -1}),
        ("arguments", {"colour": 9}),
        ("arguments", {"width": 8, "blocks": 1, "in_plane_fold": 4}),
        ("weights_sha256", "A" * 64),
        ("contrasts", []),
        ("contrasts", ["T1"]),
        ("contrasts", "T1w"),
        ("distance_mm", [2.0]),
        ("distance_mm", [8.0, 2.0]),
        ("distance_mm", ["2", 8.0]),
        ("thickness_ratio", [0.0, 1.0]),
        ("in_plane_mm", [0.5, float("inf")]),
        ("patch", 0),
        ("patch", 48.5),
        ("intensity", ""),
        ("data", [{"name": "heads"}]),
        ("data", {}),
        ("training", []),
        ("scores", {}),
        ("surprise", 1),
    ],
)
def test_a_wrong_field_of_a_card_is_named(tiny_folder, field, value):
    changed(tiny_folder, **{field: value})
    with pytest.raises(CheckpointError, match=rf"tiny: .*{field}"):
        Checkpoint.load(tiny_folder)


def test_a_card_that_could_not_be_read_again_is_not_written(tiny_folder):
    before = (tiny_folder / "card.json").read_text()
    with pytest.raises(CheckpointError, match="weights_sha256"):
        tiny_card().save(tiny_folder)
    assert (tiny_folder / "card.json").read_text() == before


@pytest.mark.parametrize("text", ["[1, 2", "[]", "", "\x00"])
def test_a_card_that_is_no_json_object_is_refused(tiny_folder, text):
    (tiny_folder / "card.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"card\.json"):
        Checkpoint.load(tiny_folder)


def test_the_published_schema_is_that_of_the_code():
    assert json.loads((SHIPPED / "card.schema.json").read_text()) == card_schema()


def test_what_is_shipped_keeps_to_the_schema_and_is_small():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=SHIPPED, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    cards = [SHIPPED / name for name in tracked if name.endswith("/card.json")]
    assert {card.parent for card in cards} >= set(load_settings().checkpoint_folders)
    for card in cards:
        jsonschema.validate(json.loads(card.read_text()), card_schema())
        assert Checkpoint.load(card.parent).card.headline
    assert sum((SHIPPED / name).stat().st_size for name in tracked) < 20e6


def test_weights_that_are_no_safetensors_are_refused(tiny_folder):
    (tiny_folder / "weights.safetensors").write_bytes(b"not weights")
    changed(tiny_folder, weights_sha256=hashlib.sha256(b"not weights").hexdigest())
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint.load(tiny_folder)


def test_weights_of_another_network_are_refused_with_what_differs(tiny_folder):
    changed(tiny_folder, arguments={"width": 8, "blocks": 2, "in_plane_fold": 1})
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(tiny_folder)
    for words in ("'folded-residual'", "body.1.first.weight is missing", "and 4 more"):
        assert words in str(caught.value)


def test_saving_twice_gives_the_same_digest(tmp_path):
    torch.manual_seed(0)
    weights = FoldedResidual(width=8, blocks=1).state_dict()
    cards = [save_checkpoint(tmp_path / name, weights, tiny_card()) for name in "ab"]
    assert cards[0].weights_sha256 == cards[1].weights_sha256


def test_a_sound_checkpoint_is_verified(tiny_folder):
    assert verify(tiny_folder).card.name == "tiny"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_give_no_numbers_are_found(tiny_folder, value):
    weights = load_file(tiny_folder / "weights.safetensors")
    weights["head.weight"][0, 0] = value
    save_checkpoint(tiny_folder, weights, tiny_card())
    with pytest.raises(CheckpointError, match="no numbers"):
        verify(tiny_folder)


USUAL = {"distance_mm": 5.0, "thickness_mm": 5.0, "pixel_mm": (0.9, 0.9)}


def test_what_it_was_trained_for_passes(tiny):
    tiny.card.check_range(distance_mm=5.5, thickness_mm=5.0, pixel_mm=(0.9, 0.9), contrast="T1w")
    tiny.card.check_range(
        distance_mm=1.99, thickness_mm=2.0, pixel_mm=(0.9, 0.9)
    )  # rounded in headers


USUAL = {"distance_mm": 5.0, "thickness_mm": 5.0, "pixel_mm": (0.9, 0.9)}


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ({"distance_mm": 12.0, "thickness_mm": 10.0}, "12.0 mm apart.*2 to 8 mm"),
        ({"distance_mm": 1.0, "thickness_mm": 1.0}, "1.0 mm apart"),
        ({"distance_mm": 6.0, "thickness_mm": 3.0}, "0.50 times the slice distance"),
        ({"distance_mm": 3.0, "thickness_mm": 6.0}, "2.00 times"),
        ({"pixel_mm": (3.0, 3.0)}, "pixels measure 3.00 mm"),
        ({"pixel_mm": (0.9, 2.2)}, "pixels measure 2.20 mm"),  # their mean would pass
        ({"pixel_mm": (0.3, 1.2)}, "pixels measure 0.30 mm"),
        ({"contrast": "DWI"}, "image is DWI"),
    ],
)
def test_anything_else_is_refused_with_its_reason(tiny, series, reason):
    with pytest.raises(OutOfRange, match=reason):
        tiny.card.check_range(**(USUAL | series))


@pytest.fixture
def several(tmp_path):
    """A checkpoint for T1w of 2 to 5 mm, one for FLAIR, and one for anything."""
    weights = FoldedResidual(width=8, blocks=1).state_dict()
    kinds = {
        "thin-t1": {"contrasts": ("T1w",), "distance_mm": (2.0, 5.0)},
        "flair": {"contrasts": ("FLAIR",), "distance_mm": (2.0, 5.0)},
        "any": {"contrasts": ("T1w", "T2w", "FLAIR"), "distance_mm": (2.0, 7.0)},
    }
    for name, ranges in kinds.items():
        save_checkpoint(tmp_path / name, weights, tiny_card(name=name, **ranges))
    return [tmp_path / name for name in kinds]


@pytest.mark.parametrize(
    ("series", "name"),
    [
        ({"contrast": "T1w"}, "thin-t1"),
        ({"contrast": "FLAIR"}, "flair"),
        ({"contrast": "T2w"}, "any"),
        ({"contrast": "T1w", "distance_mm": 6.0}, "any"),
        ({"contrast": None}, "thin-t1"),
        ({"contrast": None, "distance_mm": 6.0}, "any"),
    ],
)
def test_the_first_that_admits_the_series_is_chosen(several, series, name):
    assert choose(several, **(USUAL | series)).name == name


def test_where_none_admits_a_series_each_says_why(several):
    with pytest.raises(OutOfRange) as caught:
        choose(several, **USUAL, contrast="PDw")
    for name in ("thin-t1", "flair", "any"):
        assert f"the image is PDw, and checkpoint {name} is made for" in str(caught.value)


def test_a_damaged_card_is_not_passed_over(several):
    changed(several[0], patch=0)
    with pytest.raises(CheckpointError, match="thin-t1"):
        choose(several, **USUAL, contrast="FLAIR")


def test_settings_name_one_checkpoint_or_several(tmp_path, monkeypatch):
    monkeypatch.setenv("MRISR_CHECKPOINTS", str(tmp_path))
    monkeypatch.setenv("MRISR_CHECKPOINT", "/srv/one")
    assert [str(f) for f in load_settings().checkpoint_folders] == ["/srv/one"]
    monkeypatch.setenv("MRISR_CHECKPOINT", '["flair", "./any"]')
    assert [str(f) for f in load_settings().checkpoint_folders] == [str(tmp_path / "flair"), "any"]
    # As tests and the supervisor's children give them.
    assert load_settings(checkpoint=tmp_path).checkpoint == (str(tmp_path),)
    again = json.dumps(load_settings().model_dump(mode="json")["checkpoint"])
    monkeypatch.setenv("MRISR_CHECKPOINT", again)
    assert load_settings().checkpoint == ("flair", "./any")
