"""The reader against the wfdb package (bit for bit), the writer against both readers, and bad input."""

import numpy as np
import pytest
import wfdb
from einthoven import einthoven_residual

from ecglib import EcgError
from ecglib.data import wfdb_io
from ecglib.data.recording import LEADS, limb

# Corpus folder -> records in it that the wfdb package cannot read; about 3,400 are compared.
REAL = {
    "ptb-xl/records100": 0,
    "ptb-xl/records500": 0,
    "ptb-xl-2k": 0,
    "ludb": 0,
    "brugada-huca": 0,
    "mitdb": 0,
    "nstdb": 0,
    "qtdb": 0,
    "cinc2017": 0,
    "cinc2021": 0,
    "cpsc2018": 0,
    "cpsc2021": 0,
    "cinc2020-quirks": 4,
}
EVERY = {"ptb-xl/records100": 5, "ptb-xl-2k": 5}  # of thousands of files that one writer made
NOT_COMPARED = ("afdb", "nsrdb", "bidmc")  # headers without signals; channels that are no voltage, which we leave out
OWN_LIMB_LEADS = ("ludb", "brugada-huca")  # scaled to 1 mV peak to peak each; 0.01 mV off Einthoven's law
WITHOUT_HEADERS = ("chapman", "cinc2011")  # nothing in them that a WFDB reader could read


def by_package(base):
    return wfdb.rdsamp(str(base))[0].T.astype(np.float32)


def counts(n_leads=12, n_times=1001, top=2000, seed=0):
    return np.random.default_rng(seed).integers(-top, top, (n_leads, n_times))


def written(folder, fmt="16", gain=1000.0, leads=LEADS, name="r1", **options):
    wfdb_io.write(folder, name, counts(len(leads)), 500, leads, gain, fmt=fmt, **options)
    return folder / name


def package_written(folder, fmt, digital):
    """A record as the wfdb package writes it, with the formats our writer does not know."""
    n = digital.shape[1]
    numbers = dict(fmt=[fmt] * n, adc_gain=[200.0] * n, baseline=[3] * n)
    wfdb.wrsamp("p1", 250, ["mV"] * n, list(LEADS[:n]), d_signal=digital, write_dir=str(folder), **numbers)
    return folder / "p1"


def edit(base, old, new):
    header = base.with_suffix(".hea")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new))


@pytest.mark.parametrize("corpus", REAL)
def test_bit_equal_on_real_recordings(real_data, corpus):
    headers = sorted((real_data / corpus).rglob("*.hea"))[:: EVERY.get(corpus, 1)]
    assert headers
    refused = 0
    for header in headers:
        try:
            expected = by_package(header.with_suffix(""))
        except ValueError:  # the package cannot read it: we must say why
            refused += 1
            with pytest.raises(EcgError, match="record name.*4880/mV"):
                wfdb_io.read(header)
            continue
        recording = wfdb_io.read(header)
        assert recording.signal.tobytes() == expected.tobytes(), header
        if len(recording.leads) == 12 and corpus not in OWN_LIMB_LEADS:
            assert einthoven_residual(recording.select(LEADS).signal) < 0.003, header
    assert refused == REAL[corpus]


def test_no_corpus_with_headers_is_left_out(real_data):
    listed = [real_data / name for name in (*REAL, *NOT_COMPARED)]
    assert [h for h in real_data.rglob("*.hea") if not any(folder in h.parents for folder in listed)] == []
    assert not [header for name in WITHOUT_HEADERS for header in (real_data / name).rglob("*.hea")]


@pytest.mark.parametrize("fmt", ["16", "212", "mat"])
@pytest.mark.parametrize("gain", [1000.0, 204.7, [100.0 + k / 3 for k in range(12)]])
def test_written_records_read_the_same_by_both_readers(tmp_path, fmt, gain):
    base = written(tmp_path, fmt, gain, baseline=7, comments=("Age: 61", "Sex: Female"))
    recording = wfdb_io.read(base)
    np.testing.assert_array_equal(recording.signal, by_package(base))
    values = (counts() - 7) / np.broadcast_to(gain, 12)[:, None]
    np.testing.assert_array_equal(recording.signal, values.astype(np.float32))
    assert recording.leads == LEADS and recording.fs == 500 and recording.comments == ("Age: 61", "Sex: Female")
    record = wfdb.rdrecord(str(base), physical=False)
    assert record.checksum == [int(c) for c in (counts().sum(1) + 2**15) % 2**16 - 2**15]
    assert record.init_value == counts()[:, 0].tolist()


