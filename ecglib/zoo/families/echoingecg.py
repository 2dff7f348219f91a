"""EchoingECG (MICCAI 2025): a card alone. Its licence forbids derived works."""
