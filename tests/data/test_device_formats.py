"""Files of devices: what the header states is what is read, in the device's own steps; no guesses."""

import struct

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ecglib import EcgError
from ecglib.data import device_formats, wfdb_io
from ecglib.data.recording import LEADS
from ecglib.pipeline import cli

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
HL7 = """<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<component><series><code code="RHYTHM"/><component><sequenceSet>
<component><sequence><code code="TIME_RELATIVE"/><value xsi:type="GLIST_PQ"><head value="0.000" unit="s"/>
<increment value="0.002" unit="s"/></value></sequence></component>
<component><sequence><code code="MDC_ECG_LEAD_II"/><value xsi:type="SLIST_PQ"><origin value="0" unit="{unit}"/>
<scale value="2.5" unit="{unit}"/><digits>{digits}</digits></value></sequence></component>
</sequenceSet></component></series></component></AnnotatedECG>"""


def schiller(path, counts, names=LEADS, fs=500, step=1.0, units="UV", exponent=1, kind="ECG_RHYTHMS", count=None):
    """Write a Schiller XML file of integer counts (lead, time); averaged beats stand before the recording."""
    channels = "".join(
        f"<channel><name>{name.upper()}</name><data>{','.join(map(str, row))},</data>"
        f"<samplecount>{count or len(row)}</samplecount></channel>"
        for name, row in zip(names, counts, strict=True)
    )
    head = (
        f"<resolution><samplerate><exponent>{exponent}</exponent><value>{fs}</value></samplerate>"
        f"<yres><unitperbit>{step}</unitperbit><units>{units}</units></yres></resolution>"
    )
    beats = f"<wavedata><type>ECG_AVERAGES</type>{head}<channel><name>I</name><data>1</data></channel></wavedata>"
    wave = f"<wavedata><type>{kind}</type>{head}{channels}</wavedata>"
    person = "<patdata><lastname>Doe</lastname></patdata>"
    path.write_text(
        f"<a.schillerEDI.SchillerEDI>{person}<eventdata>{beats}{wave}</eventdata></a.schillerEDI.SchillerEDI>"
    )
    return path


def edf(path, counts, label="ECG", unit="mV", low=-3.2768, high=3.2767, fs=200):
    """Write an EDF file of one signal in records of one second (Kemp et al., 1992); counts: int16."""
    words = [("0", 8), ("Doe, Jane", 80), ("", 80), ("01.01.01", 8), ("00.00.00", 8), ("512", 8), ("", 44)]
    words += [(str(len(counts) // fs), 8), ("1", 8), ("1", 4), (label, 16), ("", 80), (unit, 8), (f"{low:g}", 8)]
    words += [(f"{high:g}", 8), ("-32768", 8), ("32767", 8), ("", 80), (str(fs), 8), ("", 32)]
    head = b"".join(word.ljust(width).encode() for word, width in words)
    path.write_bytes(head + struct.pack(f"<{len(counts)}h", *counts))
    return path


def waves(n_leads=12, n_times=1000, seed=0):
    return np.random.default_rng(seed).integers(-900, 900, (n_leads, n_times))


@pytest.mark.parametrize(
    ("step", "units", "mv"), [(1, "UV", 1e-3), (2.5, "UV", 2.5e-3), (4.88, "uV", 4.88e-3), (0.01, "MV", 0.01)]
)
def test_the_samples_are_those_of_the_file_and_stay_so_as_a_wfdb_record(tmp_path, step, units, mv):
    counts = waves()
    path = schiller(tmp_path / "a b.xml", counts, step=step, units=units)
    recording = device_formats.read(path)
    assert recording.leads == LEADS and recording.fs == 500 and recording.lead_mask.all()
    np.testing.assert_allclose(recording.signal, counts * mv, rtol=1e-6)
    device_formats.convert_all([path], tmp_path / "out")
    np.testing.assert_allclose(wfdb_io.read(tmp_path / "out/a_b").signal, counts * mv, rtol=1e-6)


def test_an_edf_file_has_the_unit_and_range_of_its_header_and_padding_is_nan(tmp_path):
    counts = waves(1, 400)[0]
    counts[-50:] = -32768
    path = edf(tmp_path / "x.edf", counts)
    signal = device_formats.read(path, {"ECG": "II"}).signal[0]
    step = (3.2767 + 3.2768) / 65535
    np.testing.assert_allclose(signal[:-50], (counts[:-50] + 32768) * step - 3.2768, atol=2e-7)
    assert np.isnan(signal[-50:]).all()


@pytest.mark.parametrize("pulse", [True, False])
def test_a_calibration_pulse_is_no_signal(tmp_path, pulse):
    counts = waves()
    tail = np.zeros(250, int)
    tail[50:150] = 1000 if pulse else 0
    path = schiller(tmp_path / "x.xml", np.hstack([counts, np.tile(tail, (12, 1))]))
    assert device_formats.read(path).signal.shape[1] == (1000 if pulse else 1250)


def test_eight_stored_leads_are_twelve(tmp_path):
    counts = waves(8)
    recording = device_formats.read(schiller(tmp_path / "x.xml", counts, EIGHT)).select(LEADS)
    assert recording.lead_mask.all()
    np.testing.assert_allclose(recording.signal[2], (counts[1] - counts[0]) / 1000, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"units": "bit"}, "wavedata"),
        ({"step": ""}, "wavedata"),
        ({"fs": ""}, "wavedata"),
        ({"exponent": 2}, "wavedata"),
        ({"count": 7}, "wavedata"),
        ({"kind": "ECG_AVERAGES"}, "wavedata"),
        ({"names": ("I",) * 12}, "lead"),
    ],
)
def test_a_schiller_file_without_rate_step_or_names_is_refused(tmp_path, change, field):
    with pytest.raises(EcgError, match=rf"x\.xml: \[{field}\]"):
        device_formats.read(schiller(tmp_path / "x.xml", waves(), **change))


