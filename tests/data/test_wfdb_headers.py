"""Headers as the WFDB specification allows them, headers that lie, and headers that reach out of their folder."""

import tracemalloc

import numpy as np
import plain_records
import pytest
import wfdb
from crude_corpus import crude_ecg, pack

from ecglib import EcgError, datasets
from ecglib.data import cohort, wfdb_io
from ecglib.data.recording import LEADS

NAN = float("nan")


def counts(n_leads=2, n_times=40, seed=0):
    return np.random.default_rng(seed).integers(-900, 900, (n_leads, n_times))


def written(folder, name="r", leads=("I", "II"), fs=500, **options):
    """Write a record; its values in mV."""
    folder.mkdir(parents=True, exist_ok=True)
    values = counts(len(leads), seed=len(name))
    wfdb_io.write(folder, name, values, fs, leads, 1000, **options)
    return (values / 1000).astype(np.float32)


def headed(folder, lines, name="r"):
    (folder / f"{name}.hea").write_bytes(lines if isinstance(lines, bytes) else "\n".join(lines).encode())


def edited(folder, old, new, name="r"):
    header = folder / f"{name}.hea"
    text = header.read_bytes()
    assert old.encode() in text
    new = new if isinstance(new, bytes) else new.encode()
    header.write_bytes(text.replace(old.encode(), new))


def framed(folder, frame_fs, channels, name="r"):
    """Write a record with several samples a frame; channels: (lead, samples a frame, units, counts) each."""
    signals = [
        dict(file=f"{name}.dat", fmt="16", per_frame=per, skew=0, offset=0, gain=1000.0, baseline=0, units=units,
             counts=values, lead=lead, sum=True)
        for lead, per, units, values in channels
    ]  # fmt: skip
    plain_records.write(folder, name, signals, frame_fs)


@pytest.mark.parametrize("frame_fs, per", [(62.5, 4), (1.0, 128), (0.976562, 256), (100, 1)])
@pytest.mark.parametrize("leads", [("II",), ("I", "II", "V5")])
def test_each_channel_has_its_own_rate(tmp_path, frame_fs, per, leads):
    values = counts(len(leads), 6 * per)
    others = [("Resp", 1, "Ohm", counts(1, 6)[0]), ("Pleth", 2, "NU", counts(1, 12)[0])]
    framed(tmp_path, frame_fs, [*((lead, per, "mV", row) for lead, row in zip(leads, values, strict=True)), *others])
    recording = wfdb_io.read(tmp_path / "r")
    assert recording.fs == frame_fs * per and recording.leads == leads
    np.testing.assert_array_equal(recording.signal, (values / 1000).astype(np.float32))
    package = wfdb.rdrecord(str(tmp_path / "r"), smooth_frames=False).e_p_signal
    np.testing.assert_array_equal(recording.signal, np.stack(package[: len(leads)]).astype(np.float32))


@pytest.mark.parametrize("slow", ["V1", "MLII", "EEG"])
def test_leads_of_different_rates_are_refused_until_one_is_left_out(tmp_path, slow):
    values = counts(2, 40)
    framed(tmp_path, 100, [("I", 5, "mV", values[0]), ("II", 5, "mV", values[1]), (slow, 1, "uV", counts(1, 8)[0])])
    with pytest.raises(EcgError, match=rf'{slow} at 100 Hz; I, II at 500 Hz -> .*lead_names=.*"{slow}": ""') as caught:
        wfdb_io.read(tmp_path / "r")
    assert caught.value.field == "samples per frame" and caught.value.file.endswith("r.hea")
    row = {"path": tmp_path / "r", "record_id": "r", "patient_id": "p"}
    recording = datasets.load(row, {slow: ""})
    assert recording.fs == 500 and recording.leads == ("I", "II") and recording.patient_id == "p"
    np.testing.assert_array_equal(recording.signal, (values / 1000).astype(np.float32))
    assert datasets.load(row, {"I": "", "II": "", slow: "aVF"}).fs == 100


