"""Steps of encoders that ONNX has no words for, in other words: complex numbers, lengths and contents that decide.

Nothing here is used for training or features. That the numbers stay the same is measured by every export, on `signals`
and `sentences`.
"""

import types

import torch
import torch.nn.functional as F
from torch import nn

from ecglib import beatwords
from ecglib.cards import Model
from ecglib.encoders import autoencoder, beat_transformer, net1d, s4d, vit1d
from ecglib.signals import EcgError


def reword(module: nn.Module, example: dict, any_length: bool) -> nn.Module:
    """`module`, its steps changed in place so that torch.onnx takes them: for the length of `example`, or for any."""
    words = REWORDED | (ANY_LENGTH if any_length else {})
    hooks = [part.register_forward_pre_hook(_computed) for part in module.modules() if isinstance(part, s4d.StateSpace)]
    if hooks:
        module(*example.values())
    for hook in hooks:
        hook.remove()
    for part in list(module.modules()):
        if any_length and isinstance(part, net1d.SameConv) and part.stride[0] == 2 and part.kernel_size[0] % 2:
            raise EcgError("an odd kernel with stride 2", field="dynamic_time", fix="export for one length")
        for step, function in next((words[kind] for kind in words if isinstance(part, kind)), {}).items():
            setattr(part, step, types.MethodType(function, part))
    return module


def _computed(part: s4d.StateSpace, inputs: tuple) -> None:
    """Compute from the weights what needs complex numbers."""
    factor, gain = (torch.view_as_real(value) for value in part.discrete())
    part.factor, part.gain, part.response = factor, gain, part.impulse(inputs[0].shape[-1])


def _features(self: Model, x: torch.Tensor) -> torch.Tensor:
    """One crop without padding."""
    return self.features(x)


def _by_length(self: beat_transformer.Sentence, h: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """All sentences together."""
    return self._layers(h, real[:, None, None]) * real[..., None]


def _impulse(self: s4d.StateSpace, n: int) -> torch.Tensor:
    """(dim, n), without complex numbers."""
    time, gain = torch.arange(n).float(), self.gain[..., None]
    decay, angle = (self.factor[..., i, None] * time for i in (0, 1))
    return (decay.exp() * (gain[:, :, 0] * angle.cos() - gain[:, :, 1] * angle.sin())).sum(1)


def _state_space(self: s4d.StateSpace, u: torch.Tensor) -> torch.Tensor:
    """With a power of two of samples: for others onnxruntime's DFT is many times slower and less exact."""
    n = u.shape[-1]
    wide = 2 ** (2 * n - 1).bit_length()
    spectrum = torch.fft.rfft(u, wide) * torch.fft.rfft(self.response, wide)
    return torch.fft.irfft(spectrum, wide)[..., :n] + self.skip[:, None] * u


def _same_conv(self: net1d.SameConv, x: torch.Tensor) -> torch.Tensor:
    """An even kernel with stride 2 may have the padding of an odd length for all: it never reads a zero too many."""
    left = (self.kernel_size[0] - 1) // 2
    x = F.pad(x, (left, self.kernel_size[0] - 1 - left))
    return F.conv2d(x, self.weight.unsqueeze(2), self.bias, (1, self.stride[0]), 0, 1, self.groups)


def _shortcut(self: net1d.Block, x: torch.Tensor) -> torch.Tensor:
    """The pool leaves out the zero that an even length does not need."""
    if self.stride == 2:
        x = F.max_pool2d(F.pad(x, (0, 1)), (1, 2))
    return F.pad(x, (0, 0, 0, 0, self.grow // 2, self.grow - self.grow // 2)) if self.grow else x


def _patches(self: vit1d.Encoder, x: torch.Tensor) -> torch.Tensor:
    """An index in place of a cut, which is traced as none where the example has a whole number of patches."""
    x = x if self.rows is None else x[:, self.rows]
    n = x.shape[2] // self.patch
    x = x.index_select(2, torch.arange(n * self.patch)).unflatten(2, (n, self.patch))
    return x.transpose(1, 2).flatten(2) if self.joint else x.flatten(1, 2)


def _grid(self: vit1d.Encoder, index: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """No remainder, which torch.onnx has only for constants."""
    per_lead = n // self.token_leads
    return index // per_lead, index - index // per_lead * per_lead


def _response(self: vit1d.FilterBlock, n: int) -> torch.Tensor:
    """Interpolated also where that changes nothing."""
    last = len(self.response) - 1
    place = (torch.arange(n // 2 + 1) * self.n_tokens / n).clamp(max=last)
    low = place.floor().long().clamp(max=max(0, last - 1))
    response = torch.lerp(self.response[low], self.response[(low + 1).clamp(max=last)], (place - low)[:, None, None])
    return torch.view_as_complex(response.contiguous())


def _latent(self: autoencoder.Encoder, x: torch.Tensor) -> torch.Tensor:
    """No division of negative numbers, which ONNX rounds towards zero."""
    length = self.stride * max((x.shape[-1] + self.stride - 1) // self.stride, self.kernel)
    return self.layers(F.pad(x, (0, length - x.shape[-1])).unsqueeze(2)).squeeze(2).transpose(1, 2)


class FromWords(nn.Module):
    """tokens, lead, time, real of `beatwords.Words` -> z of an encoder that reads them, or of a published model."""

    def __init__(self, network: beat_transformer.Encoder | Model):
        super().__init__()
        self.network, self.published = network, isinstance(network, Model)
        self.config = getattr(network, "config", None)

    def forward(self, tokens, lead, time, real):
        words = beatwords.Words(tokens, lead, time, real)
        return self.network.features(words) if self.published else self.network.sentence(words)[:, 0]


def signals(batch: int, n_leads: int, n_times: int) -> dict[str, torch.Tensor]:
    """x: noise of different strength; half of the leads of the first record are flat."""
    x = torch.randn(batch, n_leads, n_times, generator=torch.Generator().manual_seed(0))
    x *= torch.arange(1, batch + 1)[:, None, None]
    x[0, : n_leads // 2] = 0
    return {"x": x}


def sentences(batch: int, n: int, n_leads: int) -> dict[str, torch.Tensor]:
    """The fields of `beatwords.Words` for sentences of different length."""
    one = torch.Generator().manual_seed(0)
    real = torch.arange(n) < torch.linspace(n, n / 2, batch).ceil()[:, None]
    lead, time = (torch.randint(1, top + 1, (batch, n), generator=one) * real for top in (n_leads, 10))
    tokens = torch.randn(batch, n, beatwords.WIDTH, generator=one) * real[..., None]
    return beatwords.Words(tokens, lead, time, real)._asdict()


REWORDED = {  # class -> its methods
    Model: {"forward": _features},
    beat_transformer.Sentence: {"_by_length": _by_length},
    s4d.StateSpace: {"forward": _state_space},
}
ANY_LENGTH = {
    s4d.StateSpace: {"impulse": _impulse},
    net1d.SameConv: {"forward": _same_conv},
    net1d.Block: {"shortcut": _shortcut},
    vit1d.Encoder: {"patches": _patches, "grid": _grid},
    vit1d.FilterBlock: {"at": _response},
    autoencoder.Encoder: {"latent": _latent},
}
