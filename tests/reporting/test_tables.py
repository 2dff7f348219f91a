"""Tables from predictions: against plain recomputation, and the contracts that they keep."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, log_loss, recall_score, roc_auc_score

from ecglib import EcgError
from ecglib.evaluation import bootstrap, metrics
from ecglib.evaluation.predictions import OUT_OF_FOLD, load, of_task
from ecglib.reporting import tables as report
from ecglib.reporting.tables import (
    Replicates,
    calibration,
    contract,
    differences,
    external,
    leaders,
    main_differences,
    result_table,
)

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
    whole = load(tmp_path)
    assert len(whole) == len(home) and list(whole.columns) == [*load(tmp_path / "one").columns]
    files = [tmp_path / name / "predictions.parquet" for name in ("two", "one")]
    pd.testing.assert_frame_equal(load(files), whole)
    assert len(load(files[0])) == len(parts["two"])
    with pytest.raises(EcgError, match="predicted twice"):
        load([files[0], files[0]])
    with pytest.raises(EcgError, match="no predictions.parquet"):
        load([])
    with pytest.raises(EcgError, match="no such file"):
        load(tmp_path / "three")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("probability", 1.2, "outside 0..1"),
        ("probability", np.nan, "outside 0..1"),
        ("truth", 3, "outside -1..2"),
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
        load(tmp_path)
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
    for function in (report.scores, differences, contract):
        with pytest.raises(EcgError, match="than the first model"):
            function(pd.concat([ours, other]))
    ragged = ours.drop(ours[(ours["record_id"] == ours["record_id"].iloc[0]) & (ours["label"] == "NORM")].index)
    with pytest.raises(EcgError, match="lacks a label"):
        contract(ragged)


def test_contract_names_labels_without_a_class(home):
    blank = home.assign(truth=np.where(home["label"] == "CLBBB", 0, home["truth"]))
    row = contract(blank).iloc[0]
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
        values.append(bootstrap.bootstrap(y, p, patients, n=200).replicates)
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


def weighted_auroc(y, p, weights):
    """Macro AUROC of a resample by scikit-learn, over the labels that kept both classes."""
    drawn = weights > 0
    both = (y[drawn].min(0) == 0) & (y[drawn].max(0) == 1)
    return roc_auc_score(y[drawn][:, both], p[drawn][:, both], sample_weight=weights[drawn])


def test_differences_are_paired_and_adjusted(home):
    table = differences(home, n=200)
    assert len(table) == 2 * 3 and set(table["encoder"]) == {"supervised"}
    row = table.query("fraction == 1 and reference == 'random'").iloc[0]
    gaps, points = [], []
    for seed in (0, 1):
        y, p, patients = matrices(home, "supervised", seed=seed)
        rival = matrices(home, "random", seed=seed)[1]
        points.append(roc_auc_score(y, p) - roc_auc_score(y, rival))
        weights = np.concatenate([w for _, w in bootstrap.resamples(len(y), patients, n=200)], axis=1).T
        gaps.append([weighted_auroc(y, p, w) - weighted_auroc(y, rival, w) for w in weights])
    gaps = np.mean(gaps, axis=0)
    assert row["point"] == pytest.approx(np.mean(points)) and row["reference_mode"] == "linear"
    assert row["low"] == pytest.approx(np.quantile(gaps, 0.025)) and row["low"] > 0
    assert row["p"] == pytest.approx(2 * (min((gaps <= 0).sum(), (gaps >= 0).sum()) + 1) / 201)
    np.testing.assert_allclose(table["p_holm"], table["p"])  # one method: no comparison to correct for
    weaker = home[home["encoder"] == "supervised"].assign(encoder="clef")
    weaker["probability"] = (weaker["probability"] + np.random.default_rng(0).random(len(weaker))) / 2
    both = differences(pd.concat([home, weaker]), n=200)
    assert set(both["encoder"]) == {"supervised", "clef"}
    for _, family in both.groupby(["cohort", "split", "fraction", "reference"]):
        assert len(family) == 2
        np.testing.assert_allclose(family["p_holm"], bootstrap.holm(family["p"].to_numpy()))
    partial = home[(home["encoder"] != "scratch") | (home["fraction"] == 1)]
    gap = differences(partial, n=20).query("reference == 'scratch'")
    assert gap["point"].isna().tolist() == [True, False]
    with pytest.raises(EcgError, match="none of"):
        differences(home, references=("nothing",), n=20)


def test_external_keeps_the_thresholds_of_validation(predictions, home):
    table = external(predictions, n=100)
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
        external(home, n=10)
    with pytest.raises(EcgError, match="not the same runs"):
        external(predictions[(predictions["split"] != "val") | (predictions["seed"] == 0)], n=10)


def test_a_label_without_a_class_on_validation_has_no_operating_point(predictions):
    blank = (predictions["split"] == "val") & (predictions["label"] == "CLBBB")
    table = external(predictions.assign(truth=predictions["truth"].mask(blank, 0)), n=20)
    rows = table[table["label"] == "CLBBB"].set_index("metric")
    assert rows.loc["sensitivity", "external"].isna().all() and rows.loc["auroc", "external"].notna().all()


def test_calibration_counts_patients_as_trials(home):
    curve = calibration(home, ["NORM"])
    row = curve.query("encoder == 'supervised' and fraction == 1 and bin == 5").iloc[0]
    rows = home.query("encoder == 'supervised' and fraction == 1 and label == 'NORM'")
    rows = rows[(rows["probability"] > 0.5) & (rows["probability"] <= 0.6)]
    assert row["frequency"] == pytest.approx(rows["truth"].mean()) and row["n"] == len(rows)
    trials = rows["patient_id"].nunique()
    assert (row["low"], row["high"]) == pytest.approx(metrics.wilson(row["frequency"] * trials, trials))
    assert set(calibration(home)["label"]) == {"all"}
    with pytest.raises(EcgError, match="no such labels"):
        calibration(home, ["XYZ"])
    assert report.scores(home, ("ece", "brier"), n=20)["point"].between(0, 1).all()


def test_result_table_holds_the_four_columns(home):
    scores, gaps = report.scores(home, n=50), differences(home, n=50)
    table = result_table(scores, gaps)
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
        result_table(scores, fraction=0.5)


def test_scores_and_differences_share_what_was_drawn(home):
    drawn = Replicates(n=40, seed=3)
    pd.testing.assert_frame_equal(report.scores(home, drawn=drawn), report.scores(home, n=40, seed=3))
    pd.testing.assert_frame_equal(differences(home, drawn=drawn), differences(home, n=40, seed=3))


def test_leaders_are_chosen_on_validation_alone(predictions):
    extra = predictions[predictions["encoder"] == "supervised"].assign(encoder="clef")
    y, chance = extra["truth"].to_numpy(), np.random.default_rng(0).random(len(extra))
    good, bad = np.clip(0.7 * y + 0.3 * chance, 0, 1), chance
    both = pd.concat([predictions, extra.assign(probability=np.where(extra["split"] == "val", good, bad))])
    assert leaders(both) == ["clef", "supervised"] and leaders(both, 1) == ["clef"]
    both = pd.concat([predictions, extra.assign(probability=np.where(extra["split"] == "val", bad, good))])
    assert leaders(both) == ["supervised", "clef"]


def test_the_predictions_of_a_task_are_found_by_its_name(home, tmp_path):
    for name, part in home.groupby("encoder"):
        (tmp_path / f"twelve-{name}").mkdir()
        part.to_parquet(tmp_path / f"twelve-{name}/predictions.parquet")
    assert set(of_task(tmp_path, "twelve")["encoder"]) == set(home["encoder"])
    assert set(of_task(tmp_path, "twelve", ["random", "scratch"])["encoder"]) == {"random", "scratch"}
    with pytest.raises(EcgError, match="unknown task 'single' -> use one of twelve"):
        of_task(tmp_path, "single")


def test_each_encoder_is_compared_with_its_own_network_before_pretraining(home):
    """Two random networks: the difference is that to the one which is named, and is shown with what was learned."""
    other = home[home["encoder"] == "random"].assign(encoder="random:vit1d")
    other["probability"] = 1 - other["probability"]
    ours = home[home["encoder"] == "supervised"].assign(untrained="random:vit1d", trained="no: error 0.9, wanted < 0.8")
    table = pd.concat([home[home["encoder"] != "supervised"], other, ours]).fillna({"untrained": "", "trained": ""})
    gaps = differences(table, n=50)
    assert set(gaps["encoder"]) == {"supervised"}, "an untrained network is a reference, no method of its own"
    twins = gaps[gaps["reference"] == report.UNTRAINED]
    assert set(twins["reference_mode"]) == {"random:vit1d"} and len(twins) == 2
    points = []
    for seed in (0, 1):
        y, p, _ = matrices(table, "supervised", seed=seed)
        points.append(roc_auc_score(y, p) - roc_auc_score(y, matrices(table, "random:vit1d", seed=seed)[1]))
    assert twins.query("fraction == 1")["point"].item() == pytest.approx(np.mean(points))
    lines = result_table(report.scores(table, n=50), gaps).set_index("encoder")
    assert lines.loc["supervised", "trained?"] == "no: error 0.9, wanted < 0.8"
    assert lines.loc["supervised", "AUROC - untrained"].startswith(f"{np.mean(points):+.3f}")
    assert lines.loc["random", "trained?"] == lines.loc["random", "AUROC - untrained"] == "-"


def test_the_upper_line_is_the_mean_of_logits_with_the_best_network_on_validation(predictions):
    one = predictions[(predictions["encoder"] != "features") | (predictions["seed"] == 0)]
    table = report.with_upper_line(one)
    made = table[table["encoder"] == "features+supervised"]
    assert set(made["mode"]) == {"mean of logits"} and set(made["cohort"]) == {"A", "B"}
    assert len(made) == len(one[one["encoder"] == "supervised"])
    for seed in (0, 1):
        runs = (("supervised", seed), ("features", 0), ("features+supervised", seed))
        first, second, both = (matrices(table[table["cohort"] == "B"], name, seed=s)[1] for name, s in runs)
        expected = 1 / (1 + np.exp(-(np.log(first / (1 - first)) + np.log(second / (1 - second))) / 2))
        np.testing.assert_allclose(both, expected, rtol=1e-5)
    assert len(table) == len(one) + len(made) and leaders(table) == leaders(one)
    better = one[one["split"] != "test"].copy()
    chosen = (better["encoder"] == "scratch") & (better["split"] == "val")
    better.loc[chosen, "probability"] = np.where(better.loc[chosen, "truth"] == 1, 0.99, 0.01).astype(np.float32)
    assert "features+scratch" in set(report.with_upper_line(better)["encoder"])
    once = better[(better["encoder"] != "scratch") | (better["fraction"] < 1)]  # scratch was not run with all labels
    assert "features+scratch" not in set(report.with_upper_line(once)["encoder"])
    alone = one[one["encoder"] != "features"]
    pd.testing.assert_frame_equal(report.with_upper_line(alone), report.compared(alone))


def test_weights_of_the_upper_line_come_from_other_patients_out_of_fold(predictions):
    """Oracle: scikit-learn's log-loss of each label at every weight, on the records that do the choosing."""
    inside = place("A", OUT_OF_FOLD, 150)
    both = pd.concat([predictions[predictions["cohort"] == "A"], inside], ignore_index=True)
    both = both[(both["seed"] == 0) & (both["fraction"] == 1)].copy()
    features, random = both["encoder"] == "features", np.random.default_rng(3)
    said = 2.0 * (both.loc[features, "truth"] == 1) + random.normal(size=features.sum()) - 2  # errors of its own
    both.loc[features, "probability"] = expit(said).astype(np.float32)
    table = report.with_upper_line(both)
    network = next(name for name in table["encoder"].unique() if name.startswith("features+")).partition("+")[2]
    weighted = table[table["mode"] == "weighted mean of logits"]
    assert set(weighted["split"]) == {"val", "test", OUT_OF_FOLD}
    assert set(weighted["encoder"]) == {f"features+{network}"}

    def chosen(y, first, second):
        mixed = {w: expit((1 - w) * logit(first) + w * logit(second)) for w in np.arange(21) / 20}
        losses = {
            w: np.mean([log_loss(y[y[:, k] >= 0, k] == 1, p[y[:, k] >= 0, k]) for k in range(y.shape[1])])
            for w, p in mixed.items()
        }
        return mixed[best := min(losses, key=losses.get)], best

    def of(split, table=both, names=("features", network)):
        parts = [matrices(table[table["split"] == split], name) for name in names]
        y = np.where(np.isin(parts[0][0], (0, 1)), parts[0][0], -1)
        return y, parts[0][2], *(np.clip(part[1].astype(float), 1e-7, 1 - 1e-7) for part in parts)

    y, patients, first, second = of(OUT_OF_FOLD)
    _, weight = chosen(y, first, second)
    assert 0 < weight < 1, "a case that could not go wrong"
    found = of("test", weighted, (f"features+{network}",))[2]
    _, _, first_test, second_test = of("test")
    np.testing.assert_allclose(found, expit((1 - weight) * logit(first_test) + weight * logit(second_test)), rtol=1e-5)
    found, half = of(OUT_OF_FOLD, weighted, (f"features+{network}",))[2], np.unique(patients, return_inverse=True)[1]
    half = half % 2
    for side in (0, 1):
        mine, other = half == side, half != side
        _, weight = chosen(y[other], first[other], second[other])
        expected = expit((1 - weight) * logit(first[mine]) + weight * logit(second[mine]))
        np.testing.assert_allclose(found[mine], expected, rtol=1e-5)


def test_baselines_alone_are_compared_among_themselves_whatever_other_untrained_networks_there_are(home):
    alone = home[home.encoder.isin(["random", "scratch"])]
    more = pd.concat([alone, alone[alone.encoder == "random"].assign(encoder="random:vit1d")], ignore_index=True)
    pairs = [set(map(tuple, differences(part, n=10)[["encoder", "reference"]].to_numpy())) for part in (alone, more)]
    assert pairs[0] == pairs[1] == {("scratch", "random")}
    other = pd.concat([alone, alone[alone.encoder == "scratch"].assign(encoder="scratch:imle_net")], ignore_index=True)
    gaps = differences(other, n=10)
    found = set(map(tuple, gaps[["encoder", "reference"]].to_numpy()))
    assert found == {("scratch", "random"), ("scratch:imle_net", "random"), ("scratch:imle_net", "scratch")}
    main = main_differences(gaps)  # the question is what pretraining brings
    assert set(main.reference[main.encoder == "scratch:imle_net"]) == {"scratch"}
