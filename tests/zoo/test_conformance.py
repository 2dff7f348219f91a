"""The conformance packs, all of them, and that what is wrong in a network, an input or a table makes them fail."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ecglib import EcgError, zoo
from ecglib.models import layers
from ecglib.models.encoders import beat_transformer, net1d, resnet1d, vit1d, wav2vec
from ecglib.zoo import conformance, dummy
from ecglib.zoo.card import released

HERE = Path(__file__).parents[1] / "packs"  # keys and shapes lie in ecglib/zoo; outputs above 32 kB are left out
MODELS = {card.pack: card.name for card in zoo.cards() if card.pack and not card.unproven}


@pytest.fixture(scope="session")
def folder(request) -> Path:
    """The full packs where they are there, else those stored beside the tests."""
    try:
        full = request.getfixturevalue("real_data").parent / "conformance"
    except pytest.skip.Exception:
        return HERE
    return full if full.is_dir() else HERE


@pytest.mark.parametrize("pack", sorted(MODELS))
def test_every_model_computes_the_published_function(pack, folder):
    table = conformance.verify(folder / pack)
    assert table.passed.all(), table[~table.passed].to_string()
    outputs = table[table.limit == conformance.TOLERANCE]
    assert set(table.what) >= {"tensors"} and (outputs.error < 2e-6).all()  # the references round by 1e-6 or less
    if pack != "stmem_vit_base":
        stored = {f.name.removesuffix("_A.npy") for f in (folder / pack).glob("*_A.npy") if "input_" not in f.name}
        assert stored <= set(table.what) and {"output", "dummy weights", "dummy inputs"} <= set(table.what)


def test_packs_for_all_cards_and_no_other():
    assert sorted(path.name for path in conformance.packs(HERE)) == sorted(MODELS)


@pytest.fixture
def pack(tmp_path):
    """Function: a writable copy of a small pack."""

    def copied(name):
        shutil.copytree(HERE / name, tmp_path / name)
        return tmp_path / name

    return copied


def failed(folder) -> set[str]:
    table = conformance.verify(folder)
    return set(table.what[~table.passed])


@pytest.mark.parametrize("name", ["merl_resnet18", "ecgjepa_weimann_vits", "ecgfounder_12lead"])
def test_a_swapped_lead_pair_fails(name, monkeypatch):
    card = zoo.card(MODELS[name])
    leads = list(card.leads)
    leads[4], leads[5] = leads[5], leads[4]
    changed = (dataclasses.replace(card, leads=tuple(leads)),)
    monkeypatch.setattr(zoo, "_cards", lambda family: changed)
    assert "output" in failed(HERE / name)


def later_padding(self, x):
    """SameConv with the larger half of the zeros in front."""
    total = max(0, (-(-x.shape[-1] // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - x.shape[-1])
    x = F.pad(x, (total - total // 2, total // 2))
    return F.conv2d(x, self.weight.unsqueeze(2), self.bias, (1, self.stride[0]), 0, 1, self.groups)


def test_the_wrong_padding_side_fails(monkeypatch):
    monkeypatch.setattr(net1d.SameConv, "forward", later_padding)
    assert "output" in failed(HERE / "clef_small")


def test_minus_infinity_beside_the_pool_fails(monkeypatch):
    def shortcut(self, x):
        x = F.max_pool2d(x, (1, 2), ceil_mode=True) if self.stride == 2 else x
        return F.pad(x, (0, 0, 0, 0, self.grow // 2, self.grow - self.grow // 2)) if self.grow else x

    monkeypatch.setattr(net1d.Block, "shortcut", shortcut)
    assert "output" in failed(HERE / "clef_small")


def test_positions_cut_at_the_other_end_fail(monkeypatch):
    def forward(self, x):
        weight = self.weight * (self.gain / self._norm())
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.padding, groups=self.groups)
        return F.gelu(y[..., 1:]).transpose(1, 2)

    monkeypatch.setattr(wav2vec.Position, "forward", forward)
    assert "probe_feature" in failed(HERE / "melp_ecg_encoder")


def test_another_kernel_size_does_not_even_load(monkeypatch):
    monkeypatch.setitem(net1d.SIZES, "clef_small", net1d.SIZES["clef_small"] | {"kernel": 15})
    with pytest.raises(EcgError, match="size mismatch"):
        conformance.verify(HERE / "clef_small")


def test_a_wrong_table_a_wrong_number_and_another_seed_fail(pack):
    folder = pack("clef_small")
    keys = released("clef_small")
    lines = [f"{key},{'x'.join(map(str, shape))},{dtype}" for key, (shape, dtype) in keys.items()]
    (folder / "keys.csv").write_text("\n".join(["key,shape,dtype", *lines]) + "\n")
    assert failed(folder) == set()
    (folder / "keys.csv").write_text("\n".join(["key,shape,dtype", *lines[:-1], "extra.weight,3,float32"]) + "\n")
    assert failed(folder) == {"tensors"}
    (folder / "keys.csv").unlink()
    np.save(folder / "output_A.npy", np.load(folder / "output_A.npy") * (1 + 2e-4))
    assert failed(folder) == {"output"}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["input"]["set_A"]["seed"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "dummy inputs" in failed(folder)


def test_other_seeds_and_lengths_are_taken_from_the_manifest(pack):
    """A pack made anew with our own outputs for another seed and length passes, and only with that length."""
    folder = pack("clef_small")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["input"] |= {"samples": 3001, "set_A": {"seed": 7, "rr": 0.7, "b0": 0.2}}
    manifest.pop("input_check_A")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    x = np.stack([dummy.pseudo_ecg(7 + r, 0.7 + 0.09 * r, 0.2 + 0.05 * r, 500, 3001)[:1] for r in range(2)])
    x = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-8)
    with torch.inference_mode():
        z = zoo.load("clef_small", "dummy").features(torch.from_numpy(x.astype(np.float32)))
    np.save(folder / "output_A.npy", z.numpy())
    assert failed(folder) == set()


def test_what_is_no_pack_is_refused(tmp_path, pack):
    with pytest.raises(EcgError, match="no conformance pack"):
        conformance.verify(tmp_path)
    folder = pack("clef_small")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"pack": "other"}))
    table = conformance.verify(folder)
    assert not table.passed.any() and "no model belongs" in table.note[0]
    with pytest.raises(EcgError, match="no pack of merl"):
        conformance.verify(HERE / "clef_small", ["merl"])


def test_outputs_that_are_announced_additional_or_none_at_all_fail(pack):
    folder = pack("clef_small")
    manifest = json.loads((folder / "manifest.json").read_text())
    outputs = {"output_A.npy": {}, "tokens_A.npy": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"outputs": outputs}))
    assert failed(folder) == {"tokens"}
    np.save(folder / "tokens_A.npy", np.zeros((2, 3), np.float32))
    assert failed(folder) == {"tokens"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for file in folder.glob("*_A.npy"):
        file.unlink()
    assert failed(folder) == {"output"}
    manifest.pop("recipe_check")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "dummy weights" not in set(conformance.verify(folder).what), "what was not checked is not claimed"


def test_leads_are_those_of_the_pack(pack):
    single, twelve = pack("clef_small"), pack("merl_resnet18")
    for folder, leads in ((single, ["II"]), (twelve, list(zoo.card("ecgfounder").leads))):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["input"]["leads"] = leads
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert {"output", "dummy inputs"} <= failed(single), "another lead, so another output"
    assert "leads" in failed(twelve)


def test_what_is_made_of_codes_may_differ_where_a_code_does():
    found = [("codes", 0.002, 0.01, ""), ("project_q_mean", 0.02, 1e-4, ""), ("output", 1e-3, 1e-4, "")]
    assert [limit for _, _, limit, _ in conformance._relaxed(found)] == [0.01, 0.05, 1e-4]
    same = [("codes", 0.0, 0.01, ""), *found[1:]]
    assert conformance._relaxed(same) == same
    many = [("codes", 0.5, 0.01, ""), *found[1:]]
    assert conformance._relaxed(many) == many


def unmasked(self, index, n):
    return None


def blocks(positions, dim, interleaved=False):
    return layers.sincos(positions, dim)


def cut_off(self, words, hidden=None, mask_token=None, bare=False):
    """Zeros beyond the first and the last word in place of each other."""
    self.embed.padding_mode = "zeros"
    return original(self, words, hidden, mask_token, bare)


original = beat_transformer.Sentence.forward
MUTATIONS = [
    ("ecgjepa_kim", vit1d.Encoder, "mask", unmasked, "output"),
    ("ecgjepa_weimann_vits", vit1d, "sincos", blocks, "output"),
    ("heartlang", beat_transformer.Sentence, "forward", cut_off, "output"),
    ("merl_resnet18", resnet1d.F, "relu", F.leaky_relu, "proj"),
]


@pytest.mark.parametrize("name, place, what, wrong, output", MUTATIONS, ids=[m[0] for m in MUTATIONS])
def test_a_wrong_step_of_each_kind_of_network_fails(name, place, what, wrong, output, monkeypatch):
    monkeypatch.setattr(place, what, wrong)
    assert output in failed(HERE / name)


def test_indices_may_differ_in_one_place_of_a_hundred():
    ours = torch.zeros(1000, dtype=torch.int64)
    theirs = np.zeros(1000, np.int32)
    theirs[:10] = 1
    assert conformance.compare(ours, theirs)[:2] == (0.01, 1 - conformance.AGREEING)
    theirs[:11] = 1
    error, limit, _ = conformance.compare(ours, theirs)
    assert error > limit
    assert conformance.compare(torch.ones(2, 3), np.ones((2, 4), np.float32))[0] == np.inf
