"""One ECG: what is stated about it, what each method says of it, which a method gets most wrong, and a menu of them."""

import io
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, require_known
from ecglib.data.files import output_file, plain, write_atomic
from ecglib.data.labels import POSSIBLE, PRESENT, STATES
from ecglib.data.quality import assess
from ecglib.data.recording import varies
from ecglib.data.rpeaks import r_peaks
from ecglib.evaluation import metrics
from ecglib.evaluation.predictions import MODEL, compared, observed
from ecglib.reporting.ecg_paper import ecg_paper
from ecglib.reporting.methods import spelt_out

MADE_BY = "ecglib view"  # in the metadata of a sheet, by which it is known again
MARKS = {".svg": {"Creator": MADE_BY, "Date": None}, ".pdf": {"Creator": MADE_BY, "CreationDate": None}}
MARKS[".png"] = {"Software": MADE_BY}
ORDERS = {"wrong": "most wrong", "sure": "most sure", "random": "random"}  # order -> its name in a menu
_RECORD = ["cohort", "split", "record_id", "label", "truth"]
NUMBERS = ("truth", "fraction", "probability")  # columns of predictions that hold no text
_SMALLEST = 1e-4  # a probability below counts as this: a loss must not be endless
_STATE = {value: name for name, value in STATES.items()}


def calls(predictions, home: str, rule: str = "youden") -> pd.DataFrame:
    """What each model says of each record: its probability and its call at the threshold fixed on validation.

    predictions: of one task and one share of the labels; home: cohort whose validation patients fix the thresholds;
    rule: of `metrics.threshold_at`. Returns a row per record, label and model, means over its seeds: cohort, split,
    record_id, label, truth, encoder, mode, fraction, probability, threshold (NaN where validation lacks a class), call.
    Raises EcgError where `home` has no validation records.
    """
    rows = compared(predictions)
    said = rows.groupby([*_RECORD, *MODEL], observed=True, as_index=False)["probability"].mean()
    said = said.astype({name: str for name in said if name not in NUMBERS})  # texts come as categories
    chosen = said[(said.cohort == home) & (said.split == "val")]
    if chosen.empty:
        raise EcgError(
            f"no validation records of {home}", field="home", fix=f"one of {', '.join(rows.cohort.unique())}"
        )
    cuts = [
        (*key, metrics.threshold_at(observed(group.truth.to_numpy()), group.probability.to_numpy(), rule))
        for key, group in chosen.groupby([*MODEL, "label"])
    ]
    said = said.merge(pd.DataFrame(cuts, columns=[*MODEL, "label", "threshold"]), how="left")
    return said.assign(call=said.probability >= said.threshold)


def ranked(said, encoder: str, order: str = "wrong", seed: int = 0) -> pd.DataFrame:
    """The records of `calls` by what one encoder says of them: its worst statement of each, worst record first.

    order: "wrong" (largest error first), "sure" (smallest first) or "random" (drawn with `seed`); the error of a
    statement is minus the logarithm of the probability given to its true state, possible and unknown ones left out.
    Returns record_id, label, truth, probability, loss. Raises EcgError for an unknown order or encoder.
    """
    require_known("order", [order], ORDERS)
    require_known("encoder", [encoder], list(said.encoder.unique()))
    known = said[(said.encoder == encoder) & (observed(said.truth.to_numpy()) >= 0)]
    given = np.where(known.truth == PRESENT, known.probability, 1 - known.probability)
    known = known.assign(loss=-np.log(np.maximum(given, _SMALLEST)))
    worst = known.sort_values(["loss", "record_id", "label"], ascending=[False, True, True]).drop_duplicates(
        "record_id"
    )
    if order == "sure":
        worst = worst[::-1]
    elif order == "random":
        worst = worst.sort_values("record_id").sample(frac=1, random_state=seed)
    return worst[["record_id", "label", "truth", "probability", "loss"]].reset_index(drop=True)


