"""The clinical sheet: an ECG on millimetre paper at 25 mm/s and 10 mm/mV, true to scale when printed."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

from ecglib import EcgError
from ecglib.data.recording import LEADS
from ecglib.reporting.style import plain

SPEED, GAIN = 25.0, 10.0  # mm per second, mm per millivolt
FINE, COARSE, INK, SOFT = "#f7e3e0", "#ecbdb6", "#16181b", "#8a8f95"
PEN = (0.0, 0.35, 0.85)  # red, green, blue of what is marked: the paper is red
OFFSET = 2.0  # mV of the median, more than any heart gives
PULSE, EDGE = 12.5, 5.0  # mm: calibration pulse before each row, paper after it
GRID = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))


def ecg_paper(x, fs, leads=LEADS, *, lead_mask=None, title="", rhythm="II", seconds=10.0, shade=None, ax=None):
    """Draw one recording as a cardiologist reads it and return the Axes, whose data unit is 1 mm of paper.

    x: (lead, time) mV; fs: Hz; leads: their names; lead_mask (lead,): False is drawn as "not recorded"; the first
    `seconds` are shown. Twelve standard leads: 3 rows x 4 columns of consecutive quarters with a whole strip of
    `rhythm` below; otherwise one whole strip per lead, in the order given. A lead that lies OFFSET from zero, as stored
    by recorders that keep the voltage of the electrodes, is drawn around its median.
    Without `ax` 1 mm is 1 mm on paper.
    shade: (lead, time) from 0, nothing, to 1, as from a marker pen along the line: see `explanation_figures`.
    """
    x, mask, rows = _shown(x, fs, leads, lead_mask, rhythm, seconds)
    width = np.ceil(x.shape[1] / fs * SPEED / 5) * 5 + PULSE + EDGE
    baselines, height = _baselines(x, mask, list(leads), rows)
    if ax is None:
        ax = _sheet(width, height, title.count("\n") + 1)
    _grid(ax, width, height)
    for row, base in zip(rows, baselines, strict=True):
        _pulse(ax, base)
        for name, start, stop in row:
            lead = list(leads).index(name)
            _strip(ax, x[lead, start:stop] if mask[lead] else None, fs, start, stop, base, name)
            if shade is not None and mask[lead]:
                _marked(ax, x[lead, start:stop], fs, start, base, np.asarray(shade)[lead, start:stop])
    ax.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[])
    ax.set_xlabel("Time, 25 mm/s (large square 0.2 s)", fontsize=7, color=SOFT, loc="left")
    ax.set_ylabel("Amplitude, 10 mm/mV", fontsize=7, color=SOFT)
    ax.set_title(plain(title), fontsize=8, loc="left")
    ax.set_aspect("equal")
    return ax


def zero_lines(x, fs, leads=LEADS, *, lead_mask=None, rhythm="II", seconds=10.0) -> np.ndarray:
    """Height of the zero line of each row of `ecg_paper`, the topmost first, in mm from the foot; its arguments."""
    x, mask, rows = _shown(x, fs, leads, lead_mask, rhythm, seconds)
    return _baselines(x, mask, list(leads), rows)[0]


def _shown(x, fs, leads, lead_mask, rhythm, seconds):
    """What is drawn of the signal, which leads there are, and the rows."""
    x = np.asarray(x, dtype=np.float64)[..., : int(round(seconds * fs))]
    mask = np.ones(len(x), bool) if lead_mask is None else np.asarray(lead_mask, bool)
    if x.ndim != 2 or not x.shape[1] or len(leads) != len(x) or len(mask) != len(x):
        reason = f"signal {x.shape}, {len(leads)} lead names and {len(mask)} mask entries do not fit"
        raise EcgError(reason, field="leads")
    middle = np.nanmedian(np.where(mask[:, None], x, 0.0), axis=1, keepdims=True)
    x = np.where(np.abs(middle) > OFFSET, x - middle, x)
    return x, mask, _rows(tuple(leads), x.shape[1], rhythm)


def _rows(leads, n_times, rhythm):
    """Rows of (lead, first sample, last sample + 1)."""
    if set(leads) != set(LEADS):
        return [[(name, 0, n_times)] for name in leads]
    if rhythm not in leads:
        raise EcgError(f"unknown lead {rhythm!r}", field="rhythm", fix=f"one of {leads}")
    cuts = np.linspace(0, n_times, 5).round().astype(int)
    rows = [[(name, cuts[k], cuts[k + 1]) for k, name in enumerate(row)] for row in GRID]
    return [*rows, [(rhythm, 0, n_times)]]


def _baselines(x, mask, leads, rows):
    """Height of each row's zero line and of the sheet, mm: rows stand apart as far as their waves need, on the grid."""
    above, below = [], []
    for row in rows:
        pieces = [x[leads.index(name), start:stop] for name, start, stop in row if mask[leads.index(name)]]
        waves = np.concatenate([*pieces, [0.0]])
        waves = np.clip(waves[np.isfinite(waves)] * GAIN, -40, 40)  # an artefact may leave the sheet
        above.append(max(waves.max() + 5, 12.5))  # room for the names of the leads
        below.append(max(-waves.min() + 1, 5))
    steps = [below[k] + above[k + 1] for k in range(len(rows) - 1)]
    steps = [max(np.ceil(step / 5) * 5, 20) for step in steps]
    bottom = np.ceil(below[-1] / 5) * 5 + 5
    heights = bottom + np.concatenate([np.cumsum(steps[::-1])[::-1], [0]])
    return heights, heights[0] + np.ceil((above[0] + 2) / 5) * 5


