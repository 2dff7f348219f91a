"""A fitted classifier as a folder that describes itself: written, checked, loaded, and what it says of a signal.

    model.safetensors  the encoder and the head, or boosted trees as plain arrays
    model.json         what it was fitted on and how, what it reads, labels with thresholds and calibration, scores with
                       intervals, versions, the checksum of the tensors
    README.md          the same for people, as a model card of the Hugging Face hub

Nothing in it is ever executed. The bytes depend on the cohort, the encoder, the settings and the package versions only.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from ecglib import EcgError, models, zoo
from ecglib.data import handmade, packing, quality, rpeaks
from ecglib.data.files import plain, sha256, write_atomic
from ecglib.data.profiles import Profile
from ecglib.evaluation import fitting, scoring
from ecglib.evaluation.classifiers import Forest
from ecglib.evaluation.predictions import per_record
from ecglib.training import checkpoint
from ecglib.training.batches import CohortData
from ecglib.zoo.model import Model

FORMAT = 1
TENSORS, FACTS, CARD = "model.safetensors", "model.json", "README.md"
FILES = (TENSORS, FACTS, CARD)
FEATURES = "features"  # the encoder of a model on hand-made features
NEEDED = ("kind", "name", "encoder", "how", "signal", "labels", "fitted_on", "metrics", "packages", "sha256")
SHOWN_NUMBERS = ("mae", "r", "bias", "loa_low", "loa_high")  # the same for a number
SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "f1", "ece", "ece, calibrated")  # statistics on the card
LOW_MV, HIGH_MV, DRIFT_MV = 0.2, 6.0, 0.5  # of `quality_flags`; median of PTB-XL 1.2 mV: a gain wrong by five shows
ROWS = 64  # windows that the network reads at a time


class Kept:
    """A fitted model: `info` is what model.json says, `tensors` what model.safetensors holds."""

    def __init__(self, info: dict, tensors: dict[str, torch.Tensor]):
        self.info, self.tensors = info, tensors
        self.labels = [label["name"] for label in info["labels"]]
        self.thresholds, self.slope, self.intercept = (
            np.array([np.nan if label[key] is None else label[key] for label in info["labels"]], float)
            for key in ("threshold", "slope", "intercept")
        )
        self.is_number = info["kind"] == "number"
        if self.is_number:  # what the head says is standardised
            self.centre, self.spread = (
                np.array([label[key] for label in info["labels"]]) for key in ("centre", "spread")
            )
        signal = info["signal"]
        self.leads, profile = tuple(signal["leads"]), signal["profile"]
        self.profile = profile and Profile(**{k: tuple(v) if isinstance(v, list) else v for k, v in profile.items()})
        self.plan = packing.plan(signal["fs"], signal["seconds"], self.leads, signal["windows"], signal["fs_tolerance"])
        self.network, self.forest, self.reads_beats = None, None, False
        recipe = info.get("recipe") or {}
        self.pooling = recipe.get("objective", {}).get("pooling", "")  # of the tokens that the head reads
        if info["encoder"]["name"] == FEATURES:
            self.forest = Forest(*(tensors[f"forest.{name}"].numpy() for name in Forest._fields))
        else:
            self.network = _encoder(info["encoder"]["config"])
            prefix = "encoder."
            state = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
            _put_in(self.network, state)
            self.reads_beats = models.reads_beats(self.network)
            self.weight, self.bias = tensors["head.weight"].numpy(), tensors["head.bias"].numpy()

    @property
    def content(self) -> str:
        """Checksum of the tensors."""
        return self.info["sha256"][TENSORS]

    def windows(self, recording, plan=None) -> list[tuple[np.ndarray, dict]]:
        """The windows of a recording as `packing.prepare`; R peaks are looked for where the network reads them.

        They are those that packing finds: in the raw signal, and in all leads that the cohort was packed with. plan: in
        place of the model's own, such as one with another tolerance.
        """
        plan = plan or self.plan
        if not self.reads_beats:
            return packing.prepare(recording, plan, peaks=False)
        leads = tuple(self.info["signal"].get("beat_leads", self.leads))
        with_beats = packing.prepare(recording, replace(plan, leads=leads), measured=False)
        if leads == plan.leads:
            return with_beats
        own = packing.prepare(recording, plan, peaks=False, n_windows=len(with_beats))
        return [
            (counts, facts | {"peaks": beats["peaks"]})
            for (counts, facts), (_, beats) in zip(own, with_beats, strict=True)
        ]

    def peaks(self, facts: dict) -> np.ndarray | None:
        """R peaks int64 (n,) of a window, samples of `inputs`; None for a network that reads none.

        facts: of the window, as `windows` gives them.
        """
        if not self.reads_beats:
            return None
        rate = ((self.profile and self.profile.fs) or self.plan.fs) / self.plan.fs
        return np.round(facts["peaks"] * rate).astype(np.int64)

    def inputs(self, x: np.ndarray, valid: int) -> np.ndarray:
        """What the network reads of a window x (lead, time), mV at the rate of `plan`, missing leads zeros.

        valid: samples before the zeros that fill it up, treated as `CohortData` does. Float32 (lead, time), or
        (feature,).
        """
        fs = self.plan.fs
        if self.forest is not None:
            there, x = x.any(axis=-1), x[:, :valid]
            return handmade.of_record(x, fs, rpeaks.r_peaks(x, fs), self.leads, there)
        if self.profile is None:
            return x
        whole = self.profile.name == "study"
        return self.profile.apply(x if whole else x[:, :valid], fs) * x.any(axis=-1, keepdims=True)

    def probabilities(self, inputs: np.ndarray, peaks: np.ndarray | None = None) -> np.ndarray:
        """Probabilities float64 (window, label) of `inputs`; of a model for a number that number, in its unit.

        peaks: int64 (window, n) R peaks, samples of `inputs`, padded with -1, for a network that reads them.
        """
        if self.forest is not None:
            return self._said(self.forest.outputs(inputs))
        parts, device = [], next(self.network.parameters()).device
        many = getattr(self.network, "batch_size", ROWS)
        with torch.inference_mode():
            for first in range(0, len(inputs), many):
                x = torch.from_numpy(np.ascontiguousarray(inputs[first : first + many], np.float32)).to(device)
                beats = None if peaks is None else torch.from_numpy(peaks[first : first + many]).to(device)
                z = models.pooled(self.network, x, (x != 0).any(-1), beats, self.pooling)
                parts.append(z.float().cpu().numpy())
        return self._said(np.concatenate(parts).astype(self.weight.dtype) @ self.weight.T + self.bias)

    def _said(self, outputs: np.ndarray) -> np.ndarray:
        """What outputs of the head (window, label) mean, float64."""
        if not self.is_number:
            return expit(outputs).astype(float)
        numbers = outputs.astype(float) * self.spread + self.centre
        return np.exp(numbers) if self.info["labels"][0]["log"] else numbers

    def of_rows(self, cohort, rows) -> np.ndarray:
        """`probabilities` (row, label) of rows of a cohort, or of its `datasets.Recordings`, at the same rate."""
        if cohort.fs != self.plan.fs:
            fix = f"give one packed with fs={self.plan.fs:g}, or predict its recordings"
            raise EcgError(f"{cohort.name} is at {cohort.fs:g} Hz", file=cohort.name, field="fs", fix=fix)
        if self.forest is not None:
            return self.probabilities(handmade.of_cohort(cohort, rows, self.leads))
        data = CohortData(cohort, rows, self.leads, self.profile)
        said = []
        for part in np.array_split(np.arange(len(data)), -(-len(data) // ROWS)):
            batch = data.batch(part)
            said.append(self.probabilities(batch.x.numpy(), batch.peaks.numpy() if self.reads_beats else None))
        return np.concatenate(said)

    def calibrated(self, p: np.ndarray) -> np.ndarray:
        """p after `fitting.calibration`."""
        return fitting.calibrated(p, self.slope, self.intercept)

    def calls(self, p: np.ndarray) -> np.ndarray:
        """1.0 where p reaches the stored threshold, else 0.0; NaN for a label without a threshold, and where p is."""
        return np.where(np.isnan(self.thresholds) | np.isnan(p), np.nan, p >= self.thresholds)

    def out_of_profile(self, fs: float, seconds: float, missing, device: str = "") -> list[str]:
        """In what a recording differs from those that the model was fitted on.

        fs: Hz; seconds: its length; missing: names of the leads of the model that have no signal; device: "" unknown.
        """
        seen, told, window = self.info["fitted_on"], [], self.plan.seconds
        if not any(abs(fs - known) <= 1e-6 * known for known in seen["fs_recorded"]):
            told.append(f"rate {fs:g} Hz, fitted on {', '.join(f'{known:g}' for known in seen['fs_recorded'])}")
        if new := [lead for lead in missing if lead not in seen["missing_leads"]]:
            told.append(f"without lead {' '.join(new)}")
        if seconds < window - 0.5 / fs and not seen["shorter"]:
            told.append(f"{seconds:g} s, fitted on {window:g} s: filled with zeros")
        if seconds > window + 1 and self.plan.windows == "first":
            told.append(f"{seconds:g} s: the first {window:g} s were read")
        if device and seen["devices"] and device.lower() not in [name.lower() for name in seen["devices"]]:
            told.append(f"device {device} not seen")
        return told


def quality_flags(recording) -> list[str]:
    """What speaks against a recording's signal: clipping, an amplitude or a drift beyond the usual, gaps."""
    found = quality.assess(recording)
    told = [f"{found['n_clipped']} clipped leads"] if found["n_clipped"] else []
    if not LOW_MV <= found["amplitude_mv"] <= HIGH_MV:
        told.append(f"amplitude {found['amplitude_mv']:.2g} mV")
    if found["drift_mv"] > DRIFT_MV:
        told.append(f"drift {found['drift_mv']:.2g} mV")
    gaps = [lead for lead, x in zip(recording.leads, recording.signal, strict=True) if not np.isfinite(x).all()]
    return told + ([f"gaps in {' '.join(gaps)}"] if gaps else [])


