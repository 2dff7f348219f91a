"""WFDB records in and out: common formats are read directly, the rest through the wfdb package; a small writer.

Fast path: single-file records with one sample per frame and no skew, in formats 16, 212, 80, 24, 32, MATLAB v4 `.mat`
(16+24) included. Its values equal the wfdb package's physical values cast to float32, bit for bit: for formats of at
most 24 bits `counts - baseline` is exact in float32, and one float32 division rounds exactly as a float64 division
cast to float32 does (Figueroa 1995), provided the gain itself is a float32 number; otherwise we compute in float64.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecglib.signals import LEADS, EcgError, Recording, canonical, record_path

INVALID = {"16": -(2**15), "212": -(2**11), "80": -(2**7), "24": -(2**23), "32": -(2**31)}  # stands for "no sample"
_BYTES = {"16": 2.0, "212": 1.5, "80": 1.0, "24": 3.0, "32": 4.0}
_PER_MV = {"mv": 1.0, "uv": 1000.0, "µv": 1000.0, "μv": 1000.0, "v": 0.001}
_MAT_TYPE = {30: "16", 20: "32", 50: "80"}  # MATLAB v4 type field of int16, int32, uint8
_RECORD = re.compile(r"(\S+)\s+(\d+)(?:\s+(\d*\.?\d+)(?:/\S*)?(?:\s+(\d+)(?:\s.*)?)?)?")
_FORMAT = re.compile(r"(\d+)(?:x1)?(?::0)?(?:\+(\d+))?")
_GAIN = re.compile(r"(-?\d*\.?\d+\.?(?:e[+-]?\d+)?)(?:\((-?\d+)\))?(?:/(\S+))?", re.IGNORECASE)


class _Header(NamedTuple):
    """What the fast path needs. gain in counts per unit; checksum 0 = not recorded; n_times None = not stated."""

    file: str
    fmt: str
    offset: int
    fs: float
    n_times: int | None
    gain: tuple
    baseline: tuple
    units: tuple
    checksum: tuple
    leads: tuple


def read(path) -> Recording:
    """Read a WFDB record (path with or without .hea): all leads in file order, float32 mV (lead, time).

    Standard lead names are canonicalised, others kept ("MLII"); channels that are no voltage (respiration, pressure)
    are left out. Invalid samples are NaN. `lead_mask` is False for a lead that is constant or all NaN.
    Beyond what the wfdb package checks, the fast path refuses (EcgError) a signal file that is longer or shorter than
    the header says, a MATLAB header that disagrees, and a checksum that disagrees, unless the header's checksum is 0,
    which is what tools write that do not compute it (CinC 2017). The initial value is not compared: the checksum
    covers it, and CinC 2017 has wrong ones.
    """
    base = record_path(path)
    header_file = base.with_name(base.name + ".hea")
    try:
        text = header_file.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise EcgError(f"cannot read the header: {error.strerror}", file=header_file) from error
    lines, comments = [], []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("#"):
            comments.append(line.strip(" \t#"))
        elif line:
            lines.append(line)
    header = _parse(lines, header_file)
    if header is None:
        return _read_with_package(base, header_file)
    counts = _counts(header, base.parent / header.file, header_file)
    signal, usable = _physical(counts, header)
    return _recording(base.name, signal, usable, header.fs, header.leads, header.units, comments, header_file)


def _parse(lines: list[str], file: Path) -> _Header | None:
    """Parse header lines; None when the record is beyond the fast path (the wfdb package then takes it)."""
    if not lines:
        raise EcgError("empty header", file=file)
    match = _RECORD.fullmatch(lines[0])
    if match is None:
        raise EcgError(f"no record line: {lines[0][:60]!r}", file=file, field="record line")
    name, n_leads, fs, n_times = match[1], int(match[2]), float(match[3] or 250), match[4]
    if "/" in name:  # several segments
        return None
    if "." in name:
        fix = f"write {name.split('.')[0]} and check the gain: CinC 2020 Georgia headers with this fault also state "
        fix += "4880/mV where the counts are microvolt (1000/mV); CinC 2021 has both corrected"
        raise EcgError(f"record name {name!r} with an extension", file=file, field="record name", fix=fix)
    if not n_leads or n_leads != len(lines) - 1:
        reason = f"{n_leads} leads announced, {len(lines) - 1} described"
        raise EcgError(reason, file=file, field="number of signals")
    if not fs or n_times == "0":
        raise EcgError("zero length" if fs else "sampling rate is zero", file=file, field="record line")
    rows = [line.split(None, 8) for line in lines[1:]]
    if any(len(row) < 9 for row in rows) or len({(row[0], row[1]) for row in rows}) > 1:
        return None
    layout, scales = _layout(rows[0][1]), [_scale(row[2]) for row in rows]
    if layout is None or None in scales:
        return None
    try:
        baseline = tuple(int(row[4]) if scale[1] is None else scale[1] for row, scale in zip(rows, scales, strict=True))
        checksum = tuple(int(row[6]) % 65536 for row in rows)
    except ValueError:
        return None
    gain, units, leads = tuple(s[0] for s in scales), tuple(s[2] for s in scales), tuple(row[8] for row in rows)
    return _Header(rows[0][0], *layout, fs, n_times and int(n_times), gain, baseline, units, checksum, leads)


@lru_cache(maxsize=256)
def _layout(token: str) -> tuple[str, int] | None:
    """ "16+24" -> ("16", 24); None for several samples per frame, skew and formats outside the fast path."""
    match = _FORMAT.fullmatch(token)
    return (match[1], int(match[2] or 0)) if match and match[1] in _BYTES else None


@lru_cache(maxsize=4096)
def _scale(token: str) -> tuple[float, int | None, str] | None:
    """ "1000.0(0)/mV" -> (gain, baseline or None, units); a gain of 0 means 200 (WFDB header specification)."""
    match = _GAIN.fullmatch(token)
    return match and (float(match[1]) or 200.0, match[2] and int(match[2]), match[3] or "mV")


def _counts(header: _Header, file: Path, header_file: Path) -> np.ndarray:
    """Read, check and unpack the signal file: integer (lead, time), contiguous."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise EcgError(f"cannot read the signal file: {error.strerror}", file=file) from error
    n_leads, n_bytes = len(header.leads), len(data) - header.offset
    n_times = header.n_times or int(max(n_bytes, 0) / _BYTES[header.fmt]) // n_leads
    if n_times == 0:
        raise EcgError("zero length", file=file)
    expected = -int(-n_times * n_leads * _BYTES[header.fmt] // 1)
    if n_bytes < expected or n_bytes >= expected + n_leads * _BYTES[header.fmt]:
        reason = f"{n_bytes} bytes of signal where the header announces {expected} ({n_leads} leads x {n_times})"
        raise EcgError(reason, file=file, field="length", fix="fetch the record again")
    if file.suffix == ".mat" and header.offset == 24:
        kind, rows, columns = (int(number) for number in np.frombuffer(data, "<i4", 3))
        if (_MAT_TYPE.get(kind), rows, columns) != (header.fmt, n_leads, n_times):
            reason = f"type {kind}, {rows} x {columns}; the header says format {header.fmt}, {n_leads} x {n_times}"
            raise EcgError(reason, file=file, field="MATLAB header", fix="correct the .hea file")
    counts = np.ascontiguousarray(_unpack(data, header, n_times * n_leads).reshape(n_times, n_leads).T)
    _check_sums(counts, header, header_file)
    return counts


def _unpack(data: bytes, header: _Header, n_values: int) -> np.ndarray:
    """Turn bytes into interleaved integer samples (https://www.physionet.org/physiotools/wag/signal-5.htm)."""
    fmt, start = header.fmt, header.offset
    if fmt in ("16", "32"):
        return np.frombuffer(data, "<i2" if fmt == "16" else "<i4", n_values, start)
    raw = np.frombuffer(data, np.uint8, offset=start)
    if fmt == "80":
        return raw[:n_values].astype(np.int16) - 128
    if fmt == "24":
        wide = np.zeros((n_values, 4), np.uint8)
        wide[:, 1:] = raw[: 3 * n_values].reshape(-1, 3)
        return wide.view("<i4")[:, 0] >> 8
    raw = np.concatenate([raw, np.zeros(-len(raw) % 3, np.uint8)]).reshape(-1, 3).astype(np.int16)
    pairs = np.stack([raw[:, 0] | (raw[:, 1] & 0x0F) << 8, raw[:, 2] | (raw[:, 1] & 0xF0) << 4], axis=1)
    return ((pairs.reshape(-1)[:n_values] ^ 0x800) - 0x800).astype(np.int16)  # sign of 12 bits


def _check_sums(counts: np.ndarray, header: _Header, file: Path) -> None:
    """Raise EcgError where a lead's sum modulo 2^16 is not the header's checksum (0 = not recorded)."""
    if counts.dtype == np.int16:
        sums = counts.view(np.uint16).sum(axis=1, dtype=np.uint16)
    else:
        sums = counts.sum(axis=1, dtype=np.int64) % 65536
    for name, computed, stated in zip(header.leads, sums.tolist(), header.checksum, strict=True):
        if stated and computed != stated:
            reason = f"lead {name}: checksum of the samples is {computed}, the header says {stated} (modulo 65536)"
            raise EcgError(reason, file=file, field="checksum", fix="the signal or its header changed: fetch it again")


def _physical(counts: np.ndarray, header: _Header) -> tuple[np.ndarray, np.ndarray]:
    """Counts -> float32 (lead, time) in the header's units (mV units already scaled), and the usable leads."""
    gain, baseline = np.array(header.gain), np.array(header.baseline)
    factor = np.array([_PER_MV.get(unit.lower(), 1.0) for unit in header.units])
    exact = header.fmt != "32" and (gain == gain.astype(np.float32)).all() and (abs(baseline) < 2**22).all()
    kind = np.float32 if exact and (factor == 1).all() else np.float64
    signal = counts.astype(kind)
    if baseline.any():
        signal -= baseline[:, None].astype(kind)
    signal /= gain[:, None].astype(kind)
    if kind is np.float64:
        signal = _to_mv(signal, factor)
    low, high = counts.min(axis=1), counts.max(axis=1)
    if low.min() == INVALID[header.fmt]:
        invalid = counts == INVALID[header.fmt]
        signal[invalid] = np.nan
        low = np.where(invalid, high[:, None], counts).min(axis=1)
    return signal, low != high


def _to_mv(signal: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Scale float64 values to mV before the one rounding to float32."""
    small = (factor < 1)[:, None]
    return np.where(small, signal * 1000.0, signal / np.maximum(factor, 1.0)[:, None]).astype(np.float32)


def _read_with_package(base: Path, header_file: Path) -> Recording:
    """Read with the wfdb package: skew, several samples per frame, several segments or files, rare formats."""
    import wfdb

    try:
        record = wfdb.rdrecord(str(base))
        signal = np.ascontiguousarray(record.p_signal.T)
    except Exception as error:  # the package raises many types on bad input; all mean that it cannot read this record
        raise EcgError(f"not readable: {type(error).__name__}: {error}", file=header_file) from error
    if not signal.size:
        raise EcgError("zero length", file=header_file)
    factor = np.array([_PER_MV.get((unit or "mV").lower(), 1.0) for unit in record.units])
    signal = _to_mv(signal, factor)
    finite = np.isfinite(signal)
    low = np.where(finite, signal, np.inf).min(axis=1)
    high = np.where(finite, signal, -np.inf).max(axis=1)
    units = [unit or "mV" for unit in record.units]
    return _recording(base.name, signal, low < high, record.fs, record.sig_name, units, record.comments, header_file)


@lru_cache(maxsize=4096)
def _lead_name(name: str) -> str:
    """Standard name where there is one, the file's own name otherwise."""
    try:
        return canonical(name)
    except EcgError:
        return name


def _recording(record_id, signal, usable, fs, names, units, comments, header_file) -> Recording:
    """Canonicalise the names and drop channels that are no voltage; a standard lead must be one."""
    leads = tuple(_lead_name(str(name)) for name in names)
    if not all(unit.lower() in _PER_MV for unit in units):
        keep = [row for row, unit in enumerate(units) if unit.lower() in _PER_MV]
        doubtful = [lead for row, lead in enumerate(leads) if row not in keep and lead in LEADS]
        if doubtful or not keep:
            reason = f"units {sorted(set(units))} of {doubtful or list(leads)} are no voltage"
            raise EcgError(reason, file=header_file, field="units", fix="use mV, uV or V")
        signal, usable, leads = signal[keep], usable[keep], tuple(leads[row] for row in keep)
    return Recording(signal, float(fs), leads, usable, record_id, comments=tuple(comments))


def write(
    folder, record_id, counts, fs, leads, gain, *, units="mV", baseline=0, fmt="16", comments=(), adc_res=16
) -> None:
    """Write one WFDB record (.hea and .dat, or .mat for fmt "mat" = MATLAB v4, 16+24) into an existing folder.

    counts: integers (lead, time), physical value = (counts - baseline) / gain in `units`; gain and baseline: one number
    or one per lead. The format's lowest value stands for an invalid sample (NaN on reading).
    Raises EcgError for values outside the format, a bad record name or no samples.
    """
    counts = np.asarray(counts)
    name, packing = str(record_id), "212" if fmt == "212" else "16"
    if fmt not in ("16", "212", "mat"):
        raise EcgError(f"cannot write format {fmt!r}", file=name, field="fmt", fix='use "16", "212" or "mat"')
    if not re.fullmatch(r"[-\w]+", name):
        raise EcgError(f"bad record name {name!r}", file=name, field="record name", fix="letters, digits, - and _ only")
    if counts.ndim != 2 or not counts.size or counts.dtype.kind not in "iu" or len(leads) != len(counts):
        reason = f"needs integer counts (lead, time) for {len(leads)} leads, got {counts.dtype} {counts.shape}"
        raise EcgError(reason, file=name, field="counts")
    if counts.min() < INVALID[packing] or counts.max() >= -INVALID[packing]:
        raise EcgError(f"counts outside format {packing}", file=name, field="counts", fix="a smaller gain")
    samples = np.ascontiguousarray(counts.T, dtype="<i2")
    data, file, token = samples.tobytes(), f"{name}.dat", packing
    if fmt == "212":
        data = _pack212(samples.reshape(-1))
    elif fmt == "mat":
        data = np.array([30, len(counts), counts.shape[1], 0, 4], "<i4").tobytes() + b"val\0" + data
        file, token = f"{name}.mat", "16+24"
    sums = ((counts.sum(axis=1, dtype=np.int64) + 2**15) % 2**16 - 2**15).tolist()
    gains, zeros = (np.broadcast_to(value, len(counts)).tolist() for value in (gain, baseline))
    lines = [f"{name} {len(counts)} {fs:.12g} {counts.shape[1]}"]
    for lead, g, zero, first, check in zip(leads, gains, zeros, counts[:, 0].tolist(), sums, strict=True):
        lines.append(f"{file} {token} {g!r}({zero})/{units} {adc_res} 0 {first} {check} 0 {lead}")
    lines += [f"# {comment}" for comment in comments]
    folder = Path(folder)
    (folder / file).write_bytes(data)
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _pack212(values: np.ndarray) -> bytes:
    """Pack 12-bit samples in pairs of three bytes."""
    pairs = np.concatenate([values, np.zeros(len(values) % 2, values.dtype)]).reshape(-1, 2).astype(np.int16) & 0xFFF
    low, high = pairs[:, 0], pairs[:, 1]
    packed = np.stack([low & 0xFF, (low >> 8) | (high >> 8) << 4, high & 0xFF], axis=1).astype(np.uint8).tobytes()
    return packed[: -(-len(values) * 3 // 2)]
