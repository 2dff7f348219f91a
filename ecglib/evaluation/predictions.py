"""`predictions.parquet`, all that tables and figures know of a model: one row per record, label and trained model.

Models are compared on one contract only: the same cohort, split, labels, records, patients and truth. Optional columns:
`label_set` names the rules that the truth comes from, of which a comparison has one at most; `note` says of a model and
a cohort what `reporting.marks` marks; `untrained` names the method that probes the same network untrained, `trained`
says whether pretraining has learned its task. Rows of dummy weights are never compared.

The split OUT_OF_FOLD holds training and validation records, each predicted by models that were trained and chosen on
other patients.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecglib import EcgError, require_known
from ecglib.data import files, notebook
from ecglib.data.labels import ABSENT, PRESENT, UNKNOWN, set_name
from ecglib.evaluation import bootstrap, metrics

SEEN, MAYBE_SEEN, DUMMY = "seen", "unknown", "dummy"
NOTES = ("", SEEN, MAYBE_SEEN, DUMMY)
NOBODY = "left_out.csv"  # beside predictions: the shares of the training labels that give nobody, if there are any
BASELINES = ("random", "multirocket", "features", "scratch")  # in the column encoder: what every table is read against
OUT_OF_FOLD = "out_of_fold"  # in the column split
OPTIONAL = ("note", "label_set", "untrained", "trained")
GROUP, MODEL = ["cohort", "split"], ["encoder", "mode", "fraction"]
TEXTS = ["record_id", "patient_id", "cohort", "split", "label", "encoder", "mode", *OPTIONAL]
COLUMNS = ["record_id", "patient_id", *GROUP, "label", "truth", "probability", *MODEL, "seed"]
RANGES = {  # column -> the least and the largest number in it, and what to do about another
    "probability": (0, 1, "apply the sigmoid"),
    "truth": (-1, 2, "write 1, 0, 2 for possible, -1 for unknown"),
    "fraction": (0, 1, "write the share of the training labels"),
    "seed": (0, 2**63, "number the runs from 0"),
}


def load(source):
    """Predictions (COLUMNS, OPTIONAL) of a file, all predictions.parquet below a folder, or a list, sorted.

    A file without an optional column says nothing: "". Raises EcgError, naming the file, for what cannot be: a missing
    column, a probability outside 0..1, a prediction that is there twice, several notes of a model for one cohort, ...
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    found = [(s, f) for s in map(Path, sources) for f in (s.rglob("predictions.parquet") if s.is_dir() else [s])]
    paths = sorted(file for source, file in found if not files.is_passing(file.relative_to(source)))
    if not paths:
        raise EcgError("no predictions.parquet here", file=sources, fix="run the probing stage first: `dvc repro`")
    tables = joined([_checked(file) for file in notebook.track(paths, "predictions", "file")])
    keys = [*GROUP, *MODEL, "seed", "record_id", "label"]
    tables = tables.sort_values(keys, kind="stable", ignore_index=True)
    twice = np.ones(max(len(tables) - 1, 0), bool)  # rows like the one before: they are sorted
    for name in keys:
        values = _codes(tables[name])
        twice &= values[1:] == values[:-1]
    if twice.any():
        first = tables.loc[int(twice.argmax()) + 1, keys].to_dict()
        raise EcgError(f"predicted twice: {first}", file=paths[0], fix="load one task at a time, name encoders apart")
    noted = tables[["encoder", "mode", "cohort", "note"]].drop_duplicates()
    several = noted.groupby(["encoder", "mode", "cohort"], observed=True)["note"].nunique() > 1
    if several.any():
        message = f"{', '.join(several.idxmax())} has several notes"
        raise EcgError(message, file=paths[0], field="note", fix="one note per encoder, mode and cohort")
    return tables


def joined(tables: list):
    """The rows of all tables; texts as categories in alphabetical order, which are sorted and grouped as numbers."""
    columns = {name: [table[name] for table in tables] for name in tables[0]}
    for name in [name for name in TEXTS if name in columns]:
        parts = [part.astype("category") for part in columns[name]]
        columns[name] = [pd.Series(pd.api.types.union_categoricals(parts, sort_categories=True))]
    return pd.DataFrame({name: pd.concat(parts, ignore_index=True) for name, parts in columns.items()})


