"""Detectors of noise: classical classifiers on the features of a window, trained on one corpus, judged on the others.

A detector learns from windows of one lead and is judged by items: recordings that readers have graded, or windows whose
noise is known. Everything is chosen inside the corpus that it is trained on, by folds over patients. Windows with fewer
than three beats are noisy, whatever a classifier would say. Source of the task: arXiv 2502.14522 (2025), whose features
and table are not published; the features here are our own.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from ecglib import EcgError, require_known
from ecglib.data import quality
from ecglib.data.recording import Recording
from ecglib.evaluation import bootstrap, metrics
from ecglib.rhythm import noise_features
from ecglib.rhythm.noise_corpora import Windows
from ecglib.rhythm.noise_features import GROUPS, MIN_BEATS

FEATURES = {  # what each detector sees
    "HRV": ["rr", "plausibility"],
    "morphology": ["template"],
    "HRV and morphology": ["rr", "plausibility", "template"],
    "raw signal": ["raw"],
    "all features": ["rr", "plausibility", "template", "raw"],
}
BASELINES = {"spectral rule": "spectral", "flags of cohorts": "flagged"}  # and the column that is their score
GRIDS = {  # classifier -> the option that is tried, its values
    "logistic": ("C", (0.01, 0.1, 1.0)),
    "tree": ("max_depth", (3, 5)),
    "forest": ("min_samples_leaf", (3, 10)),
    "svc": ("C", (1.0, 10.0)),
    "boosting": ("max_iter", (50, 150)),
}
FOLDS = 5
ROUNDS = 3  # of learning where only the worst lead of a noisy recording counts
RETAINED = 0.95  # share of clean items that the operating point is meant to let pass
FEW_BEATS = "fewer than three beats"
NEEDS_BEATS = {"rr", "plausibility", "template"}
CALLS = {  # statistics of whether an item is called noisy, and their keys of `metrics.STATISTICS`
    **{"accuracy": "accuracy", "balanced accuracy": "balanced_accuracy"},
    **{"sensitivity": "sensitivity", "specificity": "specificity"},
}
STATISTICS = CALLS | {"AUROC": "auroc", "AUPRC": "auprc", "AUPRC at equal classes": "auprc_equal"}


def described(windows: Windows, track=iter) -> pd.DataFrame:
    """The table of `windows` with the features of every window and the scores of BASELINES.

    track: wraps the list of windows to show progress, such as `notebook.track`. flagged: 1 where a packed cohort would
    mark or refuse the lead (constant, clipped, of an impossible size), else 0.
    """
    found = [noise_features.features(x, windows.fs) | {"flagged": _flagged(x, windows.fs)} for x in track(windows.x)]
    table = pd.concat([windows.table, pd.DataFrame(found, index=windows.table.index)], axis=1)
    return table.assign(spectral=noise_features.spectral_rule(windows.x, windows.fs))


def _flagged(x: np.ndarray, fs: float) -> float:
    state = quality.assess(Recording(x[None], fs, ("I",), np.ones(1, bool), "window"))
    low, high = quality.PLAUSIBLE_MV
    return float(state["n_clipped"] > 0 or not low <= state["amplitude_mv"] <= high)


def noisy(table: pd.DataFrame, definition: str) -> np.ndarray:
    """Truth of each window (window,): what readers say, and where none did, `definition` ("by_snr" or "by_beats").

    1, 0, or -1 where nothing is known.
    """
    require_known("definition", [definition], ("by_snr", "by_beats"))
    return np.where(table.by_reader >= 0, table.by_reader, table[definition])


def per_item(table: pd.DataFrame, values) -> pd.DataFrame:
    """One row per item: `value`, of its worst lead the mean of `values` (window,) over its windows; n_leads.

    Beside them what `table` says of the item: corpus, patient_id, part, rhythm, and the three definitions of noisy.
    """
    of_lead = table.assign(value=np.asarray(values, float)).groupby(["item", "lead"], sort=False).value.mean()
    of_item = of_lead.groupby("item").agg(value="max", n_leads="size")
    columns = ["item", "corpus", "patient_id", "part", "rhythm", "by_reader", "by_snr", "by_beats"]
    return table[columns].drop_duplicates("item").set_index("item").join(of_item).reset_index()


@dataclass(frozen=True, eq=False)
class Detector:
    """What tells noise from signal.

    name: of FEATURES or BASELINES; corpus: that it was trained on; model: on the columns of its features (None: a
    baseline); clean: rising out-of-fold scores of the clean windows of that corpus; folds: its items with truth,
    out-of-fold value and call; tried: the out-of-fold AUPRC of every classifier and option.
    """

    name: str
    corpus: str
    model: Pipeline | None
    clean: np.ndarray
    folds: pd.DataFrame
    tried: pd.DataFrame

    @property
    def title(self) -> str:
        """The name, and out of how many classifiers the best was taken, where that were several."""
        kinds = self.tried.classifier.nunique() if len(self.tried) else 1
        return self.name if kinds < 2 else f"{self.name}, best of {kinds} classifiers"

    def probability(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Probability that each window (a row of `described`) is noisy, and the reason where no classifier gave it.

        Of a baseline: its score.
        """
        if self.model is None:
            return table[BASELINES[self.name]].to_numpy(float), np.full(len(table), "")
        few = _few(table, self.name)
        p = np.ones(len(table))
        if not few.all():
            p[~few] = self.model.predict_proba(table.loc[~few, feature_names(self.name)].to_numpy(float))[:, 1]
        return p, np.where(few, FEW_BEATS, "")

    def judge(self, table: pd.DataFrame) -> pd.DataFrame:
        """`per_item` of the probabilities, and `called`: whether the item is called noisy.

        An item is called noisy where so few clean items would look as bad: the share of clean windows below its worst
        lead, to the power of its number of leads (Sidak 1967), is above RETAINED. One clean lead in twelve looks bad by
        chance far more often than one in one.
        """
        return _called(per_item(table, self.probability(table)[0]), self.clean)


