"""MELP (arXiv 2506.21803, ICML 2025): a wav2vec trunk that met reports at three scales: token, beat, rhythm."""

import torch
from torch import nn

from ecglib.cards import MIMIC_LEADS, Card, Model
from ecglib.encoders import wav2vec

CARDS = (
    Card(
        name="melp",
        title="MELP, ECG encoder",
        paper="arXiv 2506.21803; ICML 2025",
        repository="HKU-MedAI/MELP",
        licence="Apache 2.0 (as the page of the weights says; the code: MIT)",
        parameters=62_553_216,
        stored=65_593_857,
        dim=256,
        leads=MIMIC_LEADS,
        profile="melp",
        crop_s=10,
        short="masked",
        pooling="mean of the 14 beat queries, without the projection of the contrastive loss, 256 values",
        corpora=("mimic-iv-ecg",),
        hub="huggingface",
        place="fuyingw/MELP_Encoder",
        files=("model.safetensors",),
        said="the number of beat queries is 14 in the released encoder, 13 and 12 elsewhere in the code; weights are "
        "stored in bfloat16 and computed with in float32 here. Shorter recordings are taken as they are, where the "
        "code pads before scaling",
        defects=(
            "aVF stands before aVL, as in the files that it was trained on",
            "called with its defaults the trunk masks two thirds of the tokens, also in evaluation",
            "zero-shot scores were ranked after a softmax over classes, and training stopped by downstream sets",
            "the text side is not released: no zero-shot",
        ),
        pack="melp_ecg_encoder",
        scaling="range",
        entry=("state_dict",),
        optional=(
            r"ecg_encoder\.(proj_contrast|logit_scale|bn\.|attn_pool_caption|ln_caption)",
            r"ecg_encoder\.ecg_encoder\.(mask_emb|quantizer|project_q|final_proj)",
        ),
    ),
)


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
        ours = {f"encoder.{key}": value for key, value in wav2vec.from_published(state).items()}
        if "ecg_encoder.proj_contrast" not in state:
            return ours
        caption = wav2vec.pooler_from_published(state, "caption")
        ours |= {f"caption.{key}": value for key, value in caption.items()}
        return ours | {"projection": state["ecg_encoder.proj_contrast"]}

    def outputs(self, x):
        tokens = self.encoder.tokens(x)
        beats = self.encoder.beats(tokens)
        projected = beats @ self.projection
        return {"output": projected.mean(1), "beat": projected, "caption_tokens_0_3": self.caption(tokens)[:, :4],
                "probe_feature": beats.mean(1)}  # fmt: skip
