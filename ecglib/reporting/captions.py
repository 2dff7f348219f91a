"""Captions of the paper's figures: what one sees, computed from what is drawn, with intervals and counts."""

from ecglib.evaluation.predictions import is_baseline
from ecglib.reporting.marks import marked
from ecglib.reporting.methods import is_pretrained, spelt_out
from ecglib.reporting.tables import MACRO, with_interval


def share(fraction: float) -> str:
    """A share of the training labels in percent."""
    return f"{100 * fraction:g} %"


def counted(rows) -> str:
    """A hospital and what was scored there, from `tables.scores`: A (546 records of 336 patients, 25 labels)."""
    row = rows[(rows.label == MACRO)].iloc[0]
    labels = f"{row.n_labels} label{'s' if row.n_labels != 1 else ''}"
    return f"{row.cohort} ({row.n_records:,} records of {row.n_patients:,} patients, {labels})"


def _macro(rows):
    return rows[(rows.label == MACRO) & (rows.metric == "auroc") & (rows.fraction > 0)]


def _score(row) -> str:
    return with_interval(row.point, row.low, row.high)


def _best(rows):
    return rows.iloc[rows.point.argmax()]


def comparison(rows, about: str) -> str:
    """Which method is best at each share of the labels, and which baseline; about: task, hospital and counts."""
    parts = []
    for fraction, group in _macro(rows).groupby("fraction"):
        ours = group[group.encoder.map(is_pretrained)]
        theirs = group[group.encoder.map(is_baseline)]
        named = [f"{_best(side).encoder} {_score(_best(side))}" for side in (ours, theirs) if not side.empty]
        parts.append(f"at {share(fraction)} {' against the best baseline, '.join(named)}")
    seen = f"Highest pretrained encoder: {'; '.join(parts)}"
    return f"All methods, {about}. {seen}. Macro AUROC, 95 % intervals over patients; one axis for all panels."


def label_efficiency(rows, about: str) -> str:
    """How far each drawn method climbs from the fewest labels to all of them."""
    parts = []
    for encoder, group in _macro(rows).groupby("encoder", sort=False):
        group = group.sort_values("fraction").drop_duplicates("fraction")
        first, last = group.iloc[0], group.iloc[-1]
        parts.append(f"{encoder} from {first.point:.3f} at {share(first.fraction)} to {_score(last)}")
    return f"Label efficiency, {about}: {'; '.join(parts)}. Bars are 95 % intervals over patients."


def differences(rows, about: str) -> str:
    """How many methods are above and below each reference, and the largest difference to it."""
    parts = []
    for reference, group in rows.groupby("reference", sort=False):
        sure = group.p_holm < 0.05
        above, below, best = (sure & (group.point > 0)).sum(), (sure & (group.point < 0)).sum(), _best(group)
        gap = with_interval(best.point, best.low, best.high, "+")
        parts.append(
            f"Of {len(group)} methods {above} are above {reference} and {below} below; highest {best.encoder}, {gap}"
        )
    return f"Paired differences in macro AUROC, {about}. {'. '.join(parts)} (counted: Holm p < 0.05)."


def forest(rows, about: str, home: str) -> str:
    """The mean at home and elsewhere, and the statement that loses most; rows: of `tables.external`, one model."""
    macro, labels = rows[rows.label == MACRO], rows[rows.label != MACRO].dropna(subset=["drop"])
    name, away = marked(rows)[0], rows.cohort.iloc[0]
    text = f"AUROC of {name} per statement, {about}, {home} against {away}"
    for row in macro.itertuples():
        home_score, away_score, change = _side(row, "internal"), _side(row, "external"), _side(row, "drop", "+")
        text += f". Mean of {len(labels)}: {home_score} at home, {away_score} in {away}, change {change}"
    if not labels.empty:
        worst = labels.iloc[labels["drop"].argmin()]
        text += f"; the most is lost by {spelt_out(worst.label)}, {_side(worst, 'drop', '+')}"
    n = f"{rows.n_records_internal.max():,} records at home, {rows.n_records_external.max():,} in {away}"
    return f"{text}. {n}; 95 % intervals over patients."


def _side(row, side: str, sign: str = "") -> str:
    row = row._asdict() if hasattr(row, "_asdict") else row
    return with_interval(*(row[f"{side}{end}"] for end in ("", "_low", "_high")), sign)


def calibration(curves, about: str) -> str:
    """How to read the panels, and how many predictions stand behind them in each hospital."""
    counts = []
    for cohort, rows in curves.groupby("cohort", sort=False):
        counts.append(f"{rows.groupby('encoder', observed=True).n.sum().max():,} in {cohort}")
    read = "On the diagonal a probability comes true as often as it says, above it more often, below it less often"
    return f"Calibration with all labels, {about}. {read}. Predictions per method: {', '.join(counts)}; {BARS}."


BARS = "bars are Wilson 95 % intervals, trials being patients"
