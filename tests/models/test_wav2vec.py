"""wav2vec: published parameter counts, the published function by packs and by a plain computation, masks, poolers."""

import pytest
import torch
import torch.nn.functional as F

from ecglib import EcgError, models
from ecglib.models.encoders.wav2vec import SIZES, Encoder, from_published


def on_meta(size, **changes):
    with torch.device("meta"):
        return Encoder(12, **{**SIZES[size], **changes})


def count(*modules):
    return sum(models.n_parameters(m) for m in modules)


def test_parts_of_ecgfm_have_the_published_number_of_parameters():
    encoder = on_meta("ecgfm")
    assert count(encoder.convs, encoder.group_norm) == 399_872
    assert [count(m) for m in (encoder.feature_norm, encoder.project, encoder.position)] == [512, 197_376, 4_719_488]
    assert count(encoder.blocks) == 85_054_464 and {count(b) for b in encoder.blocks} == {7_087_872}
    assert count(encoder.blocks, encoder.norm) == 85_056_000
    assert count(encoder) == 90_386_321 - (768 * 17 + 17) and SIZES["medium"] == SIZES["ecgfm"]
    assert encoder.position.gain.shape == (1, 1, 128)


TRUNKS = [("melp", 62_021_760, 256), ("small_melp", 210_015, 64), ("small", 234_719, 96)]  # small_melp: 31 gains


@pytest.mark.parametrize("size, trunk, dim", TRUNKS)
def test_trunks_have_the_published_number_of_parameters(size, trunk, dim):
    encoder = on_meta(size)
    assert count(encoder) - (count(encoder.pooler) if encoder.pooler else 0) == trunk
    assert encoder.dim == dim and encoder.token_dim == SIZES[size]["dim"]


@pytest.mark.parametrize("size, n_times, tokens", [("ecgfm", 2500, 156), ("ecgfm", 5000, 312), ("melp", 5000, 312),
                                                   ("small", 500, 62), ("small_melp", 1000, 125)])  # fmt: skip
def test_tokens_per_record(size, n_times, tokens):
    encoder = on_meta(size, depth=1)
    x = torch.zeros(2, 12, n_times, device="meta")
    assert encoder.stem(x).shape == (2, tokens, SIZES[size]["channels"])
    assert encoder.tokens(x).shape == (2, tokens, encoder.token_dim) and encoder(x).shape == (2, encoder.dim)


TINY = dict(channels=6, convs=3, dim=8, depth=2, heads=2, hidden=10, position_kernel=4, position_groups=2, queries=3,
            query_dim=6, query_heads=2)  # fmt: skip


def released(generator, root="ecg_encoder.ecg_encoder."):
    """A state in the released MELP's names and layout, for the sizes of TINY and two leads."""
    linear = {"post_extract_proj": (8, 6)}
    norms = {"layer_norm": 6, "encoder.layer_norm": 8, "feature_extractor.conv_layers.0.2": 6}
    for layer in ("encoder.layers.0.", "encoder.layers.1."):
        linear |= {f"{layer}self_attn.{part}_proj": (8, 8) for part in ("q", "k", "v", "out")}
        linear |= {f"{layer}fc1": (10, 8), f"{layer}fc2": (8, 10)}
        norms |= {f"{layer}self_attn_layer_norm": 8, f"{layer}final_layer_norm": 8}
    shapes = {f"{k}.weight": v for k, v in linear.items()} | {f"{k}.bias": v[:1] for k, v in linear.items()}
    shapes |= {f"{k}.{leaf}": (v,) for k, v in norms.items() for leaf in ("weight", "bias")}
    shapes |= {f"feature_extractor.conv_layers.{i}.0.weight": (6, w, 2) for i, w in enumerate((2, 6, 6))}
    position = "conv_pos.pos_conv.0.parametrizations.weight.original"
    shapes |= {f"{position}0": (1, 1, 4), f"{position}1": (8, 4, 4), "conv_pos.pos_conv.0.bias": (8,)}
    shapes = {root + k: v for k, v in shapes.items()} | {f"{root}mask_emb": (8,), "ecg_encoder.proj_contrast": (6, 6)}
    pool = "ecg_encoder.attn_pool_contrast."
    shapes |= {f"{pool}attn.{part}_proj_weight": (6, w) for part, w in (("q", 6), ("k", 8), ("v", 8))}
    shapes |= {f"{pool}attn.in_proj_bias": (18,), f"{pool}attn.out_proj.weight": (6, 6), f"{pool}query": (3, 6)}
    shapes |= {f"{pool}attn.out_proj.bias": (6,)}
    shapes |= {f"{pool}ln_{n}.{leaf}": (w,) for n, w in (("q", 6), ("k", 8)) for leaf in ("weight", "bias")}
    shapes |= {f"ecg_encoder.ln_contrast.{leaf}": (6,) for leaf in ("weight", "bias")}
    return {k: torch.randn(v, generator=generator) for k, v in shapes.items()}


def plain_attention(q, k, v, heads):
    """q (query, dim), k and v (token, dim), head by head."""
    out = []
    for part in zip(*(t.chunk(heads, -1) for t in (q, k, v)), strict=True):
        weight = (part[0] @ part[1].T / part[0].shape[1] ** 0.5).softmax(-1)
        out.append(weight @ part[2])
    return torch.cat(out, -1)


