"""Free-text reports with negation, uncertainty and comparison, and their spans."""

from functools import cache

import numpy as np

from ecgsim import arithmetic, records

SLOTS = tuple((s, 64) for s in ("words", "doubt", "extra", "typo"))
CUES = {
    "absent": (("no evidence of ", ""), ("without ", ""), ("no ", ""), ("ruled out ", ""), ("", " not seen")),
    "possible": (("possible ", ""), ("probable ", ""), ("consider ", ""), ("cannot exclude ", "")),
    "historical": (("", " no longer present"), ("previously described ", "")),
    "present": (("new ", ""), ("", "")),
}
CONFUSED = {"IMI": "LAFB", "ASMI": "LVH", "LVH": "LVOLT", "IRBBB": "CRBBB"}
CONFUSED |= {"1AVB": "2AVB", "AFIB": "AFLT", "STD_": "INVT"}
_NEIGHBOUR = {a: b for line in ("qwertyuiop", "asdfghjkl", "zxcvbnm") for a, b in zip(line, line[1:], strict=False)}
_ORDER = "rhythm conduction chamber infarct stt qt quality ectopy conclusion".split()


@cache
def phrases():
    """Concept -> (slot, tuple of phrases)."""
    table = {}
    for r in arithmetic.rows("phrases.csv"):
        table.setdefault(r["concept"], (r["slot"], []))[1].append(r["phrase"])
    return table


def states(labels, d):
    """States 0 absent, 1 present, 2 possible of every label (dict of int8 (record,)): what the reader was sure of.

    A true finding may be called possible, and now and then a finding that is not there is not excluded.
    """
    out, names = {k: v.copy() for k, v in labels.items()}, list(labels)
    for rule in arithmetic.rows("labels.csv"):
        name, share = rule["label"], float(rule["possible"])
        if share == 0:
            continue
        u = d.u("doubt")[:, names.index(name)]
        true, sick = labels[name] == 1, labels["NORM"] == 0
        out[name][true & (u < share)] = 2
        out[name][~true & sick & (u > 1.0 - 0.03 * share)] = 2
    return out


def _segments(state, before, u, extra):
    """(prefix, concept, suffix, assertion) of one record: findings, negations, comparison."""
    segments = []
    for name, s in state.items():
        if s == 2:
            prefix, suffix = CUES["possible"][int(4 * extra[len(segments) % 32])]
            segments.append((prefix, name, suffix, "possible"))
        elif s == 1:
            new = before is not None and before[name] == 0 and name not in ("SR", "NORM") and u[3] < 0.5
            segments.append(("new " if new else "", name, "", "present"))
    if before is not None and u[4] < 0.5:
        gone = [x for x in state if before[x] == 1 and state[x] == 0 and x not in ("SR", "NORM", "VCLVH")]
        prefix, suffix = CUES["historical"][int(2 * u[5])]
        segments += [(prefix, x, suffix, "historical") for x in gone[:1]]
    if u[6] < 0.3:
        taken = [f[1] for f in segments]  # a list: the order of a set would change from process to process
        never = (*taken, "SR", "NORM", "BIGU", "TRIGU", "VCLVH")
        able = [x for x in state if state[x] == 0 and x not in never]
        able += [CONFUSED[x] for x in taken if CONFUSED.get(x) in able] * 5
        for k in range(1 + int(3 * u[7])):
            name = able[int(u[8 + k] * len(able))]
            if name not in taken:
                taken.append(name)
                prefix, suffix = CUES["absent"][int(5 * u[12 + k])]
                segments.append((prefix, name, suffix, "absent"))
    return segments


def _typo(text, u):
    words = text.split(" ")
    for i, w in enumerate(words):
        at = int(u[(i + 32) % 64] * len(w))
        if u[i % 64] < 0.02 and len(w) > 4 and w[at] in _NEIGHBOUR:
            words[i] = w[:at] + _NEIGHBOUR[w[at]] + w[at + 1 :]
    return " ".join(words)


def _write(state, before, numbers, u, extra, typo, upper):
    segments = _segments(state, before, u, extra)
    normal = state["NORM"] == 1
    if u[0] < 0.1 and len(segments) > 2:
        text = "Normal ECG" if normal else "Abnormal ECG"
        spans = [(0, len(text), "NORM", "present")] if normal else []
        return (text.upper() if upper else text + "."), spans
    if u[1] < 0.25:
        segments = [f for f in segments if f[1] != "SR" or len(segments) == 1]
    segments.sort(key=lambda f: (f[3] not in ("present", "possible"), _ORDER.index(phrases()[f[1]][0])))
    if u[2] < 0.15:
        segments = segments[len(segments) // 2 :] + segments[: len(segments) // 2]
    text, spans, joint = "", [], "; " if upper else ". " if u[16] < 0.3 else ", "
    for i, (prefix, name, suffix, assertion) in enumerate(segments):
        options = phrases()[name][1]
        which = int(extra[32 + i % 32] * len(options)) if assertion == "present" else 0
        phrase = options[which].format(**numbers)
        start = len(text) + len(prefix)
        spans.append((start, start + len(phrase), name, assertion))
        text += prefix + phrase + suffix + (joint if i + 1 < len(segments) else "")
    if before is not None and before == state and u[17] < 0.5:
        text += joint + "unchanged since previous tracing"
    text = _typo(text, typo)
    return (text.upper() if upper else text + "."), spans


def reports(state, truth, visit, d, upper=False, typos=True):
    """Reports and spans of records in patient order: list of (text, spans).

    state: label -> int8 (record,); truth: columns hr, pr, qrs, qtcf; visit: its number, 1 = nothing to compare.
    """
    out, before = [], None
    u, extra, typo = d.u("words"), d.u("extra"), d.u("typo")
    for i, line in enumerate(np.stack([state[k] for k in records.LABELS], 1).tolist()):
        now = dict(zip(records.LABELS, line, strict=True))
        numbers = {k: str(int(arithmetic.to_grid(truth[k][i], 1))) for k in ("hr", "pr", "qrs", "qtcf")}
        slip = typo[i] if typos else np.ones(64)
        out.append(_write(now, before if visit[i] > 1 else None, numbers, u[i], extra[i], slip, upper))
        before = now
    return out
