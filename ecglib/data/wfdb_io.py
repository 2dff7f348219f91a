"""WFDB records in and out, as header(5) and signal(5) of the WFDB Applications Guide say; a small writer.

Headers are read here, with every size checked against the files before memory is taken. Samples of formats 16, 212, 80,
24, 32, 61 and 160 (MATLAB v4 `.mat`, 16+24, included) are unpacked here, those of 8, 310, 311 and FLAC by the wfdb
package. Values equal the wfdb package's physical values cast to float32, bit for bit: for formats of at most 24 bits
`counts - baseline` is exact in float32, and one float32 division rounds exactly as a float64 division cast to float32
does (Figueroa 1995), provided the gain itself is a float32 number; otherwise we compute in float64.
"""

import codecs
import os
import re
from collections import namedtuple
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np

from ecglib import EcgError
from ecglib.data.recording import LEADS, Recording, record_path, standard, varies

# Format -> the count that stands for "no sample". "0" has no file; 508, 516 and 524 are FLAC.
INVALID = {"16": -(2**15), "212": -(2**11), "80": -(2**7), "24": -(2**23), "32": -(2**31), "61": -(2**15)}
INVALID |= {"160": -(2**15), "8": -(2**31), "310": -(2**9), "311": -(2**9), "0": 0}
INVALID |= {"508": -(2**7), "516": -(2**15), "524": -(2**23)}
# Format -> (bytes, samples in them).
_BYTES = {"16": (2, 1), "212": (3, 2), "80": (1, 1), "24": (3, 1), "32": (4, 1), "61": (2, 1), "160": (2, 1)}
_BYTES |= {"8": (1, 1), "310": (4, 3), "311": (4, 3)}
_PLAIN = {"16": "<i2", "32": "<i4", "61": ">i2"}
_FLAC_BLOCK = 6554  # samples that one byte of FLAC can stand for: 65535 in a frame of at least 10 bytes
MAX_GAP = 1000  # samples that a multi-segment record may announce for each one in its files
_PREFIXES = {"m": 1.0, "milli": 1.0, "u": 1e3, "µ": 1e3, "μ": 1e3, "micro": 1e3, "": 1e-3, "n": 1e6, "nano": 1e6}
_PER_MV = {prefix + volt: per for prefix, per in _PREFIXES.items() for volt in ("v", "volt", "volts")}
_MAT_TYPE = {30: "16", 20: "32", 50: "80"}  # MATLAB v4 type field of int16, int32, uint8
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_LINE = rf"(\S*[^\s/])[ \t]+(\d{{1,9}})(?:[ \t]+({_NUMBER})(?:/\S*)?(?:[ \t]+(\d{{1,18}})(?:[ \t].*)?)?)?"
_RECORD = re.compile(_LINE, re.IGNORECASE | re.ASCII)
_FORMAT = re.compile(r"(\d{1,9})(?:x(\d{1,9}))?(?::(\d{1,9}))?(?:\+(\d{1,18}))?", re.ASCII)
_GAIN = re.compile(rf"({_NUMBER})(?:\(([-+]?\d{{1,15}})\))?(?:/(\S+))?", re.IGNORECASE | re.ASCII)
_DEFAULTS = ("", "", "200", "0", "0", "0", "0", "0")  # of the fields of a signal line that may be left out

# n_frames 0 = not stated. segments: None, or (name, frames) each; then there are no signals.
_Header = namedtuple("_Header", "file fs n_frames n_signals segments signals comments")
# layout: (format, samples per frame, skew in frames, byte offset); gain in counts per unit; per_mv: units in one mV,
# None = no voltage; checksum 0 = not recorded.
_Signal = namedtuple("_Signal", "file layout gain baseline units per_mv first checksum name")