def verdict(said, record_id: str, encoders=()) -> pd.DataFrame:
    """What is stated about one record beside what each encoder says: a row per statement that anybody makes.

    said: of `calls`; encoders: which, in this order (none: all, by name).
    Returns columns "stated" and one per encoder with its probability in percent, a `*` where it is at or above its
    threshold. Raises EcgError for an unknown record.
    """
    rows = said[said.record_id == record_id]
    if rows.empty:
        raise EcgError(
            f"no record {record_id!r} among these predictions", field="record", fix="take a record_id of them"
        )
    text = (100 * rows.probability).round().astype(int).astype(str) + np.where(rows.call, "\u00a0%\u00a0*", "\u00a0%")
    made = rows.truth.isin([PRESENT, POSSIBLE]).groupby(rows.label).any() | rows.call.groupby(rows.label).any()
    table = rows.assign(text=text).pivot_table(index="label", columns="encoder", values="text", aggfunc=" / ".join)
    table.insert(0, "stated", rows.groupby("label").truth.first().map(_STATE))
    table = table[made.reindex(table.index)].sort_values("stated", key=lambda s: s != "present", kind="stable")
    table.index = [spelt_out(label) for label in table.index]
    present = [name for name in encoders if name in table] or list(table.columns[1:])
    return table[["stated", *present]].rename_axis(index="statement", columns=None)


def heading(cohort, row: int) -> str:
    """Who and what a row of a cohort is: record, age, sex, heart rate, and all that is stated about it, spelt out."""
    facts, peaks = cohort.records.iloc[row], cohort.peaks(row)
    rate = heart_rate(peaks, cohort.fs)
    age = f"{facts.age:.0f} years" if np.isfinite(facts.age) else "age unknown"
    states = cohort.labels.loc[facts.record_id]
    stated = [
        f"{spelt_out(name)}{'?' if state == POSSIBLE else ''}"
        for name, state in states.items()
        if state in (PRESENT, POSSIBLE)
    ]
    who = f"{facts.record_id}: {age}, {facts.sex or 'sex unknown'}, {rate}; stated: {'; '.join(stated) or 'nothing'}"
    return "\n".join(textwrap.wrap(who, 150))


def of_cohort(cohort, record_id: str, sources=None):
    """One record of a cohort on clinical paper under its `heading`; returns the Axes.

    sources: rate (Hz) -> the cohort with its recordings at that rate (`datasets.Recordings`); where the rate at which
    a record was recorded is not among them, the packed signal is drawn. Raises EcgError for an unknown record.
    """
    require_known("record", [record_id], list(cohort.records.record_id), "record", cohort.name)
    row = int(np.flatnonzero(cohort.records.record_id == record_id)[0])
    source = (sources or {}).get(cohort.records.fs_recorded[row], cohort)
    x, mask = source.batch([row])[0], cohort.lead_mask([row])[0]
    return ecg_paper(x, source.fs, cohort.leads, lead_mask=mask, title=heading(cohort, row))


def signpost(names, number: int) -> str:
    """Markdown heading of one ECG of several, with links to the one before and the one after."""
    links = [
        f"[{word}](#ecg-{at + 1})"
        for word, at in (("previous", number - 1), ("next", number + 1))
        if 0 <= at < len(names)
    ]
    name = plain(names[number])
    return f'### <a id="ecg-{number + 1}"></a>{number + 1} of {len(names)}: {name}\n\n{" · ".join(links)}'


def sheet(recording, start: float = 0.0, seconds: float = 10.0, said=()):
    """A recording on clinical paper under what its header says; returns the Axes.

    recording: leads of any names, mV, at its own rate; start, seconds: of the part that is drawn; said: more lines
    above it, such as what a model calls. Raises EcgError where the recording ends before `start`.
    """
    fs, length = recording.fs, recording.signal.shape[1] / recording.fs
    if not 0 <= start < length:
        raise EcgError(f"{start:g} s is not in a recording of {length:g} s", file=recording.record_id, field="start")
    first = round(start * fs)
    x = recording.signal[:, first : first + round(seconds * fs)]
    part = (
        f"{start:g} to {start + x.shape[1] / fs:g} s of {length:g} s" if x.shape[1] / fs < length else f"{length:g} s"
    )
    lines = [f"{recording.record_id}: {part}, {fs:g} Hz, {heart_rate(r_peaks(x, fs), fs)}"]
    lines += textwrap.wrap("; ".join(line.strip() for line in recording.comments if line.strip()), 150)[:3]
    lines += [part for line in said for part in textwrap.wrap(line, 150)[:3]]
    mask = recording.lead_mask & varies(x)
    return ecg_paper(x, fs, recording.leads, lead_mask=mask, title="\n".join(lines), seconds=seconds)


