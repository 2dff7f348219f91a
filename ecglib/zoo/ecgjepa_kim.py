"""ECG-JEPA of Kim (arXiv 2410.08559): patches of single leads, each looking at its lead and its time only."""

import torch

from ecglib.cards import Card, Model
from ecglib.encoders import vit1d
from ecglib.signals import INDEPENDENT, LEADS

CARDS = (
    Card(
        name="ecgjepa_kim",
        title="ECG-JEPA (Kim), multi-block",
        paper="arXiv 2410.08559",
        repository="sehunfromdaegu/ECG_JEPA",
        licence="MIT (repository; none is stated for the weights alone)",
        parameters=85_067_520,
        stored=85_374_720,
        dim=768,
        leads=tuple(LEADS[i] for i in INDEPENDENT),
        profile="ecgjepa-kim",
        crop_s=10,
        short="masked",
        pooling="mean over the 400 tokens (8 leads x 50 patches of 0.2 s), 768 values",
        corpora=("chapman", "ningbo", "code-15"),
        hub="https",
        place="https://drive.usercontent.google.com/download?id=1gMOT4xjQQg0GZkY1iE6NuDzua4ALw00l"
        "&export=download&confirm=t",
        files=("multiblock_epoch100.pth", "random_epoch100.pth", "randomblock_epoch100.pth"),
        said="the paper's position table is computed, the file's is taken; the public evaluation trains on folds 1 to "
        "9 of PTB-XL and has no validation fold",
        defects=(
            "no scaling at all: recordings in another unit move the features",
            "CODE-15 recordings of 10.24 s were squeezed to 10 s",
            "the file holds the trained encoder, not its teacher, and neither predictor nor schedule",
        ),
        pack="ecgjepa_kim",
        scaling="none",
        entry=("encoder",),
    ),
)


class Encoder(vit1d.Encoder):
    """The encoder of eight leads with the position table of the file; shorter signals take its first columns."""

    def __init__(self, n_leads: int = 8, patches: int = 50, **sizes):
        super().__init__(n_leads, **sizes)
        self.register_buffer("table", torch.zeros(n_leads * patches, self.dim))

    def positions(self, n: int, device=None) -> torch.Tensor:
        return self.table.unflatten(0, (self.n_leads, -1))[:, : n // self.n_leads].flatten(0, 1)


class Network(Model):
    def __init__(self, card: Card):
        super().__init__(card)
        self.encoder = Encoder(len(card.leads), **vit1d.SIZES["jepa_k"])

    def convert(self, state):
        table = {"encoder.table": state.pop("pos_embed")}
        return table | {f"encoder.{key}": value for key, value in vit1d.from_published(state).items()}
