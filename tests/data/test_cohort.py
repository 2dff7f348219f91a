"""Cohort: packed values against the recordings, bad input, the same bytes for any workers, nothing half-written."""

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
import types

import numpy as np
import pyarrow.parquet as pq
import pytest
from crude_corpus import FOLDER, corpus, crude_ecg, pack

from ecglib import EcgError
from ecglib.data import cohort, files, handmade, labels, packing, wfdb_io
from ecglib.data.recording import LEADS, Recording

FILES = ("cohort.json", *packing.FILES)


def verify(opened):
    assert opened.info["sha256"] == {name: files.sha256(opened.path / name) for name in packing.FILES}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return pack(corpus(folder / "raw", fs=100), folder / "toy")


def test_values_are_the_recordings_rounded_to_a_microvolt(packed):
    assert len(packed) == 6 and packed.leads == LEADS and packed.signals.dtype == np.int16
    expected = np.stack([crude_ecg(i, fs=100) for i in range(6)]) / 1000
    np.testing.assert_allclose(packed.batch(np.arange(6)), expected, atol=1e-6)
    assert packed.batch([0]).dtype == np.float32
    verify(packed)


def test_batch_follows_the_order_of_rows_and_leads(packed):
    rows = [4, 0, 4, 2]
    everything = packed.batch(np.arange(6))
    np.testing.assert_array_equal(packed.batch(rows), everything[rows])
    np.testing.assert_array_equal(packed.batch(rows, ("V2", "II")), everything[rows][:, [7, 1]])
    np.testing.assert_array_equal(packed.batch(rows, LEADS[::-1]), everything[rows][:, ::-1])
    assert packed.lead_mask(rows).all() and packed.lead_mask(rows, ("V2",)).shape == (4, 1)
    with pytest.raises(EcgError, match="unknown lead name"):
        packed.batch(rows, ("V9",))


def test_resampling_keeps_amplitude_and_beats(tmp_path):
    packed = pack(corpus(tmp_path / "raw", n=2, fs=500), tmp_path / "toy")
    assert packed.info["fs"] == 100 and (packed.records.fs_recorded == 500).all()
    direct = crude_ecg(0, fs=100) / 1000
    assert np.abs(packed.batch([0])[0] - direct)[:, 20:-20].max() < 0.03 * direct.max()
    peaks = packed.peaks(0)
    assert abs(len(peaks) - 12) <= 1
    assert all(min(abs(p - at) for at in np.arange(40, 1000, 80)) <= 3 for p in peaks)


def test_measurements_are_stored_for_every_row_with_their_units(packed):
    """What is stored is what measuring the packed signals again gives; a subset of leads is measured anew."""
    assert list(packed.measurements) == list(handmade.feature_names(LEADS)) and len(packed.measurements) == 6
    for row, x in enumerate(packed.batch(np.arange(6))):
        again, _ = handmade.features(x, packed.fs, packed.peaks(row), LEADS)
        np.testing.assert_allclose(packed.measurements.iloc[row], again, rtol=1e-3, atol=1e-3)
    stored = handmade.of_cohort(packed, [4, 1])
    np.testing.assert_array_equal(stored, packed.measurements.to_numpy()[[4, 1]])
    single = handmade.of_cohort(packed, [4, 1], ("II",))
    assert single.shape == (2, len(handmade.feature_names(("II",))))
    schema = pq.read_schema(packed.path / "measurements.parquet")
    assert schema.field("qrs_ms").metadata == {b"unit": b"ms"} and schema.names[:2] == ["row", "record_id"]


def test_states_survive_and_labels_are_per_record(packed):
    assert packed.labels.index.name == "record_id" and packed.labels.loc["r0"].tolist() == [0, labels.POSSIBLE]
    assert packed.states(["B", "A"], [0, 1]).tolist() == [[2, 0], [1, 1]]
    assert packed.states(["A"], [1]).dtype == np.int8
    with pytest.raises(EcgError, match="unknown label 'C'.*A, B"):
        packed.states(["C"], [0])


