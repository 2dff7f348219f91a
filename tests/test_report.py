"""Tables from predictions: against plain recomputation, and the contracts that they keep."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

from ecglib import metrics, report
from ecglib.signals import EcgError

LABELS = ["AFIB", "CLBBB", "NORM", "SBRAD"]
SKILL = {("random", "linear"): 0.6, ("features", "boosting"): 1.0, ("scratch", "supervised"): 1.3}
SKILL[("supervised", "linear")] = 1.8


def place(cohort, split, n_patients, shift=0.0, labels=LABELS, fractions=(0.1, 1.0), seeds=(0, 1)):
    """Predictions of four models on one cohort and split, two records per patient."""
    random = np.random.default_rng(n_patients)
    n, prevalence = 2 * n_patients, np.array([0.1, 0.06, 0.5, 0.2])[: len(labels)]
    truth = (random.random((n, len(labels))) < prevalence).astype(np.int8)
    truth[:3], truth[3:6] = 1, 0
    noise, tables = random.normal(size=truth.shape), []
    for (encoder, mode), skill in SKILL.items():
        for fraction in fractions:
            for seed in seeds:
                logit = noise + (skill * fraction**0.1 - shift) * truth + random.normal(scale=0.5, size=truth.shape) - 1
                tables.append(
                    pd.DataFrame(
                        {
                            "record_id": np.repeat([f"{cohort}{split}{k:04d}" for k in range(n)], len(labels)),
                            "patient_id": np.repeat([f"p{k // 2:04d}" for k in range(n)], len(labels)),
                            "cohort": cohort,
                            "split": split,
                            "label": np.tile(labels, n),
                            "truth": truth.ravel(),
                            "probability": (1 / (1 + np.exp(-logit))).astype(np.float32).ravel(),
                            "encoder": encoder,
                            "mode": mode,
                            "fraction": fraction,
                            "seed": seed,
                        }
                    )
                )
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def predictions():
    return pd.concat([place("A", "test", 120), place("A", "val", 80), place("B", "external", 100, 0.5, LABELS[:3])])


@pytest.fixture(scope="module")
def home(predictions):
    return predictions[(predictions["cohort"] == "A") & (predictions["split"] == "test")]


def matrices(predictions, encoder, fraction=1.0, seed=0):
    rows = predictions.query("encoder == @encoder and fraction == @fraction and seed == @seed")
    wide = rows.pivot(index="record_id", columns="label", values=["truth", "probability"])
    patients = rows.drop_duplicates("record_id").set_index("record_id")["patient_id"].loc[wide.index]
    return wide["truth"].to_numpy(), wide["probability"].to_numpy(), patients.to_numpy()


def test_load_reads_a_folder_a_file_and_a_list(tmp_path, home):
    parts = {"one": home[home["encoder"] != "random"], "two": home[home["encoder"] == "random"].sample(frac=1)}
    for name, part in parts.items():
        (tmp_path / name).mkdir()
        part.to_parquet(tmp_path / name / "predictions.parquet")
    whole = report.load(tmp_path)
    assert len(whole) == len(home) and list(whole.columns) == [*report.load(tmp_path / "one").columns]
    files = [tmp_path / name / "predictions.parquet" for name in ("two", "one")]
    pd.testing.assert_frame_equal(report.load(files), whole)
    assert len(report.load(files[0])) == len(parts["two"])
    with pytest.raises(EcgError, match="predicted twice"):
        report.load([files[0], files[0]])
    with pytest.raises(EcgError, match="no predictions.parquet"):
        report.load([])
    with pytest.raises(EcgError, match="no such file"):
        report.load(tmp_path / "three")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("probability", 1.2, "outside 0..1"),
        ("probability", np.nan, "outside 0..1"),
        ("truth", 3, "a state other"),
        ("patient_id", None, "patient_id"),
        ("label", "drop", "lacks the columns"),
    ],
)
def test_load_refuses_bad_files_by_name(tmp_path, home, column, value, message):
    bad = home.head(8).copy()
    if value == "drop":
        bad = bad.drop(columns=column)
    else:
        bad.loc[bad.index[3], column] = value
    bad.to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(EcgError, match=message) as caught:
        report.load(tmp_path)
    assert caught.value.file == str(tmp_path / "predictions.parquet")


@pytest.mark.parametrize("change", ["records", "labels", "truth", "patient"])
def test_models_on_different_contracts_are_not_compared(home, change):
    ours, other = home[home["encoder"] != "random"], home[home["encoder"] == "random"].copy()
    if change == "records":
        other = other[other["record_id"] != other["record_id"].iloc[0]]
    elif change == "labels":
        other["label"] = other["label"].replace("AFIB", "AFLT")
    elif change == "truth":
        other.loc[other["record_id"] == other["record_id"].iloc[0], "truth"] = 0
    else:
        other["patient_id"] = "p" + other["patient_id"]
    for function in (report.scores, report.differences, report.contract):
        with pytest.raises(EcgError, match="than the first model"):
            function(pd.concat([ours, other]))
    ragged = ours.drop(ours[(ours["record_id"] == ours["record_id"].iloc[0]) & (ours["label"] == "NORM")].index)
    with pytest.raises(EcgError, match="lacks a label"):
        report.contract(ragged)


def test_contract_names_labels_without_a_class(home):
    blank = home.assign(truth=np.where(home["label"] == "CLBBB", 0, home["truth"]))
    row = report.contract(blank).iloc[0]
    assert (row["n_records"], row["n_patients"], row["n_labels"], row["n_models"]) == (240, 120, 4, 8)
    assert row["without_a_class"] == "CLBBB" and row["labels"] == ", ".join(LABELS)
    table = report.scores(blank, n=20)
    kept = table.query("label == 'CLBBB'")
    assert kept["point"].isna().all() and (kept["n_positives"] == 0).all() and len(kept)
    assert (table.query("label == 'macro'")["n_labels"] == 3).all()


def test_scores_average_seeds_inside_each_resample(home):
    table = report.scores(home, n=200, min_positives=20)
    row = table.query("encoder == 'supervised' and fraction == 1 and metric == 'auroc' and label == 'macro'").iloc[0]
    macros, values = [], []
    for seed in (0, 1):
        y, p, patients = matrices(home, "supervised", seed=seed)
        macros.append(roc_auc_score(y, p))
        values.append(metrics.bootstrap(y, p, patients, n=200).replicates)
    assert row["point"] == pytest.approx(np.mean(macros)) and row["seed_sd"] == pytest.approx(np.std(macros, ddof=1))
    low, high = np.quantile(np.mean(values, axis=0), [0.025, 0.975])
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (row["n_records"], row["n_patients"], row["n_labels"], row["n_seeds"]) == (240, 120, 4, 2)
    one = table.query("encoder == 'random' and fraction == 0.1 and metric == 'auprc' and label == 'NORM'").iloc[0]
    pairs = [matrices(home, "random", 0.1, seed)[:2] for seed in (0, 1)]
    assert one["point"] == pytest.approx(np.mean([average_precision_score(y[:, 2], p[:, 2]) for y, p in pairs]))
    assert one["n_positives"] == pairs[0][0][:, 2].sum()
    few = table.query("label == 'macro >= 20'")
    assert (few["n_labels"] == (metrics.positives(pairs[0][0]) >= 20).sum()).all()
    assert (table["low"] <= table["point"]).all() and (table["point"] <= table["high"]).all()


def test_scores_do_not_depend_on_row_order_and_mask_unknown_and_possible(home):
    shuffled = report.scores(home.sample(frac=1, random_state=0), n=30)
    pd.testing.assert_frame_equal(shuffled, report.scores(home, n=30))
    hidden = home["record_id"].isin(sorted(home["record_id"].unique())[10:60]) & (home["label"] == "NORM")
    tables = [report.scores(home.assign(truth=home["truth"].mask(hidden, state)), n=30) for state in (2, -1)]
    pd.testing.assert_frame_equal(*tables)
    assert set(tables[0].query("label == 'NORM'")["n_records"]) == {190}


def test_differences_are_paired_and_adjusted(home):
    table = report.differences(home, n=200)
    assert len(table) == 2 * 3 and set(table["encoder"]) == {"supervised"}
    row = table.query("fraction == 1 and reference == 'random'").iloc[0]
    gaps, points = [], []
    for seed in (0, 1):
        y, p, patients = matrices(home, "supervised", seed=seed)
        result = metrics.paired(y, p, matrices(home, "random", seed=seed)[1], patients, n=200)
        gaps.append(result.replicates)
        points.append(result.point)
    assert row["point"] == pytest.approx(np.mean(points)) and row["reference_mode"] == "linear"
    assert row["low"] == pytest.approx(np.quantile(np.mean(gaps, axis=0), 0.025)) and row["low"] > 0
    assert row["p"] == pytest.approx(metrics.two_sided(np.mean(gaps, axis=0)))
    np.testing.assert_allclose(table["p_holm"], table["p"])  # one method: no comparison to correct for
    weaker = home[home["encoder"] == "supervised"].assign(encoder="clef")
    weaker["probability"] = (weaker["probability"] + np.random.default_rng(0).random(len(weaker))) / 2
    both = report.differences(pd.concat([home, weaker]), n=200)
    assert set(both["encoder"]) == {"supervised", "clef"}
    for _, family in both.groupby(["cohort", "split", "fraction", "reference"]):
        assert len(family) == 2
        np.testing.assert_allclose(family["p_holm"], metrics.holm(family["p"].to_numpy()))
    partial = home[(home["encoder"] != "scratch") | (home["fraction"] == 1)]
    gap = report.differences(partial, n=20).query("reference == 'scratch'")
    assert gap["point"].isna().tolist() == [True, False]
    with pytest.raises(EcgError, match="none of"):
        report.differences(home, references=("nothing",), n=20)


def test_external_keeps_the_thresholds_of_validation(predictions, home):
    table = report.external(predictions, n=100)
    assert set(table["cohort"]) == {"B"} and set(table["label"]) == {"macro", *LABELS[:3]}
    rows = table.query("encoder == 'supervised' and fraction == 1").set_index(["metric", "label"])
    away, chosen = predictions.query("cohort == 'B'"), predictions.query("split == 'val'")
    expected, cuts = [], []
    for seed in (0, 1):
        y, p, _ = matrices(chosen, "supervised", seed=seed)
        cuts.append(metrics.threshold_at(y[:, 2], p[:, 2]))
        y, p, _ = matrices(away, "supervised", seed=seed)
        expected.append(recall_score(y[:, 2], p[:, 2] >= cuts[-1]))
    row = rows.loc[("sensitivity", "NORM")]
    assert row["external"] == pytest.approx(np.mean(expected)) and row["threshold"] == pytest.approx(np.mean(cuts))
    assert row["n_records_external"] == 200 and row["n_records_internal"] == 240
    macro = rows.loc[("auroc", "macro")]
    assert macro["internal"] == pytest.approx(rows.loc["auroc"].drop("macro")["internal"].mean())
    assert macro["drop"] == pytest.approx(macro["external"] - macro["internal"]) and macro["drop"] < 0
    for side in ("internal", "external", "drop"):
        assert (table[f"{side}_low"] <= table[side]).all() and (table[side] <= table[f"{side}_high"]).all()
    certain = table[
        table["metric"].isin(["sensitivity", "ppv"]) & (table["external"] == 1) & (table["label"] != "macro")
    ]
    assert (certain["external_low"] < 1).all()
    with pytest.raises(EcgError, match="no predictions for"):
        report.external(home, n=10)
    with pytest.raises(EcgError, match="not the same runs"):
        report.external(predictions[(predictions["split"] != "val") | (predictions["seed"] == 0)], n=10)


def test_a_label_without_a_class_on_validation_has_no_operating_point(predictions):
    blank = (predictions["split"] == "val") & (predictions["label"] == "CLBBB")
    table = report.external(predictions.assign(truth=predictions["truth"].mask(blank, 0)), n=20)
    rows = table[table["label"] == "CLBBB"].set_index("metric")
    assert rows.loc["sensitivity", "external"].isna().all() and rows.loc["auroc", "external"].notna().all()


def test_calibration_counts_patients_as_trials(home):
    curve = report.calibration(home, ["NORM"])
    row = curve.query("encoder == 'supervised' and fraction == 1 and bin == 5").iloc[0]
    rows = home.query("encoder == 'supervised' and fraction == 1 and label == 'NORM'")
    rows = rows[(rows["probability"] > 0.5) & (rows["probability"] <= 0.6)]
    assert row["frequency"] == pytest.approx(rows["truth"].mean()) and row["n"] == len(rows)
    trials = rows["patient_id"].nunique()
    assert (row["low"], row["high"]) == pytest.approx(metrics.wilson(row["frequency"] * trials, trials))
    assert set(report.calibration(home)["label"]) == {"all"}
    with pytest.raises(EcgError, match="no such labels"):
        report.calibration(home, ["XYZ"])
    assert report.scores(home, ("ece", "brier"), n=20)["point"].between(0, 1).all()


def test_result_table_holds_the_four_columns(home):
    scores, gaps = report.scores(home, n=50), report.differences(home, n=50)
    table = report.result_table(scores, gaps)
    assert [name for name in table if "macro" in name] == [
        "AUROC macro",
        "AUROC macro >= 10",
        "AUPRC macro",
        "AUPRC macro >= 10",
    ]
    line = table.set_index("encoder").loc["supervised"]
    row = scores.query("encoder == 'supervised' and fraction == 1 and label == 'macro' and metric == 'auroc'").iloc[0]
    assert line["AUROC macro"] == f"{row['point']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    assert re.fullmatch(r"\+0\.\d{3} \(.* to .*\), p 0\.\d{3}", line["AUROC - random"]) and len(table) == 4
    assert table.set_index("encoder").loc["random", "AUROC - random"] == "-"
    gap = gaps.query("encoder == 'supervised' and reference == 'features' and fraction == 1").iloc[0]
    words = f"{gap['point']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}), p {gap['p_holm']:.3f}"
    assert line["AUROC - features"] == words and "AUROC - at home" not in table
    with pytest.raises(EcgError, match="no scores at fraction"):
        report.result_table(scores, fraction=0.5)


def test_result_table_holds_the_drop_from_home_on_the_rows_of_the_others(predictions):
    tested = predictions[predictions["split"] != "val"]
    drops = report.external(predictions, names=("auroc",), n=30)
    table = report.result_table(report.scores(tested, n=30), None, drops).set_index(["cohort", "encoder"])
    row = drops.query("encoder == 'scratch' and fraction == 1 and label == 'macro'").iloc[0]
    words = f"{row['drop']:+.3f} ({row['drop_low']:+.3f} to {row['drop_high']:+.3f})"
    assert table.loc[("B", "scratch"), "AUROC - at home"] == words
    assert (table.loc["A", "AUROC - at home"] == "-").all() and not (table.loc["B", "AUROC - at home"] == "-").any()


def test_scores_and_differences_share_what_was_drawn(home):
    drawn = report.Replicates(n=40, seed=3)
    pd.testing.assert_frame_equal(report.scores(home, drawn=drawn), report.scores(home, n=40, seed=3))
    pd.testing.assert_frame_equal(report.differences(home, drawn=drawn), report.differences(home, n=40, seed=3))


def test_leaders_are_chosen_on_validation_alone(predictions):
    extra = predictions[predictions["encoder"] == "supervised"].assign(encoder="clef")
    y, chance = extra["truth"].to_numpy(), np.random.default_rng(0).random(len(extra))
    good, bad = np.clip(0.7 * y + 0.3 * chance, 0, 1), chance
    both = pd.concat([predictions, extra.assign(probability=np.where(extra["split"] == "val", good, bad))])
    assert report.leaders(both) == ["clef", "supervised"] and report.leaders(both, 1) == ["clef"]
    both = pd.concat([predictions, extra.assign(probability=np.where(extra["split"] == "val", bad, good))])
    assert report.leaders(both) == ["supervised", "clef"]


def test_the_predictions_of_a_task_are_found_by_its_name(home, tmp_path):
    for name, part in home.groupby("encoder"):
        (tmp_path / f"twelve-{name}").mkdir()
        part.to_parquet(tmp_path / f"twelve-{name}/predictions.parquet")
    assert set(report.of_task(tmp_path, "twelve")["encoder"]) == set(home["encoder"])
    assert set(report.of_task(tmp_path, "twelve", "random,scratch")["encoder"]) == {"random", "scratch"}
    with pytest.raises(EcgError, match="no predictions"):
        report.of_task(tmp_path, "single")
