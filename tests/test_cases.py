"""Situations of real users that once lost something, or gave a wrong number without a word: right now, or refused.

Where both a right value and a refusal are sensible, either will do; a wrong value never does.
"""

import os

import numpy as np
import pytest
import torch
from crude_corpus import crude_ecg, pack

from ecglib import EcgError, datasets, zoo
from ecglib.data import wfdb_io
from ecglib.data.recording import LEADS
from ecglib.evaluation import bootstrap, metrics
from ecglib.pipeline import schedule
from ecglib.zoo import dummy
from ecglib.zoo.card import released

FOLDER = datasets.get("folder")


def beats(fs, seconds, leads=1):
    """Crude beats in microvolt, int16 (lead, time)."""
    return crude_ecg(0, fs=fs, seconds=seconds, n_leads=leads).astype("<i2")


# Several samples per frame: the ECG beside a slower channel.
@pytest.mark.parametrize(("frame", "per"), [(62.5, 4), (1.0, 128), (0.976562, 256), (125.0, 2)])
def test_an_ecg_with_several_samples_per_frame_keeps_its_rate_and_its_peaks(tmp_path, frame, per):
    x = beats(frame * per, 40)[0]
    n = len(x) // per
    frames = np.zeros((n, per + 1), "<i2")
    frames[:, :per] = x[: n * per].reshape(n, per)
    (tmp_path / "m.dat").write_bytes(frames.tobytes())
    lines = [f"m 2 {frame:g} {n}", f"m.dat 16x{per} 1000(0)/mV 16 0 0 0 0 II", "m.dat 16 100(0)/Ohm 16 0 0 0 0 Resp"]
    (tmp_path / "m.hea").write_text("\n".join(lines) + "\n")
    recording = wfdb_io.read(tmp_path / "m")
    assert recording.fs == pytest.approx(frame * per) and recording.leads == ("II",)
    np.testing.assert_allclose(recording.signal[0], x[: n * per] / 1000, atol=1e-6)


def test_ecg_channels_of_unlike_rates_are_refused(tmp_path):
    frames = np.zeros((500, 5), "<i2")
    frames[:, :4] = beats(500, 4)[0].reshape(500, 4)
    frames[:, 4] = beats(125, 4)[0]
    (tmp_path / "m.dat").write_bytes(frames.tobytes())
    lines = ["m 2 125 500", "m.dat 16x4 1000(0)/mV 16 0 0 0 0 I", "m.dat 16 1000(0)/mV 16 0 0 0 0 II"]
    (tmp_path / "m.hea").write_text("\n".join(lines) + "\n")
    with pytest.raises(EcgError):
        wfdb_io.read(tmp_path / "m")


# Patients across splits.
@pytest.mark.parametrize("name", ["patient_id", "Patient", "subject_id", "PatientID", "patient"])
def test_records_of_one_patient_are_never_in_two_splits(tmp_path, name):
    for i in range(24):
        wfdb_io.write(tmp_path, f"r{i}", crude_ecg(i), 200, LEADS, 1000)
    rows = "".join(f"r{i},P{i // 4},{(i // 4) % 2}\n" for i in range(24))
    (tmp_path / "records.csv").write_text(f"record,{name},NORM\n{rows}")
    try:
        cohort = pack(tmp_path, tmp_path.with_name("out"))
    except EcgError as error:
        assert name in str(error)
        return
    true = cohort.records.record_id.str[1:].astype(int) // 4
    assert (cohort.records.groupby(true).split.nunique() == 1).all()


@pytest.mark.parametrize(
    "options",
    [
        {"patient": "subjectid"},
        {"patient": "subject_id", "split": "fold"},
        {"patient": "Subject_ID"},
        {"patient": "subject_id", "split": "Strat_fold"},
    ],
    ids=str,
)
def test_an_option_that_names_a_column_that_is_not_there_stops(tmp_path, options):
    rows = "".join(f"r{i},P{i // 4},{i % 10},{i % 2}\n" for i in range(12))
    (tmp_path / "records.csv").write_text(f"record,subject_id,strat_fold,NORM\n{rows}")
    with pytest.raises(EcgError):
        FOLDER.records(tmp_path, **options)


# Labels of a table.
def states(folder, text, **options) -> dict | None:
    """{label: states of the records in order} of a table; None where it is refused with file and reason."""
    (folder / "records.csv").write_text(text)
    try:
        records = FOLDER.records(folder, **options)
        table = FOLDER.labels(folder, records, **options)
    except EcgError as error:
        assert "records.csv" in str(error)
        return None
    return {name: table[name].tolist() for name in table}


