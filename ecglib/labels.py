"""Labels: what the statements of each corpus mean, and which of them mean the same.

A label table is wide: one row per record (index `record_id`), one int8 column per label, holding a state:
ABSENT 0, PRESENT 1, POSSIBLE 2 (the reader was not sure), UNKNOWN -1 (nobody said). Unknown never counts as absent.

Tables in `vocabulary/`, facts from public sources:
`scp.csv`          the 71 statements of PTB-XL 1.0.3 (Wagner et al. 2020, CC BY 4.0): kind, superclass, subclass
`ecgfounder.csv`   the 150 output statements of ECGFounder (PKUDigitalHealth/ECGFounder, MIT), in output order;
                   `serial` = 1: compares with an earlier tracing, never evaluated
`harmonised.csv`   one row per common label; per source the expression that finds it, its `relation`, and what to leave
                   out. Sources: PTB-XL, LUDB 1.0.1 (Kalyakulina et al. 2020, ODC-By 1.0), the PhysioNet/CinC Challenge
                   2017 (Clifford et al. 2017, ODC-By 1.0), ECGFounder.

An expression joins tokens by `&` (and), then by `|` (or); `!` negates one token, a trailing `*` stands for any ending.
Relations: `exact` and `union` say the same as the label. The others are refused: `broader` (the source says less than
the label), `narrower` (it finds a part only, so its negatives are wrong), `incomplete` (not stated for every record),
`absent` (never stated).
"""

from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib.signals import EcgError

ABSENT, PRESENT, POSSIBLE, UNKNOWN = 0, 1, 2, -1
STATES = {"absent": ABSENT, "present": PRESENT, "possible": POSSIBLE, "unknown": UNKNOWN}
USABLE = ("exact", "union")
SOURCES = ("scp", "ludb", "cinc2017", "ecgfounder")
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
_MEANING = {
    "broader": "says less than the label",
    "narrower": "finds only a part of the label",
    "incomplete": "does not state it for every record",
    "absent": "never states it",
}
UNSTATED = "vocabulary not stated (option vocabulary=...)"
_COLUMNS = ["label", "key", "usable", "reason", "tokens_a", "tokens_b", "leave_out_a", "leave_out_b"]
# Certainty of a state as a rank, so that "any" is the maximum and "all" the minimum; _RANK[state], _STATE[rank].
_RANK = np.array([0, 3, 2, 1], np.int8)
_STATE = np.array([ABSENT, UNKNOWN, POSSIBLE, PRESENT], np.int8)
_NEGATED = np.array([3, 1, 2, 0], np.int8)


@dataclass(frozen=True)
class LabelSet:
    """A list of labels, and for which version, folds and size of the test of a corpus published scores on it hold."""

    name: str
    vocabulary: str
    labels: tuple[str, ...]
    version: str = ""
    folds: str = ""
    n_test: int | None = None


@cache
def vocabulary(name: str) -> pd.DataFrame:
    """Return a table of `vocabulary/` ("harmonised", "scp", "ecgfounder"), every cell as text, empty where blank."""
    path = Path(__file__).parent / "vocabulary" / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.csv")))
        raise EcgError(f"unknown vocabulary {name!r}", field="vocabulary", fix=f"use one of {known}")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _scp(kind: str) -> tuple[str, ...]:
    table = vocabulary("scp")
    return tuple(table.statement[table[kind] == "1"])


@cache
def label_sets() -> dict[str, LabelSet]:
    """Return every label set by name. Test sizes: fold 10 of PTB-XL 1.0.3 with at least one statement of the kind."""
    table, founder = vocabulary("scp"), vocabulary("ecgfounder")
    sub = tuple(dict.fromkeys(s for s in table.subclass if s))
    ptbxl = {
        "super": (SUPERCLASSES, 2158),
        "sub": (sub, 2158),
        "all": (tuple(table.statement), 2198),
        "diagnostic": (_scp("diagnostic"), 2158),
        "form": (_scp("form"), 880),
        "rhythm": (_scp("rhythm"), 2098),
    }
    keys = vocabulary("harmonised")
    sets = [LabelSet(f"ptbxl_{k}", "scp", v, "1.0.3", "1-8/9/10", n) for k, (v, n) in ptbxl.items()]
    sets.append(LabelSet("harmonised", "harmonised", tuple(keys.key[keys.category != "superclass"])))
    sets.append(LabelSet("ecgfounder_150", "ecgfounder", tuple(founder.statement)))
    sets.append(LabelSet("cinc2017", "cinc2017", ("AFIB", "normal", "other", "noisy"), "label version 3"))
    return {s.name: s for s in sets}