@pytest.mark.parametrize("unit", ["mmHg", ""])
def test_a_lead_that_is_no_voltage_is_refused(tmp_path, unit):
    with pytest.raises(EcgError, match="unit"):
        device_formats.read(edf(tmp_path / "x.edf", waves(1, 400)[0], unit=unit))
    path = tmp_path / "x.xml"
    path.write_text(HL7.format(unit=unit or "1", digits="1 2 3"))
    with pytest.raises(EcgError, match="unit"):
        device_formats.read(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"<a></a>", b"schillerEDI", b"RIFF0000WAVE"])
def test_what_is_no_ecg_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(EcgError, match=r"x\.bin"):
        device_formats.read(path)


def test_a_name_in_the_file_is_mapped_left_out_or_named_as_unknown(tmp_path):
    path = edf(tmp_path / "x.edf", waves(1, 400)[0])
    assert device_formats.read(path, {"ECG": "V5"}).leads == ("V5",)
    with pytest.raises(EcgError, match="lead"):
        device_formats.read(path, {"ECG": ""})
    with pytest.raises(EcgError, match="MLII"):
        device_formats.read(path, {"MLII": "II"})


@pytest.mark.parametrize("keep", [(), ("patient", "date")])
def test_nothing_of_the_person_is_kept_unasked(tmp_path, keep):
    path = edf(tmp_path / "x.edf", waves(1, 400)[0])
    device_formats.convert_all([path], tmp_path / "out", {"ECG": "I"}, keep, number=True)
    text = "".join(file.read_text("latin-1") for file in (tmp_path / "out").iterdir())
    assert ("Doe" in text) == ("2001-01-01" in text) == bool(keep)
    assert (tmp_path / "out/ecg00001.hea").is_file() and "x.edf" not in text
    with pytest.raises(EcgError, match="sexx"):
        device_formats.read(path, keep=["sexx"])


