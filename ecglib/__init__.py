"""ECG foundation models: read, simulate, pack, pretrain, probe, evaluate."""

__version__ = "0.1.0"