SPELLINGS = {
    1.0: ["mV", "mv", "MV", "millivolt", "millivolts", "mVolt", "mVolts"],
    1e-3: ["uV", "uv", "UV", "µV", "μV", "µv", "microvolt", "microvolts", "uVolts", "µVolt"],
    1e3: ["V", "v", "Volt", "volts"],
    1e-6: ["nV", "nanovolt"],
}
SPELLINGS = [(unit, factor) for factor, units in SPELLINGS.items() for unit in units]
PATHS = {"one file": " 16 ", "skew": " 16:1 ", "two files": " 16 ", "16x2": " 16x2 ", "big-endian": " 61 "}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("path", PATHS)
def test_every_spelling_of_the_units_is_millivolt_on_every_path(tmp_path, path, encoding):
    for unit, factor in SPELLINGS:
        if "μ" in unit and encoding == "latin-1":  # the Greek letter is not in it
            continue
        values = counts(2, 40)
        fmt, per = "61" if path == "big-endian" else "16", 2 if path == "16x2" else 1
        same = dict(fmt=fmt, skew=0, per_frame=per, offset=0, gain=2.0, baseline=3, units=unit, sum=True)
        files = ("r.dat", "s.dat" if path == "two files" else "r.dat")
        signals = [same | dict(file=files[i], counts=values[i], lead=("I", "II")[i]) for i in range(2)]
        signals[1]["skew"] = 1 if path == "skew" else 0
        plain_records.write(tmp_path, "r", signals, 100, ["Größe 180"], encoding=encoding)
        recording, shift = wfdb_io.read(tmp_path / "r"), signals[1]["skew"]
        assert recording.comments == ("Größe 180",)
        wanted = (values - 3) / 2 * factor
        np.testing.assert_allclose(recording.signal[0], wanted[0], rtol=1e-6, err_msg=unit)
        np.testing.assert_allclose(recording.signal[1, : 40 - shift], wanted[1, shift:], rtol=1e-6, err_msg=unit)
        assert np.isnan(recording.signal).sum() == shift


@pytest.mark.parametrize("units", ["mmHg", "bpm", "adu", "Ohm", "kV", "mVv", "ÂµV", "mV/cm", "l"])
@pytest.mark.parametrize("fmt", ["16", "16:1"])
def test_a_lead_in_units_that_are_no_voltage_is_refused_and_other_channels_are_left_out(tmp_path, units, fmt):
    written(tmp_path, leads=("I", "II", "Resp"))
    lines = (tmp_path / "r.hea").read_text().replace(" 16 ", f" {fmt} ", 3).splitlines()
    headed(tmp_path, [*lines[:2], lines[2].replace("/mV", f"/{units}"), lines[3].replace("/mV", "/l")])
    with pytest.raises(EcgError, match="units .* of .'II'. are no voltage.*lead_names") as caught:
        wfdb_io.read(tmp_path / "r")
    assert caught.value.field == "units"
    assert wfdb_io.read(tmp_path / "r", {"II": ""}).leads == ("I",)


