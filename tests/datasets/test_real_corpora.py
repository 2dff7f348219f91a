"""Every corpus with real samples: read, packed as the study on real recordings packs it, labelled, checked, plotted."""

from functools import wraps
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml

from ecglib import datasets
from ecglib.data import cohort, labels
from ecglib.reporting import cohorts, ecg_paper, one_ecg

ROOT = Path(__file__).resolve().parents[2]
REAL = yaml.safe_load((ROOT / "real/params.yaml").read_text())["real"]
SETTINGS = yaml.safe_load((ROOT / "params.yaml").read_text())["pack"]
WITHOUT_SIGNALS = {"afdb", "ltafdb", "nsrdb"}  # beats and rhythms alone: notebook 13 reads them
NO_CORPUS = {"formats"}  # files of devices


def test_the_study_on_real_recordings_reads_every_folder_that_has_signals(real_data):
    there = {path.name for path in real_data.iterdir() if path.is_dir()}
    read = {corpus["folder"] for corpus in REAL["corpora"].values()}
    assert there - WITHOUT_SIGNALS - NO_CORPUS <= read
    assert {corpus["dataset"] for corpus in REAL["corpora"].values()} <= set(datasets.names())
    assert set(REAL["explore_corpus"]["corpora"]) <= set(REAL["corpora"])


@pytest.mark.parametrize("name", sorted(REAL["corpora"]))
def test_real_samples_are_read_packed_labelled_and_plotted(name, real_data, tmp_path, monkeypatch):
    corpus = REAL["corpora"][name]
    dataset = datasets.get(corpus["dataset"])
    whole, all_states = dataset.records, dataset.labels

    @wraps(whole)
    def few(root, **options):
        """The first three records outside of the test split of which something is stated."""
        found = whole(root, **options)
        found = found[found.split != "test"].reset_index(drop=True)
        stated = (all_states(root, found, **options) == labels.PRESENT).any(axis=1).to_numpy()
        return found[stated].head(3).reset_index(drop=True)

    def states(root, records, **options):
        """What is stated of these records: a label that none of them has is refused by the packing."""
        found = all_states(root, records, **options)
        return found.loc[:, (found == labels.PRESENT).any()]

    monkeypatch.setattr(dataset, "records", few)
    monkeypatch.setattr(dataset, "labels", states)
    settings = SETTINGS | REAL["pack"][name] | {"workers": 1, "labels": None}
    packed = cohort.pack(name, dataset, real_data / corpus["folder"], tmp_path / name, **settings)
    assert 1 <= len(packed) <= 3 and packed.lead_mask(np.arange(len(packed))).any(axis=1).all()
    assert (packed.labels == labels.PRESENT).any(axis=1).all()
    contract = cohorts.signal_contract({name: packed})[name]
    assert contract["windows looked at"] == str(len(packed)) and contract.notna().all()
    assert np.isfinite(cohorts.spectra({name: packed}).db).all()
    signal, mask = packed.batch([0])[0], packed.lead_mask([0])[0]
    assert np.isfinite(signal).all() and np.ptp(signal[mask], axis=1).min() > 0
    ax = ecg_paper.ecg_paper(signal, packed.fs, packed.leads, lead_mask=mask, title=one_ecg.heading(packed, 0))
    shown = " ".join(text.get_text() for text in ax.texts).split()
    assert {lead for lead, there in zip(packed.leads, mask, strict=True) if there} <= set(shown)
    ax.figure.savefig(tmp_path / "sheet.png")
    plt.close(ax.figure)
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
