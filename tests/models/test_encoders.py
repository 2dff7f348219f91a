"""One contract for all encoders; exact parameter counts; the function of the published networks."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ecglib import EcgError, models
from ecglib.models.encoders import net1d


@pytest.fixture(params=models.names())
def name(request):
    return request.param


def test_maps_any_length_and_number_of_leads(name):
    for n_leads, n_times in ((12, 1000), (1, 1000), (3, 2500), (12, 733)):
        encoder = models.build(name, "small", n_leads)
        x = torch.randn(2, n_leads, n_times)
        z, tokens = encoder(x), encoder.tokens(x)
        assert z.shape == (2, encoder.dim) and z.dtype == torch.float32
        assert tokens.shape[0] == 2 and tokens.shape[2] == encoder.dim
        assert torch.isfinite(z).all()


def test_small_is_small_and_every_parameter_is_reached(name):
    encoder = models.build(name, "small")
    assert models.n_parameters(encoder) <= 1_000_000
    encoder(torch.randn(4, 12, 1000)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_seed_fixes_the_weights_and_leaves_the_global_generator_alone(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (models.build(name, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(2, 12, 1000)
    one, same, other = (e.eval()(x) for e in (one, same, other))
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_different_signals_get_different_features(name):
    z = models.build(name).eval()(torch.randn(8, 12, 1000))
    assert (z.std(0) > 0).float().mean() > 0.9


def test_saves_and_loads_itself(name, tmp_path):
    encoder = models.build(name, "small", 3, seed=4).eval()
    models.save(encoder, tmp_path, objective="toy")
    loaded, info = models.load(tmp_path)
    x = torch.randn(2, 3, 500)
    assert torch.equal(loaded.eval()(x), encoder(x))
    assert loaded.config == encoder.config and info == {"objective": "toy"}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_a_mask_of_leads_reaches_the_encoders_that_take_one(name):
    encoder, x = models.build(name).eval(), torch.randn(2, 12, 1000)
    kept = torch.ones(2, 12, dtype=torch.bool)
    torch.testing.assert_close(models.embed(encoder, x, kept), encoder(x))
    kept[:, 3:] = False
    x = x * kept.unsqueeze(-1)
    changed = not torch.allclose(models.embed(encoder, x, kept), encoder(x))
    assert changed == (name in ("convnext1d", "imle_net"))


def test_unknown_names_are_answered_with_the_valid_ones(tmp_path):
    with pytest.raises(EcgError, match="net1d"):
        models.build("net2d")
    with pytest.raises(EcgError, match="small, ecgfounder"):
        models.build("net1d", "tiny")
    with pytest.raises(EcgError, match="group_width"):
        models.build("net1d", groups=8)
    with pytest.raises(EcgError, match="no encoder here"):
        models.load(tmp_path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.net.", "encoder._orig_mod."])
def test_an_encoder_that_was_saved_in_a_wrapper_loads(tmp_path, prefix, caplog):
    encoder = models.build("net1d")
    models.save(encoder, tmp_path)
    save_file({f"{prefix}{k}": v for k, v in encoder.state_dict().items()}, tmp_path / "encoder.safetensors")
    again, _ = models.load(tmp_path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in encoder.state_dict().items())
    assert "taken off" in caplog.text


def test_weights_that_cannot_have_been_learned_are_refused_by_name(name, tmp_path):
    """What begins as zeros may be zeros: an encoder that was never trained loads."""
    encoder = models.build(name)
    models.save(encoder, tmp_path)
    models.load(tmp_path)
    state = encoder.state_dict()
    matrix = next(k for k, v in state.items() if v.ndim > 1 and v.any() and v.is_floating_point())
    for key, value in ((matrix, torch.zeros_like(state[matrix])), (matrix, state[matrix] / 0)):
        save_file(state | {key: value.contiguous()}, tmp_path / "encoder.safetensors")
        with pytest.raises(EcgError, match="zero|NaN") as caught:
            models.load(tmp_path)
        assert caught.value.field == key and caught.value.file.endswith("encoder.safetensors")
    (tmp_path / "encoder.safetensors").write_bytes(b"something else")
    with pytest.raises(EcgError, match="weights do not fit"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((2, 12, 500), np.float32), r"torch\.from_numpy"),
        (torch.zeros(2, 12, 500, dtype=torch.int32), "int32"),
        (torch.zeros(0, 12, 500), r"\(0, 12, 500\)"),
        (torch.zeros(12, 500), r"x\[None\]"),
        (torch.zeros(2, 8, 500), "8 leads for an encoder of 12"),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", [models.embed, models.tokens])
def test_what_is_no_batch_of_signals_is_refused(function, x, words):
    encoder = models.build("resnet1d")
    with pytest.raises(EcgError, match=words):
        function(encoder, x)
    one = torch.randn(2, 12, 500)
    assert torch.equal(function(encoder.eval(), one.double()), function(encoder, one))


def test_weights_of_another_network_are_refused(tmp_path):
    models.save(models.build("net1d", "small", 1), tmp_path)
    text = (tmp_path / "encoder.json").read_text()
    (tmp_path / "encoder.json").write_text(text.replace('"n_leads": 1', '"n_leads": 2'))
    with pytest.raises(EcgError, match="do not fit"):
        models.load(tmp_path)


# Parameters in use, ecgfounder.md sections 3 and 9, clef.md sections 3 and 9; head: outputs of a linear layer.
COUNTS = [
    ("small", 12, 5, 184_253),
    ("small", 1, 0, 180_792),
    ("ecgfounder", 12, 150, 30_752_646),
    ("ecgfounder", 1, 150, 30_741_382),
    ("ecgfounder", 12, 0, 30_598_896),
    ("clef_xs", 1, 0, 122_008),
    ("clef_small", 1, 0, 443_184),
    ("medium", 1, 0, 30_587_632),
    ("large", 1, 0, 296_301_312),
]


@pytest.mark.parametrize("size, n_leads, outputs, count", COUNTS)
def test_net1d_has_the_published_number_of_parameters(size, n_leads, outputs, count):
    with torch.device("meta"):
        encoder = net1d.Encoder(n_leads, **net1d.SIZES[size])
        head = nn.Linear(encoder.dim, outputs) if outputs else nn.Identity()
    assert models.n_parameters(encoder) + models.n_parameters(head) == count


def test_net1d_parts_have_the_published_number_of_parameters():
    with torch.device("meta"):
        encoder = net1d.Encoder(12, **net1d.SIZES["ecgfounder"])
    counts = [57_920, 221_600, 236_960, 1_656_600, 1_752_600, 13_010_944, 13_649_920]
    assert models.n_parameters(encoder.stem) == 12_352
    assert [models.n_parameters(stage) for stage in encoder.stages] == counts


TOKENS = [("ecgfounder", 5000, 20), ("ecgfounder", 1000, 4), ("clef_small", 5000, 40), ("large", 5000, 5),
          ("small", 1000, 32)]  # fmt: skip


@pytest.mark.parametrize("size, n_times, tokens", TOKENS)
def test_net1d_has_the_published_number_of_tokens(size, n_times, tokens):
    with torch.device("meta"):
        encoder = net1d.Encoder(12, **net1d.SIZES[size])
        assert encoder.tokens(torch.zeros(1, 12, n_times)).shape == (1, tokens, encoder.dim)


def test_resnet1d_is_the_reference_of_the_specification():
    for size, dim, count in (("small", 96, 451_269), ("narrow", 128, 394_373), ("medium", 512, 3_857_541)):
        encoder = models.build("resnet1d", size)
        assert encoder.dim == dim
        assert models.n_parameters(encoder) + models.n_parameters(nn.Linear(dim, 5)) == count


def test_same_padding_equals_padding_by_hand():
    """Output length ceil(L / s), the smaller half of the zeros in front: against numpy's correlation."""
    for stride, n_times in ((1, 40), (2, 40), (2, 41)):
        conv = net1d.SameConv(1, 1, 16, stride)
        x = torch.randn(1, 1, 1, n_times)
        out = -(-n_times // stride)
        total = max(0, (out - 1) * stride + 16 - n_times)
        padded = np.pad(x[0, 0, 0].numpy(), (total // 2, total - total // 2))
        kernel, bias = conv.weight.detach().numpy()[0, 0], conv.bias.item()
        expected = [padded[i * stride : i * stride + 16] @ kernel + bias for i in range(out)]
        np.testing.assert_allclose(conv(x).detach().numpy()[0, 0, 0], expected, atol=1e-5)


def test_an_odd_length_meets_a_literal_zero_in_the_shortcut():
    block = net1d.Block(8, 16, 2, 16, 8, 1.0, first=False)
    shortcut = block.shortcut(-torch.ones(1, 8, 1, 5))[:, :, 0]
    assert shortcut.shape == (1, 16, 3)
    assert shortcut[0, 4:12].tolist() == [[-1.0, -1.0, 0.0]] * 8
    assert (shortcut[0, :4] == 0).all() and (shortcut[0, 12:] == 0).all()