def read(path, lead_names: dict[str, str] | None = None) -> Recording:
    """Read a WFDB record (path with or without .hea): all leads in file order, float32 mV (lead, time).

    lead_names: name in the file -> name to give it, or "" to leave the channel out.
    Standard lead names are canonicalised, others kept ("MLII"); channels that are no voltage (respiration, pressure)
    are left out. Invalid samples are NaN. `lead_mask` is False for a lead that is constant or all NaN.
    fs is that of the leads: frames per second times samples per frame. Segments are joined, gaps between them are NaN.
    Raises EcgError for what cannot be read, leads of different rates, a file that is longer or shorter than the header
    says, a MATLAB header or a checksum that disagrees (0, as in CinC 2017, means not computed), and a file name that
    leads out of the header's folder (the folders in ECGLIB_OTHER_FOLDERS are allowed). The initial value is not
    compared: the checksum covers it, and CinC 2017 has wrong ones.
    """
    base = record_path(path)
    header = _header(base)
    if header.segments is None:
        channels = _channels(header, lead_names)
        signal, usable = _samples(header, channels)
        fs = header.fs * header.signals[channels[0][0]].layout[1]
    else:
        channels, signal, fs = _joined(header, lead_names)
        usable = varies(signal)
    leads = tuple(name for _, name in channels)
    return Recording(signal, fs, leads, usable, base.name, comments=header.comments)


def segments(path) -> list[str]:
    """Names of the records that a multi-segment record consists of, its layout included; none for any other record.

    Raises EcgError for a header that cannot be read.
    """
    return [name for name, _ in _header(record_path(path)).segments or () if name != "~"]


def signal_names(path) -> tuple[str, ...]:
    """Names of the signals of a record as its header gives them. EcgError for a header that cannot be read."""
    return tuple(signal.name for signal in _header(record_path(path)).signals)


def comments(path) -> tuple[str, ...]:
    """The comment lines of a header, without "#"; nothing else of it is checked. EcgError where it cannot be read."""
    return _comments(_lines(record_path(path))[1])


def _comments(lines: list[str]) -> tuple[str, ...]:
    return tuple(line.strip(" \t#") for line in lines if line.startswith("#"))