@pytest.mark.parametrize(
    "fmt, top", [("80", 127), ("24", 2**23 - 1), ("32", 2**31 - 2), ("16", 2**15 - 1), ("212", 2047)]
)
@pytest.mark.parametrize("n_leads", [1, 3])
def test_formats_against_the_package(tmp_path, fmt, top, n_leads):
    digital = np.random.default_rng(1).integers(-top, top, (77, n_leads))
    digital[5:9, 0] = wfdb_io.INVALID[fmt]  # read as NaN
    base = package_written(tmp_path, fmt, digital)
    recording = wfdb_io.read(base)
    np.testing.assert_array_equal(recording.signal, by_package(base))
    assert np.isnan(recording.signal[0, 5:9]).all() and np.isnan(recording.signal).sum() == 4


def test_other_formats_and_several_files_go_to_the_package(tmp_path):
    base = written(tmp_path)
    base.with_suffix(".dat").write_bytes(np.fromfile(base.with_suffix(".dat"), "<i2").astype(">i2").tobytes())
    edit(base, "r1.dat 16", "r1.dat 61")  # big-endian
    np.testing.assert_array_equal(wfdb_io.read(base).signal, (counts() / 1000).astype(np.float32))
    one, two = written(tmp_path, leads=("I",), name="one"), written(tmp_path, leads=("II",), name="two")
    lines = [base.with_suffix(".hea").read_text().splitlines()[1] for base in (one, two)]
    (tmp_path / "both.hea").write_text("\n".join(["both 2 500 1001", *lines]))
    both = wfdb_io.read(tmp_path / "both")
    np.testing.assert_array_equal(both.signal, by_package(tmp_path / "both"))
    assert both.leads == ("I", "II")


@pytest.mark.parametrize("unit, factor", [("mV", 1.0), ("uV", 1e-3), ("V", 1e3), ("mv", 1.0)])
def test_units_become_millivolt(tmp_path, unit, factor):
    base = written(tmp_path, gain=2.0, units=unit)
    np.testing.assert_allclose(wfdb_io.read(base).signal, counts() / 2 * factor, rtol=1e-6)


def test_one_millivolt_pulse_reads_one_in_every_lead_by_name(tmp_path):
    """Leads stored in another order, each with a pulse of its own height: heights must follow the names."""
    order = LEADS[::-1]
    pulses = np.zeros((12, 100), int)
    for row, name in enumerate(order):
        pulses[row, 50] = 1000 * (1 + LEADS.index(name))
    wfdb_io.write(tmp_path, "r", pulses, 100, [name.lower() for name in order], 1000)
    recording = wfdb_io.read(tmp_path / "r")
    assert recording.leads == order
    np.testing.assert_array_equal(recording.select(LEADS).signal[:, 50], np.arange(1.0, 13.0))


def test_flat_leads_are_masked_and_unknown_names_and_other_channels_kept_apart(tmp_path):
    values = counts(4)
    values[1] = 12
    values[2] = wfdb_io.INVALID["16"]
    wfdb_io.write(tmp_path, "r", values, 360, ("MLII", "v1", "V2", "Resp"), 200)
    np.testing.assert_array_equal(wfdb_io.read(tmp_path / "r").lead_mask, [True, False, False, True])
    header = tmp_path / "r.hea"
    lines = header.read_text().splitlines()
    header.write_text("\n".join([*lines[:4], lines[4].replace("/mV", "/l")]))
    assert wfdb_io.read(header).leads == ("MLII", "V1", "V2")
    header.write_text(header.read_text().replace("/mV", "/mmHg"))
    with pytest.raises(EcgError, match="are no voltage"):
        wfdb_io.read(header)