def label_set(name: str) -> LabelSet:
    """Return a label set by name; an unknown name raises EcgError that lists the valid ones."""
    if name not in label_sets():
        raise EcgError(f"unknown label set {name!r}", field="label_set", fix=f"use one of {', '.join(label_sets())}")
    return label_sets()[name]


def _require_source(source: str) -> None:
    if source not in SOURCES:
        raise EcgError(f"unknown label source {source!r}", field="source", fix=f"use one of {', '.join(SOURCES)}")


def _row(label: str, source: str) -> pd.Series | None:
    """Row of the common vocabulary for a key, or for a statement of `source` that is the whole expression of a key."""
    table = vocabulary("harmonised")
    found = table[table.key == label]
    if found.empty:
        found = table[(table[source] == label) & (table[f"relation_{source}"] == "exact")]
    return None if found.empty else found.iloc[0]


def _refusal(row: pd.Series, source: str) -> str | None:
    """Why `source` may not be used for this row; None where it may."""
    relation = row[f"relation_{source}"]
    if relation in USABLE:
        return None
    notes = [n.split(": ", 1)[1] for n in row.note.split("; ") if n.startswith(f"{source}: ")]
    return f"{source} {_MEANING[relation]} ({relation})" + "".join(f": {n}" for n in notes)


def match(source_a: str | None, source_b: str | None, labels=None) -> pd.DataFrame:
    """Say which labels of two corpora mean the same.

    `source_a` and `source_b` are vocabularies (`VOCABULARY` of a dataset); `labels` are keys of the common table or
    statements of `source_a` (default: every key). Returns one row per label, in order: label, key, usable (bool),
    reason (text), tokens_a, tokens_b, leave_out_a, leave_out_b (expressions). A label is usable where both relations
    are `exact` or `union`; everything else is refused, with the reason. Within one vocabulary the same word is the same
    label. A source that is None (a corpus that does not say what its words mean) has every label refused.
    Raises EcgError for an unknown source.
    """
    for source in (source_a, source_b):
        if source is not None:
            _require_source(source)
    labels = list(vocabulary("harmonised").key) if labels is None else list(labels)
    if source_a is None or source_b is None:
        nothing = dict.fromkeys(_COLUMNS, "") | {"usable": False, "reason": UNSTATED}
        return pd.DataFrame([nothing | {"label": label} for label in labels], columns=_COLUMNS)
    return pd.DataFrame([_match_row(label, source_a, source_b) for label in labels], columns=_COLUMNS)


def _match_row(label: str, a: str, b: str) -> dict:
    row = _row(label, a)
    if row is None:
        reason = "the same vocabulary" if a == b else f"no label of the common vocabulary means just {label!r}"
        empty = dict.fromkeys(("tokens_a", "tokens_b", "leave_out_a", "leave_out_b"), "")
        return {"label": label, "key": "", "usable": a == b, "reason": reason} | empty
    refused = [r for r in dict.fromkeys(_refusal(row, s) for s in (a, b)) if r]
    if a == b and label != row.key:
        refused = []
    agreed = f"{a}: {row[f'relation_{a}']}, {b}: {row[f'relation_{b}']}"
    return {
        "label": label,
        "key": row.key,
        "usable": not refused,
        "reason": "; ".join(refused) or agreed,
        "tokens_a": row[a],
        "tokens_b": row[b],
        "leave_out_a": row.get(f"leave_out_{a}", ""),
        "leave_out_b": row.get(f"leave_out_{b}", ""),
    }