BOM = b"\xef\xbb\xbf"
VALID = {
    "length 0": lambda f: edited(f, "r 2 500 40", "r 2 500 0"),
    "no length": lambda f: edited(f, "r 2 500 40", "r 2 500"),
    "no rate, which is then 250": lambda f: edited(f, "r 2 500 40", "r 2"),
    "counter, time and date": lambda f: edited(f, "r 2 500 40", "r 2 500/62.5(0) 40 11:05:02 05/12/1999"),
    "a year for a date": lambda f: edited(f, "r 2 500 40", "r 2 500 40 11:05:02 2006"),
    "rate with an exponent": lambda f: edited(f, "r 2 500 40", "r 2 5.0e2 40"),
    "tabs": lambda f: edited(f, " ", "\t"),
    "carriage returns": lambda f: edited(f, "\n", "\r\n"),
    "carriage returns alone": lambda f: edited(f, "\n", "\r"),
    "empty lines and blanks": lambda f: edited(f, "\n", "\n\n   "),
    "form feed in a comment": lambda f: edited(f, "# a", "# a\fbefore\x0bnext\x1cand"),
    "U+2028 and U+0085 in a comment": lambda f: edited(f, "# a", "# a\u2028b\u2029c\x85d"),
    "byte order mark": lambda f: edited(f, "r 2 500", BOM + b"r 2 500"),
    "byte order mark before a comment": lambda f: edited(f, "r 2 500", BOM + b"# first\nr 2 500"),
    "comment in Latin-1": lambda f: edited(f, "# a", "# Größe".encode("latin-1")),
    "comment in UTF-8 and one in Latin-1": lambda f: edited(f, "# a", "# é\n#".encode() + "é".encode("latin-1")),
    "another record name": lambda f: edited(f, "r 2 500", "0001.v2-x 2 500"),
    "non-ASCII record name": lambda f: edited(f, "r 2 500", "größe 2 500"),
    "a folder in the record line": lambda f: edited(f, "r 2 500", "records500/00000/r 2 500"),
    "a folder in the record line and the file (PTB-XL+)": lambda f: edited(edit_record(f), "r.dat", "wfdb/00/r.dat"),
    "an absolute folder of another machine": lambda f: edited(edit_record(f, "/no/such"), "r.dat", "/no/such/r.dat"),
    "no checksum": lambda f: no_checksum(f),
    "fields left out": lambda f: headed(f, ["r 2 500 40", "r.dat 16 1000", "r.dat 16 1000/mV", "# a"]),
    "gain of many kinds": lambda f: edited(f, "1000(0)/mV", "+1.e3(+0)/mV"),
}


def edit_record(folder, where="wfdb/00"):
    edited(folder, "r 2 500", f"{where}/r 2 500")
    return folder


def no_checksum(folder):
    lines = [line.split() for line in (folder / "r.hea").read_text().splitlines()]
    headed(folder, [" ".join([*words[:6], "0", *words[7:]]) if len(words) == 9 else " ".join(words) for words in lines])


@pytest.mark.parametrize("case", VALID)
@pytest.mark.parametrize("fmt", ["16", "16:0", "two files"])
def test_valid_headers_are_read(tmp_path, case, fmt):
    values = written(tmp_path, comments=("a",))
    VALID[case](tmp_path)
    if fmt == "16:0":
        edited(tmp_path, "16", "16:0") if case != "tabs" else None
    elif fmt == "two files":
        data = (tmp_path / "r.dat").read_bytes()
        frames = np.frombuffer(data, "<i2").reshape(-1, 2)
        (tmp_path / "r.dat").write_bytes(frames[:, 0].tobytes())
        (tmp_path / "s.dat").write_bytes(frames[:, 1].tobytes())
        text = (tmp_path / "r.hea").read_bytes()
        head, _, tail = text.rpartition(b"r.dat")
        (tmp_path / "r.hea").write_bytes(head + b"s.dat" + tail)
    recording = wfdb_io.read(tmp_path / "r")
    np.testing.assert_array_equal(recording.signal, values)
    assert recording.fs == (250 if "250" in case else 500) and recording.record_id == "r"
    assert recording.leads == (("I", "II") if case != "fields left out" else ("signal 0", "signal 1"))
    assert recording.comments


@pytest.mark.parametrize("name", ["p.10.2023", "größe", "b.v2", "é à"])
def test_names_of_records_and_files_may_have_dots_and_letters_of_any_alphabet(tmp_path, name):
    values = written(tmp_path, comments=("a",))
    file = name.replace(" ", "_")
    (tmp_path / "r.dat").rename(tmp_path / f"{file}.dat")
    text = (tmp_path / "r.hea").read_text().replace("r.dat", f"{file}.dat").replace("r 2 500", f"{file} 2 500")
    for ending in ("hea", "HEA"):
        (tmp_path / f"{name}.{ending}").write_text(text)
        recording = wfdb_io.read(tmp_path / name)
        assert recording.record_id == name and wfdb_io.read(tmp_path / f"{name}.{ending}").leads == ("I", "II")
        np.testing.assert_array_equal(recording.signal, values)
        (tmp_path / f"{name}.{ending}").unlink()