def plain(state, x):
    """Tokens and pooled queries of one record (2, time), from the released tensors, as the packs' notes describe."""
    s = {k.removeprefix("ecg_encoder.").removeprefix("ecg_encoder."): v for k, v in state.items()}

    def linear(name, h):
        return h @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    def norm(name, h):
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return h * s[f"{name}.weight"] + s[f"{name}.bias"]

    for i in range(3):
        w, pairs = s[f"feature_extractor.conv_layers.{i}.0.weight"], x[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2))
        x = torch.einsum("oik,itk->ot", w, pairs)
        if i == 0:
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            x = x * s["feature_extractor.conv_layers.0.2.weight"][:, None]
            x = x + s["feature_extractor.conv_layers.0.2.bias"][:, None]
        x = F.gelu(x)
    h = linear("post_extract_proj", norm("layer_norm", x.T))
    g, v = (s[f"conv_pos.pos_conv.0.parametrizations.weight.original{i}"] for i in (0, 1))
    position, padded = torch.zeros_like(h), F.pad(h, (0, 0, 2, 2))
    for out in range(8):
        for k in range(4):
            w = g[0, 0, k] * v[out, :, k] / v[:, :, k].norm()
            group = slice(0, 4) if out < 4 else slice(4, 8)
            position[:, out] += padded[k : k + len(h), group] @ w
    h = norm("encoder.layer_norm", h + F.gelu(position + s["conv_pos.pos_conv.0.bias"]))
    for layer in ("encoder.layers.0.", "encoder.layers.1."):
        q, k, v = (linear(f"{layer}self_attn.{part}_proj", h) for part in "qkv")
        h = h + linear(f"{layer}self_attn.out_proj", plain_attention(q, k, v, 2))
        h = norm(f"{layer}self_attn_layer_norm", h)
        h = norm(f"{layer}final_layer_norm", h + linear(f"{layer}fc2", F.gelu(linear(f"{layer}fc1", h))))
    bias, pool = s["attn_pool_contrast.attn.in_proj_bias"].chunk(3), "attn_pool_contrast."
    q, k, v = (norm(f"{pool}ln_{'q' if i == 0 else 'k'}", s[f"{pool}query"] if i == 0 else h)
               @ s[f"{pool}attn.{part}_proj_weight"].T + bias[i] for i, part in enumerate("qkv"))  # fmt: skip
    beats = norm("ln_contrast", linear(f"{pool}attn.out_proj", plain_attention(q, k, v, 2)))
    return h, beats


def test_computes_the_function_of_the_released_tensors():
    generator = torch.Generator().manual_seed(0)
    state, x = released(generator), torch.randn(3, 2, 91, generator=generator)
    encoder = Encoder(2, **TINY).eval()
    encoder.load_state_dict(from_published(state))
    with torch.inference_mode():
        tokens = encoder.tokens(x)
        for i in range(3):
            h, beats = plain(state, x[i])
            torch.testing.assert_close(tokens[i], h, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(encoder.beats(tokens)[i], beats, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(encoder(x)[i], beats.mean(0), rtol=1e-4, atol=1e-4)


def test_released_names_are_known_or_refused():
    state = released(torch.Generator().manual_seed(0))
    ours = from_published(state)
    assert set(ours) == set(Encoder(2, **TINY).state_dict())
    other = {k.replace("parametrizations.weight.original0", "weight_g"): v for k, v in state.items()}
    assert set(from_published(other)) == set(ours)
    for root in ("", "encoder."):  # pre-trained and fine-tuned ECG-FM
        trunk = {k.replace("ecg_encoder.ecg_encoder.", root): v for k, v in state.items() if k.count("ecg_enc") > 1}
        trunk |= {"proj.weight": torch.zeros(17, 8)} if root else {"quantizer.vars": torch.zeros(1, 4, 2)}
        assert set(from_published(trunk)) == {k for k in ours if not k.startswith("pooler")}
    with pytest.raises(EcgError, match="unknown tensor adapter.weight"):
        from_published(state | {"ecg_encoder.adapter.weight": torch.zeros(1)})
    with pytest.raises(EcgError, match="no post_extract_proj"):
        from_published({"model": torch.zeros(1)})


def test_the_transformer_does_not_see_what_is_masked():
    encoder = models.build("wav2vec", position_kernel=3).eval()
    features = torch.randn(2, 20, 64)
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[0, 3:9], mask[1, 10:12] = True, True
    vector = torch.rand(encoder.token_dim)
    masked = encoder.encode(features, mask, vector)
    assert torch.equal(
        masked, encoder.encode(torch.where(mask[..., None], torch.randn(2, 20, 64), features), mask, vector)
    )
    assert not torch.allclose(masked, encoder.encode(features))
    assert not torch.allclose(masked, encoder.encode(features, mask, vector + 1))
    none = torch.zeros_like(mask)
    assert torch.equal(encoder.encode(features, none, vector), encoder.encode(features))


def test_what_cannot_be_is_refused():
    with pytest.raises(EcgError, match="15 samples are too few"):
        models.build("wav2vec")(torch.randn(2, 12, 15))
    with pytest.raises(EcgError, match="no beat queries"):
        models.build("wav2vec").beats(torch.randn(1, 4, 96))


def test_melp_is_probed_at_its_mean_beat():
    encoder = models.build("wav2vec", "small_melp", 3)
    x = torch.randn(4, 3, 500)
    beats = encoder.beats(encoder.tokens(x))
    assert beats.shape == (4, 10, 64) and torch.equal(encoder(x), beats.mean(1))
    encoder(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
