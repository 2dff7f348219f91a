"""Random records: valid ones give the values that were written, damaged ones are refused or say what they now hold."""

import shutil

import numpy as np
import plain_records
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglib import EcgError
from ecglib.data import wfdb_io

NAMES = ("I", "II", "V1", "MLII", "aVR", "CH é")
UNITS = {"mV": 1.0, "uV": 1e3, "µV": 1e3, "μV": 1e3, "V": 1e-3, "nV": 1e6}
SAME = dict(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
DAMAGED = 2400


@st.composite
def records(draw, formats=plain_records.FORMATS, top_skew=3):
    """Signals for `plain_records.write`: in one file or one each, with one other channel or none."""
    n_frames, n_leads = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    fmt, per_frame = draw(st.sampled_from(formats)), draw(st.sampled_from([1, 1, 2, 5]))
    apart, summed = draw(st.booleans()), draw(st.integers(0, 4)) > 0
    offset = draw(st.sampled_from([0, 0, 24, 7]))
    signals = []
    for i in range(n_leads + draw(st.booleans())):
        lead, per = (NAMES[i], per_frame) if i < n_leads else ("Resp", draw(st.sampled_from([1, 3])))
        low = -(2 ** (plain_records.BITS[fmt] - 1))
        counts = draw(st.lists(st.integers(low, -low - 1), min_size=per * n_frames, max_size=per * n_frames))
        gain = draw(st.sampled_from([200.0, 1000.0, 0.1, 204.7, -3.0, 6344117.125, 1e-05]))
        baseline = draw(st.sampled_from([0, 1024, -7, 2**22 + 1, -1842966025]))
        units = draw(st.sampled_from(list(UNITS))) if i < n_leads else "Ohm"
        signal = dict(file=f"r{i if apart else ''}.dat", fmt=fmt, per_frame=per, skew=draw(st.integers(0, top_skew)))
        signal |= dict(offset=offset, gain=gain, baseline=baseline, units=units, counts=counts, lead=lead, sum=summed)
        signals.append(signal)
    return signals


def by_hand(signal: dict) -> np.ndarray:
    """Values of a signal in mV, from what was written and not from the files."""
    counts = np.array(signal["counts"], float)
    factor = UNITS[signal["units"]]
    x = (counts - signal["baseline"]) / signal["gain"]
    x = x * 1000 if factor < 1 else x / factor
    x[counts == -(2.0 ** (plain_records.BITS[signal["fmt"]] - 1))] = np.nan
    shift = min(signal["skew"] * signal["per_frame"], len(x))
    return np.append(x[shift:], np.full(shift, np.nan)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def fresh(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("kind", ["one file, one sample a frame", "any layout"])
def test_valid_records_give_what_was_written(folder, kind):
    seen = set()

    @settings(max_examples=250, **SAME)
    @given(
        records(top_skew=0 if kind.startswith("one") else 3), st.sampled_from([250, 62.4725, 0.976562]), st.booleans()
    )
    def check(signals, fs, stated):
        if kind.startswith("one"):
            for signal in signals:
                per = signal["per_frame"]
                signal |= dict(file="r.dat", per_frame=1, counts=signal["counts"][::per])
        stated = stated or signals[0]["fmt"] == "212"  # a file of 12 bits may end with half a pair
        plain_records.write(fresh(folder), "r", signals, fs, ["µ é"], stated=stated)
        recording = wfdb_io.read(folder / "r")
        leads = [signal for signal in signals if signal["units"] != "Ohm"]
        assert recording.leads == tuple(signal["lead"] for signal in leads) and recording.comments == ("µ é",)
        assert recording.fs == fs * leads[0]["per_frame"] and recording.signal.dtype == np.float32
        for row, signal in enumerate(leads):
            np.testing.assert_array_equal(recording.signal[row], by_hand(signal))
        assert list(recording.lead_mask) == [len(set(x[~np.isnan(x)])) > 1 for x in map(by_hand, leads)] or any(
            signal["gain"] > 1e6 or abs(signal["baseline"]) > 2**22 for signal in leads
        )  # small steps on a large value are lost in float32, though the lead moves
        seen.update((signal["fmt"], signal["units"]) for signal in leads)

    check()
    assert len(seen) > 30


def damage(draw, folder) -> str:
    """Do one of several kinds of damage to the record r; its kind."""
    header, data = folder / "r.hea", sorted(folder.glob("*.dat"))[0]
    kind = draw(
        st.sampled_from(["cut", "longer", "byte", "header byte", "number", "swap", "line", "lines", "cut header"])
    )
    text, content = header.read_bytes(), data.read_bytes()
    lines = text.split(b"\n")[:-1]
    if kind == "cut":
        data.write_bytes(content[: -draw(st.integers(1, len(content)))])
    elif kind == "longer":
        data.write_bytes(content + bytes(draw(st.integers(1, 40))))
    elif kind == "byte":
        at = draw(st.integers(0, len(content) - 1))
        data.write_bytes(content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :])
    elif kind == "header byte":
        at, new = (
            draw(st.integers(0, len(text) - 1)),
            draw(st.sampled_from([*b"0123456789 .-x:+(/)#\n~eVm", 0, 181, 255])),
        )
        header.write_bytes(text[:at] + bytes([new]) + text[at + draw(st.booleans()) :])
    elif kind == "cut header":
        header.write_bytes(text[: draw(st.integers(0, len(text) - 1))])
    elif kind == "lines":
        i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        lines[i], lines[j] = lines[j], lines[i]
        header.write_bytes(b"\n".join(lines) + b"\n")
    elif kind == "line":
        at = draw(st.integers(0, len(lines) - 1))
        header.write_bytes(b"\n".join([*lines[:at], *([lines[at]] * draw(st.sampled_from([0, 2]))), *lines[at + 1 :]]))
    else:
        at = draw(st.integers(0, len(lines) - 1))
        words = lines[at].split(b" ")
        i, j = (draw(st.integers(0, len(words) - 1)) for _ in range(2))
        if kind == "swap":
            words[i], words[j] = words[j], words[i]
        else:
            words[i] = draw(
                st.sampled_from([b"0", b"1", b"-1", b"7", b"65537", b"999999999999", b"nan", b"1e3", b"../r.dat"])
            )
        lines[at] = b" ".join(words)
        header.write_bytes(b"\n".join(lines) + b"\n")
    return kind


def test_damaged_records_are_refused_or_read_as_what_they_now_say(folder):
    outcomes = {}

    @settings(max_examples=DAMAGED, **SAME)
    @given(records(), st.booleans(), st.data())
    def check(signals, stated, data):
        plain_records.write(fresh(folder), "r", signals, 100, ["age 61"], stated=stated)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        kind = damage(data.draw, folder)
        if before == {path: path.read_bytes() for path in folder.iterdir()}:
            kind = "none"
        try:
            fs, leads, values = plain_records.read(folder, "r")
        except plain_records.Refused:
            with pytest.raises(EcgError) as caught:
                wfdb_io.read(folder / "r")
            assert str(folder) in caught.value.file
            return outcomes.setdefault(kind, []).append("refused")
        recording = wfdb_io.read(folder / "r")
        assert recording.fs == fs and len(recording.leads) == len(leads)
        for row, wanted in enumerate(values):
            np.testing.assert_array_equal(recording.signal[row], wanted)
        outcomes.setdefault(kind, []).append("read")

    check()
    damaged = {kind: (results.count("refused"), results.count("read")) for kind, results in outcomes.items()}
    print(damaged)
    damaged.pop("none")
    assert sum(map(sum, damaged.values())) >= 2000
    assert all(refused and read for kind, (refused, read) in damaged.items() if kind not in ("cut", "longer"))