@pytest.mark.parametrize("layout", ["16", "16:1", "16x2", "61", "two files", "segments"])
def test_a_checksum_that_disagrees_is_refused_on_every_path(tmp_path, layout):
    signals = [
        dict(file=f"{i if layout == 'two files' else 'r'}.dat", fmt="61" if layout == "61" else "16", offset=0,
             per_frame=2 if layout == "16x2" else 1, skew=int(layout == "16:1"), gain=1000.0, baseline=0, units="mV",
             counts=row, lead=lead, sum=True)
        for i, (lead, row) in enumerate(zip(("I", "II"), counts(), strict=True))
    ]  # fmt: skip
    plain_records.write(tmp_path, "r", signals, 500)
    headed(tmp_path, ["m/2 2 500 80", "r 40", "r 40"], "m")
    name = "m" if layout == "segments" else "r"
    assert np.isfinite(wfdb_io.read(tmp_path / name).signal[:, :30]).all()
    file = tmp_path / signals[1]["file"]
    data = bytearray(file.read_bytes())
    data[-1 if layout != "61" else -2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(EcgError, match="lead II: checksum of the samples is"):
        wfdb_io.read(tmp_path / name)
    for signal in signals:  # 0 means that none was computed
        signal["sum"] = False
    plain_records.write(tmp_path, "r", signals, 500)
    assert wfdb_io.read(tmp_path / name).signal.shape[0] == 2


@pytest.mark.parametrize("fmt, top", [("8", 100), ("310", 500), ("311", 500), ("160", 30000), ("61", 30000)])
@pytest.mark.parametrize("n_leads", [1, 2])
def test_rare_formats_are_those_of_the_package(tmp_path, fmt, top, n_leads):
    rng, n = np.random.default_rng(1), 90 // n_leads
    data = {"8": 90, "310": 120, "311": 120}.get(fmt, 180)
    (tmp_path / "r.dat").write_bytes(rng.integers(0, 256, data, np.uint8).tobytes())
    lines = [f"r.dat {fmt} 200(3)/mV 16 0 5 0 0 {lead}" for lead in LEADS[:n_leads]]
    headed(tmp_path, [f"r {n_leads} 250 {n}", *lines])
    np.testing.assert_array_equal(
        wfdb_io.read(tmp_path / "r").signal, wfdb.rdsamp(str(tmp_path / "r"))[0].T.astype(np.float32)
    )
    headed(tmp_path, [f"r {n_leads} 250 {2 * n}", *lines])
    with pytest.raises(EcgError, match="bytes of signal where the header announces"):
        wfdb_io.read(tmp_path / "r")


@pytest.mark.parametrize("fmt, per_frame", [("516", 1), ("516", 4), ("524", 2)])
def test_flac_is_read_at_its_own_rate_and_checked_before_memory_is_taken(tmp_path, fmt, per_frame):
    values = counts(2, 400)
    wfdb.wrsamp(
        "r", 62.5, ["mV"] * 2, ["I", "II"], e_d_signal=list(values), fmt=[fmt] * 2, adc_gain=[1000.0] * 2,
        baseline=[0] * 2, samps_per_frame=[per_frame] * 2, write_dir=str(tmp_path),
    )  # fmt: skip
    recording = wfdb_io.read(tmp_path / "r")
    assert recording.fs == 62.5 * per_frame
    np.testing.assert_array_equal(recording.signal, (values / 1000).astype(np.float32))
    for length in (1000000000000, 400 // per_frame - 1):
        edited(tmp_path, f"r 2 62.5 {400 // per_frame}", f"r 2 62.5 {length}")
        with pytest.raises(EcgError, match="bytes of FLAC"):
            wfdb_io.read(tmp_path / "r")
        edited(tmp_path, f"r 2 62.5 {length}", f"r 2 62.5 {400 // per_frame}")


def segmented(folder, lines, **parts):
    """Segments a, b (leads I, II) and what `parts` adds; the values of a and b."""
    values = [written(folder, name) for name in ("a", "b")]
    for name, text in parts.items():
        headed(folder, text, name)
    headed(folder, lines)
    return values


def test_segments_are_joined_and_gaps_between_them_are_nan(tmp_path):
    a, b = segmented(tmp_path, ["r/3 2 500 130", "a 40", "~ 50", "b 40", "# why"])
    recording = wfdb_io.read(tmp_path / "r")
    assert recording.signal.shape == (2, 130) and recording.comments == ("why",) and recording.leads == ("I", "II")
    np.testing.assert_array_equal(recording.signal[:, :40], a)
    np.testing.assert_array_equal(recording.signal[:, 90:], b)
    assert np.isnan(recording.signal[:, 40:90]).all() and recording.lead_mask.all()
    assert wfdb_io.segments(tmp_path / "r.hea") == ["a", "b"] and wfdb_io.segments(tmp_path / "a") == []


def test_segments_with_a_layout_may_hold_some_of_its_signals(tmp_path):
    layout = [
        "l 4 500 0", "~ 0 1000/mV 16 0 0 0 0 V1", "~ 0 1000/mV 16 0 0 0 0 II", "~ 0 1000/mV 16 0 0 0 0 I",
        "~ 0 1/mmHg 16 0 0 0 0 ABP",
    ]  # fmt: skip
    lines = ["r/5 4 500 130", "l 0", "a 40", "~ 10", "b 40", "c 40"]
    a, b = segmented(tmp_path, lines, l=layout)
    c = written(tmp_path, "c", ("V1",))
    recording = wfdb_io.read(tmp_path / "r")
    assert recording.leads == ("V1", "II", "I") and recording.lead_mask.tolist() == [True] * 3
    np.testing.assert_array_equal(recording.signal[2, :40], a[0])
    np.testing.assert_array_equal(recording.signal[1, 50:90], b[1])
    np.testing.assert_array_equal(recording.signal[0, 90:], c[0])
    assert np.isnan(recording.signal).sum() == 40 + 40 + 40 + 40 + 3 * 10
    package = wfdb.rdrecord(str(tmp_path / "r")).p_signal.T[:3].astype(np.float32)
    np.testing.assert_array_equal(recording.signal, package)


def monitored(folder, fmt, segments, lines):
    """A record as MIMIC-IV Waveform has them: a layout, segments whose signals lie in a file per rate, gaps.

    segments: {name: (signal line from the gain on, samples a frame, counts) of each signal}; fmt: "16" as bytes by
    hand, "516" as FLAC by the package.
    """
    for name, signals in segments.items():
        described = []
        for number, (said, per, values) in enumerate(signals):
            file, values = f"{name}_{number}", np.array(values)
            if fmt == "16":
                (folder / f"{file}.dat").write_bytes(values.astype("<i2").tobytes())
            else:
                one = dict(fmt=[fmt], adc_gain=[200.0], baseline=[0], samps_per_frame=[per])
                wfdb.wrsamp(file, 62.4725, ["mV"], ["x"], e_d_signal=[values], **one, write_dir=str(folder))
            described.append(f"{file}.dat {fmt}x{per} {said}")
        headed(folder, [f"{name} {len(signals)} 62.4725/999.56 {len(values) // per}", *described], name)
    headed(folder, lines)


@pytest.mark.parametrize("fmt", ["16", "516"])
def test_segments_with_several_samples_a_frame_are_joined_at_the_rate_of_the_leads(tmp_path, fmt):
    layout = ["l 4 62.4725/999.56 0", "~ 0x4 200/mV 14 0 0 0 0 II", "~ 0x4 200/mV 14 0 0 0 0 V5"]
    headed(tmp_path, [*layout, "~ 0x2 4096/NU 16 0 0 0 0 Pleth", "~ 0x1 1/Ohm 16 0 0 0 0 Resp"], "l")
    ii, v5 = [0, 200, -100, 50, 400, 20, -20, 100], [2, 4, 6, 8, 10, 12, 14, 16]
    a = [("200(0)/mV 14 0 0 0 0 II", 4, ii), ("100(2)/mV 14 0 0 0 0 V5", 4, v5)]
    a.append(("4096(0)/NU 16 0 0 0 0 Pleth", 2, [7, 7, 7, 7]))
    b = [("400000(0)/V 14 0 0 0 0 II", 4, [400, 0, 80, -40]), ("1(0)/Ohm 16 0 0 0 0 Resp", 1, [5])]
    monitored(tmp_path, fmt, {"a": a, "b": b}, ["r/4 4 62.4725/999.56 5", "l 0", "a 2", "~ 2", "b 1"])
    recording = wfdb_io.read(tmp_path / "r")
    assert recording.leads == ("II", "V5") and recording.fs == 4 * 62.4725 == 249.89
    of_a = [[0, 1, -0.5, 0.25, 2, 0.1, -0.1, 0.5], [0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14]]
    wanted = np.array([of_a[0] + [NAN] * 8 + [1, 0, 0.2, -0.1], of_a[1] + [NAN] * 12], np.float32)
    np.testing.assert_array_equal(recording.signal, wanted)
    assert recording.lead_mask.tolist() == [True, True]
    edited(tmp_path, "b_0.dat " + fmt + "x4", "b_0.dat " + fmt + "x2", "b")
    with pytest.raises(EcgError, match="do not fit|bytes"):
        wfdb_io.read(tmp_path / "r")


@pytest.mark.parametrize("fmt", ["16", "516"])
def test_a_record_of_a_monitor_is_packed_at_its_own_rate(tmp_path, fmt):
    """Ten seconds of II and V5 at 249.89 Hz in frames of four samples, with a gap of a third of a second."""
    (tmp_path / "raw").mkdir()
    x = crude_ecg(3, 249.89, 21 * 4 * 30 / 249.89, 2)
    assert x.shape == (2, 2520)
    parts = {"a": x[:, :1200], "b": x[:, 1280:]}
    says = [f"1000(0)/mV 14 0 0 0 0 {lead}" for lead in ("II", "V5")]
    segments = {name: [(said, 4, row) for said, row in zip(says, part, strict=True)] for name, part in parts.items()}
    layout = [f"~ 0x4 1000/mV 14 0 0 0 0 {lead}" for lead in ("II", "V5")]
    headed(tmp_path / "raw", ["l 2 62.4725/999.56 0", *layout], "l")
    monitored(tmp_path / "raw", fmt, segments, ["r/4 2 62.4725/999.56 630", "l 0", "a 300", "~ 20", "b 310"])
    (tmp_path / "raw/records.csv").write_text("record,patient,split,A\nr,p,train,1\n")
    pack(tmp_path / "raw", tmp_path / "toy", fs=250, leads=["II", "V5"], fs_tolerance=1e-4)
    packed = cohort.open(tmp_path / "toy")
    assert len(packed) == 1 and packed.records.fs_recorded[0] == 249.89 and packed.records.n_valid[0] == 2500
    assert bool(packed.records.gap_mask[0]) and packed.info["counts"]["rates_approximated"] == 1
    signal, there = packed.batch([0])[0], np.ones(2500, bool)
    there[1195:1290] = False  # the gap, and what resampling makes of its ends
    there[:50] = there[-50:] = False
    np.testing.assert_allclose(signal[:, there], crude_ecg(3, 250, 10, 2)[:, there] / 1000, atol=0.01)


SEGMENTS = {
    "itself": (["r/2 2 500 80", "a 40", "r 40"], {}, "consists of segments itself"),
    "a circle": (["r/1 2 500 40", "s 40"], {"s": ["s/1 2 500 40", "r 40"]}, "consists of segments itself"),
    "one that is missing": (["r/2 2 500 80", "a 40", "z 40"], {}, "z.hea.*cannot read the header"),
    "more than described": (["r/3 2 500 80", "a 40", "b 40"], {}, "3 segments announced, 2 described"),
    "fewer than described": (["r/1 2 500 40", "a 40", "b 40"], {}, "1 segments announced, 2 described"),
    "none": (["r/0 2 500 40", "a 40"], {}, "0 segments announced"),
    "gaps alone": (["r/1 2 500 40", "~ 40"], {}, "no segment with samples"),
    "another length": (["r/2 2 500 81", "a 41", "b 40"], {}, "segment a has 40 samples, the header says 41"),
    "another total": (["r/2 2 500 90", "a 40", "b 40"], {}, "90 samples announced, 80 in the segments"),
    "a gap without end": (["r/2 2 500", "a 40", "~ 1000000000000"], {}, "1000000000040 samples announced"),
    "one a thousand times too often": (["r/9999 2 500", *["a 40"] * 9999], {}, "399960 samples announced"),
    "another number of leads": (["r/2 3 500 80", "a 40", "b 40"], {}, "3 leads announced, 2 in a.hea"),
    "another rate": (["r/2 2 250 80", "a 40", "b 40"], {}, "do not fit"),
    "no length": (["r/2 2 500 80", "a 40", "b"], {}, "no segment line"),
    "outside": (["r/2 2 500 80", "a 40", "../b 40"], {}, "leads out of the header's folder"),
}


@pytest.mark.parametrize("case", SEGMENTS)
def test_segments_that_cannot_be_are_refused_with_the_reason(tmp_path, case):
    lines, parts, message = SEGMENTS[case]
    segmented(tmp_path, lines, **parts)
    with pytest.raises(EcgError, match=message):
        wfdb_io.read(tmp_path / "r")


HUGE = {
    "samples a frame": ("r.dat 16 ", "r.dat 16x100000 ", "bytes of signal where the header announces 16000000"),
    "samples": ("r 2 500 40", "r 2 500 1000000000000", "bytes of signal where the header announces 4000000000000"),
    "signals": ("r 2 500 40", "r 1000000 500 40", "1000000 leads announced, 2 described"),
    "offset": ("r.dat 16 ", "r.dat 16+1000000000000 ", "bytes of signal"),
    "digits of the length": ("r 2 500 40", "r 2 500 " + "9" * 5000, "no record line"),
    "digits of the baseline": ("1000(0)", f"1000({'9' * 5000})", "no gain"),
    "checksum": ("r.dat 16 1000(0)/mV 16 0 ", f"r.dat 16 1000(0)/mV 16 {'9' * 5000} ", "ADC zero"),
    "gain": ("1000(0)", "1e999(0)", "gain inf"),
    "rate": ("r 2 500 40", "r 2 1e999 40", "sampling rate is inf"),
}


@pytest.mark.parametrize("case", HUGE)
def test_numbers_that_no_file_can_hold_are_refused_before_memory_is_taken(tmp_path, case):
    written(tmp_path)
    old, new, message = HUGE[case]
    edited(tmp_path, old, new)
    tracemalloc.start()
    with pytest.raises(EcgError, match=message):
        wfdb_io.read(tmp_path / "r")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e7


def test_a_skew_beyond_the_end_leaves_nothing_of_the_lead(tmp_path):
    values = written(tmp_path)
    edited(tmp_path, "r.dat 16 ", "r.dat 16:999999999 ")
    recording = wfdb_io.read(tmp_path / "r")
    assert recording.signal.shape == values.shape and np.isnan(recording.signal).all()
    assert not recording.lead_mask.any()


OUTSIDE = ["../secret.dat", "sub/../../secret.dat", "..\\secret.dat", "{root}/secret.dat", "./../secret.dat"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("fmt", ["16", "16:1", "516"])
def test_a_header_cannot_reach_out_of_its_folder_unless_that_is_allowed(tmp_path, monkeypatch, name, fmt):
    folder = tmp_path / "corpus"
    values = written(folder)
    (folder / "r.dat").rename(tmp_path / "secret.dat")
    (folder / "sub").mkdir()
    edited(folder, "r.dat 16 ", f"{name.format(root=tmp_path)} {fmt} ")
    with pytest.raises(EcgError, match="leads out of the header's folder.*ECGLIB_OTHER_FOLDERS") as caught:
        wfdb_io.read(folder / "r")
    assert caught.value.field == "file name" and caught.value.file.endswith("r.hea")
    monkeypatch.setenv("ECGLIB_OTHER_FOLDERS", str(tmp_path / "another"))
    with pytest.raises(EcgError, match="leads out"):
        wfdb_io.read(folder / "r")
    if fmt == "16" and "\\" not in name:
        monkeypatch.setenv("ECGLIB_OTHER_FOLDERS", f"{tmp_path / 'another'}:{tmp_path}")
        np.testing.assert_array_equal(wfdb_io.read(folder / "r").signal, values)


@pytest.mark.parametrize("how", ["folder below", "linked file", "linked folder", "dots inside"])
def test_files_below_the_header_and_links_that_somebody_made_are_read(tmp_path, how):
    folder, store = tmp_path / "corpus", tmp_path / "store"
    values = written(folder)
    store.mkdir()
    if how == "folder below":
        (folder / "sub").mkdir()
        (folder / "r.dat").rename(folder / "sub/r.dat")
        edited(folder, "r.dat", "sub/r.dat")
    elif how == "dots inside":
        edited(folder, "r.dat", "./sub/../r.dat")
        (folder / "sub").mkdir()
    else:
        (folder / "r.dat").rename(store / "r.dat")
        if how == "linked file":
            (folder / "r.dat").symlink_to(store / "r.dat")
        else:
            (folder / "sub").symlink_to(store)
            edited(folder, "r.dat", "sub/r.dat")
    np.testing.assert_array_equal(wfdb_io.read(folder / "r").signal, values)


@pytest.mark.parametrize(
    "line, field",
    [
        ("\0.dat 16 1000(0)/mV 16 0 0 0 0 I", None),
        (". 16 1000(0)/mV 16 0 0 0 0 I", None),
        ("r.dat", "format"),
        ("r.dat 16x0 1000(0)/mV 16 0 0 0 0 I", "format"),
        ("r.dat 0 1000(0)/mV 16 0 0 0 0 I", "format"),
        ("~ 0 1000(0)/mV 16 0 0 0 0 I", "length"),
        ("r.dat 16 1000(0.5)/mV 16 0 0 0 0 I", "gain"),
        ("r.dat 16 nan/mV 16 0 0 0 0 I", "gain"),
        ("r.dat 16 1000(0)/mV 16 0 0 x 0 I", "signal line"),
        ("r.dat 16 1000(0)/mV 16 I", "signal line"),
    ],
)
def test_signal_lines_that_say_nothing_are_refused_by_field(tmp_path, line, field):
    written(tmp_path)
    headed(tmp_path, ["r 1 500 40", line])
    with pytest.raises(EcgError) as caught:
        wfdb_io.read(tmp_path / "r")
    assert caught.value.field == field and "corpus" not in caught.value.reason


def test_signals_of_one_file_must_be_together_and_of_one_format(tmp_path):
    written(tmp_path, leads=("I", "II", "III"))
    lines = (tmp_path / "r.hea").read_text().splitlines()
    headed(tmp_path, [*lines[:2], lines[2].replace("r.dat", "s.dat"), lines[3]])
    with pytest.raises(EcgError, match="must follow one another"):
        wfdb_io.read(tmp_path / "r")
    headed(tmp_path, [*lines[:2], lines[2].replace(" 16 ", " 80 ", 1), lines[3]])
    with pytest.raises(EcgError, match="several formats"):
        wfdb_io.read(tmp_path / "r")
