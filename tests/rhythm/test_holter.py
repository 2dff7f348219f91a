"""Days read in pieces: the samples of the whole file, the peaks of the whole signal, flat memory, known beats."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ecglib import EcgError
from ecglib.data import rpeaks, wfdb_io
from ecglib.data.long_recording import LongRecording
from ecglib.rhythm import holter, rr_model, streamed
from ecgsim import holter as simulated

HOURS = 0.5


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("day")
    truth = simulated.day(2025, 1, HOURS)
    counts = simulated.signal(2025, 1, truth, HOURS)
    for name, fmt in (("wide", "16"), ("narrow", "212")):
        wfdb_io.write(folder, name, np.clip(counts, -2047, 2046), 200, ("II", "V1"), 200, fmt=fmt)
    return folder, truth


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_pieces_are_the_samples_of_the_whole(recording, name):
    whole, pieces = wfdb_io.read(recording[0] / name).signal, LongRecording(recording[0] / name)
    assert pieces.leads == ("II", "V1") and pieces.n_times == whole.shape[1] and pieces.hours == HOURS
    for start, end in ((0, 1), (1, 2), (12_345, 54_322), (359_990, 400_000)):
        np.testing.assert_array_equal(pieces.read(start, end), whole[:, start:end])
    assert LongRecording(recording[0] / name, {"V1": ""}).read(5, 9).shape == (1, 4)


def test_an_odd_number_of_leads_in_format_212(tmp_path):
    counts = np.arange(3 * 101).reshape(3, 101) - 150
    wfdb_io.write(tmp_path, "odd", counts, 100, ("I", "II", "V1"), 200, fmt="212")
    whole, pieces = wfdb_io.read(tmp_path / "odd").signal, LongRecording(tmp_path / "odd")
    for start in range(6):
        np.testing.assert_array_equal(pieces.read(start, start + 7), whole[:, start : start + 7])
    np.testing.assert_array_equal(pieces.read(0, 101), whole)


def test_block_by_block_finds_the_beats_of_the_whole_and_the_true_ones(recording):
    pieces = LongRecording(recording[0] / "wide")
    steps = []
    found = holter.r_peaks(pieces, 120, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (1800, 1800) and (np.diff(found) > 0.2 * 200).all()
    x = pieces.read(0, pieces.n_times)
    whole = streamed._without_t_waves(x, 200, rpeaks.r_peaks(x, 200))
    same = holter.beat_errors(whole / 200, found / 200)
    assert min(same.values()) > 99.5
    right = holter.beat_errors(recording[1].t / 1000, found / 200)
    assert right["sensitivity"] > 99.5 and right["ppv"] > 98


def test_beat_errors_count_each_beat_once():
    assert holter.beat_errors([1, 2, 3, 4], [1.1, 2.2, 3.0, 9.0]) == {"sensitivity": 50.0, "ppv": 50.0}
    assert holter.beat_errors([1.0, 1.1], [1.05])["sensitivity"] == 50
    assert holter.beat_errors([1.0], [])["sensitivity"] == 0


def test_a_recording_is_judged_like_its_beats(recording):
    model = rr_model.default()
    finding = holter.analyse(LongRecording(recording[0] / "wide"), model)
    known = holter.judge("r", recording[1].t / 1000, HOURS, model)
    truth = 100 * np.diff(recording[1].episodes).sum() / 1000 / (3600 * HOURS)
    assert abs(finding.burden - known.burden) < 5 and abs(known.burden - truth) < 12
    rate = 60 / np.mean(np.diff(recording[1].t / 1000))
    assert finding.rate == pytest.approx(rate, rel=0.02) and finding.analysed > 0.95 * 3600 * HOURS
    empty = holter.judge("r", np.zeros(0), HOURS, model)
    assert np.isnan(empty.burden) and np.isnan(empty.rate) and len(empty.episodes) == 0
    assert holter.clock(3725.4) == "1:02:05"


def test_records_that_cannot_be_read_in_pieces_are_refused(recording, tmp_path):
    data = (recording[0] / "wide.dat").read_bytes()
    header = (recording[0] / "wide.hea").read_text()
    (tmp_path / "wide.hea").write_text(header)
    with pytest.raises(EcgError, match="cannot read the signal file"):
        LongRecording(tmp_path / "wide")
    (tmp_path / "wide.dat").write_bytes(data[:-2])
    with pytest.raises(EcgError, match="bytes of signal where the header announces"):
        LongRecording(tmp_path / "wide")
    (tmp_path / "other.hea").write_text(header.replace("wide 2", "other 2").replace("wide.dat", "a.dat", 1))
    with pytest.raises(EcgError, match="cannot be read in pieces"):
        LongRecording(tmp_path / "other")


MEMORY = """
import sys
from ecglib.data.long_recording import LongRecording
from ecglib.rhythm import holter
recording = LongRecording(sys.argv[1])
holter.r_peaks(recording)
status = dict(line.split(":") for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)  # MB; ru_maxrss would count the process that started this one
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_recording(recording, tmp_path):
    """Eight times the length, at most 25 MB more; as a whole it would be 100 MB of samples alone."""
    header = (recording[0] / "wide.hea").read_text().replace("wide 2 200 360000", "long 2 200 2880000")
    lines = [" ".join([*line.split()[:6], "0", "0", line.split()[-1]]) for line in header.splitlines()[1:]]
    (tmp_path / "long.hea").write_text(
        "\n".join([header.splitlines()[0], *lines]).replace("wide.dat", "long.dat") + "\n"
    )
    (tmp_path / "long.dat").write_bytes((recording[0] / "wide.dat").read_bytes() * 8)
    peak = []
    for path in (recording[0] / "wide", tmp_path / "long"):
        done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
        peak.append(float(done.stdout))
    assert peak[1] - peak[0] < 25
