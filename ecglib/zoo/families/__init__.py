"""One family of published models a file, and the facts of their cards in a .yaml beside it; `ecglib.zoo` says more."""
