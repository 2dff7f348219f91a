"""Figures of R peaks and beats show every number that they are given."""

import numpy as np
import pandas as pd
from plain_beats import judged, one_recording

from ecglib.reporting import beat_figures
from ecglib.rhythm import beat_scores


def test_the_worst_records_come_first_and_no_error_has_a_place():
    rows = [(f"r{k}", name, 100, k % 7, 0) for k in range(80) for name in ("a", "b")]
    table = pd.DataFrame(rows, columns=["record_id", "detector", "beats", "fn", "fp"])
    ax = beat_figures.errors_per_record(table)
    assert len(ax.get_xticklabels()) == beat_figures.MOST and "60 of 80" in ax.get_xlabel()
    first, second = (line.get_ydata()[np.argsort(line.get_xdata())] for line in ax.lines)
    assert len(first) == 60 and first.max() == 6 and (np.diff(first) <= 0).all() and (first == second).all()
    ax = beat_figures.errors_per_record(table[table.record_id.isin(["r0", "r1"])])
    assert ax.lines[0].get_ydata().min() == beat_figures.LEAST and "most errors first" in ax.get_xlabel()


def test_noise_has_an_interval_at_each_ratio():
    rows = [(name, snr, 0.9, 0.8, 0.95) for name in ("a", "b") for snr in (0, 6, 12)]
    table = pd.DataFrame(rows, columns=["detector", "snr_db", "sensitivity", "sensitivity_low", "sensitivity_high"])
    table = table.assign(ppv=0.8, ppv_low=0.7, ppv_high=0.9)
    figure = beat_figures.under_noise(table)
    assert [len(ax.containers) for ax in figure.axes] == [2, 2] and figure.axes[0].xaxis_inverted()
    line = figure.axes[1].containers[0].lines[0]
    assert np.allclose(line.get_ydata(), 80)


def test_matrices_hold_all_beats_and_leave_out_absent_classes():
    beats = judged()
    matrix = beat_scores.confusion(beats.aami, beats.called)
    figure = beat_figures.confusions({"one": matrix, "two": matrix})
    texts = [int(text.get_text().replace(",", "")) for text in figure.axes[0].texts]
    assert sum(texts) == len(beats) and len(texts) == 16  # Q does not occur


def test_the_leak_has_a_mark_per_class_and_split():
    table = beat_scores.per_class(judged(), n_resamples=20)
    figure = beat_figures.leak({"random": table, "patients": table})
    assert [len(ax.containers) for ax in figure.axes] == [2, 2]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list("NSVF")
    point = figure.axes[0].containers[0].lines[0].get_ydata()
    assert np.allclose(point, 100 * table.set_index("class").loc[list("NSVF"), "sensitivity"])


def test_a_strip_names_every_beat_in_it():
    signal = np.random.default_rng(0).normal(size=(1, 3600)).astype(np.float32)
    one = one_recording(3600, 360.0, (300, 700, 1100, 1500, 2900), "NVANN", signal=signal)
    figure = beat_figures.strips({"S": (one, 2), "V": (one, 1)})
    assert [text.get_text() for text in figure.axes[0].texts] == ["N", "V", "S", "N"]
    assert [text.get_fontweight() for text in figure.axes[0].texts].count("bold") == 1
