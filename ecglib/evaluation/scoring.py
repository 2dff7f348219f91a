"""Anyone's predictions judged: a table of scores beside a table of truth, with intervals over patients.

Scores may be what `ecglib predict` wrote ("p: AFIB", "calibrated: AFIB", "call: AFIB"), a long table (record, label,
probability), as `predictions.parquet` is one, or a wide one with a column per label.
"""

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import cohort, splits
from ecglib.evaluation import bootstrap, metrics, probing
from ecglib.evaluation.predictions import observed

MACRO = "macro"
RECORD = ("record", "record_id")  # columns that name a record
RAW, CALIBRATED, CALL = "p: ", "calibrated: ", "call: "
NUMBER = re.compile(r"number: (.+?)(?: \[(.*)\])?")  # column of a predicted number: "number: age [years]"
NUMBERS = ("mae", "rmse", "r", "r2", "bias", "loa_low", "loa_high")  # statistics of numbers
FEW = 10  # positives, below which the interval of a label is narrower than it says


class Scores(NamedTuple):
    """What somebody's model says: records (record,), labels, p, calibrated and call (record, label), NaN for none.

    is_number: p holds numbers in their unit, not probabilities.
    """

    records: np.ndarray
    labels: list
    p: np.ndarray
    calibrated: np.ndarray
    call: np.ndarray
    is_number: bool = False


class Truth(NamedTuple):
    """What is so: records (record,), each under every name that the table gives it; patients; y (record, label): states
    or numbers, NaN where unknown."""

    records: list
    patients: np.ndarray
    labels: list
    y: np.ndarray
    splits: np.ndarray


def summary(y, p, patients, labels, *, call=None, calibrated=None, min_positives=1, n=1000, seed=0) -> pd.DataFrame:
    """Discrimination, calibration and operating points with 95 % intervals over patients.

    y: 1, 0, -1 for unknown; p: probabilities; call, calibrated: NaN where there is none; all (record, label).
    min_positives: of a label in the macro averages; n, seed: of the resamples.
    Returns label ("macro" first), statistic, value, low, high, positives, records, labels (in the average); a statistic
    without a value for a label has no row. Raises EcgError for probabilities that are none, and where no label has both
    classes.
    """
    if p.size and not (np.nanmin(p) >= 0 and np.nanmax(p) <= 1):
        raise EcgError("scores outside 0..1 are no probabilities", field="prediction", fix="apply the sigmoid")
    wanted = [(name, p, name) for name in ("auroc", "auprc", "brier", "ece")]
    if calibrated is not None:
        wanted += [(name, calibrated, f"{name}, calibrated") for name in ("brier", "ece")]
    if call is not None:
        wanted += [(name, call, name) for name in metrics.OPERATING]
    rows = []
    for statistic, values, shown in wanted:
        rows += _rows(y, values, patients, labels, statistic, shown, min_positives, (n, seed))
    table = pd.DataFrame(rows, columns=["label", "statistic", "value", "low", "high", "positives", "records", "labels"])
    return table.sort_values("label", key=lambda column: column != MACRO, kind="stable", ignore_index=True)


def _rows(y, values, patients, labels, statistic, shown, min_positives, resampling) -> list:
    known = ~np.isnan(values).any(axis=0) & ((y == 1).any(axis=0) & (y == 0).any(axis=0))
    if not known.any():
        if statistic == "auroc":
            fix = "give truth with positives and negatives of the labels that are scored"
            raise EcgError(f"no label has both classes in {len(y)} records", field="labels", fix=fix)
        return []
    at, rows = np.flatnonzero(known), []
    drawn = bootstrap.replicates(y[:, at], values[:, at], patients, *resampling, statistic=statistic)
    if (metrics.positives(y[:, at])[~np.isnan(drawn.point)] >= min_positives).any():
        whole = bootstrap.macro(drawn, y[:, at], min_positives)
        of_all = int((y[:, at] == 1).sum()), len(y), whole.n_labels
        rows.append([MACRO, shown, whole.point, whole.low, whole.high, *of_all])
    for k, each in zip(at, bootstrap.per_label(drawn), strict=True):
        if not np.isnan(each.point):
            count = int((y[:, k] == 1).sum()), int((y[:, k] >= 0).sum()), 1
            rows.append([labels[k], shown, each.point, each.low, each.high, *count])
    return rows


