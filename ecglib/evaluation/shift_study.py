"""Which predictor survives a shift: trained where disease and covariate go together, tried where they do so less.

X is a frozen feature, so that a study takes seconds. Two shifts stand side by side: of P(Y | Z), by the odds ratio of
disease and covariate at constant prevalence, and of P(Z) alone. Every predictor learns from the same records; what has
to be chosen is chosen on validation records of the training population.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib import EcgError, require_known
from ecglib.data import notebook
from ecglib.data.labels import ABSENT, PRESENT
from ecglib.evaluation import bootstrap, invariance, shift

CONCEPT, COVARIATE = "P(Y|Z)", "P(Z)"  # which of the two shifts
KNOWN, LABELLED, UNLABELLED = "prior known", "prior of 100 labels", "prior by EM"  # what is known of the target
X_ONLY, X_Z = "X only", "X+Z"
NAMES = {invariance.IRM: "IRM", invariance.VREX: "V-REx", invariance.CORAL: "CORAL", invariance.MMD: "MMD"}
NAMES |= {invariance.DRO: "group DRO"}
METHODS = (X_ONLY, X_Z, *(f"X+Z, {prior}" for prior in (KNOWN, LABELLED, UNLABELLED)), *NAMES.values())


class People(NamedTuple):
    """Records of one split: frozen features, disease, covariate, patient."""

    x: np.ndarray  # float32 (record, feature)
    y: np.ndarray  # (record,), 1 or 0, anything else unknown
    z: np.ndarray  # (record,), 1 or 0, anything else unknown
    patients: np.ndarray  # (record,)

    def at(self, rows) -> "People":
        return People(*(values[rows] for values in self))


def people(x, cohort, rows, disease, column: str, value) -> People:
    """Records of a cohort as this study takes them.

    x: their frozen features (row, feature); disease: statements, of which one at least makes Y = 1; without one, a
    doubtful or unknown one makes Y unknown; column, value: of the records, Z = 1 where a text is the value, or
    a number is at least the value; unknown where there is none.
    Raises EcgError for a statement or column that the cohort lacks.
    """
    require_known("column", [column], list(cohort.records), "covariates", cohort.name)
    states = cohort.states(disease, rows)
    y = np.where((states == PRESENT).any(1), 1, np.where((states == ABSENT).all(1), 0, -1))
    found = cohort.records[column].iloc[rows]
    z = (found == value) if isinstance(value, str) else (pd.to_numeric(found) >= value)
    z = np.where(found.isna(), -1, z.astype(int))
    return People(x, y, z, cohort.records["patient_id"].to_numpy()[rows])


def divided(cohort, rows, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the other patients, rows of a share of the patients, drawn at random)."""
    patients = cohort.records["patient_id"].to_numpy()[rows]
    names = np.unique(patients)
    held = np.random.default_rng(seed).permutation(names)[: round(share * len(names))]
    return rows[~np.isin(patients, held)], rows[np.isin(patients, held)]


@dataclass(frozen=True)
class Settings:
    """The populations, and how often everything is drawn."""

    train_ratios: tuple = (9.0, 3.0)  # odds ratio of Y and Z in each training environment
    ratios: tuple = (9.0, 3.0, 1.0, 1 / 3, 1 / 9)  # in the test populations
    shares: tuple = (0.2, 0.5, 0.8)  # P(Z=1) in the test populations of the other shift
    prevalence: float = 0.3  # of Y, but where P(Z) alone shifts
    seeds: int = 3  # training samples and initialisations
    n_labelled: int = 100  # labelled records of the target, for the prior
    n_resamples: int = 1000
    network: invariance.Settings = field(default_factory=invariance.Settings)

    @property
    def source(self) -> tuple[float, float]:
        """P(Y=1 | Z) for Z = 0 and 1 in all training environments together."""
        return tuple(np.mean([shift.rates(ratio, self.prevalence) for ratio in self.train_ratios], axis=0))


