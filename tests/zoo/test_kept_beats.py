"""A kept model that reads heartbeats is given the R peaks that it was fitted with."""

import re

import numpy as np
import pandas as pd
import pytest
from crude_corpus import FOLDER, crude_ecg

from ecglib import models
from ecglib.data import cohort, packing, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.pipeline.cli import main
from ecglib.zoo import fit, kept, predict

FS, N, OWN = 200, 36, ("I", "V5")


def quiet(line):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Recordings at twice the packed rate, noisy in the two leads that the encoder reads, so that peaks found in them
    differ from those of all leads; a model on a small beat transformer."""
    root = tmp_path_factory.mktemp("beats")
    (root / "raw").mkdir()
    rows, random = [], np.random.default_rng(3)
    for i in range(N):
        counts = crude_ecg(i, FS, 11) * (1 + i % 2)
        counts[[LEADS.index(lead) for lead in OWN]] += np.rint(random.normal(0, 350, (2, 11 * FS))).astype(int)
        wfdb_io.write(root / "raw", f"r{i}", counts, FS, LEADS, 1000)
        rows.append(dict(record=f"r{i}", patient=f"p{i // 2}", split=("train", "val", "test")[i // 2 % 3], tall=i % 2))
    pd.DataFrame(rows).to_csv(root / "raw/records.csv", index=False)
    cohort.pack("toy", FOLDER, root / "raw", root / "cohort", options={"labels": ["tall"]}, workers=1)
    encoder = models.build("beat_transformer", "small", len(OWN), dim=16, depth=1, hidden=16)
    facts = dict(leads=list(OWN), profile="study", cohorts=["elsewhere"], splits=[["pretrain"]])
    models.save(encoder, root / "encoder", objective={"objective": "heartlang"}, **facts)
    fit.run(root / "cohort", root / "model", fit.Settings(str(root / "encoder")), quiet)
    return root


def test_files_are_read_with_the_peaks_of_packing(place, tmp_path):
    model, packed = kept.load(place / "model"), cohort.open(place / "cohort")
    predict.run(model, [place / "raw"], tmp_path / "scores.parquet", progress=quiet, batch=5)
    table = pd.read_parquet(tmp_path / "scores.parquet").set_index("record").loc[packed.records.record_id]
    # the same inputs and the same peaks in other batches: rounding of float32 alone
    np.testing.assert_allclose(table["p: tall"], model.of_rows(packed, np.arange(N))[:, 0], atol=2e-6)


def test_rows_are_judged_with_the_packed_peaks(place):
    model, packed = kept.load(place / "model"), cohort.open(place / "cohort")
    x = packed.batch(np.arange(N), OWN)
    z = []
    for row, signal in enumerate(x):
        inputs = model.inputs(signal, signal.shape[-1])
        z.append(model.probabilities(inputs[None], packed.peaks(row).astype(np.int64)[None])[0, 0])
    np.testing.assert_allclose(model.of_rows(packed, np.arange(N))[:, 0], z, atol=2e-6)
    none = model.probabilities(np.stack([model.inputs(signal, signal.shape[-1]) for signal in x]))[:, 0]
    assert np.abs(none - z).max() > 1e-4  # those that are found in the two noisy leads are others


def test_an_explanation_reads_them_too(place, tmp_path, capsys):
    model, packed = kept.load(place / "model"), cohort.open(place / "cohort")
    row = list(packed.records.record_id).index("r3")
    plot = ["--statement", "tall", "--method", "gradient", "--plot", str(tmp_path / "map.svg")]
    assert main(["explain", str(place / "model"), str(place / "raw/r3"), *plot]) == 0
    said = re.search(r"probability (\d\.\d\d)", capsys.readouterr().out)[1]
    assert said == f"{model.of_rows(packed, [row])[0, 0]:.2f}"


def test_an_encoder_without_beats_costs_no_search_for_them(place, monkeypatch):
    encoder = models.build("net1d", "small", 2, widths=(8, 8, 16, 16), stem=8, group_width=4)
    facts = dict(leads=list(OWN), profile="study", cohorts=["elsewhere"], splits=[["pretrain"]])
    models.save(encoder, place / "plain", objective={"objective": "byol"}, **facts)
    fit.run(place / "cohort", place / "without", fit.Settings(str(place / "plain")), quiet)
    monkeypatch.setattr(packing.rpeaks, "r_peaks", lambda *a: pytest.fail("looked for R peaks"))
    recording = wfdb_io.read(place / "raw/r0")
    assert "beat_leads" not in kept.facts(place / "without")["signal"]
    ((_, facts),) = kept.load(place / "without").windows(recording)
    assert not len(facts["peaks"])
