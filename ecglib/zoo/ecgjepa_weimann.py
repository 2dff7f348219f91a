"""ECG-JEPA of Weimann and Conrad (arXiv 2410.13867): patches over all leads, one register token, attentive head."""

import torch

from ecglib.cards import Card, Model
from ecglib.encoders import vit1d
from ecglib.layers import AttentionPool
from ecglib.signals import LEADS

SIZES = {"ecgjepa_weimann_s": "jepa_w_s", "ecgjepa_weimann_b": "jepa_w_b"}  # card -> size of vit1d
FACTS = dict(
    paper="arXiv 2410.13867",
    repository="kweimann/ECG-JEPA",
    licence="MIT (repository, according to third parties; no file was found)",
    leads=LEADS,
    profile="ecgjepa-weimann",
    crop_s=10,
    short="masked",
    corpora=("mimic-iv-ecg", "code-15", "ptb-xl", "chapman", "cpsc2018", "cpsc-extra", "georgia", "ningbo", "ptb",
             "incart"),
    hub="hand",
    place="kweimann/ECG-JEPA (no weights are linked there; issue 1 asks for them)",
    files=("chkpt_<step>.pt", "<name>.min.pt"),
    said="each lead is divided by the standard deviation of its corpus; here PTB-XL's serves for all, and the means, "
    "below 0.002 mV there, are not subtracted. The public evaluation averages 2.5 s crops though pretraining is on "
    "10 s; here features are of 10 s. The teacher's weights count, not the student's beside them",
    defects=(
        "what is called linear there is an attentive pooling",
        "signals and statistics were stored in half precision",
        "the published loader is not strict",
        "PTB-XL's training folds and most public corpora are in its pretraining: such rows are marked",
    ),
    scaling="lead, clipped",
    entry=("model",),
    inert=("argparse.Namespace", "numpy"),
    optional=("attn_pool",),
)  # fmt: skip


def _card(size, parameters, stored, dim):
    pooling = f"mean over the 200 patch tokens of 50 ms, the register left out, {dim} values"
    return Card(name=f"ecgjepa_weimann_{size}", title=f"ECG-JEPA (Weimann) ViT-{size.upper()}", parameters=parameters,
                stored=stored, dim=dim, pooling=pooling, pack=f"ecgjepa_weimann_vit{size}", **FACTS)  # fmt: skip


CARDS = (_card("s", 14_277_888, 14_747_904, 384), _card("b", 85_185_024, 87_009_792, 768))


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
        ours = {f"encoder.{key}": value for key, value in vit1d.from_published(state).items()}
        if self.absent:
            return ours
        return ours | {f"pool.{key}": value for key, value in vit1d.attentive_head(state).items()}

    def outputs(self, x: torch.Tensor):
        tokens = self.encoder.encode(self.encoder.embed(x))
        first = len(self.encoder.registers)
        return {"output": tokens[:, first:].mean(1), "register": tokens[:, 0], "logits": self.pool(tokens)[:, 0]}
