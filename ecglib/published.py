"""Published models in the study: fed from the recordings at their own rate, asked in their own words, and marked.

What must be said of a result travels with it, in the column `note` of the predictions: that the model was pretrained on
the corpus, that nobody can tell, or that its weights are the recipe's and mean nothing.
"""

import math

import numpy as np
import pandas as pd
import torch

from ecglib import labels as vocabulary
from ecglib import probe, raw, zoo
from ecglib.batches import CohortData
from ecglib.signals import EcgError

# Fields of errors that say: nothing could be fetched. None: a hub that answers otherwise than expected.
UNREACHED = ("hub", "network", "HF_HUB_OFFLINE", "repo", "file", "url", "content", None)
STATEMENTS = "ecgfounder"  # the vocabulary of heads whose statements are matched with labels


def load(name: str, weights: str = "auto", progress=print):
    """A published model: its "published" weights, the "recipe"'s, or with "auto" the published ones where they can be
    had; why they could not is told to `progress`, and the model's `weights` say what it got. A file that is there but
    is not what it should be stops as ever."""
    if weights != "auto":
        return zoo.load(name, weights)
    try:
        return zoo.load(name)
    except EcgError as error:
        if error.field not in UNREACHED:
            raise
        progress(f"{name}: {zoo.RECIPE.upper()}. No published weights: {error}")
        return zoo.load(name, "recipe")


def reading(model, cohort, root: str = "", progress=print):
    """What `model` is fed with: the recordings under `root` at the model's rate, or (root "") the packed signals.

    progress: told which, and what a packed rate below the model's means.
    """
    fs = model.card.chain.fs
    if root:
        found = raw.Recordings(cohort, root, fs)
        stored = f"recordings of {found.recorded_fs:g} Hz"
        progress(f"{cohort.name}: {model.card.title} reads the {stored}, at {fs:g} Hz")
        return found
    lost = f"; nothing above {cohort.fs / 2:g} Hz is in them" if fs > cohort.fs else ""
    progress(f"{cohort.name}: {model.card.title} reads the packed signals, taken from {cohort.fs:g} to {fs:g} Hz{lost}")
    return cohort


def noted(table: pd.DataFrame, model, cohorts) -> pd.DataFrame:
    """Predictions of `model` with the column `note` (see `zoo.note`) for each of the cohorts they are about."""
    notes = {c.name: zoo.note(model, c.info["dataset"].get("corpus")) for c in cohorts}
    return table.assign(note=table["cohort"].map(notes))


def speaks(model) -> bool:
    """Whether the model's own head speaks in a vocabulary that is known here."""
    return model.card.statements == tuple(vocabulary.vocabulary(STATEMENTS).statement)


def stated(model, cohort, labels) -> dict[str, list[int]]:
    """Label of the cohort -> numbers of the model's statements that mean the same together (`labels.match`).

    Only exact and union relations count; labels that the head does not state are left out. EcgError for a model
    without statements of a vocabulary that is known here.
    """
    if not speaks(model):
        raise EcgError(f"{model.card.title} has no head in known words", field="head", fix="probe its features")
    found = vocabulary.match(cohort.vocabulary, STATEMENTS, labels)
    found = found[found["usable"] & (found["tokens_b"] != "")]
    return {row.label: [int(n) for n in row.tokens_b.split("|")] for row in found.itertuples()}


def head(model, method: str, cohort, externals=(), *, labels, batch_size: int = 0) -> pd.DataFrame:
    """What the model's own head says of validation, test and external records, no label learned: predictions of mode
    "head" (fraction and seed 0) for the labels that it states; one that several statements mean takes the likeliest.

    Raises EcgError where it states none of the labels.
    """
    places = stated(model, cohort, labels)
    if not places:
        raise EcgError(f"{model.card.title} states none of these labels", field="labels", fix="probe its features")
    tables = []
    for place, rows in [(cohort, cohort.rows("val")), *((c, probe.open_test(c)) for c in (cohort, *externals))]:
        if len(rows):
            p = _probabilities(model, place, rows, batch_size or model.batch_size)
            p = np.stack([p[:, numbers].max(1) for numbers in places.values()], 1)
            names = dict(encoder=method, mode="head", fraction=0.0, seed=0)
            tables.append(probe.predictions(place, rows, p, list(places), **names))
    return pd.concat(tables, ignore_index=True)


def _probabilities(model, cohort, rows, batch_size: int) -> np.ndarray:
    """Probabilities (row, statement) of the head, averaged over crops before the sigmoid."""
    data = CohortData(cohort, rows, model.card.leads, model.card.chain)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, chunks = model.eval().to(device), np.array_split(np.arange(len(data)), math.ceil(len(data) / batch_size))
    with torch.inference_mode():
        logits = [model.statements(data.signals(chunk).to(device)).float().cpu() for chunk in chunks]
    return torch.sigmoid(torch.cat(logits)).numpy()
