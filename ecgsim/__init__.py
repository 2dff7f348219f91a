"""Physiological 12-lead ECGs with known truth: `ecgs` in memory, `generate` for whole simulated hospitals."""

from ecgsim.hospitals import generate as generate
from ecgsim.records import ecgs as ecgs
