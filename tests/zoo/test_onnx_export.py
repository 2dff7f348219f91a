"""ONNX files: what they compute, what they say of themselves, and what is refused instead of written."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ecglib import EcgError, models, zoo
from ecglib.data import profiles
from ecglib.data.recording import LEADS
from ecglib.zoo import onnx_export
from ecgsim import records

STUDY = replace(profiles.profile("study"), seconds=5)
FEW = {"autoencoder": 1, "unet1d": 1, "wav2vec": 1}  # leads, where not twelve
LESS = {"xresnet1d": dict(depths=(1, 2, 1, 1)), "resnet1d": dict(blocks=1), "s4d": dict(depth=2)}  # like layers


def z_of(encoder, *x):
    with torch.inference_mode():
        return encoder.eval()(*x).numpy()


def exported(folder, name, size="small", n_leads=12, n_times=500, dynamic_time=False, **overrides):
    """(encoder, its file, what `export` says)."""
    encoder = models.build(name, size, n_leads, seed=1, **overrides)
    path = folder / f"{name}.onnx"
    return encoder, path, onnx_export.export(encoder, path, n_leads=n_leads, n_times=n_times, dynamic_time=dynamic_time)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """(encoder, file) of a small network of 12 leads and 500 samples, with a profile."""
    path, encoder = tmp_path_factory.mktemp("onnx") / "quick.onnx", models.build("autoencoder")
    info = {"leads": list(LEADS), "licence": "MIT"}
    onnx_export.export(encoder, path, n_leads=12, n_times=500, profile=STUDY, info=info)
    return encoder, path


@pytest.mark.parametrize("name", [name for name in models.names() if name != "beat_transformer"])
def test_every_encoder_gives_the_same_from_its_file(name, tmp_path):
    encoder, path, said = exported(tmp_path, name, n_leads=FEW.get(name, 12), **LESS.get(name, {}))
    assert said == {"error": said["error"], "bytes": path.stat().st_size, "opset": 20, "dynamic_time": False}
    assert said["error"] < 2e-6
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    x = torch.randn(2, encoder.n_leads, 500)
    np.testing.assert_allclose(onnx_export.run(path, x), z_of(encoder, x), atol=1e-4, rtol=1e-3)


PUBLISHED = [  # of less depth and width
    ("vit1d", "jepa_k", dict(dim=64, depth=1)),
    ("wav2vec", "melp", dict(channels=32, dim=96, depth=1, hidden=96, query_dim=32)),
]


@pytest.mark.parametrize("name, size, overrides", PUBLISHED)
def test_published_networks_too(name, size, overrides, tmp_path):
    assert exported(tmp_path, name, size, n_times=550, **overrides)[2]["error"] < 2e-6


ANY = [
    ("net1d", "small", dict(widths=(16, 32), blocks=(1, 2))),
    ("autoencoder", "small", dict(widths=(8, 16))),
    ("vit1d", "small_k", dict(depth=1)),
    ("vit1d", "small_mae", dict(depth=1)),
    ("s4d", "small", dict(depth=1)),
]


@pytest.mark.parametrize("name, size, overrides", ANY)
def test_any_length_on_request(name, size, overrides, tmp_path):
    """Odd and even ones, whole patches and not, and the one length for which small_mae has its filters."""
    encoder, path, said = exported(tmp_path, name, size, dynamic_time=True, **overrides)
    assert said["dynamic_time"] and said["error"] < 5e-5
    for n_times in (250, 500, 501, 777, 1000, 1003):
        x = torch.randn(2, 12, n_times)
        np.testing.assert_allclose(onnx_export.run(path, x), z_of(encoder, x), atol=1e-3, rtol=1e-3)
    with pytest.raises(EcgError, match=r"\(2, 12, 249\), the file takes \(batch, 12, time\).* time 250 to any"):
        onnx_export.run(path, np.zeros((2, 12, 249)))


def test_an_odd_kernel_is_for_one_length_only(tmp_path):
    with pytest.raises(EcgError, match="odd kernel"):
        exported(tmp_path, "net1d", dynamic_time=True, kernel=15)


def test_heartbeats_are_exported_after_their_peaks(tmp_path):
    x = torch.from_numpy(np.asarray(records.ecgs(4, seed=0, labels=["NORM"])[0], np.float32))
    encoder = models.build("beat_transformer", depth=1)
    with pytest.raises(EcgError, match="R peaks.*export_words"):
        onnx_export.export(nn.Sequential(encoder), tmp_path / "x.onnx", n_leads=12, n_times=1000)
    assert onnx_export.export_words(encoder, tmp_path / "w.onnx", info={"a": 1})["error"] < 2e-6
    for words in (encoder.words(x), encoder.words(x[:1, :, :300])):
        z = z_of(encoder.sentence, words)[:, 0]
        np.testing.assert_allclose(onnx_export.run(tmp_path / "w.onnx", words), z, atol=1e-5, rtol=1e-4)
    assert onnx_export.read_profile(tmp_path / "w.onnx") == (None, {"a": 1})
    with pytest.raises(EcgError, match="takes tokens, lead, time, real"):
        onnx_export.run(tmp_path / "w.onnx", x)
    with pytest.raises(EcgError, match="lead is"):
        onnx_export.run(tmp_path / "w.onnx", words._replace(lead=words.lead[:, 1:]))


def test_heartbeats_that_look_at_padding_come_in_full_sentences(tmp_path):
    size = dict(dim=32, depth=1, heads=2, head_width=16, hidden=32, limit=48)
    encoder = models.build("beat_transformer", "heartlang", **size).eval()
    assert onnx_export.export_words(encoder, tmp_path / "w.onnx")["error"] < 2e-6
    words = encoder.words(torch.randn(2, 12, 300), torch.tensor([[100, 200], [150, -1]]))
    z = z_of(encoder.sentence, words)[:, 0]
    np.testing.assert_allclose(onnx_export.run(tmp_path / "w.onnx", words), z, atol=1e-5, rtol=1e-4)
    with pytest.raises(EcgError, match="word|48"):
        onnx_export.run(tmp_path / "w.onnx", type(words)(*(part[:, :47] for part in words)))


def test_a_published_model_goes_with_its_card(tmp_path, monkeypatch):
    model, calls = zoo.load("merl", "dummy"), []
    model.encoder = models.build("autoencoder", widths=(8, 16)).eval()  # a quicker one
    said = onnx_export.export_model(model, tmp_path / "m.onnx")
    assert said["error"] < 2e-6
    profile, info = onnx_export.read_profile(tmp_path / "m.onnx")
    assert profile == replace(model.card.chain, seconds=10) and info["leads"] == list(model.card.leads)
    assert info["repository"] == model.card.repository and info["weights in this file"] == zoo.DUMMY_WARNING
    x = torch.randn(2, 12, 5000)
    np.testing.assert_allclose(onnx_export.run(tmp_path / "m.onnx", x), z_of(model, x), atol=1e-4, rtol=1e-3)
    monkeypatch.setattr(onnx_export, "export_words", lambda model, path, **facts: calls.append((model, facts)))
    beats = zoo.load("heartlang", "dummy")
    onnx_export.export_model(beats, tmp_path / "h.onnx")
    assert calls[0][0] is beats and calls[0][1]["profile"].fs == 100


def test_profile_and_facts_survive(quick):
    encoder, path = quick
    assert onnx_export.read_profile(path) == (STUDY, {"leads": list(LEADS), "licence": "MIT"})
    props = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert sorted(props) == ["ecglib", "info", "input", "profile"]
    shapes = {"x": ["batch", 12, 500]}
    assert props["input"] == {"shapes": shapes, "spans": {"batch": [1, None]}, "dynamic_time": False}
    assert props["ecglib"]["encoder"] == encoder.config and props["ecglib"]["dim"] == encoder.dim


def test_profiles_with_a_scale_for_each_lead_survive(quick, tmp_path):
    model, odd = onnx.load(quick[1]), replace(STUDY, scale=(0.1, 0.2), band=(None, 40.0))
    texts = {entry.key: entry.value for entry in model.metadata_props}
    texts["profile"] = json.dumps({**json.loads(texts["profile"]), "scale": [0.1, 0.2], "band": [None, 40.0]})
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, tmp_path / "odd.onnx")
    assert onnx_export.read_profile(tmp_path / "odd.onnx")[0] == odd
    onnx.helper.set_model_props(model, texts | {"profile": '{"colour": 1}'})
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(EcgError, match="another version"):
        onnx_export.read_profile(tmp_path / "new.onnx")


def test_a_file_says_nothing_of_the_machine(quick):
    text = quick[1].read_bytes()
    assert not [word for word in (b".py", b"site-packages", b"stack_trace") if word in text]


@pytest.mark.parametrize("shape", [(2, 11, 500), (2, 12, 499), (12, 500), (0, 12, 500), (1, 2, 12, 500)])
def test_inputs_of_another_shape_are_refused(quick, shape):
    with pytest.raises(EcgError, match=r"the file takes \(batch, 12, 500\)"):
        onnx_export.run(quick[1], np.zeros(shape))


def test_other_files_are_refused(quick, tmp_path):
    model = onnx.load(quick[1])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    for read in (onnx_export.read_profile, lambda path: onnx_export.run(path, np.zeros((1, 12, 500)))):
        with pytest.raises(EcgError, match="other.onnx: not a file of ecglib"):
            read(tmp_path / "other.onnx")
        for name in ("text.onnx", "none.onnx"):
            with pytest.raises(EcgError, match=name):
                read(tmp_path / name)


class Net(nn.Module):
    """x (batch, lead, time) -> z by a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_a_file_written_anew_is_read_anew(tmp_path):
    path, x = tmp_path / "x.onnx", np.ones((2, 3, 64), np.float32)
    for times in (1, 2):
        onnx_export.export(Net(lambda x, times=times: times * x.sum(-1)), path, n_leads=3, n_times=64)
        np.testing.assert_allclose(onnx_export.run(path, x), np.full((2, 3), 64 * times))