def environments(people: People, settings: Settings, seed: int = 0) -> list[np.ndarray]:
    """Rows of each training environment: as many as there can be of each, no record in two of them.

    Raises EcgError where a combination of disease and covariate does not occur.
    """
    y, z = people.y, people.z
    rates = [shift.rates(ratio, settings.prevalence) for ratio in settings.train_ratios]
    n = shift.largest(y, z, 0.5, settings.source) // len(rates)
    while n and any(_needed(rates, n, cell) > ((y == cell[0]) & (z == cell[1])).sum() for cell in np.ndindex(2, 2)):
        n -= 1
    if n < 4:
        reason = f"{n} records for each of {len(rates)} training populations"
        raise EcgError(reason, field="target", fix="take a more frequent disease, or more records")
    left, drawn = np.arange(len(y)), []
    for k, p_y in enumerate(rates):
        rows = left[shift.subsample(y[left], z[left], n, 0.5, p_y, seed + 1000 * k)]
        drawn.append(rows)
        left = np.setdiff1d(left, rows)
    return drawn


def _needed(rates, n, cell) -> int:
    """At most so many records of one (y, z) are drawn for all populations, each count rounded up."""
    y, z = cell
    return sum(int(np.ceil(n * 0.5 * (p_y[z] if y else 1 - p_y[z]))) for p_y in rates)


def targets(people: People, settings: Settings, seed: int = 0) -> list[tuple]:
    """(shift, level, P(Y=1 | Z), rows) of every test population; those of one shift have the same number of records."""
    plans = [(CONCEPT, ratio, 0.5, shift.rates(ratio, settings.prevalence)) for ratio in settings.ratios]
    plans += [(COVARIATE, share, share, settings.source) for share in settings.shares]
    made = []
    for kind in (CONCEPT, COVARIATE):
        mine = [plan for plan in plans if plan[0] == kind]
        n = min((shift.largest(people.y, people.z, p_z, p_y) for _, _, p_z, p_y in mine), default=0)
        while n and not all(shift.fits(people.y, people.z, n, p_z, p_y) for _, _, p_z, p_y in mine):
            n -= 1
        for k, (_, level, p_z, p_y) in enumerate(mine):
            made.append((kind, level, p_y, shift.subsample(people.y, people.z, n, p_z, p_y, seed + k)))
    return made


def predictors(train: People, val: People, settings: Settings, seed: int) -> tuple[dict, list]:
    """Trained on one draw: ({name: function of People -> logits (record,)}, a row per name of what was chosen)."""
    drawn = [environments(people, settings, seed) for people in (train, val)]
    joint = [people.at(np.concatenate(rows)) for people, rows in zip((train, val), drawn, strict=True)]
    centre, spread = joint[0].x.mean(0), joint[0].x.std(0)
    spread = np.where(spread > 0, spread, 1.0)

    def features(people):
        return (people.x - centre) / spread

    places = [np.repeat(np.arange(len(rows)), len(rows[0])) for rows in drawn]
    both = [
        invariance.samples(features(people), people.y, place, people.z)
        for people, place in zip(joint, places, strict=True)
    ]
    made, choices, decays = {}, [], ()
    learners = {X_ONLY: invariance.PLAIN, X_Z: invariance.PLAIN} | {name: method for method, name in NAMES.items()}
    for name, method in learners.items():
        choice = invariance.chosen(method, *both, settings.network, decays=decays, with_z=name == X_Z, seed=seed)
        decays = (choice.decay,) if name == X_ONLY else decays  # that of plain training on X, for all
        made[name] = lambda people, net=choice.network: invariance.logits(net, features(people), people.z)
        choices.append(dict(seed=seed, method=name, decay=choice.decay, weight=choice.weight, loss=choice.loss))
    return made, choices


