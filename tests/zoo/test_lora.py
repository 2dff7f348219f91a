"""Low-rank adapters: equal to the network at the start, to the formula later, merged without a trace, and kept."""

import copy
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from crude_corpus import tall_or_not
from safetensors.torch import load_file

from ecglib import EcgError, models, objectives, zoo
from ecglib.data import cohort
from ecglib.data.profiles import profile
from ecglib.data.recording import LEADS
from ecglib.evaluation import classifiers, fitting
from ecglib.pipeline.cli import main
from ecglib.training.batches import CohortData
from ecglib.zoo import fit, kept, lora

FS = 100
TINY = {"widths": (8, 8, 16, 16), "stem": 8, "group_width": 4}
QUICK = fitting.Recipe("a test", 0.01, 0.01, 8, 2, 10, objective={"loss": "bce", "pooling": "mean+max"})
CHILD = """
import os, signal, sys
from ecglib.evaluation import fitting
from ecglib.zoo import fit
fitting.SHOWN_S = -1
learned = {"loss": "bce", "pooling": "mean+max"}
fitting.RECIPES["quick"] = fitting.Recipe("a test", 0.01, 0.01, 8, 2, 10, objective=learned)
def progress(line):
    if line.startswith("5 of "):
        os.kill(os.getpid(), signal.SIGKILL)
settings = fit.Settings(sys.argv[2], how="lora", recipe="quick", rank=2, min_positives=2)
fit.run(sys.argv[1], sys.argv[3], settings, progress)
"""


def quiet(line):
    pass


@pytest.fixture
def encoder():
    return models.build("net1d", "small", 12, **TINY).eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """24 recordings, tall or not, packed; two encoders, one with batch normalisation."""
    root = tmp_path_factory.mktemp("lora")
    tall_or_not(root, 24, FS)
    facts = dict(leads=list(LEADS), profile="study", cohorts=["elsewhere"], splits=[["pretrain"]])
    for name, sizes in (("net1d", TINY), ("resnet1d", {})):
        models.save(models.build(name, "small", 12, **sizes), root / name, objective={"objective": "byol"}, **facts)
    return root


@pytest.mark.parametrize("name", ["net1d", "resnet1d", "vit1d", "wav2vec", "convnext1d", "s4d", "unet1d"])
def test_an_adapted_network_starts_as_the_original_and_merges_into_a_plain_one(name):
    x = torch.randn(2, 12, 1000, generator=torch.Generator().manual_seed(0))
    plain = models.build(name, "small", 12).eval()
    network = copy.deepcopy(plain)
    adapters = lora.Adapters(network, 2, 4.0)
    with torch.no_grad():
        assert torch.equal(network(x), plain(x))
        for layer in adapters.layers.values():
            layer.parametrizations.weight[0].up.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        adapted = network(x)
        assert (adapted - plain(x)).abs().max() > 1e-3
        adapters.merge()
        assert torch.equal(network(x), adapted)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert shapes == {key: value.shape for key, value in plain.state_dict().items()}


def test_the_correction_is_that_of_the_paper():
    """Of a linear layer W x + alpha / rank * B (A x); of a convolution the same as two convolutions in a row."""
    random = torch.Generator().manual_seed(0)
    linear, conv = torch.nn.Linear(20, 30), torch.nn.Conv1d(6, 10, 5, stride=2)
    network = torch.nn.Sequential(conv, linear)
    before = [layer.weight.detach().clone() for layer in (conv, linear)]
    lora.Adapters(network, 3, 12.0)
    parts = [layer.parametrizations.weight[0] for layer in (conv, linear)]
    for part in parts:
        torch.nn.init.normal_(part.up, generator=random)
    x, y = torch.randn(4, 20, generator=random), torch.randn(4, 6, 50, generator=random)
    up, down = parts[1].up.detach().numpy(), parts[1].down.detach().numpy()
    wanted = x.numpy() @ before[1].numpy().T + 12 / 3 * (x.numpy() @ down.T) @ up.T + linear.bias.detach().numpy()
    np.testing.assert_allclose(linear(x).detach(), wanted, rtol=1e-4, atol=1e-5)
    low = torch.nn.functional.conv1d(y, parts[0].down.view(3, 6, 5), stride=2)
    wanted = torch.nn.functional.conv1d(y, before[0], conv.bias, stride=2)
    wanted = wanted + 12 / 3 * torch.nn.functional.conv1d(low, parts[0].up[..., None])
    torch.testing.assert_close(conv(y), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["net1d", "resnet1d"])
