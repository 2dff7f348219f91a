"""Published checkpoints: cards, counts, and loading each from a local server in its hub's layout, faults included."""

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hub import Hub

from ecglib import EcgError, models, zoo
from ecglib.data import files
from ecglib.data.recording import LEADS
from ecglib.evaluation import predictions
from ecglib.models.layers import AttentionPool
from ecglib.zoo import dummy
from ecglib.zoo.card import SHORT, released

RUNNABLE = [card.name for card in zoo.cards() if not card.only_card]
PROVEN = [card.name for card in zoo.cards() if not (card.only_card or card.unproven)]  # the others: test_unproven.py
SMALL = ["clef_small", "merl"]


def state(name: str) -> dict:
    """The released tensors of a model, filled with dummy weights."""
    return {key: dummy.fill(key, *shape) for key, shape in released(zoo.card(name).pack).items()}


def optimiser(tensors: dict) -> dict:
    moments = {i: {"step": torch.tensor(3.0), "exp_avg": value} for i, value in enumerate(tensors.values())}
    return {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]}


def as_released(name: str) -> dict:
    """What the file of a release holds: prefix, nesting, and what lies beside the weights (conformance manifests)."""
    tensors = state(name)
    family = name.split("_")[0]
    if family == "ecgfounder":
        return {"state_dict": tensors, "optimizer": optimiser({"x": torch.ones(2)}), "epoch": 7}
    if family == "clef":
        tensors = {f"backbone.{key}": value for key, value in tensors.items()}
        return {"state_dict": tensors, "optimizer_states": [optimiser({"x": torch.ones(2)})], "global_step": 5}
    if family == "ecgfm":
        return {"model": tensors, "cfg": argparse.Namespace(task="ecg"), "last_optimizer_state": {"a": torch.ones(1)}}
    if name == "ecgjepa_kim":
        return {"encoder": tensors, "epoch": 100}
    if family == "ecgjepa":
        whole = {f"target_{k}": v for k, v in tensors.items() if k.startswith("encoder.")}
        student = {k: torch.zeros_like(v) for k, v in tensors.items() if k.startswith("encoder.")}
        return {"model": whole | student | {"predictor.norm.weight": torch.ones(3)}, "config": {"depth": 8}}
    if family == "heartlang":
        return {
            "model": tensors,
            "optimizer": optimiser({"x": torch.ones(2)}),
            "epoch": 199,
            "args": argparse.Namespace(lr=1),
        }
    return tensors  # melp: a safetensors file; merl: flat


def write(name: str, folder: Path) -> Path:
    """The file of a release; melp's is safetensors in half precision, merl's encoder alone has no prefix."""
    from safetensors.torch import save_file

    path = folder / Path(zoo.card(name).files[0]).name.replace("<step>", "1000")
    content = as_released(name)
    if path.suffix == ".safetensors":
        save_file({k: v.bfloat16().contiguous() if v.is_floating_point() else v for k, v in content.items()}, path)
    else:
        if name == "merl":  # the encoder's file alone
            content = {k.removeprefix("ecg_encoder."): v for k, v in content.items() if k.startswith("ecg_encoder.")}
        torch.save(content, path)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server; what was fetched from it is not left lying about, since it is gigabytes."""
    with Hub() as server:
        for key, value in server.environment(tmp_path / "cache").items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr("ecglib.data.download.PAUSE_S", 0)
        yield server
    shutil.rmtree(tmp_path)


def serve(hub, name: str, path: Path) -> str:
    """Put a model's file where its hub has it; the address to ask for, "" where the hub is asked by name."""
    card = zoo.card(name)
    if card.hub == "huggingface":
        hub.hugging_face(card.location, {card.files[0]: path})
    elif card.hub == "zenodo":
        hub.zenodo(card.location, {card.files[0]: path})
    else:
        return hub.plain(path.name, path)
    return ""


