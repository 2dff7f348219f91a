"""MERL (arXiv 2403.06659, ICML 2024): a ResNet18 whose ECGs were matched with their reports."""

import torch
from torch import nn

from ecglib.models.encoders import resnet1d
from ecglib.models.layers import Attention
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, renamed_layers, with_prefix


class Projection(nn.Module):
    """The space shared with reports: features (batch, 512, token) -> (batch, 256), a class token reading all tokens."""

    def __init__(self, width: int = 512, dim: int = 256, heads: int = 4, positions: int = 314):
        super().__init__()
        self.down = nn.Linear(width, dim)
        self.positions = nn.Parameter(torch.zeros(positions, dim))
        self.class_token = nn.Parameter(torch.zeros(dim))
        self.attention, self.out = Attention(dim, heads, context_dim=dim), nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.down(tokens)
        first = (self.class_token + self.positions[0]).expand(len(h), 1, -1)  # the first position counts twice
        h = torch.cat([first, h], 1) + self.positions[: h.shape[1] + 1]
        return self.out(self.attention(h[:, :1], h))[:, 0]


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = resnet1d.Encoder(12, **resnet1d.SIZES["merl"])
        self.project, self.linear = Projection(), nn.Linear(card.dim, 10)

    def rename(self, state):
        """The encoder's file has no prefix, the whole model's holds the text tower too."""
        state = super().rename(state)
        if not any(key.startswith("ecg_encoder.") for key in state):
            state = {f"ecg_encoder.{key}": value for key, value in state.items()}
        return {key: value for key, value in state.items() if not key.startswith("lm_model.")}

    def convert(self, state):
        tower = {k: v for k, v in state.items() if k.startswith("ecg_encoder.") and ".linear." not in k}
        ours = with_prefix("encoder", resnet1d.from_published(tower))
        ours |= renamed_layers(state, {"ecg_encoder.linear": "linear"})
        if "downconv.weight" not in state:
            return ours
        pool, n = "att_pool_head", self.project.down.out_features
        head = {
            "down.weight": state["downconv.weight"].squeeze(-1),
            "down.bias": state["downconv.bias"],
            "positions": state[f"{pool}.positional_embedding"][0],
            "class_token": state[f"{pool}.cls_token"].flatten(),
        }
        for leaf in ("weight", "bias"):  # query, key and value are one tensor there
            packed = state[f"{pool}.mhsa.in_proj_{leaf}"]
            head |= {f"attention.q.{leaf}": packed[:n], f"attention.kv.{leaf}": packed[n:]}
        head |= renamed_layers(state, {f"{pool}.mhsa.out_proj": "attention.out", f"{pool}.c_proj": "out"})
        return ours | with_prefix("project", head)

    def outputs(self, x):
        tokens = self.encoder.tokens(x)
        z = tokens.mean(1)
        return {"output": z, "logits": self.linear(z), "proj": self.project(tokens)}