def test_test_rows_are_closed(packed):
    assert packed.rows("train").tolist() == [0, 1] and packed.rows(["train", "val"]).tolist() == [0, 1, 2, 3]
    assert packed.test_rows().tolist() == [4, 5]
    for name in ("test", "external"):
        with pytest.raises(EcgError, match="closed"):
            packed.rows(["train", name])
    with pytest.raises(EcgError, match="unknown split 'trian'"):
        packed.rows("trian")


def test_bad_records_are_rejected_with_file_field_and_reason_and_the_rest_is_packed(tmp_path, capsys):
    root = corpus(tmp_path / "raw", n=12, fs=100)
    (root / "r1.dat").write_bytes((root / "r1.dat").read_bytes()[:-100])
    (root / "r2.dat").unlink()
    wfdb_io.write(root, "r3", crude_ecg(3, fs=100), 100, (*LEADS[:-1], "V7"), 1000)
    wfdb_io.write(
        root, "r4", np.minimum(crude_ecg(4, fs=100) * 30, 32000), 100, LEADS, 1
    )  # microvolt read as millivolt
    wfdb_io.write(root, "r5", crude_ecg(5, fs=100), 100, LEADS, 1e6)
    (root / "r6.hea").write_text((root / "r6.hea").read_text().replace("r6 12 100 1000", "r6 12 100 0"))
    (root / "r6.dat").write_bytes(b"")
    gap = crude_ecg(7, fs=100)
    gap[3, 100:350] = -32768
    wfdb_io.write(root, "r7", gap, 100, LEADS, 1000)
    wfdb_io.write(root, "r8", np.zeros((12, 1000), int), 100, LEADS, 1000)
    (root / "r9.hea").write_bytes(b"\xff\xfe nonsense")
    packed = pack(root, tmp_path / "toy")
    assert "3 of 12 records packed, 9 rejected" in capsys.readouterr().out
    assert list(packed.records.record_id) == ["r0", "r10", "r11"] == list(packed.labels.index)
    assert list(packed.rejected) == ["record_id", "file", "field", "reason", "fix"]
    why = packed.rejected.set_index("record_id")
    words = {"r1": "bytes", "r2": "cannot read", "r3": "V7", "r4": "amplitude", "r5": "amplitude", "r6": "zero length"}
    words |= {"r7": "25% of the samples of lead aVR", "r8": "no wanted lead", "r9": ""}
    assert set(why.index) == set(words)
    for name, word in words.items():
        assert word in why.reason[name] and why.reason[name]
        assert why.file[name].startswith(name) and str(tmp_path) not in "".join(why.loc[name])
    assert packed.info["counts"]["rejected"] == 9 == sum(packed.info["counts"]["rejected_by_reason"].values())


def test_flat_and_missing_leads_and_short_gaps_are_kept_and_marked(tmp_path):
    root = corpus(tmp_path / "raw", n=3, fs=100)
    flat, gap = crude_ecg(0, fs=100), crude_ecg(1, fs=100)
    flat[5], flat[6] = 250, -32768
    gap[2, 500:520] = -32768
    wfdb_io.write(root, "r0", flat, 100, LEADS, 1000)
    wfdb_io.write(root, "r1", gap, 100, LEADS, 1000)
    wfdb_io.write(root, "r2", crude_ecg(2, fs=100)[:8], 100, LEADS[:8], 1000)
    packed = pack(root, tmp_path / "toy")
    mask = packed.lead_mask(np.arange(3))
    assert np.argwhere(~mask).tolist() == [[0, 5], [0, 6], [2, 8], [2, 9], [2, 10], [2, 11]]
    x = packed.batch(np.arange(3))
    assert not x[~mask].any() and x[mask].any(axis=1).all()
    assert packing.unpack_bits(packed.records.gap_mask, 12).nonzero()[1].tolist() == [2]
    bridge = np.interp(np.arange(500, 520), [499, 520], gap[2, [499, 520]]) / 1000
    np.testing.assert_allclose(x[1, 2, 500:520], bridge, atol=1e-3)
    counts = packed.info["counts"]
    assert (counts["rows_with_missing_lead"], counts["rows_with_gap"]) == (2, 1)


