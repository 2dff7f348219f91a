"""MERL (arXiv 2403.06659, ICML 2024): a ResNet18 whose ECGs were matched with their reports."""

import torch
from torch import nn

from ecglib.cards import MIMIC_LEADS, Card, Model
from ecglib.encoders import resnet1d
from ecglib.layers import Attention

CARDS = (
    Card(
        name="merl",
        title="MERL ResNet18",
        paper="arXiv 2403.06659; ICML 2024",
        repository="cheliu-computation/MERL-ICML2024",
        licence="MIT (repository; none is stated for the weights alone)",
        parameters=3_848_832,
        stored=4_788_618,
        dim=512,
        leads=MIMIC_LEADS,
        profile="merl",
        crop_s=10,
        short="masked",
        pooling="mean over the 313 time steps of the last stage, 512 values",
        corpora=("mimic-iv-ecg",),
        hub="hand",
        place="the Google Drive folder 13wb4DppUciMn-Y_qC2JRWTbZdz3xX0w2 that the repository's README links",
        files=("res18_best_encoder.pth", "res18_best_ckpt.pth"),
        said="the public code cuts CPSC2018 to 5 s and pads with zeros before scaling, which makes the padding a "
        "constant signal: here shorter recordings are taken as they are",
        defects=(
            "aVF stands before aVL, as in the files that it was trained on",
            "all leads together are scaled to 0..1: one artefact changes every lead",
            "the encoder's linear layer of ten classes is untrained",
            "the authors printed the best test score over epochs",
        ),
        pack="merl_resnet18",
        scaling="range",
        entry=("state_dict", "model"),
        optional=("downconv|att_pool_head|linear[12]|proj_t", r"ecg_encoder\.linear"),
    ),
)


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
        ours = {f"encoder.{key}": value for key, value in resnet1d.from_published(tower).items()}
        ours |= {
            key.removeprefix("ecg_encoder."): v for key, v in state.items() if key.startswith("ecg_encoder.linear.")
        }
        if "downconv.weight" not in state:
            return ours
        pool, packed = "att_pool_head.", state["att_pool_head.mhsa.in_proj_weight"]
        bias = state[f"{pool}mhsa.in_proj_bias"]
        n = packed.shape[1]
        head = {
            "down.weight": state["downconv.weight"].squeeze(-1), "down.bias": state["downconv.bias"],
            "positions": state[f"{pool}positional_embedding"][0], "class_token": state[f"{pool}cls_token"].flatten(),
            "attention.q.weight": packed[:n], "attention.q.bias": bias[:n],
            "attention.kv.weight": packed[n:], "attention.kv.bias": bias[n:],
        }  # fmt: skip
        for theirs, mine in (("mhsa.out_proj", "attention.out"), ("c_proj", "out")):
            head |= {f"{mine}.{leaf}": state[f"{pool}{theirs}.{leaf}"] for leaf in ("weight", "bias")}
        return ours | {f"project.{key}": value for key, value in head.items()}

    def outputs(self, x):
        tokens = self.encoder.tokens(x)
        z = tokens.mean(1)
        return {"output": z, "logits": self.linear(z), "proj": self.project(tokens)}
