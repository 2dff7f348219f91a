"""Test sets of PTB-XL that are published under one name: their sizes, rules and versions, and that they never mix."""

import ast
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ecglib import EcgError
from ecglib.data import cohort, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.datasets import ptbxl

REAL = Path(os.environ.get("ECGLIB_REAL_DATA", "/nowhere"), "ptb-xl")
FOLDS = {"1.0.3": (17418, 2183, 2198, 40), "1.0.1": (17441, 2193, 2203, 40)}  # 1-8, 9, 10; silent ones of fold 10
SUPER = {"NORM": "NORM", "IMI": "MI", "NDT": "STTC", "LAFB": "CD", "LVH": "HYP"}


def metadata(root, version, rows=None):
    """The table of a whole PTB-XL with invented statements; rows: only the last ones."""
    train, val, test, silent = FOLDS[version]
    folds = np.repeat([1, 9, 10], [train, val, test])
    statements, percents = [*SUPER, "AFIB"], (0.0, 15.0, 35.0, 50.0, 80.0, 100.0)
    codes = [
        {statements[i % 5]: percents[i % 6]} | ({statements[i % 3]: 35.0} if i % 2 else {}) for i in range(len(folds))
    ]
    codes = codes[:-silent] + [{"SR": 0.0}] * silent
    table = pd.DataFrame({"ecg_id": np.arange(1, len(folds) + 1), "patient_id": np.arange(1.0, len(folds) + 1)})
    table = table.assign(age=50, sex=0, report="", scp_codes=[str(c) for c in codes], strat_fold=folds)
    table["filename_lr"] = [f"records100/{i:05d}_lr" for i in table.ecg_id]
    table["filename_hr"] = [f"records500/{i:05d}_hr" for i in table.ecg_id]
    root.mkdir(parents=True, exist_ok=True)
    table.iloc[-(rows or len(table)) :].to_csv(root / "ptbxl_database.csv", index=False)
    return table.assign(codes=codes)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """{version: (folder, test records as `records` lists them, table)} of both versions as a whole."""
    folders = {version: tmp_path_factory.mktemp("ptb-xl") for version in FOLDS}
    tables = {version: metadata(folder, version) for version, folder in folders.items()}
    tests = {
        v: pd.DataFrame({"record_id": [f"{i:05d}" for i in t.ecg_id[t.strat_fold == 10]]}) for v, t in tables.items()
    }
    return {version: (folders[version], tests[version], tables[version]) for version in FOLDS}


@pytest.mark.parametrize("label_set", ["super-2203", "super-2198", "super-2158"])
def test_a_test_set_has_the_size_in_its_name_by_its_rule(corpora, label_set):
    folder, records, table = corpora["1.0.1" if label_set == "super-2203" else "1.0.3"]
    states = ptbxl.labels(folder, records, label_set=label_set)
    scored = (states != -1).all(axis=1)
    assert scored.sum() == int(label_set[-4:]) and set(np.unique(states[~scored])) <= {-1}
    codes = table.codes[table.strat_fold == 10]
    listed = [[name in {SUPER.get(s) for s in c} for name in states] for c in codes]
    assert (states[scored].to_numpy() == np.array(listed)[scored]).all()
    stated = states.attrs["label_set"]
    assert stated["name"] == label_set and stated["likelihood"] == "published"
    assert stated["records_without_a_label"] == ("left out" if label_set == "super-2158" else "negative")


def test_certain_leaves_out_the_doubtful_positives_that_the_published_rule_counts(corpora):
    folder, records, table = corpora["1.0.3"]
    published, certain = (ptbxl.labels(folder, records, likelihood=rule) for rule in ("published", "certain"))
    codes = table.codes[table.strat_fold == 10]
    for name, statement in (("MI", "IMI"), ("HYP", "LVH")):
        percent = np.array([c.get(statement, -1) for c in codes])
        assert ((published[name] == 1) == (percent >= 0)).all()
        assert ((certain[name] == 2) == ((percent > 0) & (percent < 50))).all() and (certain[name] == 2).sum() > 50
    assert (published[["NORM", "STTC", "CD"]] == certain[["NORM", "STTC", "CD"]]).all(axis=None)
    assert [s.attrs["label_set"]["likelihood"] for s in (published, certain)] == ["published", "certain"]


