"""A detector of noise in a file of numbers, and what it says of one recording."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from ecglib import EcgError
from ecglib.data import files, filters
from ecglib.data.recording import Recording
from ecglib.rhythm import noise_corpora, noise_detection
from ecglib.rhythm.noise_corpora import Cut, Windows
from ecglib.rhythm.noise_detection import FEATURES, Detector

QUANTILES = np.linspace(0, 1, 1001)  # of the scores of clean windows
_NUMBERS = ("median", "mean", "scale", "weight")  # of each column


@dataclass(frozen=True, eq=False)
class Logistic:
    """A logistic regression on features (window, column): unknown ones set to `median`, then (x - mean) / scale."""

    median: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: float

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Probabilities of clean and noisy: (window, 2)."""
        x = (np.where(np.isnan(x), self.median, x) - self.mean) / self.scale
        p = expit(x @ self.weight + self.bias)
        return np.column_stack([1 - p, p])


def write(detector: Detector, cut: Cut, path) -> None:
    """Write a logistic detector as JSON. cut: of the windows it has learned from. EcgError for another classifier."""
    if detector.model is None or not hasattr(detector.model[-1], "coef_"):
        raise EcgError(f"{detector.title} is no logistic regression", file=path, fix="train it with ['logistic']")
    filler, scaler, logistic = (step for _, step in detector.model.steps)
    model = Logistic(filler.statistics_, scaler.mean_, scaler.scale_, logistic.coef_[0], float(logistic.intercept_[0]))
    content = {"detector": detector.name, "trained_on": detector.corpus, "seconds": cut.seconds, "fs": cut.fs}
    content |= {name: [float(value) for value in getattr(model, name)] for name in _NUMBERS}
    content |= {"bias": model.bias, "clean": [float(value) for value in np.quantile(detector.clean, QUANTILES)]}
    files.write_atomic(Path(path), json.dumps(content, indent=1) + "\n")


def read(path) -> tuple[Detector, Cut]:
    """The detector of a file of `write`, and how windows are cut for it; EcgError for a file that is none."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        numbers = {name: np.array(content[name], float) for name in (*_NUMBERS, "clean")}
        cut = Cut(float(content["seconds"]), float(content["fs"]), most=10**6)
        name, model = content["detector"], Logistic(*(numbers[key] for key in _NUMBERS), float(content["bias"]))
        fits = name in FEATURES and all(
            len(numbers[key]) == len(noise_detection.feature_names(name)) for key in _NUMBERS
        )
    except OSError as error:
        fix = "notebook 14 writes one: ecglib repro, then --detector results/noise/detector.json"
        raise EcgError("no detector here", file=path, field="detector", fix=fix) from error
    except (ValueError, KeyError, TypeError) as error:
        raise EcgError(f"is no detector: {error!r}", file=path, field="detector", fix="run notebook 14") from error
    if not fits or not (len(numbers["clean"]) and all(np.isfinite(values).all() for values in numbers.values())):
        raise EcgError("is no detector of these features", file=path, field="detector", fix="run notebook 14 again")
    return Detector(name, str(content["trained_on"]), model, numbers["clean"], pd.DataFrame(), pd.DataFrame()), cut


def judge(detector: Detector, recording: Recording, cut: Cut) -> dict:
    """What a detector says of one recording: noisy (bool), probability and name of the worst lead, reason, n_windows.

    A lead is judged by the mean over its windows side by side. Raises EcgError for a recording shorter than a window.
    """
    x = filters.resample(np.nan_to_num(recording.signal), recording.fs, cut.fs)
    pieces = [
        (lead, start, piece)
        for lead, row in zip(recording.leads, x, strict=True)
        for start, piece in noise_corpora.pieces(row, cut)
    ]
    if not pieces:
        reason = f"{x.shape[-1] / cut.fs:.1f} s are shorter than a window of {cut.seconds:g} s"
        raise EcgError(reason, file=recording.record_id, field="seconds", fix="record for longer")
    about = dict(corpus="", patient_id="", item=recording.record_id, part="test", rhythm="", by_reader=-1, by_snr=-1)
    table = pd.DataFrame([about | {"by_beats": -1, "lead": lead, "start_s": start} for lead, start, _ in pieces])
    windows = Windows(np.stack([piece for _, _, piece in pieces]).astype(np.float32), cut.fs, table)
    table = noise_detection.described(windows)
    p, reasons = detector.probability(table)
    item = detector.judge(table).iloc[0]
    of_lead = pd.Series(p).groupby(table.lead.to_numpy(), sort=False).mean()
    worst = of_lead.idxmax()
    reason = next((text for text in reasons[(table.lead == worst).to_numpy()] if text), "")
    said = {"noisy": bool(item.called), "probability": float(item.value), "lead": worst, "reason": reason}
    return said | {"n_windows": len(pieces)}