def same(model, name: str) -> None:
    """The model carries the dummy weights (in half precision for melp)."""
    wanted = zoo.load(name, "dummy").state_dict()
    rough = name == "melp"
    for key, value in model.encoder.state_dict().items():
        theirs = wanted[f"encoder.{key}"]
        theirs = theirs.bfloat16().float() if rough and theirs.is_floating_point() else theirs
        assert torch.equal(value, theirs), key


@pytest.mark.parametrize("name", PROVEN)
def test_each_is_loaded_from_its_hub_interrupted_and_resumed(name, hub, tmp_path):
    """The connection breaks in the middle for good; the next call fetches only what is missing."""
    path = write(name, tmp_path)
    url = serve(hub, name, path)
    served = path.name if url else zoo.card(name).files[0]
    half = path.stat().st_size // 2
    hub.fault(served, "cut", at=half)
    with pytest.raises(EcgError):
        zoo.load(name, url=url)
    hub.heal(served)
    model = zoo.load(name, url=url)
    ranges = [entry["range"] for entry in hub.downloads(served)]
    assert ranges[-1] and int(ranges[-1].removeprefix("bytes=").split("-")[0]) > 0
    assert model.weights == "published" and model.content == files.sha256(path) and not model.training
    same(model, name)
    before = len(hub.downloads(served))
    if not url:
        key, value = next(iter(model.encoder.state_dict().items()))
        assert torch.equal(zoo.load(name).encoder.state_dict()[key], value)
        assert len(hub.downloads(served)) == before, "what is in the cache is not fetched again"


def older(tensors: dict) -> dict:
    """torch's older spelling of a weight normalisation."""
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    return {re.sub("|".join(old), lambda match: old[match[0]], key): value for key, value in tensors.items()}


