"""Age and sex beside an ECG: nothing at the start, nothing of their values where they count as missing."""

import numpy as np
import pytest
import torch
from torch import nn

from ecglib import EcgError, models, objectives
from ecglib.models.fusion import MetadataFusion
from ecglib.training.batches import Batch

META = {"age": torch.tensor([30.0, 70.0, torch.nan, 300.0]), "sex": torch.tensor([1.0, 0.0, 1.0, torch.nan])}


def learned(**options) -> MetadataFusion:
    torch.manual_seed(0)
    fusion = MetadataFusion(8, **options)
    nn.init.normal_(fusion.attention.out.weight)
    return fusion


def test_at_the_start_the_vector_passes_and_the_fusion_can_learn():
    torch.manual_seed(0)
    fusion, z = MetadataFusion(8), torch.randn(4, 8)
    made = fusion(z, META)
    assert torch.equal(made, z)
    made.square().sum().backward()
    assert fusion.attention.out.weight.grad.abs().sum() > 0


def test_what_is_missing_changes_nothing_whatever_its_value():
    fusion, z = learned(dropout=1.0).train(), torch.randn(4, 8)
    other = {"age": torch.full((4,), 20.0), "sex": torch.zeros(4)}
    assert torch.equal(fusion(z, META), fusion(z, other))
    assert torch.equal(fusion(z, META), fusion.eval()(z))
    assert not torch.equal(fusion(z, META), fusion(z))


def test_dropout_hides_whole_patients_at_its_rate_and_only_in_training():
    fusion = learned(dropout=0.2).train()
    many = {"age": torch.full((5000,), 40.0), "sex": torch.ones(5000)}
    hidden = (fusion.context(many, torch.zeros(5000, 8)) == fusion.missing).all(-1)
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert abs(hidden[:, 0].float().mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 5000)
    assert not (fusion.eval().context(many, torch.zeros(5000, 8)) == fusion.missing).all(-1).any()


def test_tokens_are_linear_in_the_scaled_value_up_to_a_limit():
    fusion = learned().eval()
    tokens = fusion.context(META, torch.zeros(4, 8))
    age, sex = fusion.name + 0 * fusion.value, fusion.value
    torch.testing.assert_close(tokens[0, 0], age[0] - 1.5 * sex[0])
    torch.testing.assert_close(tokens[3, 0], age[0] + 3.0 * sex[0])
    torch.testing.assert_close(tokens[1, 1], age[1] - sex[1])
    assert torch.equal(tokens[2, 0], fusion.missing[0]) and torch.equal(tokens[3, 1], fusion.missing[1])


def test_supervised_training_takes_it_and_changes_nothing_without():
    torch.manual_seed(1)
    x, there = torch.randn(4, 12, 500), torch.ones(4, 12, dtype=torch.bool)
    batch = Batch(x, there, torch.arange(4), META, [""] * 4, torch.randint(0, 2, (4, 3), dtype=torch.int8))

    def build(**params):
        return objectives.build("supervised", models.build("net1d"), n_labels=3, loss="bce", **params)

    plain, fused = build(), build(fusion={"dropout": 0.0})
    assert torch.equal(plain(batch)[0], fused(batch)[0]) and "fusion" not in plain.config
    nn.init.normal_(fused.fusion.attention.out.weight)
    fused.eval()
    assert not torch.equal(fused.logits(x, there), fused.logits(x, there, meta=META))
    with pytest.raises(EcgError, match="mixture"):
        build(fusion={}, mixup=0.4)
    with pytest.raises(EcgError, match="column"):
        build(fusion={"columns": ["shoes"]})
