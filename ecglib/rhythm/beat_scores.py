"""How well beats are classified: confusion, sensitivity and PPV per class and record, intervals over patients."""

import numpy as np
import pandas as pd

from ecglib.evaluation import bootstrap
from ecglib.rhythm.annotated import CLASSES


def confusion(truth: np.ndarray, called: np.ndarray) -> pd.DataFrame:
    """Numbers of beats by true class (row) and called class (column)."""
    table = pd.crosstab(pd.Categorical(truth, CLASSES), pd.Categorical(called, CLASSES), dropna=False)
    return table.reindex(index=list(CLASSES), columns=list(CLASSES), fill_value=0).rename_axis("true", axis=0)


def counts(beats: pd.DataFrame) -> pd.DataFrame:
    """Per record and class: true, called, both, and all beats; beats: record_id, patient_id, aami, called per beat."""
    rows = []
    for (record, patient), of_record in beats.groupby(["record_id", "patient_id"], sort=False):
        for name in CLASSES:
            true, called = of_record.aami == name, of_record.called == name
            numbers = {"true": true.sum(), "called": called.sum(), "both": (true & called).sum(), "beats": len(true)}
            rows.append({"record_id": record, "patient_id": patient, "class": name, **numbers})
    return pd.DataFrame(rows)


def per_record(beats: pd.DataFrame) -> pd.DataFrame:
    """Sensitivity and PPV of each class in each record, NaN where the class does not occur or is not called."""
    table = counts(beats)
    return table.assign(sensitivity=_ratio(table.both, table.true), ppv=_ratio(table.both, table.called))


def per_class(beats: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Sensitivity, PPV and F1 of each class over all beats, and accuracy (class "all"), with 95 % intervals.

    beats: as of `counts`. Patients are drawn with all their records, so that an interval is wide where a class comes
    from few of them; n_patients says from how many.
    """
    table = counts(beats)
    records = table.drop_duplicates("record_id")
    wide = {n: table.pivot(index="record_id", columns="class", values=n) for n in ("true", "called", "both")}
    wide = {name: values.loc[records.record_id, list(CLASSES)].to_numpy(float) for name, values in wide.items()}
    patients, rows = records.patient_id.to_numpy(str), []
    for place, name in enumerate((*CLASSES, "all")):
        part = [values.sum(axis=1) if name == "all" else values[:, place] for values in wide.values()]
        row = {"class": name, "beats": int(part[0].sum()), "n_patients": len(set(patients[part[0] > 0]))}
        statistics = _accuracy if name == "all" else _of_class
        for metric, found in bootstrap.of_sums(np.stack(part, 1), patients, statistics, n_resamples, seed).items():
            row |= {metric: found.point, f"{metric}_low": found.low, f"{metric}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _of_class(sums) -> dict[str, np.ndarray]:
    true, called, both = sums.T
    return {"sensitivity": _ratio(both, true), "ppv": _ratio(both, called), "f1": _ratio(2 * both, true + called)}


def _accuracy(sums) -> dict[str, np.ndarray]:
    true, _, both = sums.T
    return {"accuracy": _ratio(both, true)}


def _ratio(top, bottom) -> np.ndarray:
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def macro_f1(beats: pd.DataFrame, names=("N", "S", "V", "F")) -> float:
    """Mean F1 of the classes `names`; what is chosen by cross-validation."""
    table = per_class(beats, n_resamples=1).set_index("class")
    return float(table.f1[list(names)].fillna(0).mean())
