"""Tasks of every kind: what is true of whom, what is refused, and that each method learns each kind."""

import numpy as np
import pandas as pd
import pytest
from memory_cohort import MemoryCohort
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, roc_auc_score

from ecglib import EcgError, models
from ecglib.evaluation import classifiers, tasks
from ecglib.evaluation.probing import Settings
from ecglib.reporting import task_figures, task_tables

AGE = {"kind": "number", "columns": "age", "unit": "years", "keep": {"age": {"below": 75}}}
OLD = {"kind": "binary", "columns": "age", "positive": {"above": 60}}


@pytest.fixture(scope="module")
def cohort():
    """Sixty ECGs whose ejection fraction is low in atrial fibrillation, measured on the day or a month later."""
    cohort = MemoryCohort(60)
    af = cohort.labels["AFIB"].to_numpy() == 1
    ejection = np.where(af, 35.0, 60.0) + np.arange(60) % 5
    ejection[::10] = np.nan
    day = pd.Timestamp("2020-01-01")
    dates = [str((day + pd.Timedelta(days=30 * (i % 4 == 3))).date()) for i in range(60)]
    extra = dict(
        age=30.0 + np.arange(60) * 37 % 51,
        lvef=ejection,
        lvef_date=dates,
        recording_date=str(day.date()),
        axis=["MID", "LAD", ""] * 20,
    )
    cohort.records = cohort.records.assign(**extra, optimal_low=af.astype(float))
    return cohort


def test_truth_follows_the_rules_and_exclusions_are_counted(cohort):
    task = tasks.make("lvef_low", {"kind": "binary", "columns": "lvef", "positive": {"at_most": 40}})
    near = tasks.make("near", {**vars_of(task), "within": {"date": "lvef_date", "days": 7}})
    y, y_near = task.truth(cohort)[:, 0], near.truth(cohort)[:, 0]
    ejection = cohort.records.lvef.to_numpy()
    assert np.array_equal(np.isnan(y), np.isnan(ejection)) and (y[~np.isnan(y)] == (ejection <= 40)[~np.isnan(y)]).all()
    late = np.arange(60) % 4 == 3
    assert np.isnan(y_near[late]).all() and np.array_equal(y_near[~late], y[~late], equal_nan=True)
    lines = near.exclusions(cohort)
    assert lines.left.tolist() == [45, 40, 29] and near.definition == "lvef <= 40 (within 7 days of the ECG)"
    log = tasks.make("log", {"kind": "number", "columns": "lvef", "log": True}).truth(cohort)[:, 0]
    np.testing.assert_allclose(np.exp(log[~np.isnan(log)]), ejection[~np.isnan(ejection)])
    several = tasks.make("axis", {"kind": "class", "columns": "axis", "classes": ["MID", "LAD"]})
    assert several.truth(cohort)[:2].tolist() == [[1, 0], [0, 1]] and np.isnan(several.truth(cohort)[2]).all()
    statements = tasks.make("rhythm", {"kind": "statements", "columns": ["AFIB", "NORM"]})
    assert np.array_equal(statements.truth(cohort), cohort.labels[["AFIB", "NORM"]])


def vars_of(task):
    return {"kind": task.kind, "columns": task.columns, "positive": task.positive}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "nubmer", "columns": "age"}, "number"),
        ({"kind": "number", "column": "age"}, "columns"),
        ({"kind": "binary", "columns": "age"}, "positive"),
        ({"kind": "number", "columns": ["age", "lvef"]}, "columns"),
        ({"kind": "class", "columns": "axis", "classes": ["MID"]}, "classes"),
        ({"kind": "binary", "columns": "age", "positive": {"over": 3}}, "above"),
        ({"kind": "number", "columns": "lvef", "within": {"days": 3}}, "date"),
    ],
)
def test_what_is_no_task_is_refused_with_its_field(spec, message):
    with pytest.raises(EcgError, match=message) as error:
        tasks.make("mine", spec)
    assert error.value.field.startswith("tasks.mine") and error.value.fix


