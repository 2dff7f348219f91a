"""Labels: what the statements of each corpus mean, and which of them mean the same.

A label table is wide: one row per record (index `record_id`), one int8 column per label, holding a state:
ABSENT 0, PRESENT 1, POSSIBLE 2 (the reader was not sure), UNKNOWN -1 (nobody said). Unknown never counts as absent.

Tables in `vocabulary/`, facts from public sources:
`scp.csv`          the 71 statements of PTB-XL 1.0.3 (Wagner et al. 2020, CC BY 4.0): kind, superclass, subclass
`ecgfounder.csv`   the 150 output statements of ECGFounder (PKUDigitalHealth/ECGFounder, MIT), in output order;
                   `serial` = 1: compares with an earlier tracing, never evaluated
`harmonised.csv`   one row per common label; per source the expression that finds it, its `relation`, and what to leave
                   out. Sources: PTB-XL, LUDB 1.0.1 (Kalyakulina et al. 2020, ODC-By 1.0), the PhysioNet/CinC Challenge
                   2017 (Clifford et al. 2017, ODC-By 1.0), ECGFounder, the SNOMED CT codes of the Challenges 2020 and
                   2021 (`cinc`; `cinc_partitions`: the corpora in which they mean that), the acronyms of
                   Chapman-Shaoxing, the classes of CODE-15 (`code6`), the 17 labels of the fine-tuned ECG-FM
                   (`ecgfm17`; bowang-lab/ECG-FM, MIT), beats and rhythm marks of MIT-BIH (`mitdb`), AFDB and SHDB-AF
`snomed.csv`       the 133 diagnoses of the Challenge 2021 (physionetchallenges/evaluation-2021, BSD 2-Clause): code,
                   abbreviation, name, `scored` = 1: among the 30 that the Challenge scored. SNOMED CT is a work of
                   SNOMED International; the codes stand there as they occur in the corpora
`chapman.csv`      the 68 acronyms of Chapman-Shaoxing (Zheng et al. 2020, CC BY 4.0): rhythm or condition

An expression joins tokens by `&` (and), then by `|` (or); `!` negates one token, a trailing `*` stands for any ending.
Relations: `exact` and `union` say the same as the label. The others are refused: `broader` (the source says less than
the label), `narrower` (it finds a part only, so its negatives are wrong), `incomplete` (not stated for every record),
`absent` (never stated).
"""

from functools import cache, reduce
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import require_known

ABSENT, PRESENT, POSSIBLE, UNKNOWN = 0, 1, 2, -1
STATES = {"absent": ABSENT, "present": PRESENT, "possible": POSSIBLE, "unknown": UNKNOWN}
USABLE = ("exact", "union")
SOURCES = ("scp", "ludb", "cinc2017", "ecgfounder", "cinc", "chapman", "code6", "ecgfm17", "mitdb", "afdb", "shdb_af")
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
# What a PTB-XL statement of infarction or hypertrophy counts as when its reader was less than half sure: present, as in
# the published evaluations, which never look at the likelihood, or possible, which is neither learned nor scored.
LIKELIHOODS = ("published", "certain")
# Three test sets are published as "super", each named after its size: version, state of records without a superclass.
PTBXL_SUPER = {"super-2203": ("1.0.1", ABSENT), "super-2198": ("1.0.3", ABSENT), "super-2158": ("1.0.3", UNKNOWN)}
_MEANING = {
    "broader": "says less than the label",
    "narrower": "finds only a part of the label",
    "incomplete": "does not state it for every record",
    "absent": "never states it",
}
_COLUMNS = ["label", "key", "usable", "reason", "tokens_a", "tokens_b", "leave_out_a", "leave_out_b"]
# Certainty of a state as a rank, so that "any" is the maximum and "all" the minimum; _RANK[state], _STATE[rank].
_RANK = np.array([0, 3, 2, 1], np.int8)
_STATE = np.array([ABSENT, UNKNOWN, POSSIBLE, PRESENT], np.int8)
_NEGATED = np.array([3, 1, 2, 0], np.int8)


