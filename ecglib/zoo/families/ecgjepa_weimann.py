"""ECG-JEPA of Weimann and Conrad (arXiv 2410.13867): patches over all leads, one register token, attentive head."""

import torch

from ecglib.models.encoders import vit1d
from ecglib.models.layers import AttentionPool
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, with_prefix

SIZES = {"ecgjepa_weimann_s": "jepa_w_s", "ecgjepa_weimann_b": "jepa_w_b"}  # card -> size of vit1d


class Network(Model):
    """`pool`: the attentive head of a fine-tuned file, 71 classes whose names the release does not fix."""

    def __init__(self, card: Card):
        super().__init__(card)
        sizes = vit1d.SIZES[SIZES[card.name]]
        self.encoder = vit1d.Encoder(12, **sizes)
        self.pool = AttentionPool(card.dim, sizes["heads"], out_dim=71, qkv_bias=False, bias=False)

    def rename(self, state):
        state = super().rename(state)
        if not any(key.startswith("target_encoder.") for key in state):
            return state
        return {key.removeprefix("target_"): value for key, value in state.items() if key.startswith("target_encoder.")}

    def convert(self, state):
        ours = with_prefix("encoder", vit1d.from_published(state))
        return ours if self.absent else ours | with_prefix("pool", vit1d.attentive_head(state))

    def outputs(self, x: torch.Tensor):
        tokens = self.encoder.encode(self.encoder.embed(x))
        first = len(self.encoder.registers)
        return {"output": tokens[:, first:].mean(1), "register": tokens[:, 0], "logits": self.pool(tokens)[:, 0]}
