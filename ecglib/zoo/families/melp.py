"""MELP (arXiv 2506.21803, ICML 2025): a wav2vec trunk that met reports at three scales: token, beat, rhythm."""

import torch
from torch import nn

from ecglib.models.encoders import wav2vec
from ecglib.zoo.card import Card
from ecglib.zoo.model import Model, with_prefix


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = wav2vec.Encoder(12, **wav2vec.SIZES["melp"])
        self.caption = wav2vec.Pooler(768, 768, 8, 128)
        self.projection = nn.Parameter(torch.zeros(card.dim, card.dim))

    def rename(self, state):
        """The training checkpoint holds the text side too; the bare ECG model lacks one prefix."""
        state = super().rename(state)
        text = ("lm_model.", "text_decoder.", "proj_t.", "sent_proj.")
        state = {key: value for key, value in state.items() if not key.startswith(text)}
        bare = "attn_pool_contrast.query" in state
        return {f"ecg_encoder.{key}": value for key, value in state.items()} if bare else state

    def shapes(self, state):
        """The number of beat queries is the file's."""
        key, wanted = "ecg_encoder.attn_pool_contrast.query", super().shapes(state)
        if key in state and state[key].shape[1:] == wanted[key][1:]:
            wanted[key] = tuple(state[key].shape)
            self.encoder.pooler.queries = nn.Parameter(torch.empty(wanted[key], device="meta"))
        return wanted

    def convert(self, state):
        ours = with_prefix("encoder", wav2vec.from_published(state))
        if "ecg_encoder.proj_contrast" not in state:
            return ours
        ours |= with_prefix("caption", wav2vec.pooler_from_published(state, "caption"))
        return ours | {"projection": state["ecg_encoder.proj_contrast"]}

    def outputs(self, x):
        tokens = self.encoder.tokens(x)
        beats = self.encoder.beats(tokens)
        projected = beats @ self.projection
        caption = self.caption(tokens)[:, :4]
        z = {"output": projected.mean(1), "probe_feature": beats.mean(1)}
        return z | {"beat": projected, "caption_tokens_0_3": caption}