def _sheet(width, height, title_lines):
    left, bottom, right, top = 6, 6, 3, 3 + 4 * title_lines  # mm around the paper
    inches = ((width + left + right) / 25.4, (height + bottom + top) / 25.4)
    figure = plt.figure(figsize=inches)
    figure.set_layout_engine("none")  # the sheet is placed by the millimetre, whatever the style says
    whole = (width + left + right, height + bottom + top)
    return figure.add_axes((left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))


def _grid(ax, width, height):
    for step, colour, line in ((1, FINE, 0.3), (5, COARSE, 0.5)):
        across = [[(0, y), (width, y)] for y in np.arange(0, height + 0.5, step)]
        upright = [[(x, 0), (x, height)] for x in np.arange(0, width + 0.5, step)]
        ax.add_collection(LineCollection(across + upright, colors=colour, linewidths=line, zorder=0))
    ax.set_facecolor("white")
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set(color=COARSE, linewidth=0.6)


def _pulse(ax, base):
    """1 mV for 0.2 s."""
    steps = np.array([(2.5, 0), (4, 0), (4, GAIN), (9, GAIN), (9, 0), (10.5, 0)])
    ax.plot(steps[:, 0], base + steps[:, 1], color=INK, linewidth=0.7, solid_joinstyle="miter")


def _strip(ax, wave, fs, start, stop, base, name):
    left, right = (PULSE + sample / fs * SPEED for sample in (start, stop))
    if start:  # where one lead ends and the next begins
        ax.plot([left, left], [base - 2, base + 2], color=INK, linewidth=0.6)
    near = 0 if wave is None else np.nan_to_num(wave[: int(12 / SPEED * fs)]).max(initial=0)
    high = np.clip(near * GAIN + 1.2, 8, 41)  # the name stands clear of the first beat
    ax.text(left + 1.2, base + high, plain(name), fontsize=7.5, fontweight="bold", color=INK, va="bottom", zorder=4)
    if wave is None:
        ax.plot([left, right], [base, base], color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
        ax.text((left + right) / 2, base + 1.2, "not recorded", fontsize=7, color=SOFT, ha="center", va="bottom")
        return
    times = PULSE + np.arange(start, stop) / fs * SPEED
    ax.plot(times, base + wave * GAIN, color=INK, linewidth=0.7, solid_joinstyle="round", clip_on=True)


def _marked(ax, wave, fs, start, base, strength):
    """A band along the line of a strip, as wide and strong as its samples are marked."""
    times = PULSE + (start + np.arange(len(wave))) / fs * SPEED
    points = np.stack([times, base + wave * GAIN], 1)
    pieces, strength = np.stack([points[:-1], points[1:]], 1), np.clip((strength[:-1] + strength[1:]) / 2, 0, 1)
    seen = strength > 0.02
    colours = np.column_stack([np.tile(PEN, (seen.sum(), 1)), 0.15 + 0.7 * strength[seen]])
    widths = 1.0 + 4.5 * strength[seen]
    ax.add_collection(LineCollection(pieces[seen], colors=colours, linewidths=widths, capstyle="round", zorder=1.5))
