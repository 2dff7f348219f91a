"""WFDB records written and read value by value, as the specification says: the oracle of the property tests."""

import math
import os
import re
import struct

import numpy as np

FORMATS = ("16", "61", "160", "212", "80", "24", "32")  # that can be written
BITS = {"16": 16, "61": 16, "160": 16, "212": 12, "80": 8, "24": 24, "32": 32, "8": 8}
PER_MV = {"mv": 1.0, "uv": 1e3, "µv": 1e3, "μv": 1e3, "v": 1e-3, "nv": 1e6}


def encode(values, fmt: str) -> bytes:
    """Bytes of interleaved integers."""
    if fmt == "212":
        out = bytearray()
        for k in range(0, len(values), 2):
            a, b = (int(v) & 0xFFF for v in (values[k], values[k + 1] if k + 1 < len(values) else 0))
            out += bytes([a & 0xFF, a >> 8 | b >> 8 << 4, b & 0xFF])
        return bytes(out[: math.ceil(1.5 * len(values))])
    if fmt == "24":
        return b"".join(struct.pack("<i", int(v))[:3] for v in values)
    code, shift = {"16": ("<h", 0), "61": (">h", 0), "160": ("<H", 2**15), "80": ("<B", 128), "32": ("<i", 0)}[fmt]
    return b"".join(struct.pack(code, int(v) + shift) for v in values)