def without(tensors: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def under(tensors: dict, prefix: str) -> dict:
    return {f"{prefix}{key}": value for key, value in tensors.items()}


TEXT = {"lm_model.x": torch.ones(1), "proj_t.0.weight": torch.ones(1), "sent_proj.weight": torch.ones(1)}
QUERIES = {"ecg_encoder.attn_pool_contrast.query": torch.arange(12 * 256).reshape(12, 256) / 1000}
FIVE = {"attn_pool.cross_attention_block.proj.weight": torch.zeros(5, 384)}
FORMS = {  # further forms in which the releases come: model, content of the file, number of tensors that are absent
    "ecgfm, older spelling": ("ecgfm", lambda s: {"model": older(s)}, 0),
    "melp, older spelling": ("melp", older, 0),
    "melp with 12 queries": ("melp", lambda s: s | QUERIES, 0),
    "melp, bare and in parallel": ("melp", lambda s: under(without(s, "ecg_encoder."), "module."), 0),
    "melp, training checkpoint": ("melp", lambda s: {"state_dict": s | TEXT}, 0),
    "weimann with 5 classes": ("ecgjepa_weimann_s", lambda s: {"model": s | FIVE}, 4),
    "heartlang classifier": (
        "heartlang",
        lambda s: {
            "model": under({k: v for k, v in s.items() if "lm_head" not in k}, "backbone.")
            | {"mlp_head.a": s["mask_token"]}
        },
        2,
    ),
    "merl encoder without its linear layer": (
        "merl",
        lambda s: {k: v for k, v in without(s, "ecg_encoder.").items() if not k.startswith("linear")},
        18,
    ),
    "merl, whole model": ("merl", lambda s: s | {"lm_model.embeddings.weight": torch.ones(2)}, 0),
    "clef without prefix": ("clef_small", lambda s: s, 0),
    "ecgfounder, fine-tuned": (
        "ecgfounder_1lead",
        lambda s: {"state_dict": s | {"dense.weight": torch.zeros(5, 1024), "dense.bias": torch.zeros(5)}},
        2,
    ),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_other_forms_of_the_releases_load_too(form, tmp_path):
    name, change, absent = FORMS[form]
    torch.save(change(state(name)), tmp_path / "file.pth")
    model = zoo.load(name, file=tmp_path / "file.pth")
    assert len(model.absent) == absent
    wanted = zoo.load(name, "dummy")
    if "12 queries" in form:
        assert model.encoder.pooler.queries.shape == (12, 256)
        x = torch.randn(1, 12, 5000)
        assert model(x).shape == (1, 256) and not torch.allclose(model(x), wanted(x))
    else:
        for key, value in wanted.encoder.state_dict().items():
            assert torch.equal(model.encoder.state_dict()[key], value), key
    (tmp_path / "file.pth").unlink()


def test_drive_by_its_own_address(hub, tmp_path, monkeypatch):
    """Kim's file has an address of its own; a quota page in place of the file is refused."""
    card = zoo.card("ecgjepa_kim")
    assert card.hub == "https" and "1gMOT4xjQQg0GZkY1iE6NuDzua4ALw00l" in card.location
    url = hub.plain("multiblock_epoch100.pth", b"x" * 1000)
    hub.fault("multiblock_epoch100.pth", "html")
    with pytest.raises(EcgError, match="web page"):
        zoo.load("ecgjepa_kim", url=url)


def test_what_is_by_hand_says_where_it_lies(hub):
    with pytest.raises(EcgError, match=r"cannot be downloaded by name.*res18_best_encoder.pth.*file="):
        zoo.load("merl")
    with pytest.raises(EcgError, match="issue 1 asks"):
        zoo.load("ecgjepa_weimann_s")


FAULTS = {
    "corrupt": "md5|checksum",
    "truncate": "bytes|size",
    "html": "web page",
    "missing": "404|no such file|no file",
}


@pytest.mark.parametrize("fault, words", FAULTS.items())
def test_a_bad_download_is_refused_with_its_reason(fault, words, hub, tmp_path):
    path = write("clef_small", tmp_path)
    serve(hub, "clef_small", path)
    hub.fault(path.name, fault)
    with pytest.raises(EcgError, match=words):
        zoo.load("clef_small")
    hub.heal(path.name)
    same(zoo.load("clef_small"), "clef_small")


@pytest.mark.parametrize("place", ["NAME/FILE", "FILE", "NAME.SUFFIX"])
@pytest.mark.parametrize("name", SMALL)
def test_a_file_in_the_folder_that_ecglib_weights_names_is_taken_before_anything_is_fetched(
    name, place, hub, tmp_path, monkeypatch
):
    path = write(name, tmp_path)
    place = place.replace("NAME", name).replace("FILE", path.name).replace(".SUFFIX", path.suffix)
    target = tmp_path / "weights" / place
    target.parent.mkdir(parents=True)
    path.rename(target)
    monkeypatch.setenv(zoo.GIVEN, str(tmp_path / "weights"))
    model = zoo.load(name)
    assert model.weights == "published" and hub.requests == []
    assert model.content == files.sha256(target)
    same(model, name)
    assert zoo.load(f"{name}@2.5").weights == "published"


def test_what_save_wrote_may_lie_there_too_and_keeps_its_mark(tmp_path, monkeypatch):
    zoo.save(zoo.load("clef_small", "dummy"), tmp_path / "clef_small")
    monkeypatch.setenv(zoo.GIVEN, str(tmp_path))
    assert zoo.load("clef_small").weights == "dummy"


def test_what_the_folder_lacks_is_said_with_the_name_that_was_meant(hub, tmp_path, monkeypatch):
    monkeypatch.setenv(zoo.GIVEN, str(tmp_path / "nowhere"))
    with pytest.raises(EcgError, match=r"nowhere: \[ECGLIB_WEIGHTS\] no such folder"):
        zoo.load("clef_small")
    monkeypatch.setenv(zoo.GIVEN, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "clef_smal.ckpt").touch()
    with pytest.raises(EcgError) as refused:
        zoo.load("clef_small")
    assert "did you mean 'clef_smal.ckpt'?" in refused.value.fix and "clef_small.ckpt" in refused.value.fix
    with pytest.raises(EcgError, match=r"no such file -> did you mean 'clef_smal.ckpt'\?"):
        zoo.load("clef_small", file=tmp_path / "clef_small.ckpt")


def test_no_network_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGLIB_CACHE", str(tmp_path))
    monkeypatch.setattr("ecglib.data.download.PAUSE_S", 0)
    for variable in ("ECGLIB_ZENODO", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for name in ("clef_small", "ecgfounder"):
        with pytest.raises(EcgError, match="file="):
            zoo.load(name)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_file_that_was_altered_since_is_noticed(hub, tmp_path):
    path = write("clef_small", tmp_path)
    serve(hub, "clef_small", path)
    zoo.load("clef_small")
    kept = next((tmp_path / "cache").rglob("clef_small.ckpt"))
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    with pytest.raises(EcgError, match="altered"):
        zoo.load("clef_small")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"state_dict": state("clef_small"), "hook": Evil(mark)}, tmp_path / "clef_small.ckpt")
    with pytest.raises(EcgError, match="touch|getattr|refused") as error:
        zoo.load("clef_small", file=tmp_path / "clef_small.ckpt")
    assert not mark.exists() and error.value.file.endswith("clef_small.ckpt")


def test_a_truncated_a_corrupt_and_another_file(tmp_path):
    path = write("clef_small", tmp_path)
    whole = path.read_bytes()
    noise = ("noise", b"\x80" + bytes(500), "checkpoint|corrupt|not")
    for name, data, words in (("cut", whole[: len(whole) // 2], "cut short"), ("empty", b"", "empty"), noise):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(EcgError, match=words):
            zoo.load("clef_small", file=tmp_path / name)
    with pytest.raises(EcgError, match="no such file"):
        zoo.load("clef_small", file=tmp_path / "nowhere.ckpt")
    with pytest.raises(EcgError, match="missing first_conv.conv.weight|the tensors are not those"):
        zoo.load("merl", file=path)


def test_every_missing_left_over_and_misshapen_tensor_is_named(tmp_path):
    good = state("clef_small")
    key = "stage_list.0.block_list.0.conv1.conv.weight"
    for change, words in (
        ({k: v for k, v in good.items() if k != key}, f"missing {key} \\[16, 32, 1\\]"),
        (good | {"dense.weight": torch.zeros(3, 256)}, r"unexpected dense.weight \[3, 256\]"),
        (good | {key: torch.zeros(16, 32, 2)}, rf"{key} is \[16, 32, 2\], not \[16, 32, 1\]"),
        ({k: v for k, v in good.items() if "bn" not in k}, r"missing first_bn.weight .* and \d+ more"),
    ):
        torch.save({"state_dict": change}, tmp_path / "file.ckpt")
        with pytest.raises(EcgError, match=words):
            zoo.load("clef_small", file=tmp_path / "file.ckpt")


def spoilt(tensors: dict, key: str, value) -> dict:
    """The tensors with one value (a number) or all of them ("zeros") of one replaced."""
    tensors = {k: v.clone() for k, v in tensors.items()}
    if value == "zeros":
        tensors[key].zero_()
    else:
        tensors[key].view(-1)[-1] = value
    return tensors


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("first_conv.conv.weight", float("nan"), "1 of .* NaN or infinite"),
        ("first_conv.conv.bias", float("inf"), "NaN or infinite"),
        ("first_bn.running_var", -float("inf"), "NaN or infinite"),
        ("first_conv.conv.weight", "zeros", "all .* values are zero"),
        ("stage_list.0.block_list.0.conv1.conv.weight", "zeros", "are zero"),
    ],
)
def test_a_tensor_that_cannot_have_been_learned_is_refused_by_name(tmp_path, key, value, words):
    torch.save({"state_dict": spoilt(state("clef_small"), key, value)}, tmp_path / "x.ckpt")
    with pytest.raises(EcgError, match=words) as caught:
        zoo.load("clef_small", file=tmp_path / "x.ckpt")
    assert caught.value.field == key and caught.value.file == str(tmp_path / "x.ckpt") and caught.value.fix
    model = zoo.load("clef_small", "dummy")
    own = next(k for k, v in model.state_dict().items() if v.ndim > 1)
    with torch.no_grad():
        model.state_dict()[own].view(-1)[0] = float("nan")
    with pytest.raises(EcgError, match="NaN") as caught:
        zoo.load("clef_small", file=zoo.save(model, tmp_path / "out"))
    assert caught.value.field == own


def test_biases_norms_and_counters_of_zeros_are_no_fault(tmp_path):
    """As a network has them before it is trained; a large float64 that is none in float32 is one."""
    tensors = state("clef_small")
    zero = [k for k, v in tensors.items() if k.endswith(("bias", "running_mean", "num_batches_tracked")) or v.ndim == 0]
    for key in zero:
        tensors = spoilt(tensors, key, "zeros")
    torch.save({k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}, tmp_path / "x.ckpt")
    model = zoo.load("clef_small", file=tmp_path / "x.ckpt")
    assert len(zero) > 10 and {p.dtype for p in model.parameters()} == {torch.float32}
    large = spoilt({k: v.double() for k, v in state("clef_small").items()}, "first_conv.conv.weight", 1e300)
    torch.save(large, tmp_path / "x.ckpt")
    with pytest.raises(EcgError, match="infinite"):
        zoo.load("clef_small", file=tmp_path / "x.ckpt")
    counts = state("clef_small") | {"first_conv.conv.weight": torch.ones_like(tensors["first_conv.conv.weight"]).char()}
    torch.save(counts, tmp_path / "x.ckpt")
    with pytest.raises(EcgError, match="first_conv.conv.weight holds torch.int8"):
        zoo.load("clef_small", file=tmp_path / "x.ckpt")
    key = "stage_list.0.block_list.0.conv1.conv.weight"
    torch.save(state("clef_small") | {key: tensors[key].to_sparse()}, tmp_path / "x.ckpt")
    with pytest.raises(
        EcgError, match=f"{key} holds torch.float64, torch.sparse_coo|{key} holds torch.float32, torch.sp"
    ):
        zoo.load("clef_small", file=tmp_path / "x.ckpt")


WRAPPERS = [
    "_orig_mod.",
    "module.",
    "model.",
    "net.",
    "encoder.",
    "backbone.",
    "model.net.",
    "module._orig_mod.",
    "a.b.c.",
]


@pytest.mark.parametrize("nesting", [(), ("state_dict",), ("model", "state_dict"), ("ecg", "weights")], ids=str)
@pytest.mark.parametrize("prefix", WRAPPERS)
def test_marks_of_wrappers_come_off_where_all_fits_then(tmp_path, prefix, nesting, caplog):
    content = {f"{prefix}{key}": value for key, value in state("clef_small").items()}
    for name in reversed(nesting):
        content = {name: content, "epoch": 3}
    torch.save(content, tmp_path / "x.ckpt")
    same(zoo.load("clef_small", file=tmp_path / "x.ckpt"), "clef_small")
    assert ("is taken off the names" in caplog.text) == (prefix not in ("module.", "backbone."))  # releases have these


@pytest.mark.parametrize("name", ["merl", "ecgjepa_weimann_s", "heartlang"])
def test_wrappers_come_off_families_with_prefixes_of_their_own(tmp_path, name, caplog):
    torch.save({f"model._orig_mod.{key}": value for key, value in state(name).items()}, tmp_path / "x.pth")
    same(zoo.load(name, file=tmp_path / "x.pth"), name)
    assert "is taken off" in caplog.text


@pytest.mark.parametrize("change", ["one without", "one more", "two prefixes", "within a name"])
def test_what_fits_with_no_prefix_off_is_refused_as_it_is_written(tmp_path, change):
    good = state("clef_small")
    wrapped = {f"net.{key}": value for key, value in good.items()}
    first = next(iter(good))
    if change == "one without":
        wrapped[first] = wrapped.pop(f"net.{first}")
    elif change == "one more":
        wrapped["net.head.weight"] = torch.ones(2, 2)
    elif change == "two prefixes":
        wrapped |= {f"ema.{key}": value for key, value in good.items()}
    else:
        wrapped = {key.replace(".conv.", ".net.conv."): value for key, value in good.items()}
    torch.save(wrapped, tmp_path / "x.ckpt")
    with pytest.raises(EcgError, match="the tensors are not those of"):
        zoo.load("clef_small", file=tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(2, 1, 5000).numpy(), r"torch\.from_numpy"),
        ([[[0.0]]], "a list is no tensor"),
        (torch.zeros(2, 1, 5000, dtype=torch.int16), "int16 values: counts"),
        (torch.ones(2, 1, 5000, dtype=torch.bool), "bool"),
        (torch.zeros(0, 1, 5000), r"x \(0, 1, 5000\)"),
        (torch.zeros(2, 1, 0), r"x \(2, 1, 0\)"),
        (torch.zeros(1, 5000), r"x\[None\]"),
        (torch.zeros(5000), "no \\(batch, lead, time\\)"),
        (torch.zeros(2, 12, 5000), "12 leads"),
        (torch.full((2, 1, 5000), float("nan")), "NaN or infinity"),
        (torch.full((2, 1, 5000), float("inf")), "NaN or infinity"),
    ],
    ids=str,
)
def test_what_is_no_batch_of_signals_is_refused(x, words):
    with pytest.raises(EcgError, match=words) as caught:
        zoo.load("clef_small", "dummy")(x)
    assert caught.value.field == "x" and caught.value.fix


