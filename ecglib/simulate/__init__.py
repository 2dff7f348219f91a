"""Physiological 12-lead ECGs with known truth: `ecgs` in memory, `generate` for whole simulated hospitals."""

from .hospital import generate
from .memory import ecgs

__all__ = ["ecgs", "generate"]