def harmonise(tokens: pd.DataFrame, source: str, keys=None, complete: bool = True) -> pd.DataFrame:
    """Translate the statements of a corpus into labels of the common vocabulary.

    `tokens`: one row per record, one int8 state column per statement of `source`. Returns one int8 column for each of
    `keys` (default: all but the superclasses) that `source` states exactly or as a union; the refused ones are not
    there (`match` says why). A record that only an expression to leave out applies to is UNKNOWN. With `complete`,
    a statement without a column was never made; without it, labels that need such a statement are refused too.
    Raises EcgError for an unknown source or key.
    """
    _require_source(source)
    table = vocabulary("harmonised")
    keys = label_set("harmonised").labels if keys is None else tuple(keys)
    wrong = [k for k in keys if k not in set(table.key)]
    if wrong:
        raise EcgError(f"unknown label {wrong[0]!r}", field="keys", fix=f"use some of {', '.join(table.key)}")
    ranks = {str(name): _RANK[tokens[name].to_numpy(np.int8)] for name in tokens}
    columns = {}
    for row in table.set_index("key").loc[list(keys)].itertuples():
        if getattr(row, f"relation_{source}") not in USABLE:
            continue
        expression = getattr(row, source)
        if not complete and _missing(expression, ranks):
            continue
        found = _evaluate(expression, ranks, len(tokens))
        left_out = _evaluate(getattr(row, f"leave_out_{source}", ""), ranks, len(tokens))
        unclear = (found <= _RANK[UNKNOWN]) & (left_out > _RANK[ABSENT])
        columns[row.Index] = _STATE[np.where(unclear, _RANK[UNKNOWN], found)]
    return pd.DataFrame(columns, index=tokens.index, dtype=np.int8)


def _columns(token: str, ranks: dict) -> list[str]:
    return [n for n in ranks if n.startswith(token[:-1])] if token.endswith("*") else [token] * (token in ranks)


def _missing(expression: str, ranks: dict) -> bool:
    tokens = expression.replace("|", "&").split("&")
    return not all(_columns(t.removeprefix("!"), ranks) for t in tokens)


def _evaluate(expression: str, ranks: dict, n: int) -> np.ndarray:
    """Rank of an expression for every record; a token without a column is absent."""
    absent = np.zeros(n, np.int8)

    def factor(token: str) -> np.ndarray:
        value = reduce(np.maximum, (ranks[c] for c in _columns(token.removeprefix("!"), ranks)), absent)
        return _NEGATED[value] if token.startswith("!") else value

    terms = (reduce(np.minimum, (factor(t) for t in part.split("&"))) for part in expression.split("|") if part)
    return reduce(np.maximum, terms, absent)


@cache
def _superclasses() -> dict[str, str]:
    table = vocabulary("scp")
    return dict(zip(table.statement, table.superclass, strict=True))


def scp_state(statement: str, likelihood: float) -> int:
    """State of a statement in a PTB-XL record, given the likelihood in percent that stands beside it (0: left open).

    A statement that is made counts as PRESENT whatever its likelihood, which for rhythm and form is nearly always left
    open. Infarction and hypertrophy below 50 percent are the exception: POSSIBLE.
    """
    if statement not in _superclasses():
        raise EcgError(f"unknown SCP statement {statement!r}", field="scp_codes")
    uncertain = _superclasses()[statement] in ("MI", "HYP") and 0 < likelihood < 50
    return POSSIBLE if uncertain else PRESENT


def truth(states, possible: int = UNKNOWN) -> np.ndarray:
    """Return int8 states with POSSIBLE replaced by `possible` (UNKNOWN leaves those records out), shape kept."""
    states = np.asarray(states, np.int8)
    return np.where(states == POSSIBLE, np.int8(possible), states).astype(np.int8)


def counts(states: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return for every label how many records are absent, present, possible, unknown."""
    return {str(c): {name: int((states[c] == v).sum()) for name, v in STATES.items()} for c in states}


def prevalence(states: pd.DataFrame) -> pd.DataFrame:
    """How often each label occurs: one row per column of `states` (record, label), int8 states.

    Columns: present, absent, possible, unknown (records); share: present / (present + absent), NaN where nothing is
    known. Possible and unknown are in neither the numerator nor the denominator.
    """
    table = pd.DataFrame(counts(states), index=["present", "absent", "possible", "unknown"], dtype=int).T
    known = table.present + table.absent
    return table.assign(share=table.present / known.where(known > 0))
