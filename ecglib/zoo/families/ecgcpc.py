"""ECG-CPC (arXiv 2509.25095) and the S4 checkpoints of arXiv 2605.12241: cards alone."""
