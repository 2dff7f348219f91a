"""ECG-FM (arXiv 2408.05178): wav2vec 2.0 with CMSC and random lead masking; pretrained, and fine-tuned on 17 labels."""

from torch import nn

from ecglib.models.encoders import wav2vec
from ecglib.models.quantizers import GumbelQuantizer
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, renamed_layers, with_prefix


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = wav2vec.Encoder(12, **wav2vec.SIZES["ecgfm"])
        if card.statements:
            self.head = nn.Linear(card.dim, len(card.statements))
        else:
            self.quantiser = GumbelQuantizer(256, 2, 320, 128)
            self.project_target, self.project_context = nn.Linear(256, 256), nn.Linear(768, 256)

    def convert(self, state):
        ours = with_prefix("encoder", wav2vec.from_published(state))
        if self.card.statements:
            return ours | renamed_layers(state, {"proj": "head"})
        names = {"quantizer.weight_proj": "quantiser.project"}
        names |= {"project_q": "project_target", "final_proj": "project_context"}
        ours |= renamed_layers(state, names)
        vectors = state.get("quantizer.vars")
        return ours if vectors is None else ours | {"quantiser.entries": vectors.view(2, 320, 128)}

    def outputs(self, x):
        if self.card.statements:
            return super().outputs(x)
        features = self.encoder.stem(x)
        states = self.encoder.encode(features)
        chosen, codes, _ = self.quantiser(self.encoder.feature_norm(features))
        return {
            "output": self.encoder.pool(states),
            "codes": codes,
            "project_q_mean": self.project_target(chosen).mean(1),
            "final_proj_mean": self.project_context(states).mean(1),
        }
