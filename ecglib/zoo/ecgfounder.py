"""ECGFounder (arXiv 2410.04133, NEJM AI 2025): Net1D, supervised on 150 vendor statements of 7.5 million ECGs."""

import torch
from torch import nn

from ecglib.cards import Card, Model
from ecglib.encoders import net1d
from ecglib.labels import vocabulary
from ecglib.signals import LEADS

FACTS = dict(
    paper="arXiv 2410.04133; NEJM AI 2(7) AIoa2401033",
    repository="PKUDigitalHealth/ECGFounder",
    licence="MIT (repository; the weights' page states none that could be read)",
    dim=1024,
    profile="ecgfounder-code",
    crop_s=10,
    short="zeros",
    pooling="mean over the 20 time steps of the last stage, 1,024 values",
    head="150 statements of the 12SL program, independent sigmoids; 22 of them compare with an earlier ECG",
    statements=tuple(vocabulary("ecgfounder").statement),
    corpora=("heedb",),
    hub="huggingface",
    place="PKUDigitalHealth/ECGFounder",
    said="three chains contradict each other: the released data set class filters, notches at 50 Hz and subtracts a "
    "running median (taken here: ecgfounder-code), the paper filters otherwise (ecgfounder-paper), the released PTB-XL "
    "script does nothing but the z-score (ecgfounder-zeroshot); longer recordings are consecutive 10 s windows",
    defects=(
        "the release allocates batch norm that it never runs, and carries two moments of its optimiser",
        "high-pass at 0.67 Hz and median distort ST and T, which are among its targets; 40 Hz removes pacing spikes",
        "a 50 Hz notch, though its recordings come from a 60 Hz country",
        "one corrupted lead rescales all, since the z-score is over all leads together",
        "22 serial statements and several fragments cannot be read from one recording: left out of every metric",
        "scores are not calibrated",
    ),
    scaling="record",
    entry=("state_dict",),
    optional=("dense",),
)
CARDS = (
    Card(
        name="ecgfounder", title="ECGFounder, 12 leads", parameters=30_752_646, stored=30_819_014, leads=LEADS,
        files=("12_lead_ECGFounder.pth",), pack="ecgfounder_12lead", **FACTS,
    ),
    Card(
        name="ecgfounder_1lead", title="ECGFounder, lead I", parameters=30_741_382, stored=30_807_750, leads=("I",),
        files=("1_lead_ECGFounder.pth",), pack="ecgfounder_1lead", **FACTS,
    ),
)  # fmt: skip


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = net1d.Encoder(len(card.leads), **net1d.SIZES["ecgfounder"])
        self.head = nn.Linear(card.dim, len(card.statements))

    def convert(self, state):
        ours = {f"encoder.{key}": value for key, value in net1d.from_published(state).items()}
        return ours | {
            f"head.{leaf}": state[f"dense.{leaf}"] for leaf in ("weight", "bias") if f"dense.{leaf}" in state
        }

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))

    def outputs(self, x):
        z = self.encoder(x)
        return {"output": z, "logits": self.head(z)}
