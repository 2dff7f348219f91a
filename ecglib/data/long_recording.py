"""A WFDB recording of hours or days that is read in pieces, with the memory of one piece."""

import os

import numpy as np

from ecglib import EcgError
from ecglib.data import wfdb_io
from ecglib.data.recording import record_path


class LongRecording:
    """A WFDB record that is read in pieces. fs in Hz, n_times, leads (standard names where they are, else the file's).

    lead_names: name in the file -> name to give it, or "" to leave the channel out.
    Raises EcgError for what `wfdb_io.read` refuses in a header, a signal file that is short, and a record that does not
    lie in one plain file (several segments or files, FLAC, formats 8, 310, 311, several samples a frame, skew).
    """

    def __init__(self, path, lead_names: dict[str, str] | None = None):
        base = record_path(path)
        header = wfdb_io._header(base)
        layouts = {signal.layout for signal in header.signals}
        files = {signal.file for signal in header.signals}
        plain = len(layouts) == len(files) == 1 and header.segments is None
        packed = [name for name in wfdb_io._BYTES if name not in ("8", "310", "311")]
        self.format, per_frame, skew, self._offset = next(iter(layouts)) if plain else ("", 1, 0, 0)
        if not plain or self.format not in packed or per_frame > 1 or skew:
            fix = "write it again as one file of format 16 or 212 (wfdb's xform does)"
            raise EcgError("cannot be read in pieces: not one plain signal file", file=f"{base}.hea", fix=fix)
        channels = wfdb_io._channels(header, lead_names)
        self._rows, self.leads = [row for row, _ in channels], tuple(name for _, name in channels)
        self._signals, self._width = header.signals, header.n_signals
        self.file = wfdb_io._beside(header.file, header.signals[0].file)
        self.fs, self.record_id = header.fs, base.name
        block, many = wfdb_io._BYTES[self.format]
        try:
            size = os.path.getsize(self.file) - self._offset
        except OSError as error:
            raise EcgError(f"cannot read the signal file: {error.strerror}", file=self.file) from error
        self.n_times = header.n_frames or size * many // block // self._width
        needed = -(-self.n_times * self._width * block // many)
        if size < needed or not self.n_times:
            reason = f"{size} bytes of signal where the header announces {needed}"
            raise EcgError(reason, file=self.file, field="length", fix="fetch the record again")

    @property
    def hours(self) -> float:
        """Length of the recording."""
        return self.n_times / self.fs / 3600

    def read(self, start: int, end: int) -> np.ndarray:
        """Samples start ... end of every lead: float32 mV (lead, time), NaN where a sample is invalid."""
        start, end = max(start, 0), min(end, self.n_times)
        block, many = wfdb_io._BYTES[self.format]
        before = start * self._width % many  # values that share their bytes with the one asked for
        first, n_values = start * self._width - before, (end - start) * self._width
        n_bytes = -(-(n_values + before) * block // many)
        data = np.fromfile(self.file, np.uint8, n_bytes, offset=self._offset + first * block // many).tobytes()
        counts = wfdb_io._unpack(data, self.format, 0, n_values + before)[before:].reshape(-1, self._width).T
        return wfdb_io._physical(counts[self._rows], [self._signals[row] for row in self._rows])[0]


def stated_rate(path) -> float | None:
    """The sampling rate (Hz) that the header of a record states; None where there is no header."""
    base = record_path(path)
    return wfdb_io._header(base).fs if base.with_name(f"{base.name}.hea").is_file() else None
