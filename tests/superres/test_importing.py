"""Weights that PyTorch has saved become checkpoints; anything else in a .pth is refused."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from mrisr_node.errors import CheckpointError
from mrisr_node.superres.checkpoints import Checkpoint, installed
from mrisr_node.superres.importing import card_from, import_checkpoint, read_pth
from mrisr_node.superres.networks import FoldedResidual, build_network

FACTS = {
    "network": "folded-residual",
    "arguments": {"width": 8, "blocks": 1, "in_plane_fold": 2},
    "contrasts": ["T1w"],
    "distance_mm": (2.0, 8.0),
}


class Hostile:
    """Makes a file where its pickle is loaded by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def weights():
    torch.manual_seed(5)
    return FoldedResidual(**FACTS["arguments"]).state_dict()


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_come_through_unchanged(tmp_path, weights, nested, prefix):
    content = {prefix + name: tensor for name, tensor in weights.items()}
    file = tmp_path / "seed.pth"
    torch.save({"model_state_dict": content, "epoch": 7} if nested else content, file)
    made = import_checkpoint(file, tmp_path / "installed", card_from("seed", **FACTS))
    [folder] = installed(tmp_path / "installed")
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "weights.safetensors"]
    loaded = Checkpoint.load(folder)
    assert loaded.digest == made.digest
    assert loaded.card.training["imported_from"] == "seed.pth"
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_pickled_code_is_refused_and_not_run(tmp_path, weights):
    touched = tmp_path / "touched"
    file = tmp_path / "hostile.pth"
    torch.save({"model_state_dict": weights, "note": Hostile(touched)}, file)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Hostile(touched), protocol=2))
    for path in (file, plain):
        with pytest.raises(CheckpointError, match=f"{path.name}: refused.*nothing of it was run"):
            import_checkpoint(path, tmp_path / "installed", card_from("hostile", **FACTS))
    assert not touched.exists()
    assert not (tmp_path / "installed").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(tmp_path, content):
    file = tmp_path / "odd.pth"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"odd\.pth"):
        read_pth(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "no weights"),
        ([torch.zeros(1)], "no weights"),
        ({"model_state_dict": {}}, "no weights"),
        ({"epoch": 7, "weights": {"a": torch.zeros(1)}}, "epoch, weights"),
    ],
)
def test_a_file_without_a_state_dict_says_so(tmp_path, content, reason):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=reason):
        read_pth(tmp_path / "odd.pth")


def test_weights_of_another_network_are_listed(tmp_path, weights):
    del weights["tail.bias"]
    weights["extra"] = torch.zeros(2)
    weights["head.weight"] = weights["head.weight"][:4]
    torch.save(weights, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(tmp_path / "odd.pth", tmp_path / "installed", card_from("odd", **FACTS))
    for words in (
        "tail.bias is missing", "extra is not in the network", "head.weight has shape (4, ",
    ):  # fmt: skip
        assert words in str(caught.value)
    assert installed(tmp_path / "installed") == []


def test_a_network_whose_results_are_no_numbers_is_not_installed(tmp_path, weights):
    weights["tail.bias"][0] = float("nan")
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="no numbers"):
        import_checkpoint(tmp_path / "nan.pth", tmp_path / "installed", card_from("nan", **FACTS))
    assert list((tmp_path / "installed").iterdir()) == []


def test_an_installed_checkpoint_is_never_replaced(tmp_path, weights):
    torch.save(weights, tmp_path / "one.pth")
    import_checkpoint(tmp_path / "one.pth", tmp_path / "installed", card_from("one", **FACTS))
    with pytest.raises(CheckpointError, match="one is installed already"):
        import_checkpoint(tmp_path / "one.pth", tmp_path / "installed", card_from("one", **FACTS))


@pytest.mark.parametrize("name", ["../one", "/tmp/one", ".one", "a/b", "a b", "", "-one", "o" * 24])
def test_a_name_is_never_a_path(name):
    with pytest.raises(CheckpointError, match="name: "):
        card_from(name, **FACTS)


def test_a_card_comes_from_toml_or_json_and_options_are_stronger(tmp_path):
    (tmp_path / "card.json").write_text(json.dumps(FACTS | {"patch": 64}))
    (tmp_path / "card.toml").write_text(
        'network = "folded-residual"\ncontrasts = ["T1w"]\ndistance_mm = [2.0, 8.0]\npatch = 64\n'
        "arguments = { width = 8, blocks = 1, in_plane_fold = 2 }\n"
    )
    cards = [card_from("one", tmp_path / f"card.{kind}", patch=None) for kind in ("json", "toml")]
    assert cards[0] == cards[1]
    assert card_from("one", tmp_path / "card.toml", patch=128).patch == 128
    with pytest.raises(CheckpointError, match="contrasts: Field required; distance_mm: Field"):
        card_from("one", network="folded-residual")
    (tmp_path / "card.toml").write_text("= 3")
    with pytest.raises(CheckpointError, match="cannot be read"):
        card_from("one", tmp_path / "card.toml")


def test_a_swin_unetr_of_the_seed_project_is_imported(tmp_path):
    torch.manual_seed(6)
    network = build_network("swin-unetr", {"feature_size": 12})
    torch.save({"model_state_dict": network.state_dict()}, tmp_path / "swin.pth")
    facts = FACTS | {"network": "swin-unetr", "arguments": {"feature_size": 12}, "patch": 64}
    made = import_checkpoint(tmp_path / "swin.pth", tmp_path, card_from("swin", **facts))
    assert Checkpoint.load(tmp_path / "swin").digest == made.digest
