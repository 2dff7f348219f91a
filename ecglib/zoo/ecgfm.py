"""ECG-FM (arXiv 2408.05178): wav2vec 2.0 with CMSC and random lead masking; pretrained, and fine-tuned on 17 labels."""

import torch
from torch import nn

from ecglib.cards import Card, Model
from ecglib.encoders import wav2vec
from ecglib.objectives.wcr import Quantiser
from ecglib.signals import LEADS

LABELS = (  # order of the outputs: label_def.csv of bowang-lab/ECG-FM
    "Poor data quality", "Sinus rhythm", "Premature ventricular contraction", "Tachycardia", "Ventricular tachycardia",
    "Supraventricular tachycardia with aberrancy", "Atrial fibrillation", "Atrial flutter", "Bradycardia",
    "Accessory pathway conduction", "Atrioventricular block", "1st degree atrioventricular block",
    "Bifascicular block", "Right bundle branch block", "Left bundle branch block", "Infarction",
    "Electronic pacemaker",
)  # fmt: skip
FACTS = dict(
    paper="arXiv 2408.05178; JAMIA Open 8(5) ooaf122",
    repository="bowang-lab/ECG-FM, Jwoo5/fairseq-signals",
    licence="MIT",
    dim=768,
    leads=LEADS,
    profile="ecgfm",
    crop_s=5,
    short="masked",
    whole=True,
    pooling="mean over the 156 tokens of each 5 s segment, then over the segments, 768 values",
    corpora=("mimic-iv-ecg", "ptb-xl", "cpsc2018", "cpsc-extra", "georgia", "chapman", "ningbo"),
    hub="huggingface",
    place="wanglab/ecg-fm",
    said="the paper's text has a layer norm after every convolution, the weights have one group norm after the first; "
    "segments are 5 s without overlap, a remainder is dropped. The release divides by the number of tokens that are "
    "not zero, which is the mean where nothing is padded",
    scaling="lead",
    entry=("model",),
    inert=("argparse.Namespace", "omegaconf", "fairseq_signals", "fairseq", "numpy", "collections", "typing"),
)
DEFECTS = (
    "z-score of each lead over the whole recording: absolute and relative amplitudes are lost",
    "PTB-XL, CPSC2018, Georgia, Chapman and Ningbo are in its pretraining: such rows are marked",
    "CinC2021 was split by record, other ECGs of a patient counted as negatives, whole rows could lose all leads",
)
CARDS = (
    Card(
        name="ecgfm", title="ECG-FM, pretrained", parameters=90_386_321 - 17 * 769, stored=90_883_072,
        files=("mimic_iv_ecg_physionet_pretrained.pt",), pack="ecgfm_pretrained", defects=DEFECTS,
        optional=("quantizer|project_q|final_proj|mask_emb",), **FACTS,
    ),
    Card(
        name="ecgfm_finetuned", title="ECG-FM, fine-tuned on MIMIC-IV-ECG", parameters=90_386_321, stored=90_386_321,
        files=("mimic_iv_ecg_finetuned.pt",), pack="ecgfm_classifier", statements=LABELS,
        head="17 labels of MIMIC-IV-ECG reports, independent sigmoids, mean of the segments' logits (the release takes "
        "the maximum for five of them)",
        defects=(*DEFECTS, "its report labels confuse fibrillation with accessory pathways and ignore negation"),
        optional=("proj",), **FACTS,
    ),
)  # fmt: skip


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = wav2vec.Encoder(12, **wav2vec.SIZES["ecgfm"])
        if card.statements:
            self.head = nn.Linear(card.dim, len(card.statements))
        else:
            self.quantiser = Quantiser(256, 2, 320, 128)
            self.project_target, self.project_context = nn.Linear(256, 256), nn.Linear(768, 256)

    def convert(self, state):
        ours = {f"encoder.{key}": value for key, value in wav2vec.from_published(state).items()}
        names = {"proj": "head"} if self.card.statements else {
            "quantizer.weight_proj": "quantiser.project",
            "project_q": "project_target", "final_proj": "project_context",
        }  # fmt: skip
        ours |= {f"{mine}.{leaf}": state[f"{theirs}.{leaf}"] for theirs, mine in names.items()
                 for leaf in ("weight", "bias") if f"{theirs}.{leaf}" in state}  # fmt: skip
        vectors = state.get("quantizer.vars")
        return ours if vectors is None else ours | {"quantiser.entries": vectors.view(2, 320, 128)}

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x)) if self.card.statements else super().logits(x)

    def outputs(self, x):
        features = self.encoder.stem(x)
        states = self.encoder.encode(features)
        z = self.encoder.pool(states)
        if self.card.statements:
            return {"output": z, "logits": self.head(z)}
        chosen, codes, _ = self.quantiser(self.encoder.feature_norm(features))
        return {"output": z, "codes": codes, "project_q_mean": self.project_target(chosen).mean(1),
                "final_proj_mean": self.project_context(states).mean(1)}  # fmt: skip