def test_leads_are_taken_by_name_and_limb_leads_derived(tmp_path):
    root = corpus(tmp_path / "raw", n=2, fs=100, leads=("V1", "II", "I"))
    packed = pack(root, tmp_path / "toy", leads=("i", "aVF", "V1", "V6"))
    raw = crude_ecg(0, fs=100, n_leads=3) / 1000
    np.testing.assert_allclose(packed.batch([0])[0, :3], [raw[2], raw[1] - raw[2] / 2, raw[0]], atol=1e-3)
    assert packed.lead_mask([0]).tolist() == [[True, True, True, False]]
    x = packed.batch([1, 0], ("V2", "V1"))
    assert not x[:, 0].any() and x[:, 1].any() and packed.lead_mask([0], ("V2", "V1")).tolist() == [[False, True]]


def test_windows_all_cut_every_full_window_and_short_records_are_padded(tmp_path):
    root = corpus(tmp_path / "raw", n=2, fs=100, seconds=25)
    wfdb_io.write(root, "r1", crude_ecg(1, fs=100, seconds=4), 100, LEADS, 1000)
    packed = pack(root, tmp_path / "toy", windows="all")
    table = packed.records
    assert list(zip(table.record_id, table.window, table.start_s, table.n_valid, strict=True)) == [
        ("r0", 0, 0, 1000),
        ("r0", 1, 10, 1000),
        ("r1", 0, 0, 400),
    ]
    np.testing.assert_allclose(packed.batch([1])[0], crude_ecg(0, fs=100, seconds=25)[:, 1000:2000] / 1000, atol=1e-3)
    assert not packed.batch([2])[0, :, 400:].any() and packed.info["counts"]["rows_padded"] == 1
    assert packed.states(["A"], [0, 1, 2]).ravel().tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"csvs": "x"}}, "unknown option 'csvs'.*csv"),
        ({"labels": ["A", "Z"]}, "unknown label column 'Z'.*A, B"),
        ({"leads": ("V9",)}, "unknown lead name"),
        ({"windows": "last"}, "first, all"),
        ({"seconds": 0}, "no window"),
        ({"fs": 50}, "at least 60 Hz"),
    ],
)
def test_wrong_settings_stop_before_any_work(tmp_path, settings, message, monkeypatch):
    root = corpus(tmp_path / "raw", n=2, fs=100)
    monkeypatch.setattr(files, "new_folder", lambda *out: pytest.fail("work began"))
    with pytest.raises(EcgError, match=message):
        pack(root, tmp_path / "toy", **settings)
    with pytest.raises(EcgError, match="unknown setting 'sampling_rate'.*fs, seconds"):
        pack(root, tmp_path / "toy", sampling_rate=100)


def test_a_label_that_no_record_has_stops_before_any_work(tmp_path):
    root = corpus(tmp_path / "raw", n=2, fs=100)
    (root / "records.csv").write_text("record,A,B\nr0,1,0\nr1,0,-1\n")
    with pytest.raises(EcgError, match=r"no record has the label B.*labels=\['A'\]"):
        pack(root, tmp_path / "toy")
    assert list(pack(root, tmp_path / "toy", labels=["A"]).labels) == ["A"]
    with pytest.raises(EcgError, match="every one of 2 records is refused"):
        pack(root, tmp_path / "other", labels=["A"], leads=("V6",), options={"lead_names": {"V6": ""}})
    assert not (tmp_path / "other").exists()


def test_the_same_bytes_for_any_folder_and_number_of_workers(tmp_path):
    one = pack(corpus(tmp_path / "here", n=40), tmp_path / "one")
    two = pack(corpus(tmp_path / "elsewhere/there", n=40), tmp_path / "two", workers=2)
    for file in FILES:
        assert (one.path / file).read_bytes() == (two.path / file).read_bytes(), file
    text = (one.path / "cohort.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["dataset"]["module"] == "folder"


def test_a_dask_cluster_of_two_workers_writes_the_same_bytes(tmp_path):
    distributed = pytest.importorskip("distributed")
    root = corpus(tmp_path / "raw", n=40, fs=100)
    one = pack(root, tmp_path / "one")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster):
            two = pack(root, tmp_path / "two", workers=2, backend="dask")
    assert one.info["sha256"] == two.info["sha256"]