def decode(data: bytes, fmt: str, n_values: int) -> list[int]:
    """The reverse of `encode`."""
    if fmt == "212":
        out = []
        for k in range(n_values):
            b = data[3 * (k // 2) : 3 * (k // 2) + 3]
            value = b[0] | (b[1] & 15) << 8 if k % 2 == 0 else b[2] | b[1] >> 4 << 8
            out.append(value - 4096 if value > 2047 else value)
        return out
    if fmt == "24":
        return [int.from_bytes(data[3 * k : 3 * k + 3], "little", signed=True) for k in range(n_values)]
    codes = {"16": ("<h", 0), "61": (">h", 0), "160": ("<H", 2**15), "80": ("<B", 128), "32": ("<i", 0), "8": ("<b", 0)}
    code, shift = codes[fmt]
    size = struct.calcsize(code)
    return [struct.unpack_from(code, data, k * size)[0] - shift for k in range(n_values)]


def checksum(values) -> int:
    """Sum of the samples modulo 65536 as a signed number."""
    return (sum(map(int, values)) + 2**15) % 2**16 - 2**15


def write(folder, name: str, signals: list[dict], fs, comments=(), stated=True, encoding="utf-8") -> None:
    """Write a record; signals: dicts with file, fmt, per_frame, skew .. units, counts, lead, sum."""
    n_frames = len(signals[0]["counts"]) // signals[0]["per_frame"]
    lines = [f"{name} {len(signals)} {fs}" + (f" {n_frames}" if stated else "")]
    for file in dict.fromkeys(s["file"] for s in signals):
        group = [s for s in signals if s["file"] == file]
        frames = [np.reshape(s["counts"], (n_frames, s["per_frame"])) for s in group]
        data = encode(np.concatenate(frames, 1).reshape(-1), group[0]["fmt"])
        (folder / file).write_bytes(bytes(group[0]["offset"]) + data)
    for s in signals:
        layout = (
            s["fmt"] + (f"x{s['per_frame']}" if s["per_frame"] > 1 else "") + (f":{s['skew']}" if s["skew"] else "")
        )
        layout += f"+{s['offset']}" if s["offset"] else ""
        check = checksum(s["counts"]) if s["sum"] else 0
        scale = f"{s['gain']!r}({s['baseline']})/{s['units']}"
        lines.append(f"{s['file']} {layout} {scale} 16 0 {int(s['counts'][0])} {check} 0 {s['lead']}")
    text = "\n".join([*lines, *(f"# {c}" for c in comments)]) + "\n"
    (folder / f"{name}.hea").write_bytes(text.encode(encoding))


class Refused(Exception):
    """The record must not be accepted."""


def need(condition) -> None:
    """Refused unless the condition holds."""
    if not condition:
        raise Refused


def read(folder, name: str) -> tuple[float, list[str], list[np.ndarray]]:
    """Rate, names and values in mV (float32) of the voltages of a record; Refused where it contradicts itself."""
    try:
        return _read(folder, name)
    except (ValueError, IndexError, OSError, OverflowError) as error:
        raise Refused from error


def _read(folder, name):
    data = (folder / f"{name}.hea").read_bytes()
    lines = [_text(line).strip() for line in data.split(b"\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    words = re.split(r"[ \t]+", lines[0])
    need("/" not in words[0])
    n_signals, fs, n_frames = _whole(words[1]), 250.0, 0
    if len(words) > 2:
        fs = _number(words[2].split("/")[0])
    if len(words) > 3:
        n_frames = _whole(words[3])
    need(n_signals == len(lines) - 1 > 0 and fs > 0)
    signals = [_signal(line) for line in lines[1:]]
    kept = [s for s in signals if s["units"].lower() in PER_MV]
    need(kept and all(s in kept for s in signals if _is_lead(s["lead"])))
    need(not any(s["units"].lower().endswith(("v", "volt", "volts")) for s in signals if s not in kept))
    need(len({s["per_frame"] for s in kept}) == 1)
    files = [s["file"] for s in signals]
    need(all(files[files.index(f) : files.index(f) + files.count(f)] == [f] * files.count(f) for f in files))
    for file in dict.fromkeys(files):
        _samples(folder, [s for s in signals if s["file"] == file], n_frames)
    need(len({len(s["counts"]) for s in kept}) == 1)
    return fs * kept[0]["per_frame"], [s["lead"] for s in kept], [_millivolt(s) for s in kept]


def _text(line: bytes) -> str:
    out = ""
    while line:
        for n in (1, 2, 3, 4):  # the bytes of one character of UTF-8
            try:
                out, line = out + line[:n].decode(), line[n:]
                break
            except UnicodeDecodeError:
                continue
        else:
            out, line = out + line[:1].decode("latin-1"), line[1:]
    return out


def _whole(word: str) -> int:
    need(re.fullmatch("[0-9]+", word))
    return int(word)


def _number(word: str) -> float:
    need(re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", word))
    need(math.isfinite(float(word)))
    return float(word)


def _is_lead(name: str) -> bool:
    return name.lower() in ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6")


def _signal(line: str) -> dict:
    words = re.split(r"[ \t]+", line, maxsplit=8)
    layout = re.fullmatch("([0-9]+)(x[0-9]+)?(:[0-9]+)?([+][0-9]+)?", words[1])
    need(layout and layout[1] in BITS)
    per_frame, skew, offset = (int((layout[k] or f"_{default}")[1:]) for k, default in ((2, 1), (3, 0), (4, 0)))
    need(per_frame > 0)
    words += ["", "", "200", "0", "0", "0", "0", "0", "signal"][len(words) :]
    scale, _, units = words[2].partition("/")
    gain, bracket, baseline = scale.partition("(")
    need(not bracket or baseline.endswith(")"))
    need(bool(units) or "/" not in words[2])
    gain = _number(gain) or 200.0
    need(1e-15 < abs(gain) < 1e15)  # no amplifier has another
    zero, start, check = int(words[4]), int(words[5]), int(words[6])
    baseline = zero if not bracket else int(baseline[:-1])
    need(abs(baseline) < 2**53)
    need(re.fullmatch(r"(\([-+]?[0-9]+\))?", bracket + scale.partition("(")[2]))
    out = dict(file=words[0], fmt=layout[1], per_frame=per_frame, skew=skew, offset=offset, gain=gain)
    return out | dict(baseline=baseline, units=units or "mV", check=check, lead=words[8], start=start)


def _samples(folder, group: list[dict], n_frames: int) -> None:
    first = group[0]
    need(all((s["fmt"], s["offset"]) == (first["fmt"], first["offset"]) for s in group))
    need(not os.path.isabs(first["file"]) and ".." not in first["file"].split("/"))
    width, bits = sum(s["per_frame"] for s in group), BITS[first["fmt"]]
    size = os.path.getsize(folder / first["file"]) - first["offset"]
    known, n_frames = bool(n_frames), n_frames or size * 8 // bits // width
    over = size - math.ceil(n_frames * width * bits / 8)
    need(n_frames > 0 and 0 <= over)
    need(over < math.ceil(width * bits / 8) if known or bits == 12 else over == 0)
    data = (folder / first["file"]).read_bytes()[first["offset"] :]
    frames = np.array(decode(data, first["fmt"], n_frames * width), np.int64).reshape(n_frames, width)
    at = 0
    for s in group:
        s["counts"] = frames[:, at : at + s["per_frame"]].reshape(-1)
        at += s["per_frame"]
        if s["fmt"] == "8":  # differences
            s["counts"] = s["start"] + s["counts"].cumsum()
        need(s["check"] % 65536 in (0, checksum(s["counts"]) % 65536))


def _millivolt(s: dict) -> np.ndarray:
    counts, per_mv = s["counts"], PER_MV[s["units"].lower()]
    values = (counts - float(s["baseline"])) / s["gain"]
    values = values * 1000.0 if per_mv < 1 else values / per_mv
    values[counts == (-(2 ** (BITS[s["fmt"]] - 1)) if s["fmt"] != "8" else -(2**31))] = np.nan
    shift = min(s["skew"] * s["per_frame"], len(values))
    return np.concatenate([values[shift:], np.full(shift, np.nan)]).astype(np.float32)
