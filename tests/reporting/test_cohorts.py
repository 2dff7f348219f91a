"""The audit against plain counts, one prevalence everywhere, and the test split left out of what looks at signals."""

import json
from pathlib import Path

import numpy as np
import pytest
from crude_corpus import corpus, pack
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


def test_corpora_whose_records_have_one_or_two_leads_are_drawn_and_described(home):
    """As in MIT-BIH: no record has all leads of the corpus, and none has lead I."""
    for half, leads in ((0, [1, 6]), (1, [1, 10])):
        home.mask[half::2] = False
        home.mask[np.arange(half, len(home), 2)[:, None], leads] = True
    home.signals, home.mask, home.leads = home.signals[:, 1:], home.mask[:, 1:], home.leads[1:]
    assert set(cohorts.spectra({"A": home}).cohort) == {"A (lead II)"}
    drawn = cohorts.examples(home, ["NORM", "AFIB"])
    assert set(drawn) == {"NORM", "AFIB"} and (home.lead_mask(list(drawn.values())).sum(axis=1) == 2).all()
    contract = cohorts.signal_contract({"A": home})["A"]
    assert contract["III = II - I, error (95th)"] == "cannot be told" and contract["windows looked at"] != "0"
    one = drawn["AFIB"]
    home.mask[one, 2] = True  # where one has more leads than the others, it is the one to show
    assert cohorts.examples(home, ["NORM", "AFIB"]) == {"AFIB": one}


def test_a_gallery_of_the_most_frequent_statements_where_the_labels_of_cohorts_differ(tmp_path):
    """The cells of notebook 01 on two cohorts, the second of which states what the first does not, and more often."""
    for name, labels_of in (("here", ["A"]), ("there", ["B"])):
        raw = corpus(tmp_path / f"raw/{name}", n=12, fs=100)
        pack(raw, tmp_path / f"cohorts/{name}", options={"labels": labels_of})
    path = Path(__file__).resolve().parents[2] / "notebooks/01_data_exploration.ipynb"
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]}
    given = {"cohorts_dir": str(tmp_path / "cohorts"), "cohorts": ["here", "there"], "gallery": [], "min_positives": 2}
    given["out_dir"] = str(tmp_path / "out")
    names = {}
    exec(cells["cell-01"] + "\n" + cells["cell-03"], names)
    names |= given
    exec("\n".join(cells[f"cell-{number}"] for number in ("04", "18", "22")), names)
    assert list(names["picked"]) == ["A"] and (tmp_path / "out/ecg_A.png").exists()
    assert list(names["shown"]) == ["B", "A"]