def test_training_changes_adapters_and_head_alone(place, name):
    """Statistics of batch normalisation, which resnet1d has, stay too: they would change the network for all."""
    network = models.load(place / name)[0]
    before = copy.deepcopy(network.state_dict())
    adapters = lora.Adapters(network, 2, 4.0)
    objective = objectives.build("supervised", network, n_labels=1, loss="bce")
    free = {key for key, value in objective.named_parameters() if value.requires_grad}
    assert all(key.startswith("head.") or key.endswith((".up", ".down")) for key in free)
    assert adapters.trained == sum(p.numel() for k, p in objective.named_parameters() if k in free and "head" not in k)
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer, x = torch.optim.AdamW(trained, lr=0.01), torch.randn(4, 12, 500)
    for _ in range(3):
        objective.train()
        torch.nn.functional.softplus(-objective.logits(x)).sum().backward()
        optimizer.step()
    after = network.state_dict()
    moved = [key for key in before if key in after and not torch.equal(before[key], after[key])]
    originals = [key for key in after if key.endswith("original")]
    assert moved == [] and len(originals) == len(adapters.layers)
    for key in originals:
        assert torch.equal(after[key], before[key.replace("parametrizations.weight.original", "weight")])
    assert all(layer.parametrizations.weight[0].up.any() for layer in adapters.layers.values())


def test_layers_that_are_too_small_are_left_and_none_is_an_error(encoder):
    names = dict(encoder.named_modules())
    adapters = lora.Adapters(encoder, 4, 8.0)
    for name, layer in names.items():
        if isinstance(layer, lora.ADAPTED):
            shape = layer.weight.shape
            saves = 4 * (shape[0] + shape[1:].numel()) < shape.numel()
            assert (name in adapters.layers) == saves, name
    with pytest.raises(EcgError, match="no layer of the encoder is large enough for rank 500"):
        lora.Adapters(models.build("net1d", "small", 12), 500, 8.0)


def test_a_published_model_is_adapted_too():
    model = zoo.load("clef_small", weights="dummy")
    keys = list(model.state_dict())
    adapters = lora.Adapters(model, 4, 8.0)
    assert len(adapters.layers) > 10 and adapters.trained < adapters.of / 2
    adapters.merge()
    assert sorted(model.state_dict()) == sorted(keys)


def test_a_killed_fit_goes_on_to_the_same_bytes_and_the_card_says_rank_and_values(place, tmp_path, monkeypatch):
    monkeypatch.setitem(fitting.RECIPES, "quick", QUICK)
    settings = fit.Settings(str(place / "net1d"), how="lora", recipe="quick", rank=2, min_positives=2)
    words = [str(place / "cohort"), str(place / "net1d"), str(tmp_path / "m")]
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert (tmp_path / ".m.part/training/checkpoint.safetensors").is_file() and not (tmp_path / "m").exists()
    monkeypatch.setattr(fitting, "SHOWN_S", -1)
    lines = []
    info = fit.run(place / "cohort", tmp_path / "m", settings, lines.append)
    steps = [int(line.split()[0]) for line in lines if " steps, " in line]
    assert steps[0] > 1 and steps[-1] == 10
    os.mkdir(tmp_path / "again")
    fit.run(place / "cohort", tmp_path / "again/m", settings, quiet)
    for name in kept.FILES:
        assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "again/m" / name).read_bytes()
    assert info["adapters"] | {"rank": 2, "alpha": 4.0} == info["adapters"] and info["how"] == "lora"
    shown = f"rank 2, alpha 4, on {info['adapters']['layers']} layers) train {info['adapters']['trained']:,} values"
    assert shown in (tmp_path / "m/README.md").read_text()
    tensors, original = load_file(tmp_path / "m/model.safetensors"), models.load(place / "net1d")[0].state_dict()
    changed = [k for k, v in original.items() if not torch.equal(v, tensors[f"encoder.{k}"])]
    assert len(tensors) == len(original) + 2 and len(changed) == info["adapters"]["layers"]


