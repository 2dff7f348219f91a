"""Frozen features are kept by content: asked again they cost nothing, and whatever changes is computed anew."""

import shutil

import numpy as np
import pytest
import torch
from memory_cohort import MemoryCohort

from ecglib import EcgError, models
from ecglib.data import files
from ecglib.evaluation import embeddings
from ecglib.training import batches
from ecglib.zoo import model as zoo


class Counted(torch.nn.Module):
    """An encoder that states its content and counts what it is asked."""

    def __init__(self, content="weights"):
        super().__init__()
        self.encoder, self.content, self.asked = models.build("net1d", "small", 12), content, 0

    def forward(self, x):
        self.asked += len(x)
        return self.encoder(x)


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGLIB_CACHE", str(tmp_path / "cache"))
    made = MemoryCohort(6)
    made.content = "signals"
    return made


def test_a_second_probe_costs_nothing(cohort):
    model, rows = Counted(), np.array([4, 1, 2])
    z = embeddings.features(model, cohort, rows)
    assert model.asked == 3 and z.shape == (3, 128)
    again = embeddings.features(Counted(), cohort, rows)
    np.testing.assert_array_equal(again, z)
    other = Counted()
    np.testing.assert_array_equal(embeddings.features(other, cohort, rows), z)
    assert other.asked == 0


def test_what_changes_is_computed_anew(cohort, monkeypatch):
    rows = np.arange(3)
    embeddings.features(Counted(), cohort, rows)
    for model, which, leads, profile in (
        (Counted(), rows[::-1].copy(), None, "study"),
        (Counted(), rows, cohort.leads[::-1], "study"),
        (Counted(), rows, None, "ecgfounder-zeroshot"),
    ):
        cohort.valid = lambda rows: np.full(len(rows), 1000)
        embeddings.features(model, cohort, which, leads, profile)
        assert model.asked == len(which)
    cohort.content = "other signals"
    model = Counted()
    embeddings.features(model, cohort, rows)
    monkeypatch.setattr(embeddings, "_code", lambda *_: "another library")
    embeddings.features(model, cohort, rows)
    assert model.asked == 6


def test_an_encoder_that_was_trained_since_is_another(cohort):
    model = Counted()
    before = embeddings.features(model, cohort, np.arange(2))
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    assert not np.allclose(embeddings.features(model, cohort, np.arange(2)), before) and model.asked == 4


def test_what_states_no_content_is_not_kept(cohort, tmp_path):
    model = Counted(content="")
    embeddings.features(model, cohort, np.arange(2))
    embeddings.features(model, cohort, np.arange(2))
    assert model.asked == 4 and not list((tmp_path / "cache").rglob("*.npy"))


def test_only_the_code_that_makes_features_is_in_the_key(cohort, tmp_path, monkeypatch):
    library = tmp_path / "ecglib"
    shutil.copytree(embeddings.LIBRARY, library, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(embeddings, "LIBRARY", library)

    def key(model=None):
        embeddings._hashed.cache_clear()
        return embeddings._kept_file(model or Counted(), cohort, np.arange(3), None, "study", "cpu")

    published = zoo.Model.__new__(zoo.Model)
    torch.nn.Module.__init__(published)
    published.content = "weights"
    before, of_published = key(), key(published)
    for name in ("reporting/figures.py", "pipeline/cli.py", "evaluation/metrics.py", "zoo/onnx_export.py"):
        edit(library / name)
        assert (key(), key(published)) == (before, of_published), name
    edit(library / "zoo/model.py")
    assert key() == before and key(published) != of_published
    for name in ("models/layers.py", "models/encoders/net1d.py", "data/filters.py", "training/batches.py"):
        previous = key()
        edit(library / name)
        assert key() != previous, name


def edit(file):
    file.write_text(file.read_text() + "\n# edited\n")


def test_inference_gives_every_row_once_and_leaves_the_training_mode(cohort):
    encoder = models.build("resnet1d", "small", 12).train()
    frozen = next(encoder.children()).eval()
    x = torch.randn(7, 12, 200, generator=torch.Generator().manual_seed(0))
    z = batches.run_inference(encoder, encoder, x, batch_size=3)
    assert encoder.training and not frozen.training and not z.requires_grad
    with torch.no_grad():
        np.testing.assert_allclose(z, encoder.eval()(x), atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_stop_with_the_record_and_are_not_kept(cohort, value):
    class Broken(Counted):
        def forward(self, x):
            z = super().forward(x)
            z[1, 0] = value
            return z

    with pytest.raises(EcgError, match="1 of 3 rows, such as A0001") as caught:
        embeddings.features(Broken(), cohort, np.array([4, 1, 2]))
    assert caught.value.field == "features" and not list(files.cache_dir().rglob("*.npy"))


def plain_statistics(tokens):
    """Mean, maximum and standard deviation of one record's tokens, (token, dim), one column at a time."""
    real = [row for row in tokens if any(row != 0)]
    columns = list(zip(*real, strict=True))
    means = [sum(column) / len(column) for column in columns]
    deviations = [
        np.sqrt(sum((v - m) ** 2 for v in column) / len(column)) for column, m in zip(columns, means, strict=True)
    ]
    return np.array([*means, *(max(column) for column in columns), *deviations])


def test_statistics_of_tokens_leave_padding_out():
    tokens = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0)) - 2
    tokens[1, 5:], tokens[2] = 0, 0
    z = embeddings.statistics(tokens)
    for record in (0, 1):
        np.testing.assert_allclose(z[record], plain_statistics(tokens[record].numpy()), rtol=1e-4)
    assert not z[2].any()


@pytest.mark.parametrize("name", ["net1d", "vit1d", "wav2vec", "convnext1d", "beat_transformer", "unet1d", "xresnet1d"])
def test_poolings_of_every_kind_of_encoder_come_from_one_pass(name, cohort):
    encoder, rows = models.build(name, "small", 12).eval(), np.array([5, 0, 3])
    data = batches.CohortData(cohort, rows)
    batch = data.batch(np.arange(3))
    zs = embeddings.poolings(encoder, cohort, rows)
    with torch.no_grad():
        z = models.embed(encoder, batch.x, batch.lead_mask, batch.peaks)
        tokens = models.tokens(encoder, batch.x, batch.lead_mask, batch.peaks)
    np.testing.assert_allclose(zs["own"], z, atol=1e-4)
    np.testing.assert_allclose(zs["mean+max+sd"][1], plain_statistics(tokens[1].numpy()), atol=1e-4)
    layered = {"vit1d", "wav2vec"}
    assert set(zs) == {"own", "mean+max+sd"} | ({"two layers"} if name in layered else set())
    if name in layered:  # the last layer, then one half-way
        width = zs["mean+max+sd"].shape[1]
        assert np.array_equal(zs["two layers"][:, :width], zs["mean+max+sd"])
        assert zs["two layers"].shape[1] == 2 * width and not np.allclose(
            zs["two layers"][:, width:], zs["mean+max+sd"]
        )
    if name == "beat_transformer":  # packed R peaks are given to it
        cohort.peaks = lambda row: np.array([100, 300])
        assert not np.allclose(embeddings.poolings(encoder, cohort, rows)["own"], z, atol=1e-3)