def test_signals_in_double_precision_give_the_features_of_single(tmp_path):
    model, x = zoo.load("clef_small", "dummy"), torch.randn(2, 1, 5000)
    with torch.inference_mode():
        assert torch.equal(model(x.double()), model(x)) and model(x.double()).dtype == torch.float32


@pytest.mark.parametrize("name", SMALL)
def test_saves_weights_alone_with_their_card_and_reads_them_again(name, tmp_path):
    model = zoo.load(name, file=write(name, tmp_path))
    path = zoo.save(model, tmp_path / "out")
    again = zoo.load(name, file=path)
    x = torch.randn(2, model.n_leads, 5000)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["licence"] == zoo.card(name).licence and card["input"] == zoo.card(name).input()
    size = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    assert path.stat().st_size < size + 60_000, "no optimiser state"
    with pytest.raises(EcgError, match=f"weights of {name}"):
        zoo.load("clef_medium", file=path)


def test_dummy_weights_stay_what_they_are_when_saved(tmp_path):
    """Saved and read again they must not pass for published ones."""
    path = zoo.save(zoo.load("clef_small", "dummy"), tmp_path)
    again = zoo.load("clef_small", file=path)
    assert again.weights == "dummy" and zoo.contamination(again, "ptb-xl") == predictions.DUMMY
    published = zoo.load("clef_small", file=write("clef_small", tmp_path))
    assert zoo.load("clef_small", file=zoo.save(published, tmp_path / "out")).weights == "published"
    with pytest.raises(EcgError, match="one of the two"):
        zoo.load("clef_small", "dummy", file=path)