def load_task(probes, task: str, methods=()):
    """`load` the predictions of one task: `probes` has a folder TASK-METHOD for each of `methods` (none: for all)."""
    return load(_task_files(probes, task, methods))


def noted(probes, task: str, methods=()):
    """Which models have which note, encoder, mode, note, in what `load_task` loads, which is not read for that."""
    files = [file for file in _task_files(probes, task, methods) if "note" in pq.read_schema(file).names]
    names = ["encoder", "mode", "note"]
    tables = [pd.read_parquet(file, columns=names, read_dictionary=names).drop_duplicates() for file in files]
    return pd.concat([pd.DataFrame(columns=names), *tables]).astype(str)


def _task_files(probes, task: str, methods=()) -> list[Path]:
    there = sorted(folder.name for folder in Path(probes).glob("*-*"))
    if there and not any(name.startswith(f"{task}-") for name in there):
        require_known("task", [task], sorted({name.partition("-")[0] for name in there}), "task", probes)
    require_known("method", methods, [n.removeprefix(f"{task}-") for n in there if n.startswith(f"{task}-")], "methods")
    folders = [Path(probes) / f"{task}-{name}" for name in methods] or sorted(Path(probes).glob(f"{task}-*"))
    return [folder / "predictions.parquet" for folder in folders if not files.is_passing(Path(folder.name))]


def of_task(probes, task: str, methods=()):
    """The predictions of one task that a claim may rest on; arguments as of `load_task`."""
    return compared(load_task(probes, task, methods))


def compared(predictions):
    """The rows that a claim may rest on, all but those of dummy weights, with the column `note` in any case.

    Raises EcgError for truth of unlike label sets; rows that name none are of any.
    """
    if "note" not in predictions:
        predictions = predictions.assign(note="")
    predictions = predictions[predictions["note"] != DUMMY]
    if len(names := stated_sets(predictions)) > 1:
        fix = "compare what has one label set, or pack again with the same label_set and likelihood"
        raise EcgError(f"unlike label sets in one table: {'; '.join(names)}", field="label_set", fix=fix)
    return predictions


def stated_sets(predictions) -> list[str]:
    """The names in the column `label_set`, sorted; rows without one are left out."""
    if "label_set" not in predictions:
        return []
    return sorted(name for name in predictions["label_set"].unique() if isinstance(name, str) and name)


def _checked(file):
    if not Path(file).is_file():
        raise EcgError("no such file", file=file)
    try:
        predictions = pd.read_parquet(file, read_dictionary=TEXTS)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these types
        raise EcgError(
            f"not a parquet table: {error}", file=file, fix="write it as `predictions.write` does"
        ) from error
    lacking = [name for name in COLUMNS if name not in predictions]
    if lacking:
        raise EcgError(f"lacks the columns {lacking}", file=file, field=lacking[0], fix=f"write {COLUMNS}")
    said = {name: _without_gaps(predictions[name]) if name in predictions else "" for name in OPTIONAL}
    said |= {"note": predictions["note"]} if "note" in predictions else {}  # a gap there is no statement: refused below
    predictions = predictions[COLUMNS].assign(**said)
    if predictions.empty:
        raise EcgError("holds no prediction", file=file, field="record_id", fix="predict the validation split at least")
    for name in COLUMNS:
        _check_column(predictions[name], name, file)
    # names that are numbers in one file are text in another
    numbered = [name for name in COLUMNS if name not in RANGES and pd.api.types.is_numeric_dtype(predictions[name])]
    predictions = predictions.astype(dict.fromkeys(numbered, str))
    unknown = set(predictions["note"].unique()) - set(NOTES)
    if unknown:
        raise EcgError(f"unknown notes {unknown}", file=file, field="note", fix=f"one of {NOTES}")
    return predictions


def _without_gaps(column: pd.Series) -> pd.Series:
    return column.astype(object).fillna("") if column.isna().any() else column