@pytest.mark.parametrize("fatal", [0, 1])
def test_a_killed_worker_of_a_dask_cluster_changes_no_byte(tmp_path, fatal):
    """One record kills the worker that reads it: the first time, when it is examined, or the second, when written."""
    distributed = pytest.importorskip("distributed")
    root, readings = corpus(tmp_path / "raw", n=40, fs=100), tmp_path / "readings"
    one = pack(root, tmp_path / "one")
    readings.mkdir()

    def read(row):
        if row["record_id"] == "r7":
            reading = len(list(readings.iterdir()))
            (readings / str(reading)).touch()
            if reading == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return FOLDER.read(row)

    killing = types.SimpleNamespace(**vars(FOLDER) | {"read": read})
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster):
            cohort.pack("toy", killing, root, tmp_path / "two", workers=2, backend="dask")
    assert len(list(readings.iterdir())) == 3  # two are needed
    assert one.info["sha256"] == cohort.open(tmp_path / "two").info["sha256"]


def test_a_failed_pack_leaves_the_last_good_cohort(tmp_path, monkeypatch):
    root = corpus(tmp_path / "raw", n=4, fs=100)
    good = pack(root, tmp_path / "toy").info

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for module, step in ((packing, "_write_parquet"), (packing, "_write_info"), (files, "replace_folder")):
        with monkeypatch.context() as broken:
            broken.setattr(module, step, full)
            with pytest.raises(OSError, match="No space"):
                pack(root, tmp_path / "toy", fs=80)
        verify(cohort.open(tmp_path / "toy"))
        assert cohort.open(tmp_path / "toy").info == good
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "toy"]


def test_a_killed_pack_is_cleared_and_done_again(tmp_path):
    root = corpus(tmp_path / "raw", n=4, fs=100)
    code = "import os, signal, sys\nfrom ecglib import datasets\nfrom ecglib.data import cohort, files\n"
    code += "files.replace_folder = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "cohort.pack('toy', datasets.get('folder'), sys.argv[1], sys.argv[2], workers=1)\n"
    done = subprocess.run([sys.executable, "-c", code, str(root), str(tmp_path / "toy")], check=False)
    assert done.returncode == -9 and not (tmp_path / "toy").exists() and (tmp_path / ".toy.part").exists()
    with pytest.raises(EcgError, match="no cohort here"):
        cohort.open(tmp_path / "toy")
    packed = pack(root, tmp_path / "toy")
    verify(packed)
    os.rename(tmp_path / "toy", tmp_path / ".toy.old")  # killed between the two renames
    pack(root, tmp_path / "toy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "toy"]


def test_a_changed_file_is_noticed(tmp_path):
    packed = pack(corpus(tmp_path / "raw", n=2, fs=100), tmp_path / "toy")
    with (packed.path / "signals.npy").open("rb+") as file:
        file.seek(1000)
        file.write(b"\x01")
    with pytest.raises(AssertionError):
        verify(cohort.open(packed.path))
    (packed.path / "beats.parquet").unlink()
    with pytest.raises(EcgError, match="beats.parquet is missing"):
        cohort.open(packed.path)


def test_memory_for_signals_does_not_grow_with_the_number_of_records(tmp_path):
    peaks = []
    for n in (32, 96):
        root = corpus(tmp_path / f"raw{n}", n=n, fs=100)
        tracemalloc.start()
        pack(root, tmp_path / f"toy{n}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    signals = 64 * 12 * 1000 * 2  # bytes of the records added
    assert peaks[1] - peaks[0] < 0.25 * signals


def test_clipping_is_marked():
    x = np.tile(np.sin(np.arange(1000) / 3), (2, 1)).astype(np.float32)
    x[1] *= 40
    plan = packing.Plan(100, 10, ("I", "II"), "first")
    recording = Recording(x, 100.0, ("I", "II"), np.ones(2, bool), "r")
    ((counts, facts),) = packing.prepare(recording, plan)
    assert facts["clipped_mask"] == 2 and np.abs(counts[1]).max() == 32767


def test_bits_and_back():
    flags = np.random.default_rng(0).random((50, 12)) < 0.5
    packed = np.array([packing.bits(f) for f in flags], np.uint16)
    np.testing.assert_array_equal(packing.unpack_bits(packed, 12), flags)
    assert all(int(v) == int("".join("01"[int(b)] for b in f[::-1]), 2) for v, f in zip(packed, flags, strict=True))