def test_an_encoder_alone_has_no_head_and_says_so(tmp_path):
    tensors = {k: v for k, v in state("ecgfounder_1lead").items() if not k.startswith("dense")}
    torch.save({"state_dict": tensors}, tmp_path / "trunk.pth")
    model = zoo.load("ecgfounder_1lead", file=tmp_path / "trunk.pth")
    x = torch.randn(1, 1, 5000)
    assert model(x).shape == (1, 1024) and model.absent == ["dense.bias", "dense.weight"]
    with pytest.raises(EcgError, match="without the head"):
        model.statements(x)
    with pytest.raises(EcgError, match="no head of its own"):
        zoo.load("clef_small", "dummy").statements(x)
    torch.save({"state_dict": tensors | {"dense.bias": torch.zeros(150)}}, tmp_path / "half.pth")
    with pytest.raises(EcgError, match=r"missing dense.weight \[150, 1024\]"):
        zoo.load("ecgfounder_1lead", file=tmp_path / "half.pth")


def test_names_licences_and_arguments_are_checked(monkeypatch):
    with pytest.raises(EcgError, match="ecgfounder, ecgfounder_1lead"):
        zoo.load("zoo:ecgfounder_2lead")
    with pytest.raises(EcgError, match="published or dummy"):
        zoo.load("merl", "random")
    with pytest.raises(EcgError, match="CC BY-NC 4.0.*accept='CC BY-NC 4.0'"):
        zoo.load("stmem")
    with pytest.raises(EcgError, match="only a card"):
        zoo.load("stmem", accept="CC BY-NC 4.0")
    closed = zoo.card("clef_small").__class__(
        **{**vars(zoo.card("clef_small")), "commercial": False, "licence": "X-NC"}
    )
    monkeypatch.setattr(zoo, "_cards", lambda family: (closed,) if family == "clef" else ())
    with pytest.raises(EcgError, match="X-NC"):
        zoo.load("clef_small", "dummy")
    assert zoo.load("clef_small", "dummy", accept="X-NC").weights == "dummy"