def _check_column(column: pd.Series, name: str, file) -> None:
    """EcgError for an empty cell, and for a number that is none or outside what the column may hold."""
    if name not in RANGES:
        if any(bootstrap.is_no_name(cell) for cell in column.unique()):
            fix = "use the record id when unknown" if name == "patient_id" else "fill it"
            raise EcgError("is empty for some record", file=file, field=name, fix=fix)
        return
    low, high, fix = RANGES[name]
    right = pd.api.types.is_numeric_dtype(column) and column.between(low, high).all()
    if not right or (name == "truth" and not column.isin((-1, 0, 1, 2)).all()):
        raise EcgError(f"holds values outside {low}..{high}, or NaN, or text", file=file, field=name, fix=fix)


class CohortPredictions(NamedTuple):
    """The predictions of all models for one cohort and split."""

    cohort: str
    split: str
    labels: list
    patients: np.ndarray  # (record,)
    y: np.ndarray  # truth (record, label), -1 for unknown and for possible
    p: dict  # {(encoder, mode, fraction): {seed: probabilities (record, label)}}
    notes: dict  # {(encoder, mode, fraction): note}
    label_set: str = ""  # that its truth comes from
    untrained: dict = {}  # {(encoder, mode, fraction): the encoder that is the same network untrained, or ""}
    trained: dict = {}  # {(encoder, mode, fraction): whether pretraining has learned its task, in words}


def by_cohort(predictions):
    """Sort `compared` predictions into one CohortPredictions per cohort and split.

    Raises EcgError where two models were not predicted on the same records, labels, patients and truth.
    """
    return [_one_cohort(key, rows) for key, rows in compared(predictions).groupby(GROUP, sort=True, observed=True)]


def _one_cohort(key, predictions):
    shared = ["record_id", "label", "patient_id", "truth"]
    first, named, p, said = None, None, {}, {name: {} for name in ("note", "untrained", "trained")}
    predictions = predictions.sort_values([*MODEL, "seed", "record_id", "label"], kind="stable")
    for (encoder, mode, fraction, seed), rows in predictions.groupby([*MODEL, "seed"], sort=True, observed=True):
        contract = [_codes(rows[name]) for name in shared]
        first, named = (first, named) if first else (contract, rows)
        for name, left, right in zip(shared, first, contract, strict=True):
            if len(left) != len(right) or (left != right).any():
                message = f"{encoder} ({mode}, {fraction:g}, seed {seed}) has another {name} than the first model"
                raise EcgError(message, field="/".join(key), fix="predict the same records and labels, or filter")
        shape, labels = (-1, rows["label"].nunique()), contract[1]
        if len(rows) % shape[1] or (labels.reshape(shape) != labels[: shape[1]]).any():
            raise EcgError(f"{encoder} lacks a label for some record", field="/".join(key), fix="truth = -1")
        p.setdefault((encoder, mode, fraction), {})[seed] = rows["probability"].to_numpy(np.float64).reshape(shape)
        for name, of_model in said.items():
            of_model[encoder, mode, fraction] = rows[name].iloc[0] if name in rows else ""
    _, label, patient, truth = (named[name].to_numpy().reshape(shape) for name in shared)
    if (patient != patient[:, :1]).any():
        fix = "name one patient for all labels of a record"
        raise EcgError("a record belongs to two patients", file="/".join(key), field="patient_id", fix=fix)
    label_set = "".join(stated_sets(predictions))
    y, more = np.where(truth == 2, -1, truth), (label_set, said["untrained"], said["trained"])
    return CohortPredictions(*key, list(label[0]), patient[:, 0], y, p, said["note"], *more)


def _codes(column) -> np.ndarray:
    """The values of a column, or their numbers where it has categories: within a table equal where they are."""
    return column.cat.codes.to_numpy() if isinstance(column.dtype, pd.CategoricalDtype) else column.to_numpy()


def replicates(group, model, metric, n=1000, seed=0, thresholds=None):
    """A statistic of one model, averaged over its seeds inside each resample of the patients.

    group: CohortPredictions; model: a key of its `p`; metric: of metrics.STATISTICS; n, seed: of the resamples, which
    are the same for every model; thresholds: {seed: (label,)} for the statistics of decisions, where NaN gives NaN.
    Returns (bootstrap.Replicates, the points of the single seeds: a list of (label,)).
    """
    points, values = [], []
    for run, p in group.p[model].items():
        decided = p if thresholds is None else (p >= thresholds[run]).astype(float)
        undefined = np.zeros(p.shape[1]) if thresholds is None else np.where(np.isnan(thresholds[run]), np.nan, 0.0)
        drawn = bootstrap.replicates(group.y, decided, group.patients, n, seed, statistic=metric)
        points.append(drawn.point + undefined)
        values.append(drawn.values + undefined)
    averages = [metrics.mean_known(np.stack(each, -1)) for each in (points, values)]
    return bootstrap.Replicates(*averages), points


