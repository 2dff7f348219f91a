"""How a published model takes recordings of any length, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch

from ecglib import EcgError, datasets, zoo
from ecglib.zoo.card import expanded, released


@pytest.fixture(scope="module")
def clef():
    return zoo.load("clef_small", "dummy")


@pytest.fixture(scope="module")
def merl():
    return zoo.load("merl", "dummy")


def signal(n, leads=1, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((1, leads, n)).astype(np.float32))


def test_longer_recordings_are_crops_averaged_and_the_remainder_dropped(clef):
    x = signal(17_000)
    with torch.inference_mode():
        expected = torch.stack([clef.features(x[..., k * 5000 : (k + 1) * 5000]) for k in range(3)]).mean(0)
        torch.testing.assert_close(clef(x), expected)


def test_padding_is_masked_or_fed_as_the_card_says(clef):
    x = torch.nn.functional.pad(signal(3100), (0, 1900))
    zeros = zoo.load("clef_small", "dummy")
    zeros.card = dataclasses.replace(zeros.card, short="zeros")
    with torch.inference_mode():
        torch.testing.assert_close(clef(x), clef.features(x[..., :3100]))
        torch.testing.assert_close(zeros(x), clef.features(x))
        torch.testing.assert_close(zeros(x[..., :3100]), clef.features(x))
        assert not torch.allclose(clef(x), zeros(x))


def test_a_record_does_not_depend_on_its_neighbours(merl):
    x = torch.zeros(4, 12, 12_000)
    for i, n in enumerate((12_000, 5000, 2600, 0)):
        x[i, :, :n] = signal(max(n, 1), 12, i)[0, :, :n]
    with torch.inference_mode():
        together = merl(x)
        alone = torch.cat([merl(x[i : i + 1, :, : max(n, 1000)]) for i, n in enumerate((12_000, 5000, 2600, 0))])
    torch.testing.assert_close(together[:3], alone[:3], atol=1e-5, rtol=1e-4)
    assert torch.isfinite(together).all()


def test_gradients_pass_for_fine_tuning(merl):
    x = signal(5000, 12).requires_grad_()
    merl(x).sum().backward()
    assert x.grad.abs().sum() > 0
    weight = merl.encoder.blocks[0].conv1[0].weight
    assert weight.grad is not None and weight.requires_grad
    merl.zero_grad()


def test_another_number_of_leads_is_refused(clef):
    with pytest.raises(EcgError, match="12 leads for clef_small.*give I"):
        clef(torch.zeros(1, 12, 5000))


def card(**changes):
    return dataclasses.replace(zoo.card("clef_small"), **changes)


def test_crops_of_a_recording_are_profiled_one_by_one():
    one = card(profile="ecgfounder-zeroshot")
    x = np.random.default_rng(0).standard_normal((1, 27_000)) * np.linspace(1, 3, 27_000)
    found = one.crops(x, 1000)
    assert found.shape == (2, 1, 5000) and found.dtype == np.float32
    expected = [one.chain.apply(x[:, k * 10_000 : (k + 1) * 10_000], 1000) for k in range(2)]
    np.testing.assert_array_equal(found, np.stack(expected))
    assert abs(found.mean((1, 2))).max() < 1e-5 and abs(found.std((1, 2)) - 1).max() < 1e-3


def test_a_whole_recording_is_scaled_before_it_is_cut():
    one = zoo.card("ecgfm")
    x = np.random.default_rng(0).standard_normal((12, 6500)) + np.linspace(0, 5, 6500)
    found = one.crops(x, 500)
    scaled = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(found, np.stack([scaled[:, :2500], scaled[:, 2500:5000]]), atol=1e-4)
    assert abs(found[0].mean()) > 0.5, "the halves keep their place on the scale of the whole"


FED = [
    ("clef_small", 3000, (1, 1, 3000)),
    ("ecgfounder", 3000, (1, 12, 5000)),
    ("ecgfm", 2000, (1, 12, 2000)),
    ("ecgjepa_kim", 3000, (1, 8, 1500)),
    ("heartlang", 5000, (1, 12, 1000)),
    ("merl", 5004, (1, 12, 5000)),
]


@pytest.mark.parametrize("name, n, shape", FED)
def test_shapes_of_what_each_model_is_fed(name, n, shape):
    one = zoo.card(name)
    x = np.random.default_rng(0).standard_normal((len(one.leads), n))
    assert one.crops(x, 500).shape == shape


def test_the_line_on_the_input_says_all_of_it():
    assert zoo.card("ecgfounder").input() == (
        "500 Hz, 10 s, 12 leads (I, II, III, aVR, aVL, aVF, V1 .. V6), mV; notch 50 Hz; band-pass 0.67 to 40 Hz, order "
        "4; minus a running median of 0.4 s; z-score of all leads together"
    )
    assert "aVF, aVL" in zoo.card("melp").input() and zoo.card("ecgjepa_kim").input().endswith("millivolt as they are")
    assert zoo.card("ecgjepa_weimann_s").input().endswith("each lead divided by its sd on PTB-XL, clipped at 5")


def test_keys_are_spelled_out():
    assert expanded("a.{0-1}.b{2+4}") == ["a.0.b2", "a.0.b4", "a.1.b2", "a.1.b4"]
    assert expanded("plain.weight") == ["plain.weight"]
    found = released("ecgjepa_kim")
    assert len(found) == 137 and found["encoder_blocks.blocks.11.mlp.fc1.weight"] == ((3072, 768), "float32")


def test_corpora_have_one_name_each():
    named = {corpus for one in zoo.cards() for corpus in one.corpora}
    named |= {datasets.get(name).CORPUS for name in datasets.names()} - {""}
    assert named | {"own"} == set(datasets.CORPORA)