def _called(items: pd.DataFrame, clean: np.ndarray) -> pd.DataFrame:
    below = np.searchsorted(clean, items.value, side="left") / len(clean)
    return items.assign(called=below**items.n_leads > RETAINED)


def feature_names(name: str) -> list[str]:
    """Names of the features that a detector of FEATURES sees."""
    return [column for group in FEATURES[name] for column in GROUPS[group]]


def _few(table: pd.DataFrame, name: str) -> np.ndarray:
    """Which windows are noisy by the number of their beats, if the detector looks at beats."""
    return (table.n_beats < MIN_BEATS).to_numpy() & bool(NEEDS_BEATS & set(FEATURES[name]))


def train(table: pd.DataFrame, name: str, definition="by_beats", classifiers=tuple(GRIDS), seed: int = 0) -> Detector:
    """Train the detector `name` of FEATURES (or take that of BASELINES) on one corpus.

    table: of `described`; definition: of `noisy`; classifiers: of GRIDS, of which the one with the largest out-of-fold
    AUPRC over items is taken, with FOLDS folds over patients (as many as `teachers`, if they are fewer). In a
    recording of several leads that its readers call noisy, only the worst lead counts as noisy (`_fit`). Raises
    EcgError for unknown names, and for a corpus with less than two `teachers`.
    """
    require_known("detector", [name], (*FEATURES, *BASELINES))
    require_known("classifier", classifiers, GRIDS)
    truth = noisy(table, definition)
    table, truth = table[truth >= 0].reset_index(drop=True), truth[truth >= 0]
    n_folds = min(FOLDS, teachers(table, truth))
    if n_folds < 2:
        fix = "train on another corpus"
        raise EcgError("noisy or clean windows of one patient only", file=table.corpus.min(), field="noisy", fix=fix)
    if name in BASELINES:
        return _finished(table, truth, name, None, table[BASELINES[name]].to_numpy(float), [])
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    folds = list(folds.split(truth, truth, table.patient_id))
    choices = [(kind, value) for kind in classifiers for value in GRIDS[kind][1]]
    found = [_out_of_fold(_classifier(*choice, seed), table, truth, name, folds) for choice in choices]
    of_item, tried = per_item(table, truth).value.to_numpy(), []
    for (kind, value), p in zip(choices, found, strict=True):
        auprc = metrics.score(of_item, per_item(table, p).value.to_numpy(), "auprc")
        tried.append({"classifier": kind, "option": f"{GRIDS[kind][0]} {value:g}", "auprc": float(auprc)})
    best = int(np.argmax([line["auprc"] for line in tried]))
    model = _fit(_classifier(*choices[best], seed), table, truth, name)
    return _finished(table, truth, name, model, found[best], tried)


