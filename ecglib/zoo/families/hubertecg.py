"""HuBERT-ECG (doi 10.1101/2024.11.14.24317328): twelve leads laid end to end, and hidden units to be guessed."""

import torch
import torch.nn.functional as F
from torch import nn

from ecglib.models import released
from ecglib.models.encoders.wav2vec import EPS, Position
from ecglib.models.layers import Block
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, with_prefix

KERNELS, STRIDES, CHANNELS = (10, 3, 3, 2, 2), (4, 2, 2, 2, 2), 512
SIZES = {  # card -> transformer
    "hubertecg_small": dict(dim=512, depth=8, heads=8, hidden=2048),
    "hubertecg_base": dict(dim=768, depth=12, heads=12, hidden=3072),
}
LAYER = r"encoder\.layers\.(\d+)\."
NAMES = (  # released name -> ours
    (r"feature_extractor\.conv_layers\.(\d)\.conv\.weight", r"convs.\1.weight"),
    (r"feature_extractor\.conv_layers\.0\.layer_norm\.(weight|bias)", r"group_norm.\1"),
    (r"feature_projection\.layer_norm\.(weight|bias)", r"feature_norm.\1"),
    (r"feature_projection\.projection\.(weight|bias)", r"project.\1"),
    (r"encoder\.pos_conv_embed\.conv\.bias", "position.bias"),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "position.gain"),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "position.weight"),
    (r"encoder\.layer_norm\.(weight|bias)", r"norm.\1"),
    (LAYER + r"attention\.([qkv])_proj\.(weight|bias)", r"blocks.\1.attention.\2.\3"),
    (LAYER + r"attention\.out_proj\.(weight|bias)", r"blocks.\1.attention.out.\2"),
    (LAYER + r"layer_norm\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (LAYER + r"feed_forward\.intermediate_dense\.(weight|bias)", r"blocks.\1.fc1.\2"),
    (LAYER + r"feed_forward\.output_dense\.(weight|bias)", r"blocks.\1.fc2.\2"),
    (LAYER + r"final_layer_norm\.(weight|bias)", r"blocks.\1.norm2.\2"),
)
PRETRAINING = ("final_proj", "label_embedding")  # what the guessing of hidden units needs


class Encoder(nn.Module):
    """x (batch, 12, time), each lead scaled to -1..1 and laid behind the one before -> z (batch, dim), the mean over
    its tokens, one per 64 samples."""

    def __init__(self, n_leads: int = 12, dim: int = 512, depth: int = 8, heads: int = 8, hidden: int = 2048):
        super().__init__()
        self.dim, self.n_leads = dim, n_leads
        widths = (1, *[CHANNELS] * len(KERNELS))
        self.convs = nn.ModuleList(
            nn.Conv1d(widths[i], CHANNELS, k, s, bias=False)
            for i, (k, s) in enumerate(zip(KERNELS, STRIDES, strict=True))
        )
        self.group_norm = nn.GroupNorm(CHANNELS, CHANNELS, eps=EPS)
        self.feature_norm, self.project = nn.LayerNorm(CHANNELS, eps=EPS), nn.Linear(CHANNELS, dim)
        self.position, self.norm = Position(dim, 128, 16), nn.LayerNorm(dim, eps=EPS)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden, post_norm=True, eps=EPS) for _ in range(depth))

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, 12, time) -> (batch, token, dim)."""
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        h = (2 * (x - low) / (high - low + 1e-8) - 1).flatten(1).unsqueeze(1)
        for number, conv in enumerate(self.convs):
            h = conv(h)
            h = F.gelu(h if number else self.group_norm(h))
        h = self.project(self.feature_norm(h.mT))
        h = self.norm(h + self.position(h))
        for block in self.blocks:
            h = block(h)
        return h

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x).mean(1)


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = Encoder(len(card.leads), **SIZES[card.name])

    def rename(self, state):
        state = super().rename(state)
        return {key: value for key, value in state.items() if not key.startswith(PRETRAINING)}

    def convert(self, state):
        ours = released.rename(state, NAMES, "HuBERT-ECG", "masked_spec_embed")
        for key in [key for key in ours if ".attention.q." in key]:
            parts = [ours.pop(key.replace(".q.", f".{name}.")) for name in "qkv"]
            ours[key.replace(".q.", ".qkv.")] = torch.cat(parts)
        return with_prefix("encoder", ours)