@pytest.mark.parametrize("card", zoo.cards(), ids=lambda card: card.name)
def test_cards_are_complete_and_true(card):
    texts = (card.title, card.paper, card.repository, card.licence, card.pooling, card.paper_and_code, card.location)
    corpora = (*card.corpora, *card.further_corpora)
    assert all(texts) and card.files and card.defects and corpora and card.short in SHORT
    assert set(card.leads) <= set(LEADS) and card.chain.seconds >= card.crop_s
    facts = zoo.facts(f"zoo:{card.name}")
    known = [f"{number:,}" if number else "not known" for number in (card.parameters, card.stored)]
    assert facts["parameters"] == f"{known[0]} in use, {known[1]} in the release"
    assert card.licence in facts["licence of the weights"] and all(
        corpus in facts["pretrained on"] for corpus in corpora
    )
    assert facts.get("only a card", "") == card.only_card and facts.get("not proven", "") == card.unproven
    assert bool(card.pack) or card.only_card, "a network needs the names of its tensors"
    if not card.pack:
        return
    tensors = released(card.pack)
    uncounted = ("running_mean", "running_var", "initted", "quantize.cluster_size")  # no parameters
    shapes = [shape for key, (shape, kind) in tensors.items() if kind == "float32" and not key.endswith(uncounted)]
    assert sum(torch.Size(shape).numel() for shape in shapes) == card.stored