@cache
def vocabulary(name: str) -> pd.DataFrame:
    """Return a table of `vocabulary/` ("harmonised", "scp", "snomed", ...), every cell as text, empty where blank."""
    folder = Path(__file__).parent / "vocabulary"
    require_known("vocabulary", [name], sorted(path.stem for path in folder.glob("*.csv")))
    return pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)


@cache
def label_sets() -> dict[str, tuple[str, ...]]:
    """Return the labels of every label set by its name.

    Test records of PTB-XL 1.0.3 (fold 10; folds 1-8 train, 9 validates) with at least one statement of the kind: 2,158
    (super, sub, diagnostic), 880 (form), 2,098 (rhythm), of 2,198 in all; `PTBXL_SUPER`: what "super" may mean.
    """
    table, common = vocabulary("scp"), vocabulary("harmonised")
    return {
        "ptbxl_super": SUPERCLASSES,
        "ptbxl_sub": tuple(dict.fromkeys(s for s in table.subclass if s)),
        "ptbxl_all": tuple(table.statement),
        **{f"ptbxl_{kind}": tuple(table.statement[table[kind] == "1"]) for kind in ("diagnostic", "form", "rhythm")},
        "harmonised": tuple(common.key[common.category != "superclass"]),
        "ecgfounder_150": tuple(vocabulary("ecgfounder").statement),
        "cinc2017": ("AFIB", "normal", "other", "noisy"),
    }


def label_set(name: str) -> tuple[str, ...]:
    """The labels of a label set; an unknown name raises EcgError that lists the valid ones."""
    require_known("label set", [name], label_sets(), "label_set")
    return label_sets()[name]


def challenge_keys(corpus: str) -> list[str]:
    """The common labels that the Challenge codes of one of its corpora ("georgia", "ningbo", ...) state in full."""
    table = vocabulary("harmonised")
    return [key for key, where in zip(table.key, table.cinc_partitions, strict=True) if corpus in where.split("|")]


def _row(label: str, source: str) -> pd.Series | None:
    """Row of the common vocabulary for a key, or for a statement of `source` that is the whole expression of a key."""
    table = vocabulary("harmonised")
    rows = table[table.key == label]
    if rows.empty:
        rows = table[(table[source] == label) & (table[f"relation_{source}"] == "exact")]
    return None if rows.empty else rows.iloc[0]


def _refusal(row: pd.Series, source: str) -> str | None:
    relation = row[f"relation_{source}"]
    if relation in USABLE:
        return None
    notes = [n.split(": ", 1)[1] for n in row.note.split("; ") if n.startswith(f"{source}: ")]
    return f"{source} {_MEANING[relation]} ({relation})" + "".join(f": {n}" for n in notes)


def match(source_a: str | None, source_b: str | None, labels=None) -> pd.DataFrame:
    """Say which labels of two corpora mean the same.

    source_a, source_b: vocabularies (`VOCABULARY` of a dataset); None, a corpus that does not say what its words mean,
    has every label refused. labels: keys of the common table or statements of `source_a`; None: every key.
    Returns one row per label: label, key, usable (where both relations are `exact` or `union`, or within one vocabulary
    the word is the same), reason, and the expressions tokens_a, tokens_b, leave_out_a, leave_out_b.
    Raises EcgError for an unknown source.
    """
    require_known("label source", (source_a, source_b), (*SOURCES, None), "source")
    labels = list(vocabulary("harmonised").key) if labels is None else list(labels)
    if source_a is None or source_b is None:
        nothing = dict.fromkeys(_COLUMNS, "") | {
            "usable": False,
            "reason": "vocabulary not stated (option vocabulary=...)",
        }
        return pd.DataFrame([nothing | {"label": label} for label in labels], columns=_COLUMNS)
    return pd.DataFrame([_match_row(label, source_a, source_b) for label in labels], columns=_COLUMNS)


def _match_row(label: str, a: str, b: str) -> dict:
    row = _row(label, a)
    if row is None:
        reason = "the same vocabulary" if a == b else f"no label of the common vocabulary means just {label!r}"
        return dict.fromkeys(_COLUMNS, "") | {"label": label, "usable": a == b, "reason": reason}
    refused = [r for r in dict.fromkeys(_refusal(row, s) for s in (a, b)) if r]
    if a == b and label != row.key:
        refused = []
    reason = "; ".join(refused) or f"{a}: {row[f'relation_{a}']}, {b}: {row[f'relation_{b}']}"
    out = {"label": label, "key": row.key, "usable": not refused, "reason": reason}
    for side, source in (("a", a), ("b", b)):
        out |= {f"tokens_{side}": row[source], f"leave_out_{side}": row.get(f"leave_out_{source}", "")}
    return out