def heart_rate(peaks, fs: float) -> str:
    """The median rate of R peaks (samples at `fs` Hz) in words; three peaks at least."""
    return f"{60 * fs / np.median(np.diff(peaks)):.0f}/min" if len(peaks) > 2 else "rate unknown"


def facts(recording) -> str:
    """What is in a recording, in a few lines of text: leads, rate, length, beats, quality, comments of its header."""
    fs, live = recording.fs, [name for name, on in zip(recording.leads, recording.lead_mask, strict=True) if on]
    silent = [name for name in recording.leads if name not in live]
    peaks, checks, length = r_peaks(recording.signal, fs), assess(recording), recording.signal.shape[1] / fs
    amplitude, drift = (f"{checks[name]:.2f} mV" for name in ("amplitude_mv", "drift_mv"))
    lines = [
        f"{recording.record_id}: {length:g} s at {fs:g} Hz, {len(peaks)} beats, {heart_rate(peaks, fs)}",
        f"leads: {', '.join(live)}" + (f"; without a signal: {', '.join(silent)}" if silent else ""),
        f"amplitude {amplitude}, drift {drift}, clipped leads {checks['n_clipped']}",
    ]
    return "\n".join([*lines, *(f"  {line.strip()}" for line in recording.comments if line.strip())])


def picture_file(file) -> Path:
    """The path of a sheet to write; EcgError for an ending that is no picture's, and where `output_file` refuses it."""
    file = Path(file)
    if file.suffix not in MARKS:
        fix = "end it in .svg, .pdf, .png"
        raise EcgError(f"no picture of the kind {file.suffix!r}", file=file, field="out", fix=fix)
    return output_file(file, lambda path: MADE_BY.encode() in path.read_bytes())


def write(ax, file: Path) -> Path:
    """Write a sheet as .svg, .pdf or .png, over nothing but an earlier sheet; returns the path."""
    file, drawn = picture_file(file), io.BytesIO()
    ax.figure.savefig(drawn, format=file.suffix[1:], metadata=MARKS[file.suffix], dpi=200)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, drawn.getvalue())
    return file


class Leafing:
    """A widget for Jupyter, `box`, that shows one ECG at a time and goes to the previous and the next.

    said: of `calls`, whose records can be seen; show: function that displays the record of a name;
    judged: method whose errors make the order; order: of ORDERS; seed: of the random order.
    Raises EcgError for an unknown order or method.
    """

    def __init__(self, said, show, judged: str, order: str = "wrong", seed: int = 0):
        import ipywidgets as widgets  # only where somebody leafs

        self.said, self.show, self.seed = said, show, seed
        self.names, self.at = list(ranked(said, judged, order, seed).record_id), 0
        kinds, methods = [(words, name) for name, words in ORDERS.items()], sorted(said.encoder.unique())
        self.order = widgets.Dropdown(options=kinds, value=order, description="show the")
        self.judged = widgets.Dropdown(options=methods, value=judged, description="judged by")
        self.previous, self.next = (widgets.Button(description=word) for word in ("previous", "next"))
        self.where, self.page = widgets.Label(), widgets.Output()
        for menu in (self.order, self.judged):
            menu.observe(self._sort, "value")
        self.previous.on_click(lambda _: self._turn(-1))
        self.next.on_click(lambda _: self._turn(1))
        bar = widgets.HBox([self.order, self.judged, self.previous, self.next, self.where])
        self.box = widgets.VBox([bar, self.page])
        self._turn(0)

    def _sort(self, _) -> None:
        self.names = list(ranked(self.said, self.judged.value, self.order.value, self.seed).record_id)
        self.at = 0
        self._turn(0)

    def _turn(self, by: int) -> None:
        """Go on by so many records, and show where that is."""
        self.at = min(max(self.at + by, 0), max(len(self.names) - 1, 0))
        self.previous.disabled, self.next.disabled = self.at == 0, self.at >= len(self.names) - 1
        self.where.value = f"{self.at + 1} of {len(self.names)}" if self.names else "no record with a known statement"
        self.page.clear_output(wait=True)
        if self.names:
            with self.page:
                self.show(self.names[self.at])
