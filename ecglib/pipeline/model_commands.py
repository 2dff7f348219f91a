"""What the commands `fit`, `predict`, `explain` and `evaluate` print, and the sheet that joins a model with an ECG."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, models, require_known, zoo
from ecglib.data import packing, wfdb_io
from ecglib.data.files import output_file, write_csv
from ecglib.data.recording import record_path
from ecglib.evaluation import embeddings, explanation, scoring, tasks
from ecglib.evaluation.classifiers import Linear
from ecglib.evaluation.corruptions import FrozenProbe
from ecglib.pipeline import command_help, stages
from ecglib.reporting import explanation_figures, one_ecg, style
from ecglib.zoo import fit, kept, predict
from ecglib.zoo.model import Model

TARGETS = "fine_tuning.targets"  # section of the tasks in params.yaml
SHOWN = 20  # statements of one ECG
NO_THRESHOLDS = "raw scores of the release: neither calibrated nor with thresholds; not a diagnosis"


def task(text: str, params: Path) -> tasks.Task | None:
    """The task of `--task`: "age={kind: number, columns: age}", FILE:SECTION.NAME, or NAME in params; None for ""."""
    if not text:
        return None
    if "=" in text:
        name, spec = command_help.Assignments().convert(text, None, None)
    else:
        file, _, section = text.rpartition(":")
        spec = stages.section(Path(file or params), section if file else f"{TARGETS}.{section}")
        name = section.rpartition(".")[2]
    if not isinstance(spec, dict):
        fix = "write it like --task 'age={kind: number, columns: age, unit: years}'"
        raise EcgError(f"{spec!r} is no task", field="task", fix=fix)
    return tasks.make(name, {key: value for key, value in spec.items() if key != "title"})


def fitted(cohort, out, options: dict, progress) -> None:
    """`ecglib fit`: fit, keep, and say how good it is and what comes next; progress: told lines of text."""
    info = fit.run(cohort, out, fit.Settings(**options), progress)
    for split, rows in info["metrics"].items():
        if rows:
            table = scoring.shown(pd.DataFrame(rows)).iloc[:, :3]
            few = "" if info["kind"] == "number" else f" (*: fewer than {scoring.FEW} positives)"
            print(f"\n{split} patients, 95 % intervals{few}")
            print(table.to_string())
    for note in info["notes"]:
        print(f"note: {note}")
    print(f"\n{out}: {', '.join(kept.FILES)}\nnext: ecglib predict {out} FOLDER_OF_ECGS --out scores.csv")


def model(name: str, published):
    """A kept model from its folder, or the published one that `published` loads by its name."""
    if name.startswith(zoo.PREFIX):
        network = published(name)
        if not network.card.statements or network.absent:
            fix = "fit one on it: ecglib fit COHORT --encoder " + name
            raise EcgError(f"{network.card.title} came without a head", file=name, field="head", fix=fix)
        return network
    return kept.load(name)


def predicted(asked, paths, out: str, options: dict, where: dict) -> None:
    """`ecglib predict` with --out: the table of a folder; where: part, dask and workers of `command_help.spread`."""
    done = command_help.spread(partial(predict.run, asked, paths, out, **options), out, **where)
    if where["part"]:
        print(command_help.part_done(where["part"], done["records"], out))
        return
    print(f"{out}: {done['records']:,} records, {done['refused']:,} refused, {done['records_per_s']:.3g} records/s")


def told(asked, path: str, plot: str, lead_names: dict, detector: str = "", fs_tolerance: float = 0.0) -> None:
    """`ecglib predict` of one record: a table, and with --plot the sheet with the calls."""
    if plot:
        one_ecg.picture_file(plot)
    recording, facts, table = predict.one(asked, path, lead_names, detector, fs_tolerance)
    print(one_ecg.facts(recording))
    for name, words in (("missing_leads", "without"), ("quality", "quality"), ("out_of_profile", "out of profile")):
        if facts[name]:
            print(f"{words}: {facts[name]}")
    if detector:
        verdict = {None: "", 0: "good enough, ", 1: "NOISY, "}[facts["noisy"]]
        print(f"noise: {verdict}{facts['noise_reason']}")
    if "number" in table:
        print(f"\n{_numbers(asked, table)}")
    else:
        print(f"\n{readable(table).to_string(index=False)}")
    if "number" not in table and (table.call == "").all():
        print(NO_THRESHOLDS)
    if plot:
        style.use()
        said = f" says {_numbers(asked, table)}" if "number" in table else f" calls: {_calls(table)}"
        lines = [f"{_title(asked)}{said}"]
        lines += [f"out of profile: {facts['out_of_profile']}"] if facts["out_of_profile"] else []
        print(f"sheet: {one_ecg.write(one_ecg.sheet(recording, said=lines), Path(plot))}")


def _numbers(asked: kept.Kept, table: pd.DataFrame) -> str:
    """The numbers that a model gives, with the mean absolute error that it had."""
    (row,) = table.itertuples()
    split = "test" if asked.info["metrics"].get("test") else "val"
    mae = next(each for each in asked.info["metrics"][split] if each["statistic"] == "mae")
    error = f"{mae['value']:.3g}, {mae['low']:.3g} to {mae['high']:.3g}"
    of_log = " of the logarithm" if asked.info["labels"][0]["log"] else ""
    return f"{row.label} {row.number:.4g} {row.unit} (mean absolute error{of_log} on the {split} patients {error})"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """What `predict.one` says, for people: percent, names spelt out, called statements first, SHOWN rows at most."""
    order = table.assign(no=table.call != "yes").sort_values("no", kind="stable")
    shown = pd.DataFrame({"statement": [one_ecg.spelt_out(label) for label in order.label]})
    for name in ("probability", "threshold", "calibrated"):
        if order[name].notna().any():
            shown[name] = [f"{100 * value:.1f} %" if np.isfinite(value) else "none" for value in order[name]]
    if (order.call != "").any():
        shown["call"] = order.call.replace("", "no threshold").to_numpy()
    if order.serial.any():
        shown["note"] = np.where(order.serial, "compares with an earlier ECG: not to be read from one", "")
    return shown.head(SHOWN if (order.call == "").all() else len(shown))


def _title(asked) -> str:
    if isinstance(asked, kept.Kept):
        return asked.info["name"]
    return asked.card.title + (f", {zoo.DUMMY_WARNING.upper()}" if asked.weights == "dummy" else "")


def _calls(table: pd.DataFrame) -> str:
    """The called statements with their calibrated probability; for scores without thresholds the five highest."""
    if (table.call == "").all():
        few = table[~table.serial].head(5)
        return "highest scores: " + ", ".join(f"{r.label} {100 * r.probability:.0f} %" for r in few.itertuples())
    few = table[table.call == "yes"]
    return ", ".join(f"{r.label} ({100 * r.calibrated:.0f} %)" for r in few.itertuples()) or "no statement called"


EXPLAINED = {  # name of the option -> attribution of (probe, score, x, rate of x in Hz)
    "gradient": lambda probe, score, x, fs: explanation.gradient_times_input(score, x),
    "integrated": lambda probe, score, x, fs: explanation.integrated_gradients(score, x, 32),
    "occlusion": lambda probe, score, x, fs: explanation.occlusion(
        score, x, explanation.time_windows(1, x.shape[-1], round(0.2 * fs))
    ),
    "rollout": lambda probe, score, x, fs: explanation.rollout(getattr(probe.encoder, "network", probe.encoder), x),
}


class _Pooled(torch.nn.Module):
    """A network whose vector is the one that a fine-tuned head reads: poolings of the tokens side by side."""

    def __init__(self, network, pooling: str):
        super().__init__()
        self.network, self.pooling = network, pooling

    def forward(self, x, lead_mask=None, peaks=None):
        """z (batch, dim x poolings) of x (batch, lead, time)."""
        return models.pooled(self.network, x, lead_mask, peaks, self.pooling)


def explained(asked: kept.Kept, path: str, statement: str, method: str, plot: str, lead_names: dict) -> None:
    """`ecglib explain`: the sheet with the map of one statement, and which leads it lies in.

    The first window with a signal is explained. EcgError for a model without a network of this library's own.
    """
    if asked.network is None or isinstance(asked.network, Model):
        fix = "fit one on an encoder of results/pretrain, or from scratch"
        raise EcgError("only networks of this library are explained", field="model", fix=fix)
    require_known("statement", [statement], asked.labels, "--statement")
    require_known("method", [method], EXPLAINED, "--method")
    one_ecg.picture_file(plot)
    recording = wfdb_io.read(record_path(path), lead_names)
    packing.checked(recording, asked.plan)
    windows = [w for w in asked.windows(recording) if w[1]["lead_mask"]]
    if not windows:
        raise EcgError("no lead has a signal in any window", file=path, field="signal", fix="choose another recording")
    counts, facts = windows[0]
    signal = counts.astype(np.float32) * np.float32(1 / packing.COUNTS_PER_MV)
    x = torch.from_numpy(np.ascontiguousarray(asked.inputs(signal, facts["n_valid"]), np.float32))[None]
    there = (x != 0).any(-1)
    network = _Pooled(asked.network, asked.pooling) if asked.pooling else asked.network
    probe = FrozenProbe(network, embeddings.OWN, Linear(asked.weight.T, asked.bias))
    peaks = asked.peaks(facts)
    beats = None if peaks is None else torch.from_numpy(peaks)[None]
    score = explanation.logit(probe, [asked.labels.index(statement)], there, beats)
    attribution = EXPLAINED[method](probe, score, x, x.shape[-1] / asked.plan.seconds)[0].numpy()
    at, old = (np.linspace(0, 1, n, endpoint=False) for n in (signal.shape[-1], x.shape[-1]))
    attribution = np.stack([np.interp(at, old, lead) for lead in attribution])  # networks may read another rate
    said = _answer(asked, statement, score, x, peaks)
    title = f"{recording.record_id}: {said} by {asked.info['name']}; {method}"
    style.use()
    sheet = {"lead_mask": there[0].numpy(), "seconds": asked.plan.seconds, "title": title}
    ax = explanation_figures.over_paper(signal, attribution, asked.plan.fs, asked.leads, **sheet)
    print(f"{title}\n{_by_lead(attribution, asked.leads)}\nsheet: {one_ecg.write(ax, Path(plot))}")


def _answer(asked: kept.Kept, statement: str, score, x: torch.Tensor, peaks) -> str:
    """What a model says of one input x (1, lead, time), in words; score: of its statement; peaks: (beat,), or None."""
    if not asked.is_number:
        return f"{statement}, probability {float(explanation.ask(score, x).sigmoid()):.2f}"
    value = asked.probabilities(x.numpy(), None if peaks is None else peaks[None])[0, 0]
    return f"{statement} {value:.4g} {asked.info['labels'][0]['unit']}"


def _by_lead(attribution, leads) -> str:
    """In which leads what speaks for a statement lies, most first."""
    sums = np.maximum(attribution, 0).sum(1)
    share = sums / (sums.sum() or 1)
    order = [k for k in np.argsort(-share) if share[k] >= 0.005]  # below, the rounding of the processor shows
    return "speaks for it: " + ", ".join(f"{leads[k]} {100 * share[k]:.0f} %" for k in order)


def evaluated(scores: str, truth: str, out: str, split: str, min_positives: int, options: dict) -> None:
    """`ecglib evaluate`: the tables, and with --out all numbers as CSV."""
    if out:
        output_file(out, lambda path: path.read_bytes().startswith(b"label,statistic,value,low,high"))
    said = scoring.read_scores(scores)
    known = scoring.read_truth(truth, said.labels if said.is_number else None, **options)
    table = scoring.evaluate(said, known, split, **({} if said.is_number else {"min_positives": min_positives}))
    _tell(table, min_positives)
    if out:
        write_csv(table, out, float_format="%.6f")
        print(f"\n{out}: every number")


def _tell(table: pd.DataFrame, min_positives: int) -> None:
    """Print what `scoring.evaluate` gives, for people."""
    wide = scoring.shown(table)
    if "positives" not in table:
        print("\n95 % intervals over patients; bias: prediction minus truth, loa: its 95 % limits of agreement")
        print(f"\n{wide.to_string()}")
        return
    print(
        f"\n95 % intervals over patients; macro over labels with {min_positives} positives; *: fewer than {scoring.FEW}"
    )
    for names in (
        ["auroc", "auprc", "brier", "ece", "brier, calibrated", "ece, calibrated"],
        list(scoring.metrics.OPERATING),
    ):
        if there := [name for name in names if name in wide]:
            print(f"\n{wide[['positives', *there]].to_string()}")