def test_the_command_names_what_it_refused_and_replaces_only_its_own(tmp_path):
    (tmp_path / "in").mkdir()
    edf(tmp_path / "in/a.edf", waves(1, 400)[0])
    schiller(tmp_path / "in/b.xml", waves())
    (tmp_path / "in/notes.txt").write_text("no ECG")
    words = ["convert", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--lead-names", "ECG=II"]
    result = CliRunner().invoke(cli.cli, words)
    assert result.exit_code == 1 and "\n1 records in" in result.output  # b.xml has no lead ECG: named too
    result = CliRunner().invoke(cli.cli, words[:4])
    assert result.exit_code == 1 and "notes.txt" in result.output and "\n2 records in" in result.output
    table = pd.read_csv(tmp_path / "out/records.csv")
    assert list(table.record) == ["a", "b"] and list(table.seconds) == [2.0, 2.0] and list(table.fs) == [200, 500]
    (tmp_path / "out/mine.txt").write_text("mine")
    result = CliRunner().invoke(cli.cli, words[:4])
    assert isinstance(result.exception, EcgError) and (tmp_path / "out/mine.txt").read_text() == "mine"


def test_what_macos_leaves_in_a_folder_is_no_recording_and_counted(tmp_path):
    (tmp_path / "in").mkdir()
    schiller(tmp_path / "in/a.xml", waves())
    for name in ("._a.xml", ".DS_Store"):
        (tmp_path / "in" / name).write_bytes(b"\0\5\26\7")
    result = CliRunner().invoke(cli.cli, ["convert", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "1 records in" in result.output and "0 files refused" in result.output
    assert "2 hidden files" in result.output and list(pd.read_csv(tmp_path / "out/records.csv").record) == ["a"]
    (tmp_path / "in/a.xml").unlink()
    with pytest.raises(EcgError, match="no file"):
        device_formats.convert_all([tmp_path / "in"], tmp_path / "none")


def test_two_files_of_one_record_name_are_named(tmp_path):
    for name in ("a b.xml", "a_b.xml"):
        schiller(tmp_path / name, waves())
    with pytest.raises(EcgError, match="a b.xml, .*a_b.xml"):
        device_formats.convert_all(sorted(tmp_path.glob("*.xml")), tmp_path / "out")


REAL = {  # file -> leads, Hz, samples without the calibration pulse, as the file itself states them
    "dicom/Example.dcm": (12, 500, 5000),
    "dicom/cardio_sample.dcm": (12, 500, 5000),
    "dicom/pydicom_waveform_ecg.dcm": (12, 1000, 10000),
    "edf/sample.edf": (1, 300, 12000),
    "ge-muse-xml/example1.xml": (8, 500, 5000),
    "ge-muse-xml/example2.xml": (8, 500, 5000),
    "ge-muse-xml/example3.xml": (8, 500, 5000),
    "ge-muse-xml/example4.xml": (8, 500, 5000),
    "hl7-aecg/Example.xml": (12, 500, 5000),
    "hl7-aecg/hl7aecg_example.xml": (12, 100, 1000),
    "hl7-aecg/minimum_aecg.xml": (1, 500, 13),
    "philips-sierra/129DYPRG.XML": (12, 500, 5264),
    "philips-sierra/repbeats_example.xml": (12, 500, 5264),
    "philips-sierra/2020-5-18_15-48-11.xml": (12, 500, 5300),
    "philips-sierra/3191723_ZZDEMOPTONLY_1-04_orig.xml": (12, 500, 5300),
    "schiller-xml/sample.xml": (12, 500, 5000),
    "scp-ecg/Example.scp": (12, 500, 5000),
}


def test_every_real_file_is_read_or_refused(real_data, tmp_path):
    root = real_data / "formats"
    skipped = ("LICENSE", "COPYING", "README", "ORIGIN", "SOURCES")
    for path in sorted(file for file in root.rglob("*") if file.is_file() and not file.name.startswith(skipped)):
        name = path.relative_to(root).as_posix()
        if name not in REAL:
            with pytest.raises(EcgError, match=path.name):
                device_formats.read(path)
            continue
        recording = device_formats.convert(path, tmp_path, device_formats.record_name(path))
        assert (len(recording.leads), recording.fs, recording.signal.shape[1]) == REAL[name], name
        back = wfdb_io.read(tmp_path / device_formats.record_name(path))
        np.testing.assert_array_equal(back.signal, recording.signal, err_msg=name)
        assert back.comments[0].startswith("Source: ") and len(back.comments) == 1


def test_one_ecg_in_three_formats_is_one_ecg(real_data):
    """The ECG toolkit wrote the same recording as SCP-ECG, DICOM and HL7 aECG."""
    files = ("scp-ecg/Example.scp", "dicom/Example.dcm", "hl7-aecg/Example.xml")
    scp, dicom, hl7 = (device_formats.read(real_data / "formats" / file).select(LEADS).signal for file in files)
    np.testing.assert_array_equal(scp, hl7)
    there = np.isfinite(dicom)  # the DICOM file calls 0 its padding: a zero at the very start is missing
    assert (~there).sum() <= 4
    np.testing.assert_array_equal(dicom[there], scp[there])


INVENTED = "hl7-aecg/hl7aecg_example.xml"  # an example of the format: its lead III is not II - I


@pytest.mark.parametrize("file", [name for name, (n, *_) in REAL.items() if n == 12 and name != INVENTED])
def test_limb_leads_of_real_files_fulfil_einthoven(real_data, file):
    recording = device_formats.read(real_data / "formats" / file)
    one, two, three = (recording.signal[recording.leads.index(lead)] for lead in ("I", "II", "III"))
    assert np.nanpercentile(np.abs(two - one - three), 99) <= 0.011  # stored in steps of 2.5 and 5 microvolt
