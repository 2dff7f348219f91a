"""Zero-shot classification: scores of an objective that learned from reports for labels that it was never taught.

Every label becomes two sentences, one that states it and one that denies it; its score is how much nearer the ECG is to
the first: the difference of two cosines (melp.md section 10). Labels are scored apart, so that the order of the records
within one label is that of its own scores: a softmax over labels would change it.
"""

import logging

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, objectives
from ecglib.data.labels import vocabulary
from ecglib.evaluation import metrics, predictions, probing
from ecglib.training import batches, report_terms
from ecglib.training.batches import CohortData
from ecglib.training.losses import cosine

SOURCES = (("harmonised", "scp"), ("scp", "name"))  # vocabulary, and the column that says what its first one means
log = logging.getLogger(__name__)
SHARPEST = 8.0  # bound of the scale of probabilities: with more, float32 would call the surest records equal
# The opposite of a label where "no ..." is not what a reader writes (settled on validation records of hospital A).
NEGATED = dict.fromkeys(("NORM", "normal_ecg", "NORMAL ECG"), "abnormal ECG")
NEGATED |= dict.fromkeys(("SR", "sinus_rhythm", "sinus_rhythm_any", "SINUS RHYTHM"), "atrial fibrillation")
# Wordings of labels that are no statement of a reader but a group of them, or whose statement has no usable name.
WORDINGS = {
    "MI": ("myocardial infarction", "infarction", "infarct"),
    "STTC": ("ST or T wave abnormality", "ST or T wave changes", "ischaemic changes", "nonspecific T wave changes"),
    "CD": ("conduction disturbance", "conduction delay", "bundle branch block"),
    "HYP": ("hypertrophy", "ventricular hypertrophy"),
    "NDT": ("non-diagnostic T wave change", "nonspecific T wave changes", "nondiagnostic T abnormalities"),
    "NT_": ("non-specific T wave change", "nonspecific T wave changes"),
    "ISC_": ("ischaemia", "myocardial ischaemia", "ischaemic changes"),
    "PRC(S)": ("premature complexes", "premature complex"),
    "BIGU": ("bigeminy", "bigeminal pattern"),
    "TRIGU": ("trigeminy", "trigeminal pattern"),
    "sinus_rhythm_any": ("sinus rhythm",),
    "af_or_flutter": ("atrial fibrillation or flutter", "atrial fibrillation"),
    "av_block_1": ("first degree AV block", "prolonged PR interval"),
    "av_block_any": ("AV block", "atrioventricular block"),
    "lvh_voltage": ("voltage criteria for left ventricular hypertrophy", "high left ventricular voltage"),
    "lvh_or_voltage": ("left ventricular hypertrophy",),
    "mi_any": ("myocardial infarction", "infarction", "infarct"),
    "mi_inferior": ("inferior myocardial infarction", "inferior infarct"),
    "mi_anterior_any": ("anterior myocardial infarction", "anterior infarct"),
    "mi_lateral": ("lateral myocardial infarction", "lateral infarct"),
    "t_wave_abnormal": ("T wave abnormality", "T wave changes", "T abnormalities"),
    "nonspecific_t": ("nonspecific T wave changes", "nonspecific T wave abnormality"),
    "nonspecific_st_t": ("nonspecific ST or T wave changes", "nonspecific T wave changes"),
    "premature_any": ("premature complexes", "premature complex"),
}


def wordings(label: str) -> tuple[str, ...]:
    """Names of a label in plain words, the usual one first: those of the table above, else its name in a vocabulary of
    `ecglib.data.labels` and the glossary's synonyms of that. EcgError for a label that none of them has."""
    if label in WORDINGS:
        return WORDINGS[label]
    keys, scp = (dict(zip(t.iloc[:, 0], t[c], strict=True)) for t, c in ((vocabulary(v), c) for v, c in SOURCES))
    statement = keys.get(label, label)
    if statement in WORDINGS:
        return WORDINGS[statement]
    if statement in scp:
        name = scp[statement]
    elif label in keys:
        name = label.replace("_", " ")
    elif label in set(vocabulary("ecgfounder").statement):
        name = label.lower()
    else:
        fix = "give its two sentences: own={label: (plain, negated)}"
        raise EcgError(f"no plain words for the label {label!r}", field="labels", fix=fix)
    table = vocabulary("glossary")
    terms = [term.name for term in report_terms.terms(name) if (term.start, term.end) == (0, len(name))]
    synonyms = [s for row in table[table.term.isin(terms)].itertuples() for s in (row.term, *row.synonyms.split("|"))]
    return tuple(dict.fromkeys((name, *filter(None, synonyms))))


