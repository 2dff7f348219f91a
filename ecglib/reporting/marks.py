"""What must be said beside a score: that its model was pretrained on the corpus that it is judged on, or may have been.

A note is about one model and one corpus. A mark follows the model's name wherever it is read, in tables and in figures,
and the legend of a mark stands where the mark stands. Rows of dummy weights are in no table and in no figure.
"""

from ecglib.evaluation.predictions import DUMMY, MAYBE_SEEN, SEEN

MARKS = {
    SEEN: ("†", "pretrained on recordings of {corpus}"),
    MAYBE_SEEN: ("‡", "not known whether it was pretrained on {corpus}"),
}
NO_WEIGHTS = "dummy weights, whose values mean nothing"
HERE, HOME = "this corpus", "the corpus at home"


def mark(name: str, note: str) -> str:
    """The name with the mark of the note behind it: "zoo:ecgfm †"."""
    return f"{name} {MARKS[note][0]}" if note in MARKS else name


def marked(table, name: str = "encoder", note: str = "note") -> list[str]:
    """The names in a table, one per row, each with its mark; a table without notes has none."""
    return [*map(mark, table[name], table[note])] if note in table else list(table[name])


def footnote(words, corpus: str = HERE, between: str = "; ") -> str:
    """The legend of the marks that occur in `words` (a text, or several); "" where there is none."""
    text = words if isinstance(words, str) else " ".join(words)
    return between.join(f"{sign} {legend.format(corpus=corpus)}" for sign, legend in MARKS.values() if sign in text)


def why(note: str) -> str:
    """A note other than "" in words."""
    return NO_WEIGHTS if note == DUMMY else MARKS[note][1].format(corpus=HERE)


def sentence(left_out, of: str = "the tables and figures") -> str:
    """A table of what was left out (encoder, mode, why, and cohort where it is about one) in one sentence."""
    if left_out.empty:
        return f"No model is left out of {of}."
    parts = []
    for row in left_out.itertuples():
        where = f" in {row.cohort}" if "cohort" in left_out else ""
        parts.append(f"{row.encoder}, {row.mode}{where} ({row.why})")
    return f"Left out of {of}: {'; '.join(parts)}."
