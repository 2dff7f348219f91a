"""Names of methods and statements, and how each method is drawn: one colour and symbol, in every figure the same."""

import re
import zlib

from ecglib.data import labels as vocabulary
from ecglib.evaluation.predictions import BASELINES, is_baseline
from ecglib.reporting import marks

BASELINE_TITLES = {
    "random": "random encoder, linear probe",
    "multirocket": "random convolutions, logistic regression",
    "features": "hand-made features, boosted trees",
    "scratch": "supervised from scratch",
}
MODE_TITLES = {"linear": "linear probe", "outputs": "linear probe of its outputs"}  # others are their own
UPPER = "features + network"
SIGNALS, PUBLISHED = "signals", "published"  # the latter are encoders named zoo:NAME
KINDS = {  # what an encoder was pretrained on
    **dict.fromkeys(BASELINES, "baseline"),
    "supervised": "labels",
    "multitask": "labels, age and sex",
    **dict.fromkeys(("melp", "tolerant"), "signals + reports"),
}
LOOKS = {  # method -> its colour and symbol; no two are alike
    "random": ("#9AA0A6", "o"),
    "features": ("#6B7178", "s"),
    "scratch": ("#2B2F33", "D"),
    "multirocket": ("#4A4E54", "v"),
    "supervised": ("#D55E00", "o"),
    "multitask": ("#D55E00", "^"),
    "simclr": ("#0072B2", "^"),
    "byol": ("#56B4E9", "v"),
    "clef": ("#009E73", "s"),
    "wcr": ("#004D80", "<"),
    "jepa": ("#CC79A7", "D"),
    "mae": ("#E69F00", "d"),
    "melp": ("#7A5195", "h"),
    "tolerant": ("#B07AA1", ">"),
    "heartlang": ("#8C6D31", "p"),
    "heartlang_vq": ("#8C6D31", "h"),
    "reconstruct": ("#76B041", "8"),
    "restore": ("#2A9D8F", "d"),
    "measure": ("#A6192E", "s"),
    "cpc": ("#4C6EF5", "o"),
    # Published models to which `look` would give what another has.
    "zoo:anyppg": ("#0072B2", "d"),
    "zoo:ecgcpc": ("#0072B2", "8"),
    "zoo:ecgcpc_strategies": ("#0072B2", "p"),
    "zoo:hubertecg_base": ("#0072B2", "v"),
    "zoo:pclr": ("#0072B2", "s"),
    "zoo:pclr_lead_i": ("#0072B2", "D"),
}
MARKED = "#A2A8AE"  # of a model that may have seen the corpus
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31", "#A6192E", "#76B041")
SYMBOLS = "H8dph<>v^sDo"
HEADS = ("linear", "boosting", "supervised")  # modes in which a method is drawn with a full line
_SUPERCLASSES = {"MI": "infarction", "STTC": "ST-T change", "CD": "conduction disturbance", "HYP": "hypertrophy"}


def kind(encoder: str) -> str:
    """What an encoder was pretrained on, in a word or two."""
    if is_baseline(encoder):
        return "baseline"
    if encoder.startswith("features+"):
        return UPPER
    return PUBLISHED if encoder.startswith("zoo:") else KINDS.get(re.split("[+:]", encoder)[0], SIGNALS)


def is_pretrained(encoder: str) -> bool:
    """Whether a method is an encoder that was pretrained: no baseline, and no mean with one."""
    return kind(encoder) not in ("baseline", UPPER)


def title(encoder: str, mode: str = "linear") -> str:
    """A method as the first cell of a table: baselines in words, encoders in bold with the way they were probed."""
    if encoder.startswith("random:"):
        return f"random {' '.join(encoder.split(':')[1:])}, linear probe"
    if encoder.startswith("scratch:"):
        return f"{' '.join(encoder.split(':')[1:])}, supervised from scratch"
    return BASELINE_TITLES.get(encoder) or f"**{encoder}**, {MODE_TITLES.get(mode, mode)}"


def look(name: str) -> tuple[str, str]:
    """Colour and symbol of a method, by its name alone, so that a figure of some methods shows them as one of all does.

    What stands behind a comma, a plus or in brackets (mode, fine-tuning) changes nothing. A method that LOOKS does not
    know, such as one of your own, gets a pair that its name decides.
    """
    base = re.split(r"[,+]| [†‡(]", name)[0]
    if base in LOOKS:
        return LOOKS[base]
    number = zlib.crc32(f"5{base}".encode())  # the number in front keeps those of zoo/ apart
    symbol = SYMBOLS[number // len(OTHERS) % len(SYMBOLS)]
    start = base.partition(":")[0]
    return LOOKS[start][0] if start in ("random", "scratch") else OTHERS[number % len(OTHERS)], symbol


def drawn(name: str, mode: str = "linear") -> dict:
    """How a row or curve is drawn: colour, marker, markerfacecolor, linestyle. Pale, hollow and dashed where a mark
    stands behind the name; dotted where the method is trained further or in another mode than its own."""
    colour, symbol = look(name)
    if marks.footnote(name):
        return {"colour": MARKED, "marker": symbol, "markerfacecolor": "white", "linestyle": (0, (4, 2))}
    line = "-" if mode in HEADS and "+" not in name else (0, (1, 1.2))
    return {"colour": colour, "marker": symbol, "markerfacecolor": colour, "linestyle": line}


def spelt_out(label: str) -> str:
    """A statement with its meaning beside the code: "AFIB, atrial fibrillation"; an unknown code stays alone."""
    scp = vocabulary.vocabulary("scp")
    meaning = _SUPERCLASSES | dict(zip(scp.statement, scp.name, strict=True))
    return f"{label}, {meaning[label]}" if label in meaning else label
