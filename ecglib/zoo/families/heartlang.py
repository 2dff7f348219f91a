"""HeartLang (arXiv 2502.10707): heartbeats as words; the sentence model, and the vocabulary that it learned from."""

import torch
from torch import nn

from ecglib.models.beat_tokenizer import Words
from ecglib.models.encoders import beat_transformer
from ecglib.objectives import heartlang, heartlang_vq
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, with_prefix


class Network(Model):
    """The sentence model (with its code head), or encoder, vocabulary and decoder of the first stage."""

    def __init__(self, card: Card):
        super().__init__(card)
        self.vocabulary_stage = card.name == "heartlang_vqhbr"
        sizes = beat_transformer.SIZES["vqhbr" if self.vocabulary_stage else "heartlang"]
        self.encoder = beat_transformer.Encoder(12, **sizes)
        if self.vocabulary_stage:
            options = dict(codes=8192, code_dim=128, decoder_depth=2, score_pads=True)
            self.stage = heartlang_vq.Objective(self.encoder, **options)
        else:
            self.head, self.mask_token = nn.Linear(card.dim, 8192), nn.Parameter(torch.zeros(card.dim))

    def rename(self, state):
        state = {key.removeprefix("backbone."): value for key, value in super().rename(state).items()}
        unused = ("loss", "teacher", "scaling", "mlp_head.")  # of the training script; of a classifier
        return {key: value for key, value in state.items() if not key.startswith(unused)}

    def convert(self, state):
        if self.vocabulary_stage:
            ours = heartlang_vq.from_published(state)
            encoder = {key: value for key, value in ours.items() if key.startswith("encoder.")}
            return with_prefix("stage", ours) | encoder
        if self.absent:
            return with_prefix("encoder", beat_transformer.from_published(state))
        return heartlang.from_published(state)

    def words(self, x: torch.Tensor | Words) -> Words:
        return x if isinstance(x, Words) else self.encoder.words(x)

    def features(self, x) -> torch.Tensor:
        words = self.words(x)
        tokens = self.encoder.sentence(words)
        return (tokens[:, 1:] * words.real[..., None]).mean(1) if self.vocabulary_stage else tokens[:, 0]

    def outputs(self, x):
        words = self.words(x)
        tokens = self.encoder.sentence(words)
        if not self.vocabulary_stage:
            hidden = (torch.arange(words.tokens.shape[1]) % 32 == 5).expand(len(words.tokens), -1)
            masked = self.encoder.sentence(words, hidden, self.mask_token)[:, 1:]
            return {"output": tokens[:, 0], "token_mean": tokens[:, 1:].mean(1), "logits": self.head(masked[hidden])}
        encoded = tokens[:, 1:] * words.real[..., None]
        waves, codes = self.stage.reconstruct(words)
        outputs = {"output": encoded.mean(1), "pre_quant": self.stage.vocabulary.head(encoded)}
        return outputs | {"codes": codes.index, "recon": waves}
