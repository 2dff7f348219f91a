"""A parser that reads simulated reports back, by the same phrases and cues: what spans ought to be."""

import re
from functools import cache

from ecgsim import reports


@cache
def _lexicon():
    """One pattern with all phrases, longest first; group names are concept numbers."""
    items = [(p, i) for i, (c, (_, ps)) in enumerate(reports.phrases().items()) for p in ps]
    items.sort(key=lambda x: -len(x[0]))
    parts = [re.sub(r"\\{\w+\\}", r"\\d+", re.escape(p)) for p, _ in items]
    return re.compile(
        "|".join(f"(?P<g{n}_{i}>{p})" for n, (p, (_, i)) in enumerate(zip(parts, items, strict=True))), re.I
    )


def parsed(text):
    """Read a report back: spans (start, end, concept, assertion). Reference for text without misspellings."""
    names, spans, low = list(reports.phrases()), [], text.lower()
    for m in _lexicon().finditer(text):
        concept = names[int(m.lastgroup.split("_")[1])]
        if (m.start() and low[m.start() - 1].isalnum()) or low[m.end() : m.end() + 1].isalnum():
            continue
        assertion = "present"
        for kind in ("absent", "possible", "historical"):
            for prefix, suffix in reports.CUES[kind]:
                if prefix and low[: m.start()].endswith(prefix) or suffix and low[m.end() :].startswith(suffix):
                    assertion = kind
        spans.append((m.start(), m.end(), concept, assertion))
    return spans