def run(
    train: People, val: People, test: People, settings: Settings | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train every predictor, try it in every test population.

    train, val, test: People with the same features; only records whose disease and covariate are known are used.
    Returns two tables. The first: shift, level, method, metric (auroc, log_loss, ece), point, low, high, over patients
    and averaged over the seeds in each resample, the paired difference to X only (gain, gain_low, gain_high; for losses
    X only minus the method, so that more is better), n_records. The second: what was
    chosen, a row per method and seed.
    """
    settings = settings or Settings()
    train, val, test = (people.at(np.flatnonzero(_known(people))) for people in (train, val, test))
    places, found, choices = targets(test, settings), {}, []
    for seed in notebook.track(range(settings.seeds), "predictors", "seed"):
        made, chosen = predictors(train, val, settings, seed)
        choices += chosen
        for place, (kind, level, p_y, rows) in enumerate(places):
            people = test.at(rows)
            logits = {name: predict(people) for name, predict in made.items()}
            logits |= _with_priors(logits[X_Z], people, p_y, settings, seed)
            for name, values in logits.items():
                for metric, score in shift.scores(
                    people.y, values, people.patients, n=settings.n_resamples, seed=place
                ).items():
                    found.setdefault((kind, level, name, metric), []).append(score)
    sizes = {(kind, level): len(rows) for kind, level, _, rows in places}
    return _table(found, sizes), pd.DataFrame(choices)


def _known(people):
    return np.isin(people.y, (0, 1)) & np.isin(people.z, (0, 1))


def _with_priors(logits, people, p_y, settings, seed) -> dict:
    """X+Z with the prior of the target: known, from a few labelled records, and from none."""
    source, z = settings.source, people.z
    random = np.random.default_rng(seed)
    # labels as a hospital would collect them: of other patients of the same population, not of the records scored
    group = random.random(settings.n_labelled) < people.z.mean()
    state = random.random(settings.n_labelled) < np.asarray(p_y)[group.astype(int)]
    priors = {KNOWN: p_y, LABELLED: shift.prior_of_labelled(state.astype(int), group.astype(int))}
    priors[UNLABELLED] = shift.prior_by_em(logits, z, source)
    return {f"X+Z, {name}": shift.corrected(logits, z, source, prior) for name, prior in priors.items()}


def _table(found: dict, sizes: dict) -> pd.DataFrame:
    means = {
        key: bootstrap.interval(np.mean([s.point for s in runs]), np.mean([s.replicates for s in runs], axis=0))
        for key, runs in found.items()
    }
    rows = []
    for (kind, level, name, metric), score in means.items():
        base, sign = means[kind, level, X_ONLY, metric], 1 if metric == "auroc" else -1
        gain = bootstrap.interval(sign * (score.point - base.point), sign * (score.replicates - base.replicates))
        rows.append((kind, level, name, metric, *score[:3], *gain[:3], sizes[kind, level]))
    columns = [
        "shift",
        "level",
        "method",
        "metric",
        "point",
        "low",
        "high",
        "gain",
        "gain_low",
        "gain_high",
        "n_records",
    ]
    return pd.DataFrame(rows, columns=columns)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The worst test population of each method under the shift of P(Y | Z), and how fast the score falls.

    table: of `run`. slope: least squares of the score on the log (base 3) of training over test odds ratio: the change
    per step 9:1, 3:1, 1:1. Returns method, metric, at_home (the highest odds ratio), worst, worst_at, slope.
    """
    rows = []
    for (method, metric), some in table[table["shift"] == CONCEPT].groupby(["method", "metric"], sort=False):
        worst = some.loc[some["point"].idxmin() if metric == "auroc" else some["point"].idxmax()]
        steps = -np.log(some["level"].to_numpy(float)) / np.log(3)
        slope = float(np.polyfit(steps, some["point"], 1)[0]) if len(some) > 1 else np.nan
        home = float(some.loc[some["level"].idxmax(), "point"])
        rows.append((method, metric, home, float(worst["point"]), float(worst["level"]), slope))
    return pd.DataFrame(rows, columns=["method", "metric", "at_home", "worst", "worst_at", "slope"])
