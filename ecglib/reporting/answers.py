"""The question of the study answered from its tables: does pretraining pay, where, and in the next hospital?"""

import numpy as np
import pandas as pd

from ecglib.data.files import plain
from ecglib.reporting.captions import share
from ecglib.reporting.methods import is_pretrained, kind
from ecglib.reporting.tables import MACRO, UNTRAINED, main_differences, of_model, with_interval

HEADS = ("zero-shot", "head")  # modes without a probe: no row of the comparison with few labels


def answers(tables: dict, leaders: dict, task: str) -> list[str]:
    """Markdown: does pretraining pay, where, and in the next hospital; a computed sentence each, and its points.

    tables: of `study_tables`; leaders: of the notebook of the paper's figures, the first one being the best encoder on
    validation patients. What was not run is said. Better and worse,
    and the counts of those that beat others, ask for an interval without zero and a Holm-adjusted p below 0.05.
    """
    gaps, scores, transfer = (of_task(tables[name], task) for name in ("differences", "scores", "transfer"))
    best = next(iter(leaders.get(task, [])), "")  # names come from files: they are text, not Markdown
    at_home = gaps[gaps.split == "test"]
    if at_home[at_home.encoder.map(is_pretrained)].empty:
        return ["No pretrained encoder was probed here: only baselines are compared."]
    if not best or not is_pretrained(best):
        return ["No pretrained encoder can answer here: each may have seen these recordings, as its mark says."]
    tenth = _nearest(at_home, 0.1)
    return [_pays(at_home, scores, best, tenth), _pays_where(at_home, best), _elsewhere(transfer, gaps, best)]


def of_task(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """The rows of a table by AUROC of one task, of methods that were trained on labels."""
    rows = table[(table.task == task) & (table.metric == "auroc")]
    rows = rows[~rows["mode"].isin(HEADS) & (rows.fraction > 0)]
    return rows[rows.point.notna()] if "point" in rows else rows


def _nearest(rows: pd.DataFrame, fraction: float) -> float:
    return min(rows.fraction.unique(), key=lambda trained: abs(trained - fraction))


def _gap(rows: pd.DataFrame, encoder: str, reference: str, fraction: float) -> str:
    """The difference of an encoder to a reference and what its interval says; "" where it was not computed."""
    found = rows[(rows.reference == reference) & np.isclose(rows.fraction, fraction)]
    found = of_model(found, encoder, "linear").head(1)
    return "".join(f"{with_interval(r.point, r.low, r.high, '+')}, {_verdict(r)}" for r in found.itertuples())


def _verdict(row) -> str:
    """What an interval and the p value, adjusted by Holm, say together."""
    if not row.p_holm < 0.05:
        return "no certain difference"
    return "better" if row.low > 0 else "worse" if row.high < 0 else "no certain difference"


def _listed(sentence: str, points: list[str]) -> str:
    return "\n".join([sentence, *(f"    - {point}" for point in points)])


def _pays(gaps, scores, best: str, fraction: float) -> str:
    rows = main_differences(gaps[np.isclose(gaps.fraction, fraction) & gaps.encoder.map(is_pretrained)])
    points, against = [], {"scratch": "training from scratch", "features": "hand-made features with trees"}
    for name, words in against.items():
        if gap := _gap(gaps, best, name, fraction):
            points.append(f"Against {words}: {gap}.")
    titles = {(UNTRAINED, "random"): "their untrained network", ("scratch",): "training from scratch"}
    for references, title in titles.items():
        pairs = rows[rows.reference.isin(references)]
        won = pairs[(pairs.p_holm < 0.05) & (pairs.point > 0)]
        unlabelled = pairs.encoder.map(kind) == "signals"
        if len(pairs):
            part = f"; of the {unlabelled.sum()} among them that saw signals alone, {unlabelled[won.index].sum()}"
            points.append(f"Of {len(pairs)} pretrained, {len(won)} beat {title}{part if unlabelled.any() else ''}.")
    at = scores[(scores.split == "test") & (scores.label == MACRO) & np.isclose(scores.fraction, fraction)]
    top = of_model(at, best, "linear").iloc[0]
    score = with_interval(top.point, top.low, top.high)
    sentence = (
        f"With {share(fraction)} of the labels, the encoder that validation chose, {plain(best)}, has a macro AUROC"
    )
    return _listed(f"**Does pretraining pay?** {sentence} of {score} on the test patients.", points)


def _pays_where(gaps, best: str) -> str:
    rows = of_model(gaps[gaps.reference == "scratch"], best, "linear").drop_duplicates("fraction")
    if rows.empty:
        return "**With how many labels?** Training from scratch was not run, so there is nothing to hold it against."
    top = rows.loc[rows.point.idxmax()]
    points = [f"At {share(f)}: {_gap(gaps, best, 'scratch', f)}." for f in sorted(rows.fraction)]
    if _verdict(top) == "better":
        where = f"{plain(best)} gains most over training from scratch with {share(top.fraction)} of the labels"
    else:
        where = f"With no share of the labels is a gain of {plain(best)} over training from scratch certain"
    return _listed(f"**With how many labels?** {where}.", points)


def _elsewhere(transfer, gaps, best: str) -> str:
    macro = transfer[(transfer.label == MACRO)]
    if macro.empty:
        return "**In the next hospital?** There is no other hospital in this study."
    points = []
    for cohort, rows in macro.groupby("cohort", sort=False):
        rows = rows[rows.encoder.map(is_pretrained)]
        own, lost = of_model(rows, best, "linear"), rows[rows.drop_high < 0]
        text = f"In {plain(cohort)}:"
        for row in own.head(1).itertuples():
            score, change = (_side(row, side, sign) for side, sign in (("external", ""), ("drop", "+")))
            text += f" {plain(best)} has {score}, a change of {change};"
        there = gaps[(gaps.cohort == cohort) & (gaps.split == "external")]
        if gap := _gap(there, best, "scratch", there.fraction.max()):
            text += f" against training from scratch there {gap};"
        points.append(f"{text} of {len(rows)} pretrained {len(lost)} fall (interval below zero).")
    return _listed("**In the next hospital?** With all labels.", points)


def _side(row, side: str, sign: str) -> str:
    return with_interval(*(getattr(row, f"{side}{end}") for end in ("", "_low", "_high")), sign)