HEAD = "record,patient,split,"
RIGHT = {
    "NA as R writes it": (
        "NORM,MI\na,1,train,1,0\nb,2,test,0,NA\nc,3,val,0,1\n",
        {"NORM": [1, 0, 0], "MI": [0, -1, 1]},
    ),
    "words beside numbers": (
        "NORM,MI\na,1,train,1,False\nb,2,test,0,True\nc,3,val,0,True\n",
        {"NORM": [1, 0, 0], "MI": [0, 1, 1]},
    ),
    "commas": (
        'labels\na,1,train,"NORM,SR"\nb,2,test,"MI,SR"\nc,3,val,SR\n',
        {"MI": [0, 1, 0], "NORM": [1, 0, 0], "SR": [1, 1, 1]},
    ),
    "semicolons": (
        "labels\na,1,train,NORM;SR\nb,2,test,MI;SR\nc,3,val,SR\n",
        {"MI": [0, 1, 0], "NORM": [1, 0, 0], "SR": [1, 1, 1]},
    ),
    "a list of Python": (
        "labels\na,1,train,\"['NORM', 'SR']\"\nb,2,test,\"['MI', 'SR']\"\nc,3,val,['SR']\n",
        {"MI": [0, 1, 0], "NORM": [1, 0, 0], "SR": [1, 1, 1]},
    ),
    "a blank before the doubt": ("labels\na,1,train,MI ?\nb,2,test,MI?\nc,3,val,MI\n", {"MI": [2, 2, 1]}),
    "nothing known": (
        "labels\na,1,train,NORM\nb,2,test,nan\nc,3,val,None\nd,4,val,NA\n",
        {"NORM": [1, -1, -1, -1]},
    ),
    "an index": ("NORM,\na,1,train,1,0\nb,2,test,0,1\nc,3,val,1,2\n", {"NORM": [1, 0, 1]}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_table_is_read_right_or_refused(tmp_path, case):
    text, wanted = RIGHT[case]
    assert states(tmp_path, HEAD + text) in (wanted, None)


NEVER = {  # what must not become labels without being asked for, or must not vanish
    "a typing error": ("NORM,AFIB\na,1,train,1,0\nb,2,test,0,l\nc,3,val,0,1\n", {"NORM"}),
    "likelihoods": ("NORM,MI\na,1,train,1,100\nb,2,test,0,0\nc,3,val,0,50\n", {"NORM"}),
    "likelihoods in a cell": (
        "labels\na,1,train,\"{'NORM': 100.0, 'SR': 0.0}\"\nb,2,test,\"{'SR': 0.0}\"\n",
        {"{'NORM': 100.0, 'SR': 0.0}", "{'SR': 0.0}"},
    ),
    "site and visit": ("NORM,site,visit\na,1,train,1,0,1\nb,2,test,0,1,2\nc,3,val,0,2,1\n", {"NORM", "site", "visit"}),
    "codes of classes": ("label\na,1,train,0\nb,2,test,1\nc,3,val,2\n", {"label"}),
    "smoking": ("NORM,smoking\na,1,train,1,0\nb,2,test,0,1\nc,3,val,0,1\n", {"NORM", "smoking"}),
    "a column twice": ("MI,MI,NORM\na,1,train,1,0,0\nb,2,test,0,1,1\n", {"MI", "MI.1", "NORM"}),
}


@pytest.mark.parametrize("case", NEVER)
def test_a_column_is_not_taken_or_left_without_a_word(tmp_path, case):
    text, wrong = NEVER[case]
    found = states(tmp_path, HEAD + text)
    assert found is None or set(found) != wrong


def test_patients_written_as_nan_are_not_one_patient(tmp_path):
    (tmp_path / "records.csv").write_text("record,patient,NORM\n" + "".join(f"r{i},nan,{i % 2}\n" for i in range(8)))
    try:
        assert FOLDER.records(tmp_path).patient_id.nunique() == 8
    except EcgError as error:
        assert error.field == "patient"


# Microvolt, on the fast path, in Latin-1, and with a skew.
@pytest.mark.parametrize("unit", ["uV", "µV", "μV", "UV"])
@pytest.mark.parametrize("fmt", ["16", "16:1"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_microvolt_is_microvolt_on_every_path(tmp_path, unit, fmt, encoding):
    if unit == "μV" and encoding == "latin-1":
        pytest.skip("the Greek letter is not in Latin-1")
    x = beats(200, 10, 2)
    wfdb_io.write(tmp_path, "r", x.astype(int), 200, ("I", "II"), 1, units="uV")
    text = (tmp_path / "r.hea").read_text().replace("uV", unit).replace(".dat 16 ", f".dat {fmt} ")
    (tmp_path / "r.hea").write_bytes(text.encode(encoding))
    signal = wfdb_io.read(tmp_path / "r").signal
    assert np.nanmax(signal) == pytest.approx(x.max() / 1000, abs=1e-6)


# Columns of the user's that are called like the cohort's own.
@pytest.mark.parametrize("name", ["file", "row", "window", "start_s", "lead_mask", "n_valid", "fs_recorded"])
def test_a_column_called_like_one_of_the_cohort_is_noticed_before_any_recording_is_read(tmp_path, name, monkeypatch):
    for i in range(3):
        wfdb_io.write(tmp_path, f"r{i}", crude_ecg(i), 200, LEADS, 1000)
    rows = "r0,0,train,1,x\nr1,1,val,0,y\nr2,2,test,1,z\n"
    (tmp_path / "records.csv").write_text(f"record,patient,split,NORM,{name}\n{rows}")
    reads, read = [], wfdb_io.read
    monkeypatch.setattr(wfdb_io, "read", lambda *args, **options: reads.append(args) or read(*args, **options))
    try:
        assert len(pack(tmp_path, tmp_path.with_name("out"))) == 3
    except EcgError as error:
        assert name in str(error) and not reads


# A machine without os.sched_getaffinity, as macOS; what JOBS may say.
def test_the_number_of_workers_is_known_without_affinity(monkeypatch):
    monkeypatch.delenv("JOBS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert schedule.workers() >= 1
    monkeypatch.setenv("JOBS", "3")
    assert schedule.workers() == 3
    for wrong in ("abc", "-1", "0", "1.5"):
        monkeypatch.setenv("JOBS", wrong)
        with pytest.raises(EcgError, match="JOBS"):
            schedule.workers()


# Rates that are no simple ratio of the study's.
@pytest.mark.parametrize("rate", ["66.6667", "62.4725", "249.89", "333.333", "499.907"])
@pytest.mark.parametrize("windows", ["first", "all"])
def test_rates_of_real_monitors_are_packed_or_refused_by_reason(tmp_path, rate, windows):
    n = round(20 * float(rate)) - 1
    for i in range(3):
        wfdb_io.write(tmp_path, f"r{i}", crude_ecg(i, float(rate), 20)[:, :n], float(rate), LEADS, 1000)
        header = tmp_path / f"r{i}.hea"
        lines = header.read_text().splitlines()
        header.write_text("\n".join([f"r{i} 12 {rate} {n}", *lines[1:]]) + "\n")
    (tmp_path / "records.csv").write_text("record,patient,split,NORM\nr0,0,train,1\nr1,1,val,0\nr2,2,test,1\n")
    try:
        cohort = pack(tmp_path, tmp_path.with_name("out"), windows=windows)
    except EcgError as error:
        assert rate in str(error)
        return
    assert set(cohort.records.record_id) == {"r0", "r1", "r2"} and set(cohort.records.groupby("record_id").size()) <= {
        1,
        2,
    }
    assert np.abs(cohort.batch(np.arange(len(cohort)))).max(axis=(1, 2)).min() > 0.3


# A checkpoint with values that are none.
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "zeros"])
def test_a_checkpoint_that_cannot_be_a_release_does_not_load_as_one(tmp_path, value):
    state = {key: dummy.fill(key, *shape) for key, shape in released("clef_small").items()}
    weight = state["first_conv.conv.weight"]
    if value == "zeros":
        weight.zero_()
    else:
        weight.view(-1)[0] = value
    torch.save(state, tmp_path / "x.ckpt")
    with pytest.raises(EcgError, match="first_conv.conv.weight"):
        zoo.load("clef_small", file=tmp_path / "x.ckpt")


# Scores of what is none.
@pytest.mark.parametrize(
    "patients", [np.full(200, np.nan), [None] * 200, [""] * 200, ["nan"] * 200], ids=lambda p: str(p[0])
)
def test_patients_without_a_name_have_no_interval(patients):
    random = np.random.default_rng(0)
    with pytest.raises(EcgError) as caught:
        bootstrap.bootstrap(random.integers(0, 2, 200), random.random(200), patients, n=50)
    assert caught.value.field == "patients"


@pytest.mark.parametrize("statistic", ["brier", "ece"])
def test_logits_have_no_calibration(statistic):
    random = np.random.default_rng(0)
    with pytest.raises(EcgError, match="no probabilities"):
        metrics.score(random.integers(0, 2, 200), 5 * random.normal(size=200), statistic)
