"""Published models without a conformance pack: the warning, the refused card, counts, and each network in plain torch.

The oracles read the released tensors by their own names and know nothing of our encoders.
"""

import logging

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from ecglib import EcgError, zoo
from ecglib.evaluation import predictions
from ecglib.pipeline import cli
from ecglib.zoo import dummy
from ecglib.zoo.card import released

UNPROVEN = ["tolerantecg", "anyppg", "ked", "hubertecg_small"]  # hubertecg_base is the same code, three times as large


def loaded(name: str):
    return zoo.load(name, "dummy", accept=zoo.card(name).licence)


def tensors(name: str) -> dict:
    return {key: dummy.fill(key, *shape) for key, shape in released(zoo.card(name).pack).items()}


def signal(name: str) -> torch.Tensor:
    torch.manual_seed(0)
    card = zoo.card(name)
    return torch.randn(2, len(card.leads), round(2 * card.chain.fs))


def batch_norm(s, key, x):
    return F.batch_norm(x, *(s[f"{key}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")))


def plain_tolerantecg(s, x):
    def norm(key, h):  # over channels of (batch, channel, time)
        return F.layer_norm(h.mT, h.shape[1:2], s[f"{key}.weight"], s[f"{key}.bias"], 1e-6).mT

    for i, depth in enumerate((3, 3, 9, 3)):
        conv, over = (1, 0) if i else (0, 1)  # the stem normalises behind its convolution
        down, size = f"downsample_layers.{i}", 2 if i else 4
        x = norm(f"{down}.{over}", x) if i else x
        x = F.conv1d(x, s[f"{down}.{conv}.weight"], s[f"{down}.{conv}.bias"], size)
        x = x if i else norm(f"{down}.{over}", x)
        for j in range(depth):
            b = f"stages.{i}.{j}"
            h = norm(f"{b}.norm", F.conv1d(x, s[f"{b}.dwconv.weight"], s[f"{b}.dwconv.bias"], 1, 3, 1, x.shape[1])).mT
            h = F.gelu(h @ s[f"{b}.pwconv1.weight"].T + s[f"{b}.pwconv1.bias"])
            size_of = h.norm(dim=1, keepdim=True)
            h = s[f"{b}.grn.gamma"] * h * size_of / (size_of.mean(-1, keepdim=True) + 1e-6) + s[f"{b}.grn.beta"] + h
            x = x + (h @ s[f"{b}.pwconv2.weight"].T + s[f"{b}.pwconv2.bias"]).mT
    return x.mean(-1)