def test_a_column_that_the_cohort_lacks_is_refused_before_any_work(cohort):
    for spec in ({"kind": "number", "columns": "height"}, {"kind": "statements", "columns": ["LVH"]}):
        with pytest.raises(EcgError, match="unknown"):
            tasks.run(tasks.make("mine", spec), cohort, "features")


def test_ridge_equals_scikit_learn_at_the_penalty_that_validation_chose():
    random = np.random.default_rng(0)
    z, z_val = random.normal(size=(50, 8)), random.normal(size=(30, 8))
    y, y_val = (x @ np.arange(8)[:, None] + random.normal(0, 3, (len(x), 1)) for x in (z, z_val))
    centre, spread, errors = z.mean(0), z.std(0), {}
    for penalty in classifiers.PENALTIES:
        model = Ridge(alpha=penalty).fit((z - centre) / spread, y)
        errors[penalty] = model.predict((z_val - centre) / spread).reshape(-1, 1)
    best = min(errors, key=lambda penalty: mean_absolute_error(y_val, errors[penalty]))
    np.testing.assert_allclose(classifiers.ridge(z, y, z_val, y_val)(z_val), errors[best], atol=1e-8)


@pytest.fixture(scope="module")
def encoder(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    models.save(models.build("net1d", "small", 12, seed=1), folder, leads=list(cohort.leads), profile="study", fs=100)
    return folder


SMALL = Settings(fractions=(1.0,), seeds=1, whole_seeds=1, epochs=1, min_steps=3, shifts=1, scratch_encoder="net1d")
METHODS = ("scratch", "features", "random", "supervised", "supervised+finetune")


@pytest.fixture(scope="module")
def tables(cohort, encoder):
    made = {"age": tasks.make("age", AGE), "old": tasks.make("old", OLD)}
    made["low"] = tasks.make(
        "low", {"kind": "binary", "columns": "lvef", "positive": {"at_most": 40}, "optimal": "optimal_low"}
    )
    parts = []
    for task in made.values():
        for method in METHODS if task.name == "age" else METHODS[:2]:
            folder = encoder if method.startswith("supervised") else None
            parts.append(tasks.run(task, cohort, method, SMALL, pretrain_dir=folder))
    return made, pd.concat(parts)


def test_every_method_predicts_the_same_records_and_numbers_stay_in_their_unit(cohort, tables):
    _, table = tables
    age = table[table.task == "age"]
    assert age.groupby(["encoder", "mode"]).ngroups == len(METHODS)
    known = cohort.records.set_index("record_id").age
    np.testing.assert_allclose(age.truth, known[age.record_id])
    assert (age.truth < 75).all() and age.prediction.between(-100, 250).all()
    counts = age[age.split == "test"].groupby(["encoder", "mode"]).size()
    assert counts.nunique() == 1 and set(table.split) == {"val", "test"}


def test_the_head_of_a_pretrained_network_starts_as_its_linear_probe(cohort, encoder):
    """With a learning rate of nothing the network is the ridge regression on its own features."""
    frozen = Settings(**{**vars(SMALL), "finetune_lr": 1e-12, "average": 0.0})
    frozen = Settings(**{**vars(frozen), "objective": {"pooling": ""}})
    task = tasks.make("age", AGE)
    tuned = tasks.run(task, cohort, "supervised+finetune", frozen, pretrain_dir=encoder)
    inner = tasks._Task(tasks.Labelled(cohort, task), (), cohort.leads, ("age",))
    from ecglib.evaluation import embeddings

    network = models.load(encoder)[0].eval()
    z, z_val = (embeddings.features(network, cohort, rows) for rows in (inner.train_rows, inner.val_rows))
    y, y_val = inner.known(inner.train_rows), inner.known(inner.val_rows)
    expected = classifiers.ridge(z, y, z_val, y_val)(z_val)[:, 0]
    np.testing.assert_allclose(tuned[tuned.split == "val"].prediction, expected, atol=0.02)


@pytest.mark.parametrize("method", ["multirocket", "supervised+selftrain", "supervised+sgd-linear"])
def test_what_learns_no_numbers_is_refused(cohort, encoder, method):
    with pytest.raises(EcgError, match="learns no numbers"):
        tasks.run(tasks.make("age", AGE), cohort, method, SMALL, pretrain_dir=encoder)


def test_a_network_that_counts_its_batches_is_fine_tuned_too(cohort, tmp_path):
    models.save(
        models.build("resnet1d", n_leads=len(cohort.leads)), tmp_path, leads=list(cohort.leads), profile="study"
    )
    table = tasks.run(tasks.make("age", AGE), cohort, "supervised+finetune", SMALL, pretrain_dir=tmp_path)
    assert np.isfinite(table.prediction).all()


def test_scores_and_differences_equal_plain_computations(tables):
    made, table = tables
    scores = task_tables.scores(table, made, n=50).set_index(["task", "encoder", "mode"])
    test = table[table.split == "test"]
    for (task, encoder, mode), rows in test.groupby(["task", "encoder", "mode"]):
        plain = mean_absolute_error if task == "age" else roc_auc_score
        assert scores.point[task, encoder, mode] == pytest.approx(plain(rows.truth, rows.prediction), abs=1e-6)
        assert scores.low[task, encoder, mode] <= scores.point[task, encoder, mode] <= scores.high[task, encoder, mode]
    assert scores.optimal["low"].eq(1).all() and scores.optimal["age"].isna().all()
    gains = task_tables.differences(table, made, n=50).set_index(["task", "encoder", "mode"])
    error = scores.point["age"]
    assert gains.gain["age", "features", "boosting"] == pytest.approx(
        error["scratch", "supervised"] - error["features", "boosting"]
    )
    areas = scores.point["old"]
    assert gains.gain["old", "features", "boosting"] == pytest.approx(
        areas["features", "boosting"] - areas["scratch", "supervised"]
    )


def test_operating_points_use_the_thresholds_of_validation(tables):
    _, table = tables
    rows = table[(table.task == "old") & (table.encoder == "features")]
    points = task_tables.operating_points(rows, n=50).set_index("metric")
    cut = points.threshold.iloc[0]
    val, test = (rows[rows.split == split] for split in ("val", "test"))
    sick, well = val[val.truth == 1].prediction, val[val.truth == 0].prediction
    youden = [(sick >= c).mean() - (well >= c).mean() for c in val.prediction]
    assert (sick >= cut).mean() - (well >= cut).mean() == pytest.approx(max(youden))
    called = test.prediction >= cut
    assert points.point["sensitivity"] == pytest.approx((called & (test.truth == 1)).sum() / (test.truth == 1).sum())


def test_subgroups_are_scored_on_their_own_records(cohort, tables):
    made, table = tables
    rows = table[(table.task == "age") & (table.encoder == "features")]
    groups = task_tables.subgroups(rows, made, cohort.records, n=50, fewest=3).set_index(["by", "group"])
    sexes = cohort.records.set_index("record_id").sex
    test = rows[rows.split == "test"].assign(sex=lambda part: sexes[part.record_id].values)
    for sex in ("male", "female"):
        mine = test[test.sex == sex]
        assert groups.point["sex", sex] == pytest.approx(mean_absolute_error(mine.truth, mine.prediction), abs=1e-5)
        assert groups.n["sex", sex] == len(mine)
    both = groups.loc["sex"]
    assert both.gap.iloc[0] == pytest.approx(both.point.max() - both.point.min())
    assert groups.groupby(level=0).smallest.sum().eq(1).all()


def test_figures_draw_a_row_per_task(tables):
    made, table = tables
    titles = {"age": "Age", "old": "Age > 60", "low": "LVEF <= 40 %"}
    gains = task_tables.differences(table, made, n=30)
    figure = task_figures.gains(gains, titles, fraction=1.0)
    names = [[text.get_text() for text in ax.get_yticklabels()] for ax in figure.axes]
    assert names == [["Age > 60", "LVEF <= 40 %"], ["Age"]]
    ax = task_figures.against_optimal(task_tables.scores(table, made, n=30), titles)
    assert "best possible (heart and person known)" in ax.get_legend_handles_labels()[1]