def harmonise(tokens: pd.DataFrame, source: str, keys=None) -> pd.DataFrame:
    """Translate the statements of a corpus into labels of the common vocabulary.

    tokens: states (record, statement), int8; a statement of the vocabulary `source` without a column was never made.
    keys: labels wanted; None: all but the superclasses. Returns int8 states (record, label) for those that `source`
    states exactly or as a union (`match` says why others are refused). A record that only an expression to leave out
    applies to is UNKNOWN. Raises EcgError for an unknown source or key.
    """
    require_known("label source", [source], SOURCES, "source")
    table = vocabulary("harmonised")
    keys = label_set("harmonised") if keys is None else tuple(keys)
    require_known("label", keys, list(table.key), "keys")
    ranks = {str(name): _RANK[tokens[name].to_numpy(np.int8)] for name in tokens}
    columns = {}
    for row in table.set_index("key").loc[list(keys)].itertuples():
        if getattr(row, f"relation_{source}") not in USABLE:
            continue
        made = _evaluate(getattr(row, source), ranks, len(tokens))
        left_out = _evaluate(getattr(row, f"leave_out_{source}", ""), ranks, len(tokens))
        unclear = (made <= _RANK[UNKNOWN]) & (left_out > _RANK[ABSENT])
        columns[row.Index] = _STATE[np.where(unclear, _RANK[UNKNOWN], made)]
    return pd.DataFrame(columns, index=tokens.index, dtype=np.int8)


def _evaluate(expression: str, ranks: dict, n: int) -> np.ndarray:
    """Rank of an expression for every record; a token without a column is absent."""
    absent = np.zeros(n, np.int8)

    def factor(token: str) -> np.ndarray:
        name = token.removeprefix("!")
        found = [n for n in ranks if n == name or name.endswith("*") and n.startswith(name[:-1])]
        value = reduce(np.maximum, (ranks[n] for n in found), absent)
        return _NEGATED[value] if token.startswith("!") else value

    terms = (reduce(np.minimum, (factor(t) for t in term.split("&"))) for term in expression.split("|") if term)
    return reduce(np.maximum, terms, absent)


@cache
def _superclasses() -> dict[str, str]:
    table = vocabulary("scp")
    return dict(zip(table.statement, table.superclass, strict=True))


def scp_state(statement: str, likelihood: float, rule: str = "published") -> int:
    """State of a statement in a PTB-XL record, given the likelihood in percent that stands beside it (0: left open).

    rule: of LIKELIHOODS. "published": a statement that is made is PRESENT whatever its likelihood, which for rhythm and
    form is nearly always left open. "certain": infarction and hypertrophy below 50 percent are POSSIBLE.
    """
    require_known("SCP statement", [statement], _superclasses(), "scp_codes")
    doubtful = _superclasses()[statement] in ("MI", "HYP") and 0 < likelihood < 50
    return POSSIBLE if doubtful and rule == "certain" else PRESENT


def set_name(stated: dict | None) -> str:
    """A label set (`label_set` of cohort.json) in one text, the same for the same rules; "" where none is stated."""
    return "{name} {version}, likelihood {likelihood}".format(**stated) if stated else ""


def counts(states: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return for every label how many records are absent, present, possible, unknown."""
    return {str(c): {name: int((states[c] == v).sum()) for name, v in STATES.items()} for c in states}


def prevalence(states: pd.DataFrame) -> pd.DataFrame:
    """How often each label of `states` (record, label) occurs: records present, absent, possible, unknown, and share.

    share: present / (present + absent), NaN where nothing is known.
    """
    table = pd.DataFrame(counts(states), index=["present", "absent", "possible", "unknown"], dtype=int).T
    known = table.present + table.absent
    return table.assign(share=table.present / known.where(known > 0))
