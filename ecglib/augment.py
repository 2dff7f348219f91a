"""Pure augmentations: arrays or tensors in, new ones out, randomness from an explicit generator."""

import numpy as np
import torch

VIEW_NAMES = ("I", "-aVF", "-III", "aVL", "-aVR", "II", "aVF")
# Each frontal-plane view as a combination of leads I and II (Einthoven, Goldberger); axis in degrees beside it.
VIEWS = np.array(
    [
        [1.0, 0.0],  # I, 0
        [0.5, -1.0],  # -aVF, -90
        [1.0, -1.0],  # -III, -60
        [1.0, -0.5],  # aVL, -30
        [0.5, 0.5],  # -aVR, +30
        [0.0, 1.0],  # II, +60
        [-0.5, 1.0],  # aVF, +90
    ],
    dtype=np.float32,
)


def lead_views(x):
    """Return the seven frontal views (..., 7, time) in the order VIEW_NAMES of x (..., lead, time), mV.

    x: NumPy array or torch tensor whose first two leads are I and II. Source: lead augmentation of ECGFounder's
    single-lead model (arXiv 2410.04133).
    """
    views = torch.as_tensor(VIEWS, dtype=x.dtype, device=x.device) if isinstance(x, torch.Tensor) else VIEWS
    return views @ x[..., :2, :]


def random_lead_view(x: torch.Tensor, generator: torch.Generator, p: float = 0.5) -> torch.Tensor:
    """Return one frontal view per record: x (batch, lead, time), first two leads I and II -> (batch, 1, time).

    With probability p one of the six other views, drawn uniformly; otherwise lead I. The generator lives on the CPU,
    so that the draw is the same on every device.
    """
    other = torch.randint(1, len(VIEWS), (len(x),), generator=generator)
    view = torch.where(torch.rand(len(x), generator=generator) < p, other, 0)
    weights = torch.as_tensor(VIEWS, dtype=x.dtype)[view].to(x.device)  # (batch, 2)
    return weights[:, None] @ x[:, :2]
