"""HeartLang (arXiv 2502.10707): heartbeats as words; the sentence model, and the vocabulary that it learned from."""

import torch
from torch import nn

from ecglib.beatwords import Words
from ecglib.cards import Card, Model
from ecglib.encoders import beat_transformer
from ecglib.objectives import heartbeats, heartlang
from ecglib.signals import LEADS

FACTS = dict(
    paper="arXiv 2502.10707; ICLR 2025",
    repository="PKUDigitalHealth/HeartLang",
    licence="MIT (repository; none could be read for the weights alone)",
    dim=768,
    leads=LEADS,
    profile="heartlang",
    crop_s=10,
    short="masked",
    corpora=("mimic-iv-ecg",),
    hub="huggingface",
    place="PKUDigitalHealth/HeartLang",
    said="where the files lie on the hub is known from others who use them. Pretraining saw millivolt, the public "
    "probes saw other scales for each corpus: millivolt is fed here. The release finds R peaks on lead I with a "
    "detector of its own, here they are found on all leads",
    defects=(
        "neighbouring words, the first and the last included, are convolved before masking: hidden words can be read",
        "padding is attended to and scored",
        "256 words: above 128 beats a minute the last chest leads are lost",
        "the tokeniser changed in May 2025; results before and after differ",
        "the file pickles its command line beside the weights",
    ),
    scaling="words",
    entry=("model", "state_dict"),
    inert=("argparse.Namespace", "pathlib", "numpy"),
)
CARDS = (
    Card(
        name="heartlang", title="HeartLang", parameters=38_261_760, stored=44_562_176,
        pooling="class token after the last norm, 768 values",
        files=("checkpoints/pretrain/MIMIC-IV/checkpoint-200.pth",), pack="heartlang",
        optional=("lm_head", "mask_token"), **FACTS,
    ),
    Card(
        name="heartlang_vqhbr", title="HeartLang VQ-HBR (first stage)", parameters=14_627_840, stored=25_698_528,
        pooling="mean over the 256 words of the encoder, padding as zeros, 768 values",
        files=("checkpoints/vqhbr/MIMIC-IV/checkpoint-100.pth",), pack="heartlang_vqhbr", **FACTS,
    ),
)  # fmt: skip


class Network(Model):
    """The sentence model (with its code head), or encoder, vocabulary and decoder of the first stage."""

    def __init__(self, card: Card):
        super().__init__(card)
        self.vocabulary_stage = card.name == "heartlang_vqhbr"
        sizes = beat_transformer.SIZES["vqhbr" if self.vocabulary_stage else "heartlang"]
        self.encoder = beat_transformer.Encoder(12, **sizes)
        if self.vocabulary_stage:
            self.stage = heartbeats.Objective(self.encoder, codes=8192, code_dim=128, decoder_depth=2, score_pads=True)
        else:
            self.head, self.mask_token = nn.Linear(card.dim, 8192), nn.Parameter(torch.zeros(card.dim))

    def rename(self, state):
        state = {key.removeprefix("backbone."): value for key, value in super().rename(state).items()}
        left = ("loss", "teacher", "scaling", "mlp_head.")  # of the training script; of a classifier
        return {key: value for key, value in state.items() if not key.startswith(left)}

    def convert(self, state):
        if self.vocabulary_stage:
            ours = {f"stage.{key}": value for key, value in heartbeats.from_published(state).items()}
            shared = {key.removeprefix("stage."): v for key, v in ours.items() if key.startswith("stage.encoder.")}
            return ours | shared
        if self.absent:
            return {f"encoder.{key}": value for key, value in beat_transformer.from_published(state).items()}
        return heartlang.from_published(state)

    def words(self, x: torch.Tensor | Words) -> Words:
        return x if isinstance(x, Words) else self.encoder.words(x)

    def features(self, x) -> torch.Tensor:
        words = self.words(x)
        read = self.encoder.sentence(words)
        return (read[:, 1:] * words.real[..., None]).mean(1) if self.vocabulary_stage else read[:, 0]

    def outputs(self, x):
        words = self.words(x)
        if not self.vocabulary_stage:
            read = self.encoder.sentence(words)
            hidden = (torch.arange(words.tokens.shape[1]) % 32 == 5).expand(len(words.tokens), -1)
            masked = self.encoder.sentence(words, hidden, self.mask_token)[:, 1:]
            return {"output": read[:, 0], "token_mean": read[:, 1:].mean(1), "logits": self.head(masked[hidden])}
        encoded = self.encoder.sentence(words)[:, 1:] * words.real[..., None]
        drawn, said = self.stage.reconstruct(words)
        return {"output": encoded.mean(1), "pre_quant": self.stage.vocabulary.head(encoded), "codes": said.index,
                "recon": drawn}  # fmt: skip
