"""Low-rank adapters: a pretrained network stays as it is, and each large layer learns a small correction (LoRA).

The weight W (out, in) of a linear or convolutional layer becomes W + alpha / rank * up @ down with up (out, rank) and
down (rank, in); of a convolution, in counts every tap of every channel. `up` starts at zero, so that training starts
from the pretrained network itself. In the end the sum is the weight: what is kept has the tensors of any other network.
Source: Hu et al. 2021, arXiv 2106.09685, section 4.1; without its dropout, and with alpha = 2 * rank unless told.
"""

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from ecglib import EcgError
from ecglib.evaluation import probing
from ecglib.evaluation.fitting import Recipe

RANK = 8
ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d)  # those of two dimensions are convolutions over time, one row high
RECIPE = Recipe(
    "the fine-tuning of this study's probes at ten times its learning rate, which adapters need",
    *(10 * probing.FINETUNE_LR, 0.01, 64, 25),
    **dict(min_steps=100, warmup=0.1, schedule="cosine", objective=probing.SUPERVISED),
)


class LowRank(nn.Module):
    """The correction of one weight; alpha: size of the correction times rank; generator: of the first values."""

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        inputs = weight[0].numel()
        first = torch.empty(rank, inputs).uniform_(-1, 1, generator=generator) / math.sqrt(inputs)
        self.down = nn.Parameter(first.to(weight))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))
        self.scale = alpha / rank

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The corrected weight, of the same shape."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)


class Adapters:
    """Adapters on all layers of a network for which rank is small; nothing else of it is trained.

    network: changed in place; rank: of the corrections; alpha: as of `LowRank`; seed: of the first values.
    Statistics of batch normalisation stay those of pretraining. EcgError where no layer is large enough for the rank.
    """

    def __init__(self, network: nn.Module, rank: int, alpha: float, seed: int = 0):
        self.rank, self.alpha, self.of = rank, alpha, sum(p.numel() for p in network.parameters())
        self.layers = {name: layer for name, layer in network.named_modules() if _large(layer, rank)}
        if not self.layers:
            fix = "take a smaller rank, or --how finetune"
            raise EcgError(f"no layer of the encoder is large enough for rank {rank}", field="rank", fix=fix)
        network.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.values():
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha, generator))
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self._hooks = [norm.register_forward_pre_hook(_as_pretrained) for norm in norms]
        self.trained = sum(p.numel() for p in network.parameters() if p.requires_grad)

    def facts(self) -> dict:
        """What a model card says: rank, alpha, number of layers, of trained values, and of all of the network."""
        numbers = dict(rank=self.rank, alpha=self.alpha, layers=len(self.layers))
        return numbers | dict(trained=self.trained, of=self.of)

    def in_words(self) -> str:
        """The same as a sentence begins."""
        numbers = f"rank {self.rank}, alpha {self.alpha:g}, on {len(self.layers)} layers"
        return f"Low-rank adapters ({numbers}) train {self.trained:,} values beside the {self.of:,} of the encoder"

    def merge(self) -> None:
        """Make the sums the weights: the network is a plain one again, and computes the same."""
        for layer in self.layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        for hook in self._hooks:
            hook.remove()


def _large(layer: nn.Module, rank: int) -> bool:
    """Whether a layer has a weight whose correction of this rank has fewer values than it."""
    if not isinstance(layer, ADAPTED) or "weight" not in layer._parameters:
        return False
    outputs, inputs = len(layer.weight), layer.weight[0].numel()
    return rank * (outputs + inputs) < outputs * inputs


def _as_pretrained(norm: nn.Module, _) -> None:
    norm.eval()
