"""The command `holter`: a recording of hours or days in, episodes of fibrillation, burden and timeline out."""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError
from ecglib.data import annotations
from ecglib.data.files import output_file, write_csv
from ecglib.data.long_recording import LongRecording, stated_rate
from ecglib.data.recording import record_path
from ecglib.reporting import holter_figures, one_ecg, style
from ecglib.rhythm import holter, rr_model

COLUMNS = ("start", "end", "duration_s")
SHOWN = 20  # episodes that are printed; the table has all of them


def judged(record: str, model: str, beats: str, fs: float, lead_names: dict, progress) -> holter.Finding:
    """The finding in a WFDB record, from its signal, or from the beats of its annotation file.

    model: a file of notebook 13, empty for entropy as learned from the AFDB; beats: ending of the annotation file,
    empty for the signal; fs: Hz, where neither header nor annotations say it (0: they do).
    """
    asked = rr_model.load(model) if model else rr_model.default()
    path = record_path(record)
    if not beats:
        return holter.analyse(LongRecording(path, lead_names), asked, progress)
    found = annotations.read(path.parent / f"{path.name}.{beats.lstrip('.')}")
    if not fs:
        fs = found.fs or stated_rate(path)
    if not fs:
        raise EcgError("nothing says the sampling rate", file=f"{path}.hea", field="fs", fix="add --fs 128")
    at = np.unique(found.beats) / fs
    if len(at) < 2:
        raise EcgError(f"{len(at)} beats", file=path, field="beats", fix="name the file that holds the beats")
    return holter.judge(path.name, at, at[-1] / 3600, asked)


def told(finding: holter.Finding) -> str:
    """What a finding says, in lines."""
    n, longest = len(finding.episodes), np.diff(finding.episodes).max(initial=0)
    lines = [f"{finding.day.record_id}: {finding.hours:.1f} h, {len(finding.day.beats):,} beats"]
    if np.isnan(finding.burden):
        return f"{lines[0]}; too few beats to judge"
    lines[0] += f", mean rate {finding.rate:.0f} per minute, {finding.analysed / 3600:.1f} h could be judged"
    if not n:
        return f"{lines[0]}\nno fibrillation or flutter called"
    burden = f"fibrillation or flutter: {n} episodes, {finding.burden:.1f} % of the time"
    lines.append(f"{burden}, the longest {holter.clock(longest)}")
    for start, end in finding.episodes[:SHOWN]:
        lines.append(f"  {holter.clock(start):>9} to {holter.clock(end):>9}  ({holter.clock(end - start)})")
    if n > SHOWN:
        lines.append(f"  and {n - SHOWN} more; --out episodes.csv writes all")
    return "\n".join(lines)


def outputs(out: str, plot: str) -> None:
    """EcgError where the table `out` or the picture `plot` ("": none) would take the place of what `holter` did not
    write, or cannot be written."""
    if out:
        output_file(out, lambda path: path.read_text("utf-8").startswith(",".join(COLUMNS)))
    if plot:
        one_ecg.picture_file(plot)


def written(finding: holter.Finding, out: str) -> None:
    """Write the episodes as CSV: start, end and duration in seconds from the start of the recording."""
    spans = np.column_stack([finding.episodes, np.diff(finding.episodes)]) if len(finding.episodes) else None
    outputs(out, "")  # again: the analysis takes minutes
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_csv(pd.DataFrame(spans, columns=COLUMNS), Path(out), float_format="%.2f")


def drawn(finding: holter.Finding, plot: str) -> None:
    """Draw the timeline into a file, .svg, .pdf or .png."""
    note = "" if np.isnan(finding.burden) else f"{finding.burden:.1f} % called"
    style.use()
    ax = holter_figures.timeline([(finding.day.record_id, finding.hours, None, finding.episodes, note)])
    one_ecg.write(ax, Path(plot))