def _encoder(config: dict) -> torch.nn.Module:
    name = config["encoder"]
    return zoo.network(name) if name.startswith(zoo.PREFIX) else models.rebuilt(config)


def _put_in(network, state: dict) -> None:
    if isinstance(network, Model):
        network.load_tensors(state)
    else:
        network.load_state_dict(state)
    network.eval()


def tensors_of(network, weight=None, bias=None, forest: Forest | None = None) -> dict[str, torch.Tensor]:
    """What model.safetensors holds: an encoder with its head, weight (label, dim) and bias (label,); or a forest."""
    if forest is not None:
        return {f"forest.{name}": torch.from_numpy(np.ascontiguousarray(v)) for name, v in forest._asdict().items()}
    state = {f"encoder.{key}": value.detach().cpu() for key, value in network.state_dict().items()}
    head = {"head.weight": weight, "head.bias": bias}
    return state | {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in head.items()}


def profile_facts(profile) -> dict | None:
    """A Profile as plain values."""
    return None if profile is None else json.loads(json.dumps(asdict(profile)))


def save(info: dict, tensors: dict, folder: Path, card: str) -> None:
    """Write FILES into a folder that is there; info without "format" and "sha256", which are added; card: README.md."""
    folder = Path(folder)
    checkpoint.save(folder / TENSORS, tensors, {"format": FORMAT})
    info = {"format": FORMAT, **info, "sha256": {TENSORS: sha256(folder / TENSORS)}}
    write_atomic(folder / FACTS, json.dumps(info, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(folder / CARD, card)


def wrote(folder: Path) -> list[str]:
    """What `save` wrote in a folder (see `files.output_folder`); any error: nothing."""
    info = json.loads((folder / FACTS).read_text("utf-8"))
    return list(FILES) if {"format", "sha256", "labels"} <= set(info) else []


def facts(folder) -> dict:
    """model.json of a folder, checked: EcgError for another format, a field that is missing, and other tensors."""
    folder = Path(folder)
    for name in (FACTS, TENSORS):
        if not (folder / name).is_file():
            fix = "name a folder that `ecglib fit` wrote, or a published model, zoo:NAME"
            raise EcgError("no kept model here", file=folder / name, field="model", fix=fix)
    try:
        info = json.loads((folder / FACTS).read_text("utf-8"))
        version = info["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise EcgError(f"cannot be read: {error!r}", file=folder / FACTS, fix="fit the model again") from error
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        fix = "update ecglib, or fit again with this version" if newer else "fit the model again with this version"
        raise EcgError(f"format {version}, this version reads {FORMAT}", file=folder / FACTS, field="format", fix=fix)
    if lacking := [name for name in NEEDED if name not in info]:
        raise EcgError(f"lacks {', '.join(lacking)}", file=folder / FACTS, field=lacking[0], fix="fit the model again")
    if sha256(folder / TENSORS) != info["sha256"].get(TENSORS):
        fix = "copy the folder again, whole"
        raise EcgError("is not the file that model.json describes", file=folder / TENSORS, field="sha256", fix=fix)
    return info


def load(folder) -> Kept:
    """The model in a folder. Raises EcgError as `facts`, and for tensors that are not those of its network."""
    info, file = facts(folder), Path(folder) / TENSORS
    tensors = checkpoint.read(file)[0]
    try:
        kept = Kept(info, tensors)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = f"the tensors are not those of the network: {' '.join(str(error).split())[:200]}"
        raise EcgError(reason, file=file, field="shape", fix="fit the model again") from error
    outputs = len(kept.bias if kept.forest is None else kept.forest.start)
    if outputs != len(kept.labels):
        reason = f"{outputs} outputs for {len(kept.labels)} labels"
        raise EcgError(reason, file=file, field="shape", fix="fit the model again")
    return kept


def card(info: dict) -> str:
    """README.md of a model: facts that the Hugging Face hub reads, then what people must know before they use it."""
    encoder, signal, on = info["encoder"], info["signal"], info["fitted_on"]
    split = "test" if info["metrics"].get("test") else "val"
    rows = info["metrics"][split]
    is_number = info["kind"] == "number"
    tags = f"tags: [ecg, electrocardiogram, {'regression' if is_number else 'multi-label'}]"
    lines = ["---", "library_name: ecglib", *_licence(encoder), tags]
    lines += _index(info, rows, split) + ["---", "", f"# {plain(info['name'])}", ""]
    lines += [_purpose(info) + f" {info['how_in_words']}", ""]
    lines += ["Not a medical device: for research, on recordings like those that it was fitted on.", "", "## Use", ""]
    lines += ["    ecglib predict FOLDER_OF_THIS_FILE ECGS --out scores.csv", ""]
    said = "The number in its unit" if is_number else "Probability, calibrated probability and call of each label"
    lines += [f"{said}; what differs from the recordings below is"]
    lines += ["named in the column `out_of_profile`.", "", "## What it reads", ""]
    rate = f"{signal['fs']:g} Hz, {signal['seconds']:g} s ({signal['windows']} windows)"
    lines += [f"{rate}, leads {', '.join(signal['leads'])}, in mV; signal chain: "]
    lines[-1] += json.dumps(signal["profile"] and signal["profile"]["name"]) + " (all its numbers: model.json)"
    lines += ["", "## Fitted on", "", f"Cohort {plain(on['cohort'])}, corpus {on['corpus'] or 'not stated'}."]
    lines += [f"{part}: {n['records']} records of {n['patients']} patients." for part, n in on["splits"].items()]
    lines += [f"Recorded at {', '.join(f'{fs:g}' for fs in on['fs_recorded'])} Hz."]
    lines += [f"Devices: {', '.join(map(plain, on['devices']))}."] if on["devices"] else []
    lines += ["", "Encoder: " + encoder["in_words"], "", *[f"- {_note(note, info)}" for note in info["notes"]], ""]
    lines += [f"## Scores on the {split} patients", ""]
    if is_number:
        return "\n".join([*lines, *_number_scores(info["labels"][0], rows)]) + "\n"
    lines += ["95 % intervals over patients; `*`: fewer than 10 positives."]
    lines += ["", *_score_table(rows, SHOWN), "", "## Thresholds and calibration", ""]
    lines += [f"Fixed on validation patients (rule: {info['rule']}); calibrated: expit(slope * logit p + intercept)."]
    lines += [
        "",
        "| label | positives in training, validation | threshold | slope | intercept |",
        "|---|---|---|---|---|",
    ]
    lines += [_label_line(label) for label in info["labels"]]
    return "\n".join(lines) + "\n"


def _note(note: str, info: dict) -> str:
    """A note, with the names of labels in it as text."""
    for label in info["labels"]:
        note = note.replace(label["name"], plain(label["name"]))
    return note


def _purpose(info: dict) -> str:
    """What the model says of an ECG, in a sentence."""
    if info["kind"] != "number":
        return f"States {', '.join(plain(label['name']) for label in info['labels'])} of an electrocardiogram."
    (label,) = info["labels"]
    unit = f" in {plain(label['unit'])}" if label["unit"] else ""
    return f"Estimates {plain(label['name'])}{unit} from an electrocardiogram ({plain(info['task']['definition'])})."


def _number_scores(label: dict, rows: list) -> list[str]:
    """Lines of the card on how far a number is off."""
    unit = f"the natural logarithm of {label['unit'] or 'the number'}" if label["log"] else label["unit"] or "its unit"
    said = "95 % intervals over patients; bias: prediction minus truth, loa: its 95 % limits of agreement."
    lines = [f"In {plain(unit)}, {said}"]
    lines += ["", *_score_table(rows, SHOWN_NUMBERS), "", "## Scale", ""]
    known = f"{label['train_known']} training and {label['val_known']} validation records"
    return [*lines, f"Head output times {label['spread']:.6g} plus {label['centre']:.6g}, from {known}."]


def _licence(encoder: dict) -> list[str]:
    if not encoder["licence"]:
        return ["license: unknown"]
    return ["license: other", f"license_name: {json.dumps(encoder['licence'])}"]


def _index(info: dict, rows: list, split: str) -> list[str]:
    """The scores as the hub reads them."""
    kinds = {"auroc": "roc_auc", "auprc": "average_precision", "f1": "f1"}
    is_number = info["kind"] == "number"
    kinds = {"mae": "mae"} if is_number else kinds
    if not rows:
        return []
    lines = ["model-index:", f"- name: {json.dumps(info['name'])}", "  results:", "  - task: {type: other}"]
    lines += [f"    dataset: {{type: ecg, name: {json.dumps(info['fitted_on']['cohort'])}, split: {split}}}"]
    lines += ["    metrics:"]
    for row in rows:
        if (is_number or row["label"] == scoring.MACRO) and row["statistic"] in kinds:
            of = row["label"] if is_number else scoring.MACRO
            shown = f"{of} {row['statistic'].upper()}, 95 % interval {row['low']:.3f} to {row['high']:.3f}"
            lines.append(
                f"    - {{type: {kinds[row['statistic']]}, value: {row['value']:.4f}, name: {json.dumps(shown)}}}"
            )
    return lines


def _score_table(rows: list, statistics) -> list[str]:
    if not rows:
        return ["None: no label has both classes there."]
    wide = scoring.shown(pd.DataFrame(rows))
    wide = wide[[wide.columns[0], *(n for n in statistics if n in wide)]]
    lines = ["| label | " + " | ".join(wide) + " |", "|---" * (len(wide.columns) + 1) + "|"]
    return lines + [f"| {plain(label)} | " + " | ".join(map(str, cells)) + " |" for label, *cells in wide.itertuples()]


def _label_line(label: dict) -> str:
    numbers = ["none" if label[key] is None else f"{label[key]:.3g}" for key in ("threshold", "slope", "intercept")]
    return f"| {plain(label['name'])} | {label['train_positives']}, {label['val_positives']} | {' | '.join(numbers)} |"


def said(kept: Kept, cohort, rows, name: str = "kept model"):
    """What a kept model says of records of a cohort, in the columns of `reporting.one_ecg.calls`.

    rows: their numbers; name: of the model. Probability and threshold are calibrated. EcgError for a model of a number.
    """
    if kept.is_number:
        fix = "take one of statements here; ecglib predict writes the number"
        raise EcgError(f"{name} says a number, no statements", field="kind", fix=fix)
    ids = cohort.records["record_id"].astype(str).to_numpy()[rows]
    (p,) = per_record(ids, kept.of_rows(cohort, rows))
    first, n = cohort.records.iloc[rows].drop_duplicates("record_id"), len(kept.labels)
    states = fitting.label_states(cohort, first.index.to_numpy(), kept.labels)
    table = {"cohort": cohort.name, "split": np.repeat(first["split"].astype(str).to_numpy(), n)}
    table |= {"record_id": np.repeat(first["record_id"].astype(str).to_numpy(), n), "label": kept.labels * len(first)}
    table |= {"truth": states.ravel(), "encoder": name, "mode": kept.info["how"], "fraction": 1.0}
    cuts = np.tile(kept.calibrated(kept.thresholds[None])[0], len(first))
    table |= {"probability": kept.calibrated(p).ravel(), "threshold": cuts}
    return pd.DataFrame(table | {"call": (kept.calls(p) == 1).ravel()})