# Golden counts of the specifications that the cards carry; those of parts and of pretraining heads stand in the tests
# of encoders and objectives.
GOLDEN = {
    "ecgfounder": (30_752_646, 30_819_014),
    "ecgfounder_1lead": (30_741_382, 30_807_750),
    "clef_small": (443_184, 447_792),
    "clef_medium": (30_587_632, 30_654_000),
    "clef_large": (296_301_312, 296_623_360),
    "ecgfm": (90_386_321 - 17 * 769, 90_883_072),
    "ecgfm_finetuned": (90_386_321, 90_386_321),
    "ecgjepa_kim": (85_067_520, 85_374_720),
    "ecgjepa_weimann_s": (14_277_888, 14_747_904),
    "ecgjepa_weimann_b": (85_185_024, 87_009_792),
    "heartlang": (38_262_528 - 768, 44_562_176),
    "heartlang_vqhbr": (14_628_608 - 768, 25_698_528),
    "merl": (3_848_832, 4_788_618),
    "melp": (62_021_760 + 531_456, 65_593_857),
    "stmem": (85_150_614, 85_150_614),
    "tolerantecg": (26_814_144 - 2 * 768, 26_814_144 - 2 * 768 + 768 * 768),  # without its last norm, with its head
    "anyppg": (4_044_272, 4_044_272),
    "ked": (7_865_984, 7_865_984),
    "hubertecg_small": (30_209_152, 30_209_664),
    "hubertecg_base": (92_798_080, 92_798_848),
    "ecgcpc": (3_800_000, 0),
    "ecgcpc_strategies": (0, 0),
    "echoingecg": (0, 0),
    "pclr": (6_391_184, 6_391_184 + 2 * 320 * 321),
    "pclr_lead_i": (6_391_184 - 11 * 64 * 16, 6_585_360),
    "pclr_lead_ii": (6_391_184 - 11 * 64 * 16, 6_585_360),
}


