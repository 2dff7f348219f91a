"""Speed against what a user would pick, both timed in the same process. `make bench` runs all of them.

A file here has `run() -> list of rows`: {"name", "ours", "theirs", "ratio", "unit", "note"}, where ratio > 1 means that
ours is better, and optionally "target", the ratio that the project promises. A benchmark asserts that both compute the
same before it times them.
"""
