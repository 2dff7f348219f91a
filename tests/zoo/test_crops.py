"""Shorter crops of published models: the features of the pieces, averaged, wherever a model is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_cohort import MemoryCohort
from test_embed import by_hand, run, write

from ecglib import EcgError, zoo
from ecglib.data.recording import LEADS
from ecglib.evaluation import embeddings
from ecglib.pipeline.cli import main
from ecglib.zoo import dummy

PUBLISHED = {"ecgfounder": 2.5, "ecgfounder_1lead": 2.5, "merl": 2.5, "ecgfm": 5, "ecgfm_finetuned": 5}
PUBLISHED |= {"ecgjepa_kim": 10, "stmem": 2.4, "ecgcpc": 2.5, "hubertecg_base": 5, "ked": 10}


@pytest.mark.parametrize(("name", "crop"), [("merl", "2.5"), ("clef_small", "3"), ("merl", "published")])
@pytest.mark.parametrize("seconds", [10, 14])
def test_features_are_the_mean_over_the_pieces_of_the_scaled_recording(name, crop, seconds):
    whole, model = zoo.load(name, "dummy"), zoo.load(f"{name}@{crop}", "dummy")
    fs, step = model.card.chain.fs, round(model.card.crop_s * model.card.chain.fs)
    x = dummy.pseudo_ecg(0, 0.9, 0.3, fs, round(seconds * fs))[[LEADS.index(lead) for lead in model.card.leads]]
    scaled = replace(whole.card.chain, seconds=seconds).apply(x, fs)
    number = int(seconds // model.card.crop_s)
    pieces = np.stack([scaled[:, k * step : (k + 1) * step] for k in range(number)])
    np.testing.assert_array_equal(model.card.crops(x, fs), pieces)
    with torch.no_grad():
        expected = whole.features(torch.from_numpy(pieces)).mean(0)
        torch.testing.assert_close(model(torch.from_numpy(scaled[None]))[0], expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(whole(torch.from_numpy(scaled[None]))[0], expected, rtol=1e-3)


def test_the_card_knows_the_crops_of_the_published_comparison():
    assert {card.name: card.published_crop_s for card in zoo.cards() if card.published_crop_s} == PUBLISHED
    for name, seconds in PUBLISHED.items():
        assert zoo.card(f"zoo:{name}@published").crop_s == seconds
        assert f"crops of {seconds:g} s" in zoo.facts(name)["published evaluations"]
        assert f"{seconds:g} s, " in zoo.card(f"{name}@published").input()
    assert zoo.card("ecgfm@published") == zoo.card("ecgfm@5") == zoo.card("ecgfm")


@pytest.mark.parametrize("crop", ["", "0", "0.9", "-2.5", "10.5", "nan", "inf", "2,5", "2.5 seconds", "whole"])
def test_crops_that_cannot_be_are_refused_before_any_work(crop, tmp_path, capsys):
    with pytest.raises(EcgError, match="give 1 to 10 seconds") as caught:
        zoo.load(f"merl@{crop}", "dummy")
    assert caught.value.field == "crop"
    if crop:
        out = tmp_path / "z.parquet"
        words = ["embed", "merl", str(tmp_path), "--weights", "dummy", "--out", str(out), "--crop", crop]
        assert main(words) == 2 and "give 1 to 10 seconds" in capsys.readouterr().err and not out.exists()


def test_nothing_published_is_no_silent_fallback():
    with pytest.raises(EcgError, match="no crops of 'published'"):
        zoo.card("clef_small@published")
    with pytest.raises(EcgError, match="no published model 'merls'"):
        zoo.card("merls@2.5")


@pytest.mark.parametrize(("crop", "n_crops"), [("2.5", [4, 6, 1]), ("published", [4, 6, 1]), ("", [1, 1, 1])])
def test_embed_averages_the_crops_and_its_file_says_which(tmp_path, crop, n_crops):
    for k, seconds in enumerate((10, 16, 4)):
        write(tmp_path / "in", f"r{k}", seconds, seed=k)
    out = tmp_path / "z.parquet"
    words = ["embed", "merl", str(tmp_path / "in"), "--weights", "dummy", "--out", str(out)]
    assert main(words + (["--crop", crop] if crop else [])) == 0
    model = zoo.load("merl" + (f"@{crop}" if crop else ""), "dummy")
    _, table, z, info = run(model, tmp_path / "in", tmp_path / "other.parquet")
    assert list(table.n_crops) == n_crops and f"500 Hz, {2.5 if crop else 10:g} s" in info["input"]
    for k in range(3):
        np.testing.assert_allclose(z[k], by_hand(model, tmp_path / f"in/r{k}"), rtol=1e-3, atol=1e-4)


def test_kept_features_of_other_crops_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGLIB_CACHE", str(tmp_path))
    cohort = MemoryCohort(6)
    cohort.content, cohort.info = "x", {}
    z = {}
    for name in ("merl", "merl@2.5", "merl@5", "merl"):
        model = zoo.load(name, "dummy")
        z.setdefault(name, []).append(embeddings.features(model, cohort, [0, 1], model.card.leads, model.card.chain))
    np.testing.assert_array_equal(*z["merl"])
    assert not np.allclose(z["merl"][0], z["merl@2.5"][0]) and not np.allclose(z["merl@5"][0], z["merl@2.5"][0])
