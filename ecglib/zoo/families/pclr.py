"""PCLR (arXiv 2104.04569): cards alone. The weights are Keras files."""