def test_every_card_carries_the_golden_counts():
    assert {card.name: (card.parameters, card.stored) for card in zoo.cards()} == GOLDEN


@pytest.mark.parametrize("name", RUNNABLE)
def test_networks_have_the_counts_of_their_cards(name):
    model = zoo.network(name)
    used = models.n_parameters(model.encoder)
    if zoo.card(name).statements:
        used += models.n_parameters(model.head)
    assert used == zoo.card(name).parameters


def values(pack: str, pattern: str = ".*", kinds=("float32",)) -> int:
    """Values of the released tensors whose keys match."""
    tensors = released(pack).items()
    shapes = [shape for key, (shape, kind) in tensors if re.fullmatch(pattern, key) and kind in kinds]
    return sum(torch.Size(shape).numel() for shape in shapes)


PARTS = [  # further counts of the specifications: pack, keys, values
    ("ecgfounder_12lead", r"dense\..*", 153_750),
    ("ecgfounder_12lead", r".*bn.*\.(weight|bias)", 66_368),
    ("ecgjepa_kim", "pos_embed", 307_200),
    ("heartlang", "token_embed.*", 221_184),
    ("heartlang", "(?!lm_head).*", 38_262_528),
    ("heartlang_vqhbr", r"encoder\..*", 14_628_608),
    ("heartlang_vqhbr", r"decoder\..*", 7_611_136),
    ("heartlang_vqhbr", r"(encode|decode)_task_layer\..*", 1_353_440),
    ("heartlang_vqhbr", r"quantize.embedding.weight", 1_048_576),
    ("heartlang_vqhbr", r"(?!quantize).*|quantize.embedding.weight", 24_641_760),
    ("heartlang_vqhbr", ".*", 25_706_721),
    ("ecgfm_pretrained", r"feature_extractor\..*", 399_872),
    ("ecgfm_pretrained", r"quantizer\..*", 246_400),
    ("ecgfm_pretrained", r"encoder\..*", 85_056_000),
    ("ecgfm_pretrained", r"conv_pos\..*", 4_719_488),
    ("melp_ecg_encoder", r"ecg_encoder\.ecg_encoder\.(?!quantizer|project_q|final_proj).*", 62_022_528),
    ("ecgjepa_weimann_vits", r"attn_pool\..*", 470_016),
    ("ecgjepa_weimann_vitb", r"attn_pool\..*", 1_824_768),
]


@pytest.mark.parametrize("pack, pattern, count", PARTS)
def test_parts_of_the_releases_have_their_golden_counts(pack, pattern, count):
    assert values(pack, pattern) == count


def test_attentive_heads_of_ecg_jepa():
    for dim, heads, count in ((384, 6, 470_016), (768, 12, 1_824_768)):
        with torch.device("meta"):
            head = AttentionPool(dim, heads, out_dim=71, qkv_bias=False, bias=False)
        assert models.n_parameters(head) == count


def test_only_the_family_of_a_model_is_read(monkeypatch):
    seen = []
    found = zoo._cards
    monkeypatch.setattr(zoo, "_cards", lambda name: seen.append(name) or found(name))
    assert zoo.card("ecgjepa_weimann_s").name == "ecgjepa_weimann_s"
    assert set(seen) == {"ecgjepa_weimann"}


def test_contamination_marks_of_results():
    model = zoo.load("clef_small", "dummy")
    assert zoo.contamination(model, "ptb-xl") == predictions.DUMMY
    model.weights = "published"
    assert zoo.contamination(model, "mimic-iv-ecg") == predictions.SEEN
    assert zoo.contamination(model, "ptb-xl") == ""
    assert zoo.contamination(model, "") == zoo.contamination(model, None) == predictions.MAYBE_SEEN


def test_the_table_has_a_line_for_each_model():
    table = zoo.table()
    assert list(table["model"]) == zoo.names() == list(dict.fromkeys(zoo.names()))
    assert set(table.columns) >= {"parameters", "input", "licence", "pretrained on", "weights"}