def teachers(table: pd.DataFrame, truth) -> int:
    """How many patients have noisy windows, or clean ones, whichever are fewer: two are needed to train and to judge.

    truth: of `noisy`.
    """
    truth = np.asarray(truth)
    return min(table.patient_id[truth == state].nunique() for state in (0, 1))


def _finished(table, truth, name: str, model, p, tried) -> Detector:
    clean = np.sort(p[truth == 0])
    items = _called(per_item(table, p), clean).assign(truth=per_item(table, truth).value.astype(int))
    corpus = table.corpus.iloc[0]
    return Detector(name, corpus, model, clean, items, pd.DataFrame(tried).assign(corpus=corpus, detector=name))


def _classifier(kind: str, value, seed: int) -> Pipeline:
    """An untrained classifier with one choice of its option, both classes weighing the same."""
    options = {GRIDS[kind][0]: value, "class_weight": "balanced"}
    boosted = dict(learning_rate=0.1, max_depth=3, early_stopping=False)
    made = {
        "logistic": lambda: LogisticRegression(max_iter=1000, **options),
        "tree": lambda: DecisionTreeClassifier(min_samples_leaf=10, random_state=seed, **options),
        "forest": lambda: RandomForestClassifier(100, random_state=seed, **options),
        "svc": lambda: CalibratedClassifierCV(SVC(**options), cv=3, ensemble=False),
        "boosting": lambda: HistGradientBoostingClassifier(random_state=seed, **boosted, **options),
    }[kind]()
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), made)


def _fit(model: Pipeline, table: pd.DataFrame, truth: np.ndarray, name: str) -> Pipeline:
    """Fit a classifier on the windows that have beats; of a noisy item with several leads on its worst lead alone.

    Which lead that is, the classifier of the round before says, for ROUNDS rounds: readers grade a recording, and
    eleven of its leads may be good.
    """
    few, x = _few(table, name), table[feature_names(name)].to_numpy(float)
    several = (table.groupby("item").lead.transform("nunique") > 1).to_numpy()
    use = ~few
    for _ in range(ROUNDS if several.any() else 1):
        if len(set(truth[use])) < 2:
            reason = "windows of one class only have beats"
            raise EcgError(reason, file=table.corpus.min(), field="noisy", fix="use the raw signal, or more recordings")
        model.fit(x[use], truth[use])
        p = np.ones(len(x))
        p[~few] = model.predict_proba(x[~few])[:, 1]
        of_lead = table.assign(p=p).groupby(["item", "lead"]).p.transform("mean")
        worst = (of_lead >= of_lead.groupby(table.item).transform("max")).to_numpy()
        use = ~few & ((truth == 0) | worst | ~several)
    return model


def _out_of_fold(model: Pipeline, table: pd.DataFrame, truth, name: str, folds) -> np.ndarray:
    """Probability of each window from a classifier that has seen no window of its patient."""
    p, few = np.ones(len(table)), _few(table, name)
    for learn, judge in folds:
        judge = judge[~few[judge]]
        if len(judge):
            fitted = _fit(model, table.iloc[learn], truth[learn], name)
            p[judge] = fitted.predict_proba(table.iloc[judge][feature_names(name)].to_numpy(float))[:, 1]
    return p


def pooled(tables: dict[str, pd.DataFrame], left_out: str = "") -> pd.DataFrame:
    """The windows of all corpora but one as one corpus, "all but NAME" or "all"; items and patients keep theirs apart.

    tables: {corpus: of `described`}.
    """
    kept = {name: table for name, table in tables.items() if name != left_out}
    both = [
        table.assign(patient_id=f"{name} " + table.patient_id, item=f"{name} " + table["item"])
        for name, table in kept.items()
    ]
    return pd.concat(both, ignore_index=True).assign(corpus=f"all but {left_out}" if left_out else "all")