REFUSED = {
    "cannot express.*_linalg_svd": lambda x: torch.linalg.svd(x).S[..., 0],
    "cannot express.*branch": lambda x: x.mean(-1) if x.sum() > 0 else x.amax(-1),
    "differs from PyTorch by 0.01, more": lambda x: x.mean(-1) * (1.01 if torch.compiler.is_exporting() else 1),
    "differs from PyTorch by inf": lambda x: x.mean(-1) * float("nan"),
    "fails on .*3, 2, 64.*expected size": lambda x: x @ x,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_the_same_is_not_written(reason, tmp_path, capfd):
    path = tmp_path / "x.onnx"
    path.write_text("before")
    with pytest.raises(EcgError, match=f"(?i){reason}"):
        onnx_export.export(Net(REFUSED[reason]), path, n_leads=2, n_times=64)
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"] and path.read_text() == "before"
    assert capfd.readouterr() == ("", "")


def test_facts_that_do_not_fit_are_refused(tmp_path):
    encoder, path = models.build("autoencoder", n_leads=3), tmp_path / "x.onnx"
    for wrong, match in (
        (dict(n_leads=2), "2 leads for an encoder of 3"),
        (dict(profile=profiles.profile("study")), "500 samples, but study makes 1000"),
        (dict(info={"leads": ["I", "II"]}), "2 names for 3 leads"),
        (dict(info={"seen": {1, 2}}), "not JSON"),
        (dict(info={"seen": float("nan")}), "not JSON"),
    ):
        with pytest.raises(EcgError, match=match):
            onnx_export.export(encoder, path, **{"n_leads": 3, "n_times": 500, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_large_networks_keep_their_weights_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "EMBEDDED", 0)
    path, x = tmp_path / "net.onnx", torch.randn(2, 12, 500)
    head = nn.Sequential(nn.Flatten(), nn.Linear(6000, 8))
    said = onnx_export.export(head, path, n_leads=12, n_times=500)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert path.stat().st_size < 10_000 and said["bytes"] > 4 * 6000 * 8
    np.testing.assert_allclose(onnx_export.run(path, x), z_of(head, x), atol=1e-5, rtol=1e-4)
    assert onnx_export.read_profile(path) == (None, {})
    monkeypatch.undo()
    onnx_export.export(head, path, n_leads=12, n_times=500)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_the_module_stays_as_it_is(tmp_path):
    encoder = nn.Sequential(models.build("s4d", depth=1, dim=16).bfloat16(), nn.Dropout(0.5)).train()
    before = {key: (value, value.clone()) for key, value in encoder.state_dict(keep_vars=True).items()}
    named = [sorted(vars(part)) for part in encoder.modules()]
    onnx_export.export(encoder, tmp_path / "x.onnx", n_leads=12, n_times=200)
    assert encoder.training and encoder[0].training
    assert named == [sorted(vars(part)) for part in encoder.modules()]
    after = encoder.state_dict(keep_vars=True)
    for key, (value, copied) in before.items():
        assert after[key] is value and value.requires_grad and torch.equal(value, copied)
