"""Age and sex beside an ECG: cross-attention of its vector to what is known of the patient.

After the idea of EfficientECG (arXiv 2512.03804), which gives no number of parameters that this could be held against;
the sizes are our own choice.
"""

import torch
from torch import nn

from ecglib import require_known
from ecglib.models.layers import Attention

SCALES = {"age": (60.0, 20.0), "sex": (0.5, 0.5)}  # column -> centre and width: about -1 to 1 in adults
MOST = 3.0  # widths: some records give a code for an age above 89


class MetadataFusion(nn.Module):
    """z (batch, dim) plus what its attention to one token a column says; at the start exactly z.

    columns: of SCALES; width: of the tokens; dropout: share of the records whose columns all count as missing in
    training, so that the network also works where nothing is known. EcgError for an unknown column.
    """

    def __init__(self, dim: int, columns=("age", "sex"), width: int = 16, heads: int = 4, dropout: float = 0.2):
        super().__init__()
        require_known("column", columns, SCALES, "fusion")
        self.columns, self.dropout = tuple(columns), dropout
        self.norm = nn.LayerNorm(dim)
        self.value, self.name, self.missing = (
            nn.Parameter(torch.randn(len(self.columns), width) * width**-0.5) for _ in range(3)
        )
        self.attention = Attention(dim, heads, inner=heads * width, context_dim=width)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def context(self, meta: dict[str, torch.Tensor] | None, like: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, column, width) of meta, name -> (batch,), NaN or no entry: unknown."""
        unknown = like.new_full((len(like),), torch.nan)
        values = torch.stack([(meta or {}).get(name, unknown).to(like) for name in self.columns], 1)
        known = ~values.isnan()
        if self.training and self.dropout:  # drawn on the CPU: the same everywhere
            known = known & (torch.rand(len(like), 1) >= self.dropout).to(like.device)
        centre, width = values.new_tensor([SCALES[name] for name in self.columns]).T
        scaled = ((values - centre) / width).clamp(-MOST, MOST).masked_fill(~known, 0.0).unsqueeze(-1)
        return torch.where(known.unsqueeze(-1), self.name + scaled * self.value, self.missing)

    def forward(self, z: torch.Tensor, meta: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """z (batch, dim), meta as of `context` -> (batch, dim)."""
        return z + self.attention(self.norm(z).unsqueeze(1), self.context(meta, z)).squeeze(1)