def cross(detectors: list[Detector], tables: dict[str, pd.DataFrame], definition: str, part: str) -> pd.DataFrame:
    """What every detector says of the items of every corpus: detector, train, test, the columns of `judge`, and truth.

    tables: {corpus: of `described`}; definition: of `noisy`; part: "val" or "test", of the corpus that is judged. On
    its own corpus a detector answers out of fold.
    """
    answers = []
    for detector in detectors:
        for corpus, table in tables.items():
            truth = noisy(table, definition)
            use = (truth >= 0) & (table.part == part).to_numpy()
            if corpus == detector.corpus:
                items = detector.folds[detector.folds.part == part]
            elif use.any():
                items = detector.judge(table[use])
                items = items.assign(truth=per_item(table[use], truth[use]).value.astype(int))
            else:
                continue
            answers.append(items.assign(detector=detector.title, train=detector.corpus, test=corpus))
    return pd.concat(answers, ignore_index=True)


def scores(answers: pd.DataFrame, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """STATISTICS of every detector, training and test corpus, with 95 % intervals over patients.

    answers: of `cross`; n, seed: of the bootstrap. Returns detector, train, test, statistic, point, low, high,
    prevalence (share of noisy items), n_items, n_patients and the replicates (resample,). One patient has no interval.
    """
    rows = []
    for names, items in answers.groupby(["detector", "train", "test"], sort=False):
        about = dict(zip(("detector", "train", "test"), names, strict=True))
        about |= {"prevalence": items.truth.mean(), "n_items": len(items), "n_patients": items.patient_id.nunique()}
        patients, truth = items.patient_id.to_numpy(str), items.truth.to_numpy()
        for title, key in STATISTICS.items():
            said = items["called" if title in CALLS else "value"].to_numpy(float)
            drawn = bootstrap.replicates(truth[:, None], said[:, None], patients, n, seed, statistic=key)
            values = drawn.values[:, 0]
            line = {"statistic": title} | _spanned("point", float(drawn.point[0]), values, about["n_patients"])
            rows.append(about | line | {"replicates": values})
    return pd.DataFrame(rows)


def _spanned(name: str, point: float, values: np.ndarray, n_patients: int) -> dict[str, float]:
    """A number and its interval, which one patient does not have."""
    found = bootstrap.interval(point, values)
    low, high = (found.low, found.high) if n_patients > 1 else (np.nan, np.nan)
    return {name: found.point, "low": low, "high": high}


def off_diagonal(table: pd.DataFrame) -> pd.DataFrame:
    """Mean of `scores` over the pairs of unlike corpora, by detector and statistic, with 95 % intervals over patients.

    The patients of each test corpus are drawn once for all detectors, so that all have the same luck.
    """
    rows = []
    pairs = table[table.train != table.test]
    for (detector, statistic), cells in pairs.groupby(["detector", "statistic"], sort=False):
        found = bootstrap.interval(cells.point.mean(), np.mean(np.stack(cells.replicates), axis=0))
        above = {"lowest": cells.point.min(), "pairs": len(cells)}
        point = {"point": found.point, "low": found.low, "high": found.high}
        rows.append({"detector": detector, "statistic": statistic} | point | above)
    return pd.DataFrame(rows)


def false_alarms(answers: pd.DataFrame, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Share of clean items called noisy by detector, test corpus and rhythm, from detectors of other corpora.

    answers: of `cross`. An item counts once for each detector that was trained elsewhere; intervals are over patients.
    """
    rows = []
    clean = answers[(answers.truth == 0) & (answers.train != answers.test)]
    for (detector, corpus, rhythm), items in clean.groupby(["detector", "test", "rhythm"], sort=False):
        drawn = bootstrap.resamples(len(items), items.patient_id.to_numpy(str), n, seed)
        called = items.called.to_numpy(float)
        values = np.concatenate([called @ weights / weights.sum(axis=0) for _, weights in drawn])
        about = {"detector": detector, "corpus": corpus, "rhythm": rhythm}
        about |= {"n_items": items.item.nunique(), "n_patients": items.patient_id.nunique()}
        rows.append(about | _spanned("share", called.mean(), values, about["n_patients"]))
    return pd.DataFrame(rows)