def prompt(label: str, knows=lambda text: True) -> tuple[str, str]:
    """(plain, negated) sentence of a label, in the first of its wordings whose words the model knows.

    knows: text -> bool. Where the model knows none of the wordings the usual one is taken, and that is logged.
    """
    names = wordings(label)
    name = next((n for n in names if knows(n)), None)
    if name is None:
        log.warning("the text encoder does not know all words of %r (%s)", names[0], label)
        name = names[0]
    return name, NEGATED.get(label, f"no {name}")


def prompts(objective, labels, own=None) -> dict[str, tuple[str, str]]:
    """{label: (plain, negated)} for `scores`: those of `own` where it has them, else `prompt`'s.

    EcgError for an objective without a text side and for a label without words.
    """
    if not (hasattr(objective, "embed") and hasattr(objective, "embed_text")):
        name = getattr(objective, "config", {}).get("objective", type(objective).__name__)
        raise EcgError(f"{name} has not learned from reports", field="objective", fix="use one that has, such as melp")
    knows, own = getattr(objective, "knows", lambda text: True), own or {}
    return {label: own[label] if label in own else prompt(label, knows) for label in labels}


def scores(objective, cohort, rows, labels, leads=None, profile="study", own=None, batch_size=256) -> np.ndarray:
    """Zero-shot scores of rows of a cohort, on the GPU where there is one.

    objective: with `embed(x)` and `embed_text(texts)` into one space, such as melp.
    cohort, rows: a Cohort and its row numbers; labels: codes; leads, profile: as of `CohortData`.
    own: {label: (plain, negated)}, sentences to take in place of those of `prompt`.
    batch_size: rows at a time.
    Returns float32 (row, label), -2 to 2. Raises EcgError as `prompts`.
    """
    pairs = list(prompts(objective, labels, own).values())
    data, device = CohortData(cohort, rows, leads, profile), batches.fastest_device()
    z = batches.run_inference(objective.eval(), lambda x, mask, _: objective.embed(x, mask), data, batch_size, device)
    with torch.inference_mode():
        plain, negated = (objective.embed_text(list(sentences)) for sentences in zip(*pairs, strict=True))
        return (cosine(z.to(device), plain) - cosine(z.to(device), negated)).cpu().numpy()


def probabilities(objective, differences: np.ndarray) -> np.ndarray:
    """sigmoid(scale * difference): the softmax of CLIP over the two sentences of a label, for each label apart."""
    return 1 / (1 + np.exp(-min(objective.scale.item(), SHARPEST) * np.asarray(differences, np.float64)))


def run(method: str, task: probing.Task, pretrain_dir, *, own=None, progress=print) -> pd.DataFrame:
    """Zero-shot predictions of validation, test and external records by a pretrained objective.

    method: its name, the column encoder; own: as in `scores`; progress: called with a line on the validation records.
    Returns a table as `predictions.long_table`, of mode "zero-shot"; fraction and seed are 0: no label was learned.
    Raises EcgError as `prompts`, and for an objective that was pretrained for other inputs.
    """
    labels = list(task.labels)
    probing.check_compatible(pretrain_dir, task.cohort, task.leads, task.profile)
    objective = objectives.load(pretrain_dir)
    own, tables = prompts(objective, labels, own), []
    for cohort, rows in task.targets:
        differences = scores(objective, cohort, rows, labels, task.leads, task.profile, own)
        names = dict(encoder=method, mode="zero-shot", fraction=0.0, seed=0)
        tables.append(predictions.long_table(cohort, rows, probabilities(objective, differences), labels, **names))
    if not tables:
        raise EcgError(f"{task.cohort.name} has no val and no test rows", field="split", fix="give the records a split")
    if tables[0]["split"].iloc[0] == "val":
        first = tables[0].pivot(index="record_id", columns="label", values=["truth", "probability"])
        score = metrics.macro_auroc(predictions.observed(first["truth"].to_numpy()), first["probability"].to_numpy())
        progress(f"{method}: zero-shot: validation macro AUROC {score:.3f}")
    return pd.concat(tables, ignore_index=True)
