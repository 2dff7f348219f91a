"""A vocabulary of heartbeats, the first stage of HeartLang (VQ-HBR, arXiv 2502.10707).

Every word of the sentence is encoded, replaced by the nearest of a few hundred codes, and all words are drawn again
from the codes: loss = MSE(drawn, word) + commitment * MSE(code, encoding). Padding and missing leads do not count.
"""

import torch
from torch import nn

from ecglib.beatwords import WIDTH
from ecglib.encoders import beat_transformer
from ecglib.masking import masked_mean
from ecglib.quantise import Vocabulary, perplexity
from ecglib.signals import EcgError

PAPER = "HeartLang, stage 1 (VQ-HBR), arXiv 2502.10707"
ENCODER = "beat_transformer"


class Objective(nn.Module):
    """Encoder, code head, codebook, decoder (`decoder_depth` layers, else as the encoder), drawing head.

    codes, code_dim: the codebook, published 8192 x 128 with decoder_depth 2; decay: of its moving average;
    reseed_after: steps after which an unused code starts anew; commitment: weight of that term. score_pads: padding
    counts for loss and codebook too, as published.
    """

    def __init__(
        self, encoder, codes: int = 256, code_dim: int = 32, decoder_depth: int = 1, decay: float = 0.99,
        commitment: float = 1.0, reseed_after: int = 100, score_pads: bool = False,
    ):  # fmt: skip
        super().__init__()
        beat_transformer.require(encoder, "heartbeats")
        if codes < 2 or not 0 <= decay < 1:
            raise EcgError(f"codes={codes}, decay={decay}", field="codes", fix="use 2 codes or more, decay in [0, 1)")
        self.encoder, self.commitment, self.score_pads = encoder, commitment, score_pads
        self.vocabulary = Vocabulary(encoder.dim, codes, code_dim, decay, reseed_after)
        self.decoder = encoder.decoder(code_dim, decoder_depth)
        self.draw = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.Tanh(), nn.Linear(encoder.dim, WIDTH))

    def reconstruct(self, words):
        """words -> (drawn words (batch, n, WIDTH), what the quantiser made of them)."""
        encoded = self.encoder.sentence(words)[:, 1:] * words.real[..., None]
        said = self.vocabulary(encoded, None if self.score_pads else words.real)
        return self.draw(self.decoder(words._replace(tokens=said.vectors))[:, 1:]), said

    def forward(self, batch) -> tuple[torch.Tensor, dict]:
        words = self.encoder.words(batch.x, batch.peaks)
        drawn, said = self.reconstruct(words)
        counted = torch.ones_like(words.real) if self.score_pads else words.real
        target = words.tokens.float()
        error = masked_mean((drawn.float() - target).square(), counted[..., None])
        with torch.no_grad():
            mean = (target * counted[..., None]).sum((0, 1)) / counted.sum().clamp(min=1)
            spread = masked_mean((target - mean).square(), counted[..., None])
        used = perplexity(said.index[counted], len(self.vocabulary.quantiser.codes))
        logs = {"mse": error.detach(), "variance": spread, "commitment": said.commitment.detach(), "perplexity": used}
        return error + self.commitment * said.commitment, logs

    def after_step(self, step: int) -> None:
        self.vocabulary.quantiser.update()


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of this objective (its encoder included) from a released VQ-HBR state dict; EcgError for unknown ones."""
    named = {"quantize.embedding.weight": "vocabulary.quantiser.codes"}
    for theirs, ours in (("encode_task_layer", "vocabulary.head"), ("decode_task_layer", "draw")):
        named |= {f"{theirs}.{i}.{leaf}": f"{ours}.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")}
    left = ["encoder.mask_token", "decoder.mask_token", "quantize.cluster_size", "quantize.embedding.cluster_size",
            "quantize.embedding.embed_avg", "quantize.embedding.initted"]  # fmt: skip
    parts, ours = {"encoder": {}, "decoder": {}}, {}
    for key, value in state.items():
        front, _, rest = key.partition(".")
        if key in named:
            ours[named[key]] = value
        elif key not in left:
            if front not in parts:
                raise EcgError(f"unknown tensor {key}", field=key, fix="give the state dict of VQ-HBR")
            parts[front][rest] = value
    for front, name in (("encoder", "encoder.sentence"), ("decoder", "decoder")):
        found = beat_transformer.published_sentence(parts[front])
        ours |= {f"{name}.{k}": v for k, v in found.items()}
    n_codes = len(ours["vocabulary.quantiser.codes"])
    started = {"idle": torch.zeros(n_codes, dtype=torch.int64), "ready": torch.ones((), dtype=torch.int64)}
    return ours | {f"vocabulary.quantiser.{k}": v for k, v in started.items()}