def numbers(y, p, patients, labels, *, n=1000, seed=0) -> pd.DataFrame:
    """Errors and agreement of predicted numbers with 95 % intervals over patients.

    y: truth, NaN for unknown; p: predictions, both (record, label); n, seed: of the resamples.
    Returns label, statistic (of NUMBERS), value, low, high, records; a statistic without a value has no row.
    """
    y, p, rows = np.asarray(y, float), np.asarray(p, float), []
    for k, label in enumerate(labels):
        known = ~np.isnan(y[:, k]) & ~np.isnan(p[:, k])
        if not known.any():
            fix = "give truth of the records that are scored"
            raise EcgError(f"{label} is known of no scored record", field=label, fix=fix)
        for statistic in NUMBERS:
            data = y[known, k], p[known, k], np.asarray(patients)[known]
            (each,) = bootstrap.per_label(bootstrap.replicates(*data, n, seed, statistic=statistic))
            if not np.isnan([each.point, each.low, each.high]).any():
                rows.append([label, statistic, each.point, each.low, each.high, int(known.sum())])
    return pd.DataFrame(rows, columns=["label", "statistic", "value", "low", "high", "records"])


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A `summary`, or `numbers`, for people: a row per label, a column per statistic, "0.912 (0.880 to 0.940)"."""
    text = [f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in table.itertuples()]
    order = list(dict.fromkeys(table.label)), list(dict.fromkeys(table.statistic))
    wide = table.assign(text=text).pivot(index="label", columns="statistic", values="text").loc[order[0], order[1]]
    if "positives" not in table:
        wide.insert(0, "records", table.drop_duplicates("label").set_index("label").records.astype(str))
        return wide.fillna("-")
    of_label = table[table.label != MACRO].drop_duplicates("label").set_index("label")
    few = of_label.positives.reindex(order[0]) < FEW
    wide.insert(
        0, "positives", of_label.positives.reindex(order[0]).map("{:.0f}".format, na_action="ignore").fillna("")
    )
    wide.index = [f"{label} *" if few[label] else label for label in order[0]]
    return wide.fillna("-")


def read_scores(path) -> Scores:
    """A table of scores, .parquet or .csv; EcgError for one that is none, or that names a record twice."""
    path = Path(path)
    table = _table(path)
    record = next((name for name in RECORD if name in table), None)
    if record is None:
        fix = f"name it record; columns: {', '.join(map(str, table.columns[:12]))}"
        raise EcgError("no column names the record", file=path, field="record", fix=fix)
    if {"label", "probability"} <= set(table):
        table = _unfolded(table, record, path)
    else:
        table = table.set_index(record)
    if table.index.duplicated().any():
        twice = table.index[table.index.duplicated()][0]
        raise EcgError(f"{twice} is there twice", file=path, field=record, fix="keep one row of each record")
    if numbers_ := {name: match[1] for name in table if (match := NUMBER.fullmatch(str(name)))}:
        empty = np.full((len(table), len(numbers_)), np.nan)
        values = _block(table, list(numbers_)), empty, empty
        return Scores(table.index.astype(str).to_numpy(), list(numbers_.values()), *values, is_number=True)
    raw = [name for name in table if str(name).startswith(RAW)]
    labels = [name.removeprefix(RAW) for name in raw]
    if not raw:  # anyone's columns: all of numbers from 0 to 1
        raw = labels = [name for name in table if _is_score(table[name])]
    if not raw:
        raise EcgError(
            "no column of probabilities", file=path, field="p", fix='name them like the labels, or "p: AFIB"'
        )
    empty = table[raw].isna().any(axis=1)
    if empty.any():
        raise EcgError(f"{table.index[empty][0]} has no score", file=path, field=raw[0], fix="fill it, or drop the row")
    blocks = [_block(table, [f"{prefix}{label}" for label in labels]) for prefix in (CALIBRATED, CALL)]
    return Scores(table.index.astype(str).to_numpy(), labels, _block(table, raw), *blocks)


def _table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise EcgError("no such file", file=path, field="scores", fix="name a .parquet or .csv file")
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={r: str for r in RECORD})
    except (ValueError, OSError) as error:  # of both readers
        reason = f"cannot be read as a table: {' '.join(str(error).split())}"
        raise EcgError(reason, file=path, fix="name a .parquet or .csv file") from error


def _unfolded(table: pd.DataFrame, record: str, path: Path) -> pd.DataFrame:
    """A long table as a wide one; windows or seeds of one model have to be averaged before."""
    for name in ("encoder", "mode", "fraction", "seed"):
        if name in table and table[name].nunique() > 1:
            some = ", ".join(map(str, table[name].unique()[:6]))
            raise EcgError(f"several of {name}: {some}", file=path, field=name, fix="keep the rows of one model")
    twice = table.duplicated([record, "label"])
    if twice.any():
        row = table[twice].iloc[0]
        raise EcgError(f"{row[record]} has {row['label']} twice", file=path, field="label", fix="average them")
    return table.pivot(index=record, columns="label", values="probability").add_prefix(RAW)


def _is_score(column: pd.Series) -> bool:
    # an empty cell makes it no other thing: read_scores names it
    return pd.api.types.is_numeric_dtype(column) and bool(column.min() >= 0 and column.max() <= 1)


def _block(table: pd.DataFrame, names: list) -> np.ndarray:
    columns = [table[name] if name in table else pd.Series(np.nan, table.index) for name in names]
    return np.column_stack([pd.to_numeric(column).to_numpy(float, na_value=np.nan) for column in columns])


def read_truth(path, numbers=None, **options) -> Truth:
    """The truth from a packed cohort, or from a CSV, read as `ecglib pack --dataset folder` reads one.

    path: folder of the cohort, or the CSV; numbers: names of the columns of numbers that count, in place of labels;
    options: those of `datasets.folder`, for a CSV.
    """
    path, folder = Path(path), datasets.get("folder")
    if path.is_dir():
        return _truth_of_cohort(cohort.open(path), numbers)
    if not path.is_file():
        raise EcgError("no such file", file=path, field="truth", fix="name a CSV with record, patient and labels")
    given = dict(csv=path.name, **({} if numbers is None else {"labels": []}), **options)
    if "split" not in options and "split" not in [datasets.spelling(name) for name in _header(path)]:
        given["split"] = "external"
    records = folder.records(path.parent, **given)
    below = [Path(name).relative_to(path.parent.resolve()).as_posix() for name in records.path]
    names = [(str(name), place) for name, place in zip(records.record_id, below, strict=True)]
    if numbers is None:
        states = folder.labels(path.parent, records, **given)
        y, labels = observed(states.to_numpy(np.int8)), list(states)
    else:
        y, labels = _true_numbers(records, numbers, path)
    return Truth(names, records.patient_id.to_numpy(), labels, y, records.split.to_numpy())


def _true_numbers(records: pd.DataFrame, names, path: Path) -> tuple[np.ndarray, list]:
    """(numbers (record, column), names) of those columns of a table of records that are there."""
    there = [name for name in names if name in records]
    if not there:
        fix = f"give it a column {names[0]}; columns: {', '.join(map(str, list(records)[:12]))}"
        raise EcgError(f"the truth has no column {names[0]}", file=path, field=names[0], fix=fix)
    try:
        return np.column_stack([pd.to_numeric(records[name]).to_numpy(float) for name in there]), there
    except (ValueError, TypeError) as error:
        raise EcgError(
            f"not all are numbers: {error}", file=path, field=there[0], fix="mend or empty the cell"
        ) from error


def _truth_of_cohort(packed, numbers=None) -> Truth:
    rows = np.sort(np.concatenate([packed.rows(["pretrain", "train", "val"]), probing.open_test(packed)]))
    records = packed.records.iloc[rows].drop_duplicates("record_id")
    names = list(zip(records.record_id.astype(str), records.file.astype(str), strict=True))
    if numbers is None:
        y, labels = observed(packed.labels.loc[records.record_id].to_numpy(np.int8)), list(packed.labels)
    else:
        y, labels = _true_numbers(records, numbers, packed.path)
    return Truth(names, records.patient_id.to_numpy(), labels, y, records.split.to_numpy())


def _header(path: Path) -> list[str]:
    return list(datasets.text_table(path).columns)


def evaluate(scores: Scores, truth: Truth, split: str = "", progress=print, **options) -> pd.DataFrame:
    """`summary`, or `numbers`, of scores on the records that both tables have, for the labels that both have.

    split: of the truth table (""): all records; progress: told what was matched, and what was not; options: of
    `summary`, or of `numbers`. Raises EcgError where they have no record or no label in common, and for records that
    cannot be told apart.
    """
    require_known("split", [split] if split else [], splits.SPLITS)
    labels = [name for name in scores.labels if name in truth.labels]
    if not labels:
        fix = f"scores have {', '.join(scores.labels[:8])}; truth has {', '.join(truth.labels[:8])}"
        raise EcgError("scores and truth have no label in common", field="labels", fix=fix)
    pairs = _matched(scores.records, truth.records)
    wanted = [(i, k) for i, k in pairs if not split or truth.splits[k] == split]
    if not wanted:
        there = ", ".join(sorted(set(truth.splits)))
        fix = f"leave it out, or give as truth the packed cohort: {there} here"
        raise EcgError(f"no scored record is of split {split}", field="split", fix=fix)
    i, k = np.array(wanted).T
    progress(f"{len(wanted):,} records of {len(set(truth.patients[k])):,} patients judged on {', '.join(labels)}")
    for number, what in ((len(scores.records) - len(pairs), "scored"), (len(truth.records) - len(pairs), "true")):
        if number:
            progress(f"{number:,} {what} records have no partner and are left out")
    if not split and (learned := sorted({"pretrain", "train", "val"} & set(truth.splits[k]))):
        progress(f"the truth names records of {', '.join(learned)} too: give --split test to leave them out")
    left = [name for name in scores.labels if name not in labels]
    if left:
        progress(f"{len(left)} scored labels are not in the truth: {', '.join(left[:8])}{' ...' if left[8:] else ''}")
    ours, theirs = ([names.index(name) for name in labels] for names in (scores.labels, truth.labels))
    if scores.is_number:
        return numbers(truth.y[np.ix_(k, theirs)], scores.p[np.ix_(i, ours)], truth.patients[k], labels, **options)
    parts = [values[np.ix_(i, ours)] for values in (scores.p, scores.calibrated, scores.call)]
    given = {
        name: part for name, part in zip(("calibrated", "call"), parts[1:], strict=True) if not np.isnan(part).all()
    }
    return summary(truth.y[np.ix_(k, theirs)], parts[0], truth.patients[k], labels, **given, **options)


def _matched(scored, true) -> list[tuple[int, int]]:
    """(number of the scored record, number of the true one): by record id, by place, or by the last part of the place.

    The way that matches most counts, the first of equals; a name that is there twice matches nothing.
    """
    ways = [
        ([str(name) for name in scored], [name for name, _ in true]),
        ([str(name) for name in scored], [place for _, place in true]),
        ([_stem(name) for name in scored], [_stem(name) for name, _ in true]),
        ([_stem(name) for name in scored], [_stem(place) for _, place in true]),
    ]
    best = []
    for left, right in ways:
        number = _once(right)
        pairs = [(i, number[name]) for name, i in _once(left).items() if name in number]
        best = pairs if len(pairs) > len(best) else best
    if not best:
        fix = f"scores name {scored[0]}; truth names {true[0][0]}"
        raise EcgError("scores and truth have no record in common", field="record", fix=fix)
    return sorted(best)


def _once(names: list) -> dict[str, int]:
    """Name -> its place, for the names that are there once."""
    table = pd.Series(names)
    return {name: int(place) for place, name in table[~table.duplicated(keep=False)].items()}


def _stem(name) -> str:
    path = PurePosixPath(str(name))
    return path.stem if path.suffix.lower() in (".hea", ".dat", ".mat") else path.name
