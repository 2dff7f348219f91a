"""The audit against plain counts, one prevalence everywhere, and the test split left out of what looks at signals."""

import numpy as np
import pytest
from memory_cohort import MemoryCohort

from ecglib import EcgError
from ecglib.data import labels
from ecglib.reporting import cohort_figures, cohorts


@pytest.fixture()
def home():
    cohort = MemoryCohort(24)
    cohort.labels["NORM"] = np.array([2, -1, 2, 0, *cohort.labels["NORM"].iloc[4:]], np.int8)
    cohort.labels["NOBODY"] = np.int8(labels.UNKNOWN)
    return cohort


def test_statements_and_the_figure_show_the_same_prevalence(home):
    table = cohorts.statements({"A": home}).set_index("label")
    state = home.labels["NORM"]
    present, absent = int((state == 1).sum()), int((state == 0).sum())
    assert table.loc["NORM"].to_dict() == {
        "cohort": "A",
        "positives": present,
        "known": present + absent,
        "prevalence": present / (present + absent),
        "possible": 2,
        "unknown": 1,
    }
    assert "NOBODY" not in table.index and set(table.index) == {"NORM", "AFIB", "CLBBB"}
    ax = cohort_figures.prevalence({"A": home.labels[["NORM", "AFIB", "CLBBB"]]}, ["NORM", "AFIB", "CLBBB"])
    drawn = ax.containers[0][0].get_xdata()
    np.testing.assert_allclose(drawn, 100 * table.prevalence[["NORM", "AFIB", "CLBBB"]])


def test_tables_of_signals_do_not_touch_the_test_split(home):
    closed = np.flatnonzero(home.records.split == "test")
    before = cohorts.spectra({"A": home}), cohorts.signal_quality({"A": home}), cohorts.examples(home, ["AFIB"])
    home.signals = home.signals.copy()
    home.signals[closed] = np.nan
    home.labels.iloc[closed] = np.int8(labels.UNKNOWN)
    for one, other in zip(before, (cohorts.spectra({"A": home}), cohorts.signal_quality({"A": home})), strict=False):
        assert one.equals(other)
    assert cohorts.examples(home, ["AFIB"]) == before[2] and before[2]["AFIB"] not in closed
    home.records["split"] = "external"  # another hospital: its signals are described, but no example is shown
    assert cohorts.examples(home, ["AFIB"]) == {}
    with pytest.raises(EcgError, match="did you mean 'AFIB'"):
        cohorts.examples(home, ["AFBI"])
    home.records["split"] = "test"
    for table in (cohorts.spectra, cohorts.signal_quality):
        with pytest.raises(EcgError, match="no row of A outside the split test"):
            table({"A": home})


def test_external_cohorts_are_described(home):
    home.records["split"] = "external"
    assert np.isfinite(cohorts.spectra({"B": home}).db).all() and "B" in cohorts.signal_quality({"B": home})
