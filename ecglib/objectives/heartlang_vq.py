"""A vocabulary of heartbeats, the first stage of HeartLang (VQ-HBR, arXiv 2502.10707).

Every word of the sentence is encoded, replaced by the nearest of a few hundred codes, and all words are drawn again
from the codes: loss = MSE(drawn, word) + commitment * MSE(code, encoding). Padding and missing leads do not count.
"""

import torch
from torch import nn

from ecglib import EcgError
from ecglib.models import released
from ecglib.models.beat_tokenizer import WIDTH
from ecglib.models.encoders import beat_transformer
from ecglib.models.quantizers import Vocabulary, perplexity
from ecglib.training.masking import masked_mean

PAPER = "HeartLang, stage 1 (VQ-HBR), arXiv 2502.10707"
ENCODER = "beat_transformer"
LEARNED = {"mse": ("<", 0.5, "variance")}


class Objective(nn.Module):
    """Encoder, code head, codebook, decoder, drawing head."""

    def __init__(
        self,
        encoder,
        codes: int = 256,  # of the codebook (published: 8192)
        code_dim: int = 32,  # values of a code (published: 128)
        decoder_depth: int = 1,  # layers, else as the encoder (published: 2)
        decay: float = 0.99,  # of the codebook's moving average
        commitment: float = 1.0,  # weight of that term
        reseed_after: int = 100,  # steps after which an unused code starts anew
        score_pads: bool = False,  # padding counts for loss and codebook too (as published)
    ):
        super().__init__()
        beat_transformer.require(encoder, "heartlang_vq")
        if codes < 2 or not 0 <= decay < 1:
            raise EcgError(f"codes={codes}, decay={decay}", field="codes", fix="use 2 codes or more, decay in [0, 1)")
        self.encoder, self.commitment, self.score_pads = encoder, commitment, score_pads
        self.vocabulary = Vocabulary(encoder.dim, codes, code_dim, decay, reseed_after)
        self.decoder = encoder.decoder(code_dim, decoder_depth)
        self.draw = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.Tanh(), nn.Linear(encoder.dim, WIDTH))

    def reconstruct(self, words):
        """words -> (drawn words (batch, n, WIDTH), what the quantiser made of them)."""
        encoded = self.encoder.sentence(words)[:, 1:] * words.real[..., None]
        coded = self.vocabulary(encoded, None if self.score_pads else words.real)
        return self.draw(self.decoder(words._replace(tokens=coded.vectors))[:, 1:]), coded

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        words = self.encoder.words(batch.x, batch.peaks)
        drawn, coded = self.reconstruct(words)
        counted = torch.ones_like(words.real) if self.score_pads else words.real
        target = words.tokens.float()
        error = masked_mean((drawn.float() - target).square(), counted[..., None])
        with torch.no_grad():
            mean = (target * counted[..., None]).sum((0, 1)) / counted.sum().clamp(min=1)
            spread = masked_mean((target - mean).square(), counted[..., None])
        used = perplexity(coded.index[counted], len(self.vocabulary.quantiser.codes))
        logs = {"mse": error.detach(), "variance": spread, "commitment": coded.commitment.detach(), "perplexity": used}
        return error + self.commitment * coded.commitment, logs

    def after_step(self, step: int) -> None:
        self.vocabulary.quantiser.update()


NAMES = (  # released name -> ours, beside those of the two networks
    (r"quantize\.embedding\.weight", "vocabulary.quantiser.codes"),
    (r"encode_task_layer\.([02])\.(weight|bias)", r"vocabulary.head.\1.\2"),
    (r"decode_task_layer\.([02])\.(weight|bias)", r"draw.\1.\2"),
)
UNUSED = r"(encoder|decoder)\..+|quantize\.(cluster_size|embedding\.(cluster_size|embed_avg|initted))"


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of this objective (its encoder included) from a released VQ-HBR state dict; EcgError for unknown ones."""
    ours = released.rename(state, NAMES, "VQ-HBR", UNUSED)
    for network, name in (("encoder", "encoder.sentence"), ("decoder", "decoder")):
        own = {k.removeprefix(f"{network}."): v for k, v in state.items() if k.startswith(f"{network}.")}
        ours |= {f"{name}.{k}": v for k, v in beat_transformer.published_sentence(own, "mask_token").items()}
    n_codes = len(ours["vocabulary.quantiser.codes"])
    started = {"idle": torch.zeros(n_codes, dtype=torch.int64), "ready": torch.ones((), dtype=torch.int64)}
    return ours | {f"vocabulary.quantiser.{k}": v for k, v in started.items()}
