"""Records that cannot be packed: each is refused by name, and none ends the pack."""

import struct

import pytest
from test_cohort import FOLDER, _corpus, _pack

from ecglib import windows
from ecglib.signals import EcgError


def test_a_rate_without_a_simple_ratio_is_rejected_and_the_rest_is_packed(tmp_path):
    root = _corpus(tmp_path / "raw", n=4, fs=100)
    for name, rate in (("r1", "360.01"), ("r2", "0.0001")):
        header = root / f"{name}.hea"
        header.write_text(header.read_text().replace(f"{name} 12 100 ", f"{name} 12 {rate} "))
    packed = _pack(root, tmp_path / "toy")
    assert list(packed.records.record_id) == ["r0", "r3"]
    first, second = packed.rejected.itertuples(index=False)
    assert first == ("r1", "r1", "fs", "no simple ratio between 360.01 and 100 Hz") and second.field == "fs"


@pytest.mark.parametrize(
    "error", [KeyError("gain"), IndexError("no lead 3"), struct.error("unpack"), OverflowError("x")]
)
def test_any_error_while_reading_one_record_rejects_that_record(tmp_path, monkeypatch, error):
    root = _corpus(tmp_path / "raw", n=3, fs=100)
    read = FOLDER.read

    def broken(row):
        if row["record_id"] == "r1":
            raise error
        return read(row)

    monkeypatch.setattr(FOLDER, "read", broken)
    packed = _pack(root, tmp_path / "toy")
    assert list(packed.records.record_id) == ["r0", "r2"] and len(packed.rejected) == 1
    line = packed.rejected.iloc[0]
    assert (line.record_id, line.file, line.reason) == ("r1", "r1", f"{type(error).__name__}: {error}")


def test_a_record_that_fails_only_when_it_is_written_is_named(tmp_path, monkeypatch):
    root = _corpus(tmp_path / "raw", n=2, fs=100)
    monkeypatch.setattr(windows.beats, "r_peaks", lambda x, fs: [][0])
    with pytest.raises(EcgError, match="r0.*IndexError"):
        _pack(root, tmp_path / "toy")
    with pytest.raises(MemoryError):  # says nothing about a record
        monkeypatch.setattr(FOLDER, "read", lambda row: (_ for _ in ()).throw(MemoryError()))
        _pack(root, tmp_path / "toy")
