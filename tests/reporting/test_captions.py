"""Captions say the numbers of the tables that are drawn."""

import pandas as pd
from test_figures import curve_table, difference_table, external_table, score_table

from ecglib.reporting import captions


def test_scores_are_quoted_with_interval_and_counts():
    rows = score_table().assign(n_records=40, n_patients=30, n_labels=3)
    about = captions.counted(rows)
    assert about == "A (40 records of 30 patients, 3 labels)"
    text = captions.comparison(rows, about)
    at = rows.query("encoder == 'supervised' and fraction == 0.1").iloc[0]
    best = rows.query("encoder == 'features' and fraction == 0.1").iloc[0]
    for row in (at, best):
        assert f"{row.encoder} {row.point:.3f} ({row.low:.3f} to {row.high:.3f})" in text
    text = captions.label_efficiency(rows, about)
    last = rows.query("encoder == 'random' and fraction == 1").iloc[0]
    assert f"random from 0.660 at 1 % to {last.point:.3f} ({last.low:.3f} to {last.high:.3f})" in text


def test_differences_are_counted_by_the_adjusted_p():
    rows = pd.concat([difference_table(), difference_table().assign(encoder="clef", point=-0.2, low=-0.3, high=-0.1)])
    text = captions.differences(rows, "here")
    assert "Of 2 methods 1 are above random and 1 below; highest supervised, +0.100 (+0.080 to +0.120)" in text
    assert "Of 2 methods 0 are above features and 0 below" in text  # their p is 0.4


def test_the_forest_names_the_mean_and_the_statement_that_loses_most():
    rows = external_table().assign(n_records_internal=50, n_records_external=60)
    rows["drop"] = [-0.05, -0.02, -0.08, float("nan")]
    rows["drop_low"], rows["drop_high"] = rows["drop"] - 0.01, rows["drop"] + 0.01
    text = captions.forest(rows, "task t", "A")
    assert "A against B. Mean of 2: 0.900 (0.860 to 0.920) at home" in text
    assert "change -0.050 (-0.060 to -0.040); the most is lost by NORM, normal ECG, -0.080 (-0.090 to -0.070)" in text
    assert "50 records at home, 60 in B" in text


def test_calibration_counts_predictions():
    curves = pd.concat([curve_table(), curve_table().assign(cohort="B")]).assign(n=[1000, 20, 3] * 2)
    assert "Predictions per method: 1,023 in A, 1,023 in B" in captions.calibration(curves, "t")
