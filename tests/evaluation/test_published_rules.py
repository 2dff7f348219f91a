"""The rules of the published PTB-XL evaluations, from a table of statements to the score, against a plain recount."""

import itertools

import numpy as np
import pandas as pd
import pytest

from ecglib.datasets import ptbxl
from ecglib.evaluation import predictions
from ecglib.reporting import tables

CLASSES = {"NORM": ["NORM"], "MI": ["IMI", "AMI"], "STTC": ["NDT"], "CD": ["LAFB", "1AVB"], "HYP": ["LVH"]}
PERCENT = (0.0, 15.0, 35.0, 50.0, 80.0, 100.0)
N = 300


class Packed:
    """As much of a packed cohort as predictions need."""

    def __init__(self, states):
        self.name, self.info, self.labels = "ptb-xl", {"label_set": states.attrs["label_set"]}, states
        ids = list(states.index)
        self.records = pd.DataFrame({"record_id": ids, "patient_id": ids, "split": "test"})

    def states(self, names, rows):
        return self.labels[names].to_numpy(np.int8)[rows]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """(folder, statements of each record, scores (record, class)) with rare, doubtful and silent ones among them."""
    rng, root = np.random.default_rng(3), tmp_path_factory.mktemp("ptb-xl")
    names = [s for members in CLASSES.values() for s in members]
    rates = dict(zip(names, (0.4, 0.2, 0.1, 0.2, 0.1, 0.05, 0.02), strict=True))
    made = [{s: float(rng.choice(PERCENT)) for s in names if rng.random() < rates[s]} for _ in range(N)]
    made = [codes | {"SR": 0.0} for codes in made]
    table = pd.DataFrame({"ecg_id": np.arange(1, N + 1), "patient_id": np.arange(1.0, N + 1), "age": 50, "sex": 0})
    table = table.assign(report="", scp_codes=[str(c) for c in made], strat_fold=10, filename_lr="a", filename_hr="b")
    table.to_csv(root / "ptbxl_database.csv", index=False)
    listed = np.array([[any(s in codes for s in members) for members in CLASSES.values()] for codes in made])
    p = 1 / (1 + np.exp(-np.round(rng.normal(size=listed.shape) + 0.8 * listed, 1)))  # with ties
    return root, made, p.astype(np.float32)


def scored(benchmark, labels=tuple(CLASSES), **options):
    """The library's table of scores, for one label set."""
    root, _, p = benchmark
    records = pd.DataFrame({"record_id": [f"{i:05d}" for i in range(1, N + 1)]})
    cohort = Packed(ptbxl.labels(root, records, **options))
    columns = [list(CLASSES).index(name) for name in labels]
    names = dict(encoder="xresnet1d101", mode="supervised", fraction=1.0, seed=0)
    rows = predictions.long_table(cohort, np.arange(N), p[:, columns], list(labels), **names)
    return tables.scores(rows, ("auroc", "auprc"), n=20).set_index(["metric", "label"])


def auroc(positive, negative):
    """Share of the pairs that are in order, ties by half: counted one by one."""
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(positive, negative)]
    return sum(pairs) / len(pairs)


def recount(made, p, kept, doubtful=True):
    """AUROC of each class from the statements alone; kept: records; doubtful: statements below 50 % are positive."""
    found = {}
    for k, (name, members) in enumerate(CLASSES.items()):
        sides = {True: [], False: []}
        for codes, score in zip(itertools.compress(made, kept), p[kept][:, k], strict=True):
            given = [percent for s, percent in codes.items() if s in members]
            sure = [percent for percent in given if percent == 0 or percent >= 50 or name not in ("MI", "HYP")]
            if doubtful or sure or not given:
                sides[bool(given)].append(float(score))
        found[name] = auroc(sides[True], sides[False])
    return found


@pytest.mark.parametrize("label_set", ["super-2203", "super-2198", "super-2158"])
@pytest.mark.parametrize("likelihood", ["published", "certain"])
def test_the_rules_of_a_test_set_give_the_score_of_a_plain_recount(benchmark, label_set, likelihood):
    _, made, p = benchmark
    spoken = np.array([set(codes) != {"SR"} for codes in made])
    kept = spoken if label_set == "super-2158" else np.ones(N, bool)
    expected = recount(made, p, kept, doubtful=likelihood == "published")
    table = scored(benchmark, label_set=label_set, likelihood=likelihood)
    assert table.loc[("auroc", "macro"), "n_records"] == kept.sum() and 20 < N - spoken.sum() < 200
    for name, value in expected.items():
        assert table.loc[("auroc", name), "point"] == pytest.approx(value, abs=1e-9)
    assert table.loc[("auroc", "macro"), "point"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)


def test_the_rules_matter_and_the_macro_average_is_not_weighted_by_positives(benchmark):
    points = {}
    for label_set, likelihood in itertools.product(("super-2198", "super-2158"), ("published", "certain")):
        table = scored(benchmark, label_set=label_set, likelihood=likelihood)
        points[label_set, likelihood] = table.loc[("auroc", "macro"), "point"]
        labels = table.loc["auroc"].loc[list(CLASSES)]
        weighted = np.average(labels.point, weights=labels.n_positives)
        assert abs(weighted - points[label_set, likelihood]) > 1e-3
    assert len({round(value, 4) for value in points.values()}) == 4


def test_a_label_without_positives_is_named_and_in_no_average(benchmark, tmp_path):
    root, made, p = benchmark
    table = pd.read_csv(root / "ptbxl_database.csv")
    without = [{s: v for s, v in codes.items() if s != "LVH"} for codes in made]
    table.assign(scp_codes=[str(c) for c in without]).to_csv(tmp_path / "ptbxl_database.csv", index=False)
    scores = scored((tmp_path, without, p), label_set="super-2198")
    others = [scores.loc[("auroc", name), "point"] for name in CLASSES if name != "HYP"]
    assert np.isnan(scores.loc[("auroc", "HYP"), "point"]) and scores.loc[("auroc", "macro"), "n_labels"] == 4
    assert scores.loc[("auroc", "macro"), "point"] == pytest.approx(np.mean(others), abs=1e-12)


@pytest.mark.parametrize("label_set", ["super-2198", "super-2158"])
def test_average_precision_is_the_sum_over_steps_of_recall(benchmark, label_set):
    _, made, p = benchmark
    kept = np.array([label_set == "super-2198" or set(codes) != {"SR"} for codes in made])
    table = scored(benchmark, label_set=label_set)
    for k, (name, members) in enumerate(CLASSES.items()):
        positive = np.array([any(s in codes for s in members) for codes in made])[kept]
        score, value, recall = p[kept, k], 0.0, 0.0
        for cut in sorted(set(score), reverse=True):
            taken = score >= cut
            step = (positive & taken).sum() / positive.sum() - recall
            value, recall = value + step * (positive & taken).sum() / taken.sum(), recall + step
        assert table.loc[("auprc", name), "point"] == pytest.approx(value, abs=1e-9)
