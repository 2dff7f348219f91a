"""Splits by patient: never two splits for one person, the same on every machine, stratified by the rarest label.

Order comes from SHA-256 of the seed and the patient id, so that no random generator and no row order is involved.
"""

import hashlib
from numbers import Integral

import numpy as np
import pandas as pd

from ecglib import EcgError, require_known, require_type
from ecglib.data.labels import PRESENT

SPLITS = ("pretrain", "train", "val", "test", "external")


def check(records: pd.DataFrame) -> None:
    """Raise EcgError where a record id appears twice, a patient is nameless, a split unknown, or a patient in two.

    `records` has the columns record_id, patient_id, split; the split "" means none and is not looked at.
    """
    twice = records.record_id[records.record_id.duplicated()].unique()
    if len(twice):
        reason = f"{len(twice)} record ids appear more than once, for example {twice[0]!r}"
        raise EcgError(reason, field="record_id", fix="give every record its own id")
    nobody = records.record_id[records.patient_id.isna() | records.patient_id.isin(["", "nan", "None", "NA"])]
    if len(nobody):
        reason = f"{len(nobody)} records name no patient, for example {nobody.iloc[0]!r}"
        raise EcgError(reason, field="patient_id", fix="give each of them a patient of its own")
    assigned = records[records.split != ""]
    require_known("split", sorted(set(assigned.split)), SPLITS)
    spread = assigned.groupby("patient_id").split.nunique()
    spread = spread[spread > 1]
    if len(spread):
        names = ", ".join(sorted(assigned.split[assigned.patient_id == spread.index[0]].unique()))
        reason = f"{len(spread)} patients are in more than one split, for example {spread.index[0]!r} in {names}"
        fix = "put all records of a patient into one split, or leave the split out and let splits.assign make it"
        raise EcgError(reason, field="split", fix=fix)


def assign(records: pd.DataFrame, fractions: dict[str, float], seed: int = 0, labels=None) -> pd.Series:
    """A split name for every record (same index as `records`), all records of a patient together.

    fractions: split name -> share of the patients, summing to 1. labels: states, one row per record in the same order,
    by whose rarest present one the patients are spread evenly. Raises EcgError for other shares or names.
    """
    require_type("seed", seed, Integral, "whole number")
    require_known("split", fractions, SPLITS, "fractions")
    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) < 0:
        raise EcgError(f"shares must be positive and sum to 1: {fractions}", field="fractions")
    patients = records.patient_id.to_numpy(str)
    of_patient = _deal(patients, fractions, f"{seed}", labels)
    return pd.Series([of_patient[p] for p in patients], index=records.index, name="split", dtype="str")


class Nobody(EcgError):
    """A share of the patients that is none of them."""


def subsets(labels: pd.DataFrame, patients, fraction: float, n: int, seed: int = 0) -> list[np.ndarray]:
    """Row positions (sorted) of `n` subsets of about `fraction` of the patients, spread evenly by their rarest label.

    labels: states, one row per record; patients: one id per row. With fraction 1 there is only one subset.
    Raises EcgError for a fraction outside (0, 1], and `Nobody` for one so small that a subset would be empty.
    """
    if not 0 < fraction <= 1:
        raise EcgError(f"fraction must be in (0, 1], got {fraction}", field="fraction")
    patients = np.asarray(patients).astype(str)
    if fraction == 1:
        return [np.arange(len(labels))]
    chosen = []
    for k in range(n):
        of_patient = _deal(patients, {"in": fraction, "out": 1 - fraction}, f"{seed}:{k}:{fraction}", labels)
        rows = np.flatnonzero([of_patient[p] == "in" for p in patients])
        if not len(rows):
            raise Nobody(f"{fraction:.2%} of {len(labels)} records is nobody", field="fraction", fix="take more")
        chosen.append(rows)
    return chosen


def folds(labels: pd.DataFrame, patients, n: int, seed: int = 0) -> list[np.ndarray]:
    """Row positions (sorted) of `n` folds of the patients, each patient in one, spread evenly by their rarest label.

    labels, patients: as of `subsets`. Raises EcgError for less than 3 folds, and for a fold that would be empty.
    """
    if n < 3:
        fix = "use 3 or more: one is predicted, one chooses, the others train"
        raise EcgError(f"{n} folds", field="folds", fix=fix)
    patients = np.asarray(patients).astype(str)
    of_patient = _deal(patients, {str(k): 1 / n for k in range(n)}, f"{seed}:folds:{n}", labels)
    number = np.array([int(of_patient[p]) for p in patients])
    if len(np.unique(number)) < n:
        reason = f"{n} folds of {len(of_patient)} patients leave one empty"
        raise EcgError(reason, field="folds", fix="use fewer")
    return [np.flatnonzero(number == k) for k in range(n)]


def _rarest(labels: pd.DataFrame) -> np.ndarray:
    """Rank of the rarest present label of each row (0: rarest of all); the number of labels where none is present."""
    present = labels.to_numpy() == PRESENT
    rarity = np.argsort(np.argsort(present.sum(0), kind="stable"))
    return np.where(present, rarity, len(rarity)).min(1, initial=len(rarity))


def _deal(patients: np.ndarray, fractions: dict, salt: str, labels) -> dict[str, str]:
    """Walk the patients by stratum, then by hash, and deal them out in the shares asked for."""
    unique, inverse = np.unique(patients, return_inverse=True)
    stratum = np.zeros(len(unique), int)
    if labels is not None:
        if len(labels) != len(patients):
            raise EcgError(f"{len(labels)} label rows for {len(patients)} records", field="labels")
        stratum += labels.shape[1]
        np.minimum.at(stratum, inverse, _rarest(labels))
    order = np.lexsort(([_uniform(f"{salt}:{p}") for p in unique], stratum))
    # Kronecker sequence from a start drawn from the seed: every patient has the same chance of every name, and each run
    # of patients, so each stratum, is divided almost exactly by the shares (Kuipers and Niederreiter 1974, chapter 2).
    at = (_uniform(salt) + np.arange(len(unique)) * (5**0.5 - 1) / 2) % 1
    names = list(fractions)
    share = np.searchsorted(np.cumsum([fractions[n] for n in names])[:-1], at, side="right")
    return {str(unique[i]): names[k] for i, k in zip(order, share, strict=True)}


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