def test_a_fine_tuned_head_on_pooled_tokens_is_kept_and_explained(place, tmp_path, monkeypatch, capsys):
    """What the default recipe trains: mean and maximum of the tokens side by side, twice as wide as the vector."""
    monkeypatch.setitem(fitting.RECIPES, "quick", QUICK)
    settings = fit.Settings(str(place / "net1d"), how="finetune", recipe="quick", min_positives=2)
    fit.run(place / "cohort", tmp_path / "m", settings, quiet)
    model, packed = kept.load(tmp_path / "m"), cohort.open(place / "cohort")
    tensors = load_file(tmp_path / "m/model.safetensors")
    assert tensors["head.weight"].shape == (1, 2 * model.network.dim)
    rows = packed.rows("val")
    x = CohortData(packed, rows, model.leads, model.profile).signals(np.arange(len(rows)))
    with torch.no_grad():
        tokens = model.network.tokens(x)
        z = torch.cat([tokens.mean(1), tokens.amax(1)], 1)
        wanted = torch.sigmoid(z @ tensors["head.weight"].T + tensors["head.bias"])
    np.testing.assert_allclose(model.of_rows(packed, rows), wanted, atol=1e-5)
    words = ["explain", str(tmp_path / "m"), str(place / "raw/r01"), "--statement", "tall"]
    assert main([*words, "--plot", str(tmp_path / "why.svg")]) == 0
    p = model.of_rows(packed, [list(packed.records.record_id).index("r01")])[0, 0]
    assert f"probability {p:.2f}" in capsys.readouterr().out


def test_fine_tuning_may_start_as_the_linear_probe(place, tmp_path, monkeypatch):
    """With hardly a step made, the answers are those of the regression on pooled tokens; with steps, they are not."""
    kind = dict(how="lp-ft", recipe="quick", min_positives=2)
    answers, packed = {}, cohort.open(place / "cohort")
    for lr in (1e-9, 0.01):
        monkeypatch.setitem(fitting.RECIPES, "quick", replace(QUICK, lr=lr))
        info = fit.run(place / "cohort", tmp_path / f"m{lr}", fit.Settings(str(place / "net1d"), **kind), quiet)
        answers[lr] = kept.load(tmp_path / f"m{lr}").of_rows(packed, packed.rows("val"))
    assert "from the head of its linear probe" in info["how_in_words"] and info["how"] == "lp-ft"
    encoder = models.load(place / "net1d")[0].eval()
    features, truths = {}, {}
    for split in ("train", "val"):
        rows = packed.rows(split)
        x = CohortData(packed, rows, packed.leads, profile("study")).signals(np.arange(len(rows)))
        with torch.no_grad():
            tokens = encoder.tokens(x)
        features[split] = torch.cat([tokens.mean(1), tokens.amax(1)], 1).numpy()
        truths[split] = packed.states(["tall"], rows)
    probe = classifiers.linear(features["train"], truths["train"], features["val"], truths["val"]).model
    np.testing.assert_allclose(answers[1e-9], probe(features["val"]), atol=1e-4)
    assert np.abs(answers[0.01] - answers[1e-9]).max() > 1e-3


REFUSED = [
    (dict(encoder="scratch", how="lora"), "lora does not go with scratch"),
    (dict(encoder="scratch", how="lp-ft"), "lp-ft does not go with scratch"),
    (dict(encoder="features", how="lora"), "lora does not go with features"),
    (dict(encoder="net1d", rank=4), "rank is of adapters.*leave --rank out, or add --how lora"),
    (dict(encoder="net1d", how="finetune", alpha=4.0), "alpha is of adapters"),
    (dict(encoder="net1d", how="lora", rank=-1), "rank=-1"),
    (dict(encoder="net1d", recipe="lora"), "a recipe is for finetune, lp-ft or lora"),
]


@pytest.mark.parametrize(("asked", "told"), REFUSED, ids=range(len(REFUSED)))
def test_adapters_that_cannot_be_are_refused_before_any_work(place, tmp_path, asked, told):
    with pytest.raises(EcgError, match=told):
        fit.run(place / "cohort", tmp_path / "out", fit.Settings(**asked), quiet)
    assert list(tmp_path.iterdir()) == []
