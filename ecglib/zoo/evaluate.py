"""Published models in the study: fed from the recordings at their own rate, asked in their own words, and marked."""

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, zoo
from ecglib.data import labels as vocabulary
from ecglib.data import notebook
from ecglib.evaluation import predictions, probing
from ecglib.training import batches
from ecglib.training.batches import CohortData

# Fields of errors that say: nothing could be fetched. None: a hub that answers otherwise than expected.
UNREACHED = ("hub", "network", "HF_HUB_OFFLINE", "repo", "file", "url", "content", None)
STATEMENTS = "ecgfounder"  # the vocabulary of heads whose statements are matched with labels


def load(name: str, weights: str = "auto", progress=print, file=""):
    """A published model, with dummy weights where the published ones cannot be had; a bar shows what is fetched.

    weights: "published", "dummy", or "auto": published if they can be had, else `progress` is told why not. file: a
    checkpoint that lies here ("": none). Raises EcgError as `zoo.load`; a file that is there but is not what it should
    be stops "auto" too.
    """
    bar = _Fetching(name)
    if weights != "auto" or file:
        chosen = "published" if weights == "auto" else weights
        return zoo.load(name, chosen, file=file or None, progress=bar)
    try:
        return zoo.load(name, progress=bar)
    except EcgError as error:
        if error.field not in UNREACHED:
            raise
        progress(f"{name}: {zoo.DUMMY_WARNING.upper()}. No published weights: {error}")
        return zoo.load(name, "dummy")


class _Fetching:
    """`progress` of `zoo.load`: a bar over the bytes of a file."""

    def __init__(self, name: str):
        self.name, self.bar = name, None

    def __call__(self, done: int, total: int | None) -> None:
        self.bar = self.bar or notebook.bar(f"fetch {self.name}", total, "B", unit_scale=True)
        self.bar.update(done - self.bar.n)


def open_for_model(model, cohort, root: str = "", progress=print):
    """What `model` is fed with: the recordings under `root` at the model's rate, or (root "") the packed signals.

    progress: told which, and what a packed rate below the model's means.
    """
    fs = model.card.chain.fs
    if root:
        recordings = datasets.Recordings(cohort, root, fs)
        stored = f"recordings of {recordings.recorded_fs:g} Hz"
        progress(f"{cohort.name}: {model.card.title} reads the {stored}, at {fs:g} Hz")
        return recordings
    lost = f"; nothing above {cohort.fs / 2:g} Hz is in them" if fs > cohort.fs else ""
    progress(f"{cohort.name}: {model.card.title} reads the packed signals, taken from {cohort.fs:g} to {fs:g} Hz{lost}")
    return cohort


def open_all(model, cohorts, roots=()) -> list:
    """`open_for_model` for each of several cohorts; roots: a folder for each, one for all, or none."""
    roots = list(roots) * len(cohorts) if len(roots) == 1 else list(roots) or [""] * len(cohorts)
    if len(roots) != len(cohorts):
        reason = f"{len(roots)} folders of recordings for {len(cohorts)} cohorts"
        raise EcgError(reason, field="recordings", fix="name one folder for each cohort, one for all, or none")
    return [open_for_model(model, cohort, root) for cohort, root in zip(cohorts, roots, strict=True)]


def with_contamination(table: pd.DataFrame, model, cohorts) -> pd.DataFrame:
    """Predictions of `model` with the column `note` (`zoo.contamination`) for each of the cohorts they are about."""
    notes = {c.name: zoo.contamination(model, c.info["dataset"].get("corpus")) for c in cohorts}
    return table.assign(note=table["cohort"].map(notes))


def has_known_head(model) -> bool:
    """Whether the model has a head of its own whose statements are in a vocabulary that is known here."""
    return model.card.statements == tuple(vocabulary.vocabulary(STATEMENTS).statement)


def map_statements(model, cohort, labels) -> dict[str, list[int]]:
    """Label of the cohort -> numbers of the model's statements that mean the same together (`labels.match`).

    Labels that the head does not state are left out. EcgError for a model without statements that are known here.
    """
    if not has_known_head(model):
        raise EcgError(f"{model.card.title} has no head in known words", field="head", fix="probe its features")
    pairs = vocabulary.match(cohort.vocabulary, STATEMENTS, labels)
    pairs = pairs[pairs["usable"] & (pairs["tokens_b"] != "")]
    return {row.label: [int(n) for n in row.tokens_b.split("|")] for row in pairs.itertuples()}


def head(model, method: str, cohort, externals=(), *, labels) -> pd.DataFrame:
    """Predictions of the model's own head for validation, test and external records, no label learned.

    method: name of the model in the table; cohort, externals: as they are fed to the model (`open_for_model`).
    labels: columns of the cohort; one that several statements mean takes the likeliest.
    Returns a table as `predictions.long_table`, mode "head", fraction and seed 0, for the labels that it states.
    Raises EcgError where it states none of the labels.
    """
    statements = map_statements(model, cohort, labels)
    if not statements:
        raise EcgError(f"{model.card.title} states none of these labels", field="labels", fix="probe its features")
    targets = [(cohort, cohort.rows("val")), *((c, probing.open_test(c)) for c in (cohort, *externals))]
    names, tables = dict(encoder=method, mode="head", fraction=0.0, seed=0), []
    for target, rows in targets:
        if len(rows):
            p = _probabilities(model, target, rows)
            p = np.stack([p[:, numbers].max(1) for numbers in statements.values()], 1)
            tables.append(predictions.long_table(target, rows, p, list(statements), **names))
    return pd.concat(tables, ignore_index=True)


def _probabilities(model, cohort, rows) -> np.ndarray:
    """Probabilities (row, statement) of the head, averaged over crops before the sigmoid."""
    data = CohortData(cohort, rows, model.card.leads, model.card.chain)
    options = model.batch_size, batches.fastest_device()
    return batches.run_inference(model, lambda x, *_: model.statements(x), data, *options).sigmoid().numpy()