def _header(base: Path) -> _Header:
    file, lines = _lines(base)
    comments, lines = _comments(lines), [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise EcgError("empty header", file=file)
    match = _RECORD.fullmatch(lines[0])
    if match is None:
        raise EcgError(f"no record line: {lines[0][:60]!r}", file=file, field="record line")
    name, _, n_segments = match[1].rpartition("/")
    if n_segments == base.name != name or not n_segments.isdecimal() or not name:  # a folder before the name
        name, n_segments = match[1], None
    ending = name.rpartition(".")[2]
    if ending in ("mat", "dat", "hea") and Path(name).name != base.name:
        fix = f"write {name.removesuffix(f'.{ending}')} and check the gain: CinC 2020 Georgia headers with this fault "
        fix += "also state 4880/mV where the counts are microvolt (1000/mV); CinC 2021 has both corrected"
        raise EcgError(f"record name {name!r} with an extension", file=file, field="record name", fix=fix)
    n_signals, fs, n_frames = int(match[2]), float(match[3] or 250), int(match[4] or 0)
    wanted, what = (n_signals, "leads") if n_segments is None else (int(n_segments[:9]), "segments")
    if not wanted or wanted != len(lines) - 1:
        reason = f"{wanted} {what} announced, {len(lines) - 1} described"
        raise EcgError(reason, file=file, field="number of signals" if n_segments is None else "number of segments")
    if not 0 < fs < float("inf"):
        raise EcgError(f"sampling rate is {fs or 'zero'}", file=file, field="record line")
    if n_segments is not None:
        return _Header(file, fs, n_frames, n_signals, _segment_lines(lines[1:], file), (), comments)
    signals = [_signal(line, number, file) for number, line in enumerate(lines[1:])]
    folder = name.rpartition("/")[0]
    if folder and not os.path.isdir(
        os.path.join(os.path.dirname(file), folder)
    ):  # PTB-XL+ names the folder in which its files were before
        signals = [signal._replace(file=signal.file.removeprefix(f"{folder}/")) for signal in signals]
    return _Header(file, fs, n_frames, n_signals, None, signals, comments)


def _lines(base: Path) -> tuple[str, list[str]]:
    """The header file of a record (.hea or .HEA) and its lines: UTF-8, and Latin-1 what is none."""
    missing = None
    for ending in (".hea", ".HEA"):
        try:
            with open(f"{base}{ending}", "rb") as file:
                data = file.read().removeprefix(b"\xef\xbb\xbf")
            break
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            missing = missing or error
    else:
        reason = getattr(missing, "strerror", None) or missing
        raise EcgError(f"cannot read the header: {reason}", file=f"{base}.hea") from missing
    text = data.decode("utf-8", "ecglib-latin-1")
    return f"{base}{ending}", [line.strip() for line in text.split("\n" if "\n" in text else "\r")]


codecs.register_error(
    "ecglib-latin-1", lambda error: (error.object[error.start : error.end].decode("latin-1"), error.end)
)


def _segment_lines(lines: list[str], file: str) -> list[tuple[str, int]]:
    out = []
    for line in lines:
        name, _, length = line.replace("\t", " ").rpartition(" ")
        if not name or not re.fullmatch(r"\d{1,18}", length, re.ASCII):
            raise EcgError(f"no segment line: {line[:60]!r}", file=file, field="segments", fix="write name and length")
        out.append((name.strip(), int(length)))
    return out


def _signal(line: str, number: int, file: str) -> _Signal:
    words = line.split(None, 8) if line.isascii() else re.split(r"[ \t]+", line, maxsplit=8)
    if len(words) < 9:
        words += [*_DEFAULTS[len(words) :], f"signal {number}"]
    if (usual := _usual(words[1], words[2], words[4])) and words[0] != "~":
        try:
            return _Signal(words[0], *usual, int(words[5]), int(words[6]) % 65536, words[8])
        except ValueError:  # said below
            pass
    layout, scale = _layout(words[1]), _scale(words[2])
    for found, word, field in ((layout, words[1], "format"), (scale, words[2], "gain")):
        if found is None:
            raise EcgError(f"signal {number}: {word!r} is no {field} that we know", file=file, field=field)
    try:
        zero, first, checksum = int(words[4]), int(words[5]), int(words[6])
    except ValueError as error:
        reason = f"signal {number}: ADC zero, first value and checksum are {' '.join(words[4:7])!r}"
        raise EcgError(reason[:200], file=file, field="signal line", fix="write whole numbers") from error
    gain, baseline, units, per_mv = scale
    if (words[0] == "~") != (layout[0] == "0"):
        reason = f"signal {number}: format {layout[0]} of file {words[0]!r}; format 0 and ~ mean: no file"
        raise EcgError(reason, file=file, field="format")
    if baseline is None:
        baseline = zero
    if not 1e-15 < abs(gain) < 1e15 or abs(baseline) >= 2**53:
        raise EcgError(f"signal {number}: gain {gain}, baseline {baseline}", file=file, field="gain")
    return _Signal(words[0], layout, gain, baseline, units, per_mv, first, checksum % 65536, words[8])


@lru_cache(maxsize=4096)
def _usual(format_token: str, gain_token: str, zero: str) -> tuple | None:
    """(layout, gain, baseline, units, per_mv) of a signal in a file, None where `_signal` has to look closer."""
    layout, scale = _layout(format_token), _scale(gain_token)
    if layout is None or scale is None or layout[0] == "0" or not re.fullmatch("[-+]?[0-9]{1,15}", zero):
        return None
    gain, baseline, units, per_mv = scale
    baseline = int(zero) if baseline is None else baseline
    return (layout, gain, baseline, units, per_mv) if 1e-15 < abs(gain) < 1e15 and abs(baseline) < 2**53 else None


@lru_cache(maxsize=256)
def _layout(token: str) -> tuple[str, int, int, int] | None:
    """ "16x2:1+24" -> ("16", 2, 1, 24); None for a format that there is not."""
    match = _FORMAT.fullmatch(token)
    known = match and match[1] in INVALID and match[2] != "0"
    return (match[1], int(match[2] or 1), int(match[3] or 0), int(match[4] or 0)) if known else None


@lru_cache(maxsize=4096)
def _scale(token: str) -> tuple[float, int | None, str, float | None] | None:
    """ "1000.0(0)/mV" -> (gain, baseline or None, units, units in one mV or None); a gain of 0 means 200."""
    match = _GAIN.fullmatch(token)
    units = match and match[3] or "mV"
    return match and (float(match[1]) or 200.0, match[2] and int(match[2]), units, _PER_MV.get(units.lower()))


def _channels(header: _Header, lead_names: dict[str, str] | None, needed: bool = True) -> list[tuple[int, str]]:
    """(number of the signal, name) of the leads of a header; needed: EcgError where there is none.

    Raises EcgError for a lead that is no voltage, a voltage in units that we do not know, and for different rates.
    """
    channels, odd, rates = [], [], {}
    for row, signal in enumerate(header.signals):
        name = known = standard(signal.name) or signal.name
        if lead_names:
            name = lead_names.get(signal.name, lead_names.get(known, known))
        if not name:
            continue
        if signal.per_mv is not None:
            channels.append((row, name))
            rates.setdefault(signal.layout[1], []).append(name)
        elif standard(name) in LEADS or re.search(r"v(olts?)?$", signal.units, re.IGNORECASE):
            odd.append(row)
    if odd or (needed and not channels):
        signals = [header.signals[row] for row in odd] or header.signals
        units, names = sorted({signal.units for signal in signals}), [signal.name for signal in signals]
        fix = 'use mV, uV or V, or leave the channel out: lead_names={"name": ""}'
        raise EcgError(f"units {units} of {names} are no voltage", file=header.file, field="units", fix=fix)
    if len(rates) > 1:
        parts = [f"{', '.join(names)} at {header.fs * per:g} Hz" for per, names in sorted(rates.items())]
        fix = f'leave channels out: lead_names={{"{rates[min(rates)][0]}": ""}}'
        reason = f"leads of different rates: {'; '.join(parts)}"
        raise EcgError(reason, file=header.file, field="samples per frame", fix=fix)
    return channels


def _samples(header: _Header, channels: list[tuple[int, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Signal of the channels, float32 mV (lead, time), and which leads move."""
    groups = [header.signals]
    if len(files := {signal.file for signal in header.signals}) > 1:
        groups = [list(group) for _, group in groupby(header.signals, key=lambda signal: signal.file)]
    if len(files) < len(groups):
        raise EcgError("signals of one file must follow one another", file=header.file, field="file name")
    rows, signals = [row for row, _ in channels], [header.signals[row] for row, _ in channels]
    blocks = [_counts(header, group) for group in groups]
    if len(blocks) == 1 and isinstance(blocks[0], np.ndarray) and not any(s.layout[2] for s in signals):
        counts = blocks[0] if len(rows) == len(header.signals) else blocks[0][rows]
    else:
        every = [counts for block in blocks for counts in block]
        kept = [_shifted(every[row], signal) for row, signal in zip(rows, signals, strict=True)]
        lengths = {len(counts) for counts in kept if counts is not None}
        if len(lengths) != 1:
            reason = f"signal files of {sorted(lengths)} samples" if lengths else "no lead has a signal file"
            raise EcgError(reason, file=header.file, field="length")
        counts = np.stack([np.zeros(*lengths, np.int16) if counts is None else counts for counts in kept])
    return _physical(counts, signals)


def _counts(header: _Header, signals: list[_Signal]):
    """Integer samples of the signals of one file: an array (signal, time), or one array or None for each."""
    if signals[0].file == "~":
        return [None] * len(signals)
    frames = _frames(header, signals)
    if frames.shape[1] == len(signals):
        counts = np.ascontiguousarray(frames.T)
        sums = counts.sum(axis=1, dtype=np.uint16).tolist()
    else:
        ends = np.cumsum([signal.layout[1] for signal in signals])[:-1]
        counts = [part.reshape(-1) for part in np.split(frames, ends, axis=1)]
        sums = [int(part.sum(dtype=np.uint16)) for part in counts]
    for signal, computed in zip(signals, sums, strict=True):
        if signal.checksum and computed != signal.checksum:
            reason = f"lead {signal.name}: checksum of the samples is {computed}, "
            reason += f"the header says {signal.checksum} (modulo 65536)"
            fix = "the signal or its header changed: fetch it again"
            raise EcgError(reason, file=header.file, field="checksum", fix=fix)
    return counts


def _shifted(counts: np.ndarray | None, signal: _Signal) -> np.ndarray | None:
    """Samples of a signal whose first `skew` frames came before the record; as many invalid ones at the end."""
    fmt, per_frame, skew, _ = signal.layout
    if not skew or counts is None:
        return counts
    skew = min(skew * per_frame, len(counts))
    return np.concatenate([counts[skew:], np.full(skew, INVALID[fmt], counts.dtype)])


def _frames(header: _Header, signals: list[_Signal]) -> np.ndarray:
    """Integer samples of one signal file: (frame, sample of a frame)."""
    fmt, _, _, offset = signals[0].layout
    if any(s.layout is not signals[0].layout and (s.layout[0], s.layout[3]) != (fmt, offset) for s in signals):
        raise EcgError("one signal file in several formats", file=header.file, field="format")
    file = _beside(header.file, signals[0].file)
    try:
        with open(file, "rb") as stream:
            data = stream.read()
    except (OSError, ValueError) as error:
        reason = f"cannot read the signal file: {getattr(error, 'strerror', None) or error}"
        raise EcgError(reason, file=file) from error
    width = sum(signal.layout[1] for signal in signals)
    n_frames = _n_frames(header, file, data, signals[0].layout, width)
    if offset == 24 and file.endswith(".mat"):
        kind, rows, columns = (int(number) for number in np.frombuffer(data, "<i4", 3))
        if (_MAT_TYPE.get(kind), rows, columns) != (fmt, width, n_frames):
            reason = f"type {kind}, {rows} x {columns}; the header says format {fmt}, {width} x {n_frames}"
            raise EcgError(reason, file=file, field="MATLAB header", fix="correct the .hea file")
    if fmt in _BYTES and fmt not in ("8", "310", "311"):
        return _unpack(data, fmt, offset, n_frames * width).reshape(n_frames, width)
    return _by_package(file, signals, n_frames)


def _n_frames(header: _Header, file: str, data: bytes, layout: tuple, width: int) -> int:
    """Frames of a signal file, as stated or as many as there are; EcgError where the file does not hold them."""
    fmt, _, _, offset = layout
    if fmt not in _BYTES:
        stream = int.from_bytes(data[18:26], "big")  # STREAMINFO: channels - 1 above bit 41, samples below bit 36
        there = (stream % 2**36 - offset) * (1 + (stream >> 41) % 8) // width
        n_frames = header.n_frames or there
        if data[:4] != b"fLaC" or not 0 < n_frames == there or n_frames * width > _FLAC_BLOCK * len(data):
            reason = f"{n_frames} x {width} samples announced, {there} x {width} in {len(data)} bytes of FLAC"
            raise EcgError(reason, file=file, field="length", fix="fetch the record again")
        return n_frames
    block, many = _BYTES[fmt]
    n_bytes = len(data) - offset
    n_frames = header.n_frames or max(n_bytes, 0) * many // block // width
    if not n_frames:
        raise EcgError("zero length", file=file)
    expected = -(-n_frames * width * block // many)
    frame = -(-width * block // many) if header.n_frames or many > 1 else 1
    if not expected <= n_bytes < expected + frame:
        reason = f"{n_bytes} bytes of signal where the header announces {expected} ({width} leads x {n_frames})"
        raise EcgError(reason, file=file, field="length", fix="fetch the record again")
    return n_frames


def _beside(header_file: str, name: str) -> str:
    """Path of a file that a header names, relative to the header's folder; links that somebody made there are followed.

    Raises EcgError for one outside that folder and the folders (separated as in PATH) of ECGLIB_OTHER_FOLDERS.
    """
    path = os.path.join(os.path.dirname(header_file), name)
    if not {"/", "\\", ":"}.intersection(name) and name != "..":
        return path
    normal = os.path.normpath(name.replace("\\", "/"))
    if normal.startswith("/") or normal.split("/")[0] == ".." or Path(name).drive:
        real = Path(os.path.realpath(path))
        others = [other for other in os.environ.get("ECGLIB_OTHER_FOLDERS", "").split(os.pathsep) if other]
        if not any(real.is_relative_to(os.path.realpath(other)) for other in others):
            reason = f"{name!r} leads out of the header's folder"
            fix = f"if that is meant, set ECGLIB_OTHER_FOLDERS={real.parent}"
            raise EcgError(reason, file=header_file, field="file name", fix=fix)
    return path


def _unpack(data: bytes, fmt: str, start: int, n_values: int) -> np.ndarray:
    """Turn bytes into interleaved integer samples (https://www.physionet.org/physiotools/wag/signal-5.htm)."""
    if fmt in _PLAIN:
        return np.frombuffer(data, _PLAIN[fmt], n_values, start)
    if fmt == "160":
        return (np.frombuffer(data, "<u2", n_values, start) ^ 0x8000).view(np.int16)
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


def _by_package(file: str, signals: list[_Signal], n_frames: int) -> np.ndarray:
    """Frames of a format that the wfdb package reads: 8, 310, 311, FLAC."""
    from wfdb.io import _signal as package

    n, layouts = len(signals), [signal.layout for signal in signals]
    where = {
        "file_name": [os.path.basename(file)] * n,
        "dir_name": os.path.dirname(os.path.abspath(file)),
        "pn_dir": None,
    }
    size = {"n_sig": n, "sig_len": n_frames, "sampfrom": 0, "sampto": n_frames, "channels": list(range(n))}
    how = {"fmt": [layout[0] for layout in layouts], "samps_per_frame": [layout[1] for layout in layouts]}
    how |= {"skew": [0] * n, "byte_offset": [layout[3] for layout in layouts], "ignore_skew": True}
    try:
        counts = package._rd_segment(**where, **size, **how, init_value=[signal.first for signal in signals])
        return np.concatenate([part.reshape(n_frames, -1) for part in counts], axis=1)
    except Exception as error:  # the package raises many types on bad input; all mean that it cannot read this file
        raise EcgError(f"not readable: {type(error).__name__}: {error}", file=file) from error


def _physical(counts: np.ndarray, signals: list[_Signal]) -> tuple[np.ndarray, np.ndarray]:
    """Counts -> float32 mV (lead, time), and the leads that move."""
    gain, baseline, per_mv, invalid, exact = _scaling(tuple((s.layout[0], *s[2:4], s.per_mv) for s in signals))
    kind = np.float32 if exact else np.float64
    signal = counts.astype(kind)
    if baseline.any():
        signal -= baseline.astype(kind)
    signal /= gain.astype(kind)
    if not exact:
        signal = _to_mv(signal, per_mv)
    low, high = counts.min(axis=1), counts.max(axis=1)
    if (low == invalid).any():
        gaps = counts == invalid[:, None]
        signal[gaps] = np.nan
        low = np.where(gaps, high[:, None], counts).min(axis=1)
    return signal, low != high


@lru_cache(maxsize=256)
def _scaling(signals: tuple) -> tuple:
    """Gain and baseline (lead, 1), per_mv and invalid count (lead,) of (format, gain, baseline, per_mv) each, and
    whether float32 is exact."""
    formats, *numbers = zip(*signals, strict=True)
    gain, baseline, per_mv = (np.array(values) for values in numbers)
    exact = not {"32", "8"}.intersection(formats) and (gain == gain.astype(np.float32)).all()
    exact = exact and (abs(baseline) < 2**22).all() and (per_mv == 1).all()
    return gain[:, None], baseline[:, None], per_mv, np.array([INVALID[fmt] for fmt in formats]), exact


def _to_mv(signal: np.ndarray, per_mv: np.ndarray) -> np.ndarray:
    """Scale float64 values to mV before the one rounding to float32."""
    small = (per_mv < 1)[:, None]
    return np.where(small, signal * 1000.0, signal / np.maximum(per_mv, 1.0)[:, None]).astype(np.float32)


def _joined(header: _Header, lead_names: dict[str, str] | None) -> tuple[list, np.ndarray, float]:
    """Channels, signal (float32 mV, NaN where no segment has samples) and rate of a record of several segments."""
    parts = {name: _header(Path(_beside(header.file, name))) for name, _ in header.segments if name != "~"}
    if nested := [name for name, part in parts.items() if part.segments is not None]:
        raise EcgError(f"the segment {nested[0]} consists of segments itself", file=header.file, field="segments")
    layout = header.segments[0][0] if header.segments[0][1] == 0 else None  # which signals there may be
    first = parts.get(layout) or next((part for name, part in parts.items() if name != layout), None)
    if first is None:
        raise EcgError("no segment with samples", file=header.file, field="segments")
    if first.n_signals != header.n_signals:
        reason = f"{header.n_signals} leads announced, {first.n_signals} in {os.path.basename(first.file)}"
        raise EcgError(reason, file=header.file, field="number of signals")
    channels, samples = _channels(first, lead_names), {}
    names, per_frame = [name for _, name in channels], first.signals[channels[0][0]].layout[1]
    if layout and len(set(names)) < len(names):
        raise EcgError("a lead is there twice", file=first.file, field="lead name")
    for name, part in parts.items():
        if name == layout:
            continue
        own = _channels(part, lead_names, needed=not layout)
        rates = {part.fs * part.signals[row].layout[1] for row, _ in own}
        fits = {lead for _, lead in own} <= set(names) if layout else [lead for _, lead in own] == names
        if not fits or not rates <= {header.fs * per_frame}:
            reason = f"leads {', '.join(lead for _, lead in own)} at {sorted(rates)} Hz do not fit "
            reason += f"those of {os.path.basename(first.file)}: {', '.join(names)} at {header.fs * per_frame:g} Hz"
            raise EcgError(reason, file=part.file, field="segments")
        if own:
            rows = [names.index(lead) for _, lead in own] if layout else slice(None)
            samples[name] = rows, _samples(part, own)[0]
    return channels, _in_line(header, len(names), per_frame, samples), header.fs * per_frame


def _in_line(header: _Header, n_leads: int, per_frame: int, samples: dict) -> np.ndarray:
    """The samples (rows, signal) of the segments of a header one after the other: float32 (lead, time)."""
    total, held = sum(n for _, n in header.segments), sum(x.shape[1] for _, x in samples.values()) // per_frame
    if header.n_frames not in (0, total) or not 0 < total <= MAX_GAP * held:
        reason = f"{header.n_frames or total} samples announced, {total} in the segments, {held} in their files"
        raise EcgError(reason, file=header.file, field="length", fix="fetch the record again")
    signal, at = np.full((n_leads, total * per_frame), np.nan, np.float32), 0
    for name, length in header.segments:
        if name in samples:
            rows, x = samples[name]
            if x.shape[1] != length * per_frame:
                reason = f"segment {name} has {x.shape[1] // per_frame} samples, the header says {length}"
                raise EcgError(reason, file=header.file, field="segments")
            signal[rows, at : at + x.shape[1]] = x
        at += length * per_frame
    return signal


def write(folder, record_id, counts, fs, leads, gain, *, units="mV", baseline=0, fmt="16", comments=()) -> None:
    """Write one WFDB record into an existing folder: .hea with .dat, or with .mat.

    counts: integers (lead, time); the format's lowest value stands for an invalid sample (NaN on reading). fs: Hz.
    gain, baseline: one number or one per lead; the physical value is (counts - baseline) / gain in `units`.
    fmt: "16", "212" (12 bits), or "mat" (MATLAB v4, 16+24). comments: lines of the header.
    Raises EcgError for values outside the format, a bad record name or no samples.
    """
    counts = np.asarray(counts)
    name, packing, resolution = str(record_id), *(("212", 12) if fmt == "212" else ("16", 16))
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
        lines.append(f"{file} {token} {g!r}({zero})/{units} {resolution} 0 {first} {check} 0 {lead}")
    lines += [f"# {comment}" for comment in comments]
    folder = Path(folder)
    (folder / file).write_bytes(data)
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _pack212(values: np.ndarray) -> bytes:
    pairs = np.concatenate([values, np.zeros(len(values) % 2, values.dtype)]).reshape(-1, 2).astype(np.int16) & 0xFFF
    low, high = pairs[:, 0], pairs[:, 1]
    packed = np.stack([low & 0xFF, (low >> 8) | (high >> 8) << 4, high & 0xFF], axis=1).astype(np.uint8).tobytes()
    return packed[: -(-len(values) * 3 // 2)]