@pytest.mark.parametrize(
    ("version", "label_set", "right"),
    [
        ("1.0.1", "super-2198", "super-2203"),
        ("1.0.1", "super-2158", "super-2203"),
        ("1.0.3", "super-2203", "super-2198 or super-2158"),
    ],
)
def test_a_test_set_of_another_version_is_refused_with_the_right_one(corpora, version, label_set, right):
    with pytest.raises(EcgError, match=f"version {version}.*use {right}") as caught:
        ptbxl.records(corpora[version][0], label_set=label_set)
    assert caught.value.field == "label_set" and "ptbxl_database.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "label_set", "name", "rule"),
    [
        ("1.0.3", "super", "super-2158", "left out"),
        ("1.0.1", "super", "super", "left out"),
        ("1.0.1", "all", "all", "negative"),
        ("1.0.3", "rhythm", "rhythm", "left out"),
        ("1.0.3", "harmonised", "harmonised", "label by label"),
    ],
)
def test_other_label_sets_state_the_version_that_is_there(corpora, version, label_set, name, rule):
    folder, records, _ = corpora[version]
    stated = ptbxl.labels(folder, records[:50], label_set=label_set).attrs["label_set"]
    assert (stated["name"], stated["version"], stated["records_without_a_label"]) == (name, version, rule)
    assert stated["likelihood"] == ("certain" if label_set == "harmonised" else "published")


@pytest.mark.parametrize("options", [{}, {"likelihood": "certain"}, {"label_set": "super-2198"}, {"label_set": "all"}])
def test_a_packed_cohort_says_by_which_rules_it_is_labelled(tmp_path, options):
    table = metadata(tmp_path / "in", "1.0.3", rows=80)
    rng = np.random.default_rng(0)
    for file in table.filename_lr[-80:]:
        counts = np.cumsum(rng.normal(0, 20, (12, 1000)), axis=1).astype(int)
        folder = (tmp_path / "in" / file).parent
        folder.mkdir(exist_ok=True)
        wfdb_io.write(folder, Path(file).name, counts - counts.mean(1, keepdims=True).astype(int), 100, LEADS, 1000)
    labels = ["NORM", "MI"] if "all" not in options.values() else ["NORM", "IMI"]
    packed = cohort.pack("p", ptbxl, tmp_path / "in", tmp_path / "out", options=options, labels=labels, workers=1)
    stated = packed.info["label_set"]
    assert stated["likelihood"] == options.get("likelihood", "published")
    assert stated["name"] == options.get("label_set", "super-2158") and stated["version"] == "1.0.3"
    metadata_of_table = pq.read_schema(tmp_path / "out/labels.parquet").metadata
    name = f"{stated['name']} 1.0.3, likelihood {stated['likelihood']}"
    assert metadata_of_table[b"label_set"].decode() == name
    assert (packed.labels.iloc[:, 1] == 2).any() == (stated["likelihood"] == "certain")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the corpus (ECGLIB_REAL_DATA)")
def test_real_records_have_the_labels_that_an_independent_count_gives():
    table = pd.read_csv(REAL / "ptbxl_database.csv")
    facts = pd.read_csv(REAL / "scp_statements.csv", index_col=0)
    classes = facts.diagnostic_class[facts.diagnostic == 1]
    codes = [ast.literal_eval(cell) for cell in table.scp_codes]
    records = ptbxl.records(REAL)
    listed = np.array(
        [[c in {classes.get(s) for s in made} for c in ("NORM", "MI", "STTC", "CD", "HYP")] for made in codes]
    )
    silent = ~listed.any(axis=1)
    assert silent.sum() > 20 and listed[:, 1].sum() > 500
    for label_set, empty in (("super-2203", 0), ("super-2198", 0), ("super-2158", -1)):
        states = ptbxl.labels(REAL, records, label_set=label_set).to_numpy()
        assert (states == np.where(silent[:, None], empty, listed)).all()
    certain = ptbxl.labels(REAL, records, likelihood="certain").MI
    assert (certain == 2).sum() > 0.2 * listed[:, 1].sum()