def is_baseline(encoder: str) -> bool:
    """Whether a method is one that others are read against; "random" and "scratch" are with any architecture."""
    return encoder in BASELINES or encoder.startswith(("random:", "scratch:"))


def validation(predictions):
    """Macro AUROC on the validation records, a row per fraction and seed: auroc, low, high (over patients), n_labels.

    For looking while one works: it claims nothing, so dummy weights may be looked at.
    """
    rows = []
    for group in by_cohort(predictions[predictions["split"] == "val"].assign(note="")):
        for (_, _, fraction), runs in group.p.items():
            for run, p in runs.items():
                score = bootstrap.bootstrap(group.y, p, group.patients, n=200)
                rows.append([group.cohort, fraction, run, *score[:3], score.n_labels])
    return pd.DataFrame(rows, columns=["cohort", "fraction", "seed", "auroc", "low", "high", "n_labels"])


def label_states(cohort, rows, labels) -> np.ndarray:
    """States int8 (row, label); a label that the cohort lacks is unknown everywhere."""
    states = np.full((len(rows), len(labels)), UNKNOWN, np.int8)
    stated = [i for i, name in enumerate(labels) if name in cohort.labels.columns]
    if stated:
        states[:, stated] = cohort.states([labels[i] for i in stated], rows)
    return states


def observed(states: np.ndarray) -> np.ndarray:
    """States -> 1, 0, or -1 where unknown or possible: what probes learn from and metrics count."""
    return np.where((states == PRESENT) | (states == ABSENT), states, -1).astype(np.int8)


def per_record(ids: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Mean over the windows of each record, records in order of first appearance (states of a record are all equal)."""
    code, unique = pd.factorize(ids)
    if len(unique) == len(ids):
        return list(values)
    totals = [np.zeros((len(unique), value.shape[1])) for value in values]
    for total, value in zip(totals, values, strict=True):
        np.add.at(total, code, value)
    return [total / np.bincount(code)[:, None] for total in totals]


def long_table(cohort, rows, p, labels, *, encoder: str, mode: str, fraction: float, seed: int) -> pd.DataFrame:
    """The COLUMNS, one row per record and label, of p: (row, label) probabilities of the cohort's `rows`.

    Also `label_set` where the cohort states one.
    """
    records = cohort.records.iloc[rows]
    ids = records["record_id"].astype(str).to_numpy()
    states, p = per_record(ids, label_states(cohort, rows, labels).astype(float), np.asarray(p, float))
    first, n = records.drop_duplicates("record_id"), len(labels)
    columns = {name: np.repeat(first[name].astype(str).to_numpy(), n) for name in ("record_id", "patient_id")}
    columns |= {"cohort": cohort.name, "split": np.repeat(first["split"].astype(str).to_numpy(), n)}
    columns |= {"label": np.tile(np.asarray(labels, str), len(first)), "truth": states.ravel().astype(np.int8)}
    columns |= {"probability": p.ravel().astype(np.float32), "encoder": encoder, "mode": mode}
    if label_set := set_name(getattr(cohort, "info", {}).get("label_set")):
        columns["label_set"] = label_set
    return pd.DataFrame({**columns, "fraction": float(fraction), "seed": int(seed)})


def write(table: pd.DataFrame, path) -> None:
    """Write predictions as parquet: sorted, same bytes for the same rows, by an atomic rename."""
    keys = ["encoder", "mode", "fraction", "seed", "cohort", "split", "record_id", "label"]
    table = table.fillna({name: "" for name in OPTIONAL if name in table})
    table = table.sort_values(keys, kind="stable", ignore_index=True)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, compression="zstd")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(Path(path), sink.getvalue().to_pybytes())