def test_einthoven_survives_a_written_record_and_a_swap_of_names_shows(tmp_path):
    values = counts()
    values[:2] = values[:2] // 2 * 2
    values[2:6] = [lead.astype(int) for lead in limb(values[0], values[1]).values()]
    wfdb_io.write(tmp_path, "r", values, 500, LEADS, 1000)
    assert einthoven_residual(wfdb_io.read(tmp_path / "r").select(LEADS).signal) < 1e-6
    wfdb_io.write(tmp_path, "r", values, 500, ("II", "I", *LEADS[2:]), 1000)
    assert einthoven_residual(wfdb_io.read(tmp_path / "r").select(LEADS).signal) > 0.1


def truncate(base):
    base.with_suffix(".dat").write_bytes(base.with_suffix(".dat").read_bytes()[:-3])


def corrupt(base):
    data = bytearray(base.with_suffix(".dat").read_bytes())
    data[40] ^= 0x10
    base.with_suffix(".dat").write_bytes(bytes(data))


BAD = {
    "truncated": (truncate, "length", "24021 bytes of signal"),
    "one flipped bit": (corrupt, "checksum", "lead aVF|lead"),
    "header says fewer samples": (lambda b: edit(b, "500 1001", "500 900"), "length", "announces"),
    "header says more leads": (lambda b: edit(b, "r1 12 ", "r1 13 "), "number of signals", "13 leads announced"),
    "zero length": (lambda b: b.with_suffix(".dat").write_bytes(b""), "length", "0 bytes of signal"),
    "no rate": (lambda b: edit(b, " 500 1001", " 0 1001"), "record line", "rate is zero"),
    "no signal file": (lambda b: b.with_suffix(".dat").unlink(), None, "cannot read the signal file"),
    "no header": (lambda b: b.with_suffix(".hea").unlink(), None, "cannot read the header"),
    "empty header": (lambda b: b.with_suffix(".hea").write_text("# only a comment"), None, "empty header"),
    "no header at all": (lambda b: b.with_suffix(".hea").write_bytes(b"\x00\xff\x13junk"), "record line", "no record"),
    "unknown format": (lambda b: edit(b, ".dat 16 ", ".dat 999 "), "format", "'999' is no format"),
    "extension in the name": (lambda b: edit(b, "r1 12", "r1.mat 12"), "record name", "with an extension"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_file_field_and_reason(tmp_path, case):
    base = written(tmp_path)
    damage, field, message = BAD[case]
    damage(base)
    with pytest.raises(EcgError, match=message) as caught:
        wfdb_io.read(base)
    assert caught.value.field == field and "r1" in caught.value.file


def test_matlab_header_must_agree_and_a_missing_checksum_is_accepted(tmp_path):
    base = written(tmp_path, "mat", leads=("I",))
    lines = base.with_suffix(".hea").read_text().split()
    edit(base, f" {lines[-3]} 0 I", " 0 0 I")  # CinC 2017 writes 0 for every checksum
    assert wfdb_io.read(base).signal.shape == (1, 1001)
    data = base.with_suffix(".mat").read_bytes()
    base.with_suffix(".mat").write_bytes(np.array([30, 1, 999], "<i4").tobytes() + data[12:])
    with pytest.raises(EcgError, match="type 30, 1 x 999; the header says format 16, 1 x 1001"):
        wfdb_io.read(base)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fmt": "61"}, "cannot write format"),
        ({"record_id": "a.b"}, "bad record name"),
        ({"counts": np.full((1, 5), 40000)}, "outside format 16"),
        ({"counts": np.full((1, 5), 2048), "fmt": "212"}, "outside format 212"),
        ({"counts": np.zeros((1, 5))}, "needs integer counts"),
        ({"counts": np.zeros((2, 5), int)}, "needs integer counts"),
        ({"counts": np.zeros((1, 0), int)}, "needs integer counts"),
    ],
)
def test_the_writer_refuses(tmp_path, changes, message):
    options = dict(record_id="r", counts=counts(1), fs=100, leads=("I",), gain=1000, fmt="16") | changes
    with pytest.raises(EcgError, match=message):
        wfdb_io.write(tmp_path, **options)
    assert not list(tmp_path.iterdir())