def same_padded(x, weight, bias, stride=1, groups=1):
    total = max(0, (-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1])
    return F.conv1d(F.pad(x, (total // 2, total - total // 2)), weight, bias, stride, 0, 1, groups)


def plain_anyppg(s, x):
    def conv(key, h, stride=1, groups=1):
        return same_padded(h, s[f"{key}.conv.weight"], s[f"{key}.conv.bias"], stride, groups)

    x = F.silu(batch_norm(s, "first_bn", conv("first_conv", x, 2)))
    for i, (width, depth) in enumerate(zip((64, 160, 160, 400, 400, 512), (2, 2, 2, 3, 3, 1), strict=True)):
        for j in range(depth):
            b, h = f"stage_list.{i}.block_list.{j}", x
            h = conv(f"{b}.conv1", F.silu(batch_norm(s, f"{b}.bn1", h)) if i or j else h)
            h = conv(f"{b}.conv2", F.silu(batch_norm(s, f"{b}.bn2", h)), 1 if j else 2, width // 16)
            h = conv(f"{b}.conv3", F.silu(batch_norm(s, f"{b}.bn3", h)))
            gate = F.silu(F.linear(h.mean(-1), s[f"{b}.se_fc1.weight"], s[f"{b}.se_fc1.bias"]))
            gate = torch.sigmoid(F.linear(gate, s[f"{b}.se_fc2.weight"], s[f"{b}.se_fc2.bias"]))
            short = x if j else F.max_pool1d(F.pad(x, (0, 1)), 2)
            more = width - x.shape[1]
            x = h * gate[..., None] + F.pad(short, (0, 0, more // 2, more - more // 2))
    return x.mean(-1)


def plain_ked(s, x):
    def layer(key, h, stride=1):
        weight = s[f"{key}.0.weight"]
        return batch_norm(s, f"{key}.1", F.conv1d(h, weight, None, stride, weight.shape[-1] // 2))

    for i in range(3):
        x = layer(str(i), x, 1 if i else 2).relu()
    x = F.max_pool1d(x, 3, 2, 1)
    for i, depth in enumerate((3, 4, 23, 3)):
        for j in range(depth):
            b, stride = f"{4 + i}.{j}", 2 if i and not j else 1
            h = layer(f"{b}.convs.1", layer(f"{b}.convs.0", x).relu(), stride).relu()
            x = F.avg_pool1d(x, 2, ceil_mode=True) if stride == 2 else x
            at = f"{b}.idpath.{1 if i else 0}"
            x = (layer(f"{b}.convs.2", h) + (layer(at, x) if f"{at}.0.weight" in s else x)).relu()
    return x.mean(-1)


def plain_hubertecg_small(s, x):
    low, high = x.min(-1, keepdim=True)[0], x.max(-1, keepdim=True)[0]
    h = torch.cat(list(((x - low) / (high - low) * 2 - 1).unbind(1)), -1)[:, None]
    for i, stride in enumerate((4, 2, 2, 2, 2)):
        key = f"feature_extractor.conv_layers.{i}"
        h = F.conv1d(h, s[f"{key}.conv.weight"], None, stride)
        if not i:  # a group for each channel
            h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            h = h * s[f"{key}.layer_norm.weight"][:, None] + s[f"{key}.layer_norm.bias"][:, None]
        h = F.gelu(h)
    p, n = "feature_projection", 512
    h = F.layer_norm(h.mT, (512,), s[f"{p}.layer_norm.weight"], s[f"{p}.layer_norm.bias"])
    h = F.linear(h, s[f"{p}.projection.weight"], s[f"{p}.projection.bias"])
    c = "encoder.pos_conv_embed.conv"
    direction, gain = (s[f"{c}.parametrizations.weight.original{i}"] for i in (1, 0))
    weight = gain * direction / direction.flatten(0, 1).norm(dim=0)
    h = h + F.gelu(F.conv1d(h.mT, weight, s[f"{c}.bias"], 1, 64, 1, 16)[..., :-1]).mT
    h = F.layer_norm(h, (n,), s["encoder.layer_norm.weight"], s["encoder.layer_norm.bias"])
    for i in range(8):
        b = f"encoder.layers.{i}"
        block = nn.TransformerEncoderLayer(n, 8, 2048, 0.0, "gelu", batch_first=True).eval()
        ours = {f"self_attn.in_proj_{w}": torch.cat([s[f"{b}.attention.{q}_proj.{w}"] for q in "qkv"]) for w in LEAVES}
        names = {"self_attn.out_proj": "attention.out_proj", "norm1": "layer_norm", "norm2": "final_layer_norm"}
        names |= {"linear1": "feed_forward.intermediate_dense", "linear2": "feed_forward.output_dense"}
        ours |= {f"{theirs}.{w}": s[f"{b}.{name}.{w}"] for theirs, name in names.items() for w in LEAVES}
        block.load_state_dict(ours)
        h = block(h)
    return h.mean(1)


LEAVES = ("weight", "bias")
PLAIN = {
    "tolerantecg": plain_tolerantecg,
    "anyppg": plain_anyppg,
    "ked": plain_ked,
    "hubertecg_small": plain_hubertecg_small,
}


@pytest.mark.parametrize("name", UNPROVEN)
def test_networks_compute_what_the_public_code_says(name):
    x, s = signal(name), tensors(name)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(name).encoder(x), PLAIN[name](s, x), rtol=1e-4, atol=1e-4)


def test_loading_without_a_pack_warns_once_and_says_what_is_not_proven(caplog):
    with caplog.at_level(logging.WARNING):
        zoo.load("clef_small", "dummy")
        assert not caplog.records
        loaded("anyppg")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("AnyPPG") and zoo.UNPROVEN in line and zoo.card("anyppg").unproven in line
    assert set(UNPROVEN) | {"hubertecg_base"} == {card.name for card in zoo.cards() if card.unproven}
    assert zoo.table().set_index("model").weights["ked"] == "by hand, not proven"


def test_a_file_of_the_release_loads_and_one_without_its_optional_head_too(tmp_path):
    state = tensors("tolerantecg")
    wanted = loaded("tolerantecg").state_dict()
    for name, content, absent in (
        ("whole.pth", state, []),
        ("bare.pth", {key: v for key, v in state.items() if key != "head.weight"}, ["head.weight"]),
    ):
        torch.save(content, tmp_path / name)
        model = zoo.load("tolerantecg", file=tmp_path / name, accept="CC BY-NC-SA 4.0")
        assert model.absent == absent and model.weights == "published"
        key = "encoder.layers.0.fc1.weight"
        assert torch.equal(model.state_dict()[key], wanted[key])
        (tmp_path / name).unlink()


def test_ked_reads_its_encoder_out_of_the_training_checkpoint(tmp_path):
    state = tensors("ked")
    twice = {key.replace(".convs.", ".convpath.0."): value for key, value in state.items() if ".convs." in key}
    torch.save({"ecg_model": state | twice, "model": {"x": torch.ones(1)}, "epoch": 3}, tmp_path / "ked.pt")
    model = zoo.load("ked", file=tmp_path / "ked.pt", accept=zoo.card("ked").licence)
    assert torch.equal(model.encoder.stem[0][0].weight[:, :, 0], state["0.0.weight"])


def test_what_was_seen_in_pretraining_is_unknown_where_no_card_says_it():
    assert zoo.contamination(loaded("anyppg"), "bidmc") == predictions.DUMMY
    model = loaded("ked")
    model.weights = "published"
    assert zoo.contamination(model, "mimic-iv-ecg") == predictions.SEEN and not zoo.contamination(model, "ptb-xl")
    model = loaded("anyppg")
    model.weights = "published"
    assert zoo.contamination(model, "ptb-xl") == predictions.MAYBE_SEEN


PUBLISHED = [  # model, parameters as published, largest relative difference: heads of the pretraining, rounding
    ("hubertecg_base", 93.1e6, 0.005),  # its page at Hugging Face
    ("hubertecg_small", 122e6 / 4, 0.015),  # size of its file in float32
    ("tolerantecg", 26_814_144, 1e-4),  # counted from its code, with a last norm that the release lacks
]


@pytest.mark.parametrize("name, count, tolerance", PUBLISHED)
def test_counts_agree_with_the_published_ones(name, count, tolerance):
    assert zoo.card(name).parameters == pytest.approx(count, rel=tolerance)


@pytest.mark.parametrize("name", ["ecgcpc", "echoingecg", "pclr"])
def test_a_card_alone_is_shown_and_refused_with_its_reason(name, tmp_path):
    card = zoo.card(name)
    shown = CliRunner().invoke(cli.cli, ["zoo", "card", name])
    assert shown.exit_code == 0 and card.title in shown.output and "only a card" in shown.output
    with pytest.raises(EcgError, match="only a card") as caught:
        zoo.load(name, accept=card.licence)
    assert card.only_card in str(caught.value) and caught.value.fix == f"see {card.repository}"
    options = ["embed", name, str(tmp_path), "--out", str(tmp_path / "z.parquet"), "--accept", card.licence]
    refused = CliRunner().invoke(cli.cli, options)
    assert isinstance(refused.exception, EcgError) and "only a card" in str(refused.exception)
