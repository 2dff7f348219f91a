"""Fit a classifier to a packed cohort and keep it: the command `fit`.

What is computed lies beside the output, so that a fit that was killed goes on from there and ends with the same bytes.
"""

import copy
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecglib import EcgError, __version__, datasets, models, require_known, zoo
from ecglib.data import cohort as cohorts
from ecglib.data import handmade
from ecglib.data.files import claimed, output_folder, replace_folder, sha256, write_atomic
from ecglib.data.labels import set_name
from ecglib.data.packing import unpack_bits
from ecglib.data.profiles import profile
from ecglib.evaluation import classifiers, embeddings, fitting, predictions, probing, scoring, tasks
from ecglib.evaluation.predictions import per_record
from ecglib.training.batches import CohortData, run_inference
from ecglib.zoo import kept, lora
from ecglib.zoo.model import Model

SCRATCH, PRETRAINED = "scratch", Path("results/pretrain")
HOWS = ("linear", "finetune", "lp-ft", "lora")
TRAINED = ("finetune", "lp-ft", "lora")  # by steps, as a recipe says
PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "wfdb")
CHUNK = 512  # rows of features that are kept together
NOTES = {
    predictions.SEEN: "the encoder was pretrained on the corpus that these records are of: the scores are too good",
    predictions.MAYBE_SEEN: "nobody says what corpus these records are of: the encoder may have seen them",
    predictions.DUMMY: zoo.DUMMY_WARNING,
}


@dataclass(frozen=True)
class Settings:
    """What is fitted, and how.

    encoder: folder of an encoder, the name of one in results/pretrain, "zoo:NAME", "scratch", "scratch:ARCHITECTURE" or
    "features" (hand-made ones, boosted trees); how: "linear" (probe on frozen features), "finetune", "lp-ft" (the
    same from the head of the linear probe) or "lora" (low-rank adapters), "": what fits the encoder; recipe: of
    `recipes` ("": "study", "scratch" or "lora"); rank, alpha: of the adapters, as of `lora.LowRank` (0: `lora.RANK`
    and twice the rank).
    labels, columns, min_positives: of `fitting.targets`; task: in their place, a binary one or a number; leads:
    names, for what is not pretrained (none: the cohort's).
    recordings: folder of the corpus, where a published model reads its own rate ("": the packed signals); rule: of
    `metrics.threshold_at`; seed: of weights and batches; name: of the model ("": the folder's).
    weights, file, accept: of `zoo.load`.
    """

    encoder: str
    how: str = ""
    recipe: str = ""
    labels: tuple = ()
    columns: tuple = ()
    min_positives: int = 5
    leads: tuple = ()
    recordings: str = ""
    rule: str = "youden"
    seed: int = 0
    name: str = ""
    weights: str = "published"
    file: str | None = None
    accept: str = ""
    rank: int = 0
    alpha: float = 0.0
    task: tasks.Task | None = None


@dataclass
class _Start:
    """Where a fit starts: the network, what it is fed with, and where it comes from."""

    name: str
    in_words: str
    leads: tuple
    profile: object = None
    network: object = None
    content: str = ""
    pretrained_on: list = field(default_factory=list)
    licence: str = ""
    notes: list = field(default_factory=list)


def run(cohort_dir, out, settings: Settings, progress: Callable = print) -> dict:
    """Fit a model to a packed cohort and write it into the folder `out` (see `kept`); returns what model.json says.

    cohort_dir: folder of the cohort; progress: told lines of text, with rate and time left.
    Raises EcgError before any work for an unknown encoder, recipe or label, an encoder made for other signals, no
    training or validation patients, and a folder `out` that holds anything but an earlier model.
    """
    out = output_folder(out, kept.wrote, [cohort_dir])
    cohort = cohorts.open(cohort_dir)
    settings, recipe = _checked(settings)
    start = _start(settings, cohort)
    source = cohort
    if settings.recordings and isinstance(start.network, Model):
        source = datasets.Recordings(cohort, settings.recordings, start.network.card.chain.fs)
    labelled = _labelled(source, settings, progress)
    part = out.with_name(f".{out.name}.part")
    key = [repr(settings), start.content, source.content, cohort.info["sha256"], _versions()]
    with claimed(part, hashlib.sha256(json.dumps(key).encode()).hexdigest()):
        work = _Fit(labelled, start, settings, recipe, part, progress)
        tensors = work.tensors()
        info = _described(labelled, start, settings, recipe, settings.name or out.name, work.adapters)
        info = _judged(info, tensors, labelled, settings.rule, progress)
        done = part / "model"
        done.mkdir(exist_ok=True)
        kept.save(info, tensors, done, kept.card(info))
        replace_folder(done, out, kept.wrote)
        shutil.rmtree(part)
    return info


def _labelled(cohort, settings: Settings, progress):
    """The cohort with what is to be learned."""
    if settings.task is None:
        return fitting.targets(cohort, settings.labels, settings.columns, settings.min_positives, progress)
    if settings.labels or settings.columns:
        raise EcgError("labels or columns beside a task", field="task", fix="fit a model for each")
    return fitting.of_task(cohort, settings.task)


def _checked(settings: Settings) -> tuple[Settings, fitting.Recipe | None]:
    encoder, own = settings.encoder.partition(":")[0], {}
    only = ("recordings", "weights", "file", "accept")
    zoo.require_published(settings.encoder, {name: getattr(settings, name) for name in only})
    if settings.leads and encoder not in (SCRATCH, kept.FEATURES):
        raise EcgError("a pretrained encoder reads its own leads", field="leads", fix="leave --leads out")
    default = "boosting" if encoder == kept.FEATURES else "finetune" if encoder == SCRATCH else "linear"
    if settings.how:
        require_known("how", [settings.how], HOWS)
        if default == "boosting" or (encoder == SCRATCH and settings.how != "finetune"):
            fix = "leave --how out" if default == "boosting" else "leave --how out, or name a pretrained encoder"
            raise EcgError(f"{settings.how} does not go with {encoder}", field="how", fix=fix)
    own["how"] = settings.how or default
    if settings.recipe and own["how"] not in TRAINED:
        raise EcgError("a recipe is for finetune, lp-ft or lora", field="recipe", fix="leave it out, or fine-tune")
    usual = {"finetune": SCRATCH if encoder == SCRATCH else "study", "lp-ft": "study", "lora": "lora"}
    own["recipe"] = settings.recipe or usual.get(own["how"], "")
    require_known("recipe", [own["recipe"]] if own["recipe"] else [], recipes())
    own |= _ranked(settings, own["how"])
    require_known("rule", [settings.rule], ("youden", "f1"))
    settings = replace(settings, **own)
    return settings, recipes().get(settings.recipe)


def recipes() -> dict[str, fitting.Recipe]:
    """Those of `fitting`, and that of adapters."""
    return fitting.RECIPES | {"lora": lora.RECIPE}


def _ranked(settings: Settings, how: str) -> dict:
    """rank and alpha as they are meant; EcgError for numbers that cannot be, and where nothing is adapted."""
    for name in ("rank", "alpha"):
        value = getattr(settings, name)
        if value and how != "lora":
            raise EcgError(f"{name} is of adapters", field=name, fix=f"leave --{name} out, or add --how lora")
        if value < 0:
            raise EcgError(f"{name}={value}", field=name, fix="take a number above 0")
    rank = settings.rank or lora.RANK
    return dict(rank=rank, alpha=settings.alpha or 2.0 * rank) if how == "lora" else {}


def _start(settings: Settings, cohort) -> _Start:
    """Where the fit starts; EcgError for an encoder that is not there or reads other signals."""
    name, _, tail = settings.encoder.partition(":")
    if settings.encoder.startswith(zoo.PREFIX):
        return _published(settings, cohort)
    if name in (SCRATCH, kept.FEATURES):
        require_known("lead", settings.leads, cohort.leads, "leads", cohort.name)
        leads = tuple(settings.leads) or cohort.leads
        if name == kept.FEATURES:
            return _Start(name, "hand-made features of beats and rhythm, boosted trees", leads, content=name)
        network = models.build(tail or "net1d", "small", len(leads), settings.seed)
        words = f"{tail or 'net1d'}, {models.n_parameters(network):,} parameters, trained from scratch"
        return _Start(name, words, leads, profile("study"), network, content=settings.encoder)
    return _pretrained(settings.encoder, cohort)


def _pretrained(encoder: str, cohort) -> _Start:
    folder = Path(encoder) if Path(encoder).is_dir() else PRETRAINED / encoder
    if not (folder / "encoder.json").is_file():
        there = sorted(path.parent.name for path in PRETRAINED.glob("*/encoder.json"))
        fix = f"name its folder, zoo:NAME, scratch or features; in {PRETRAINED}: {', '.join(there) or 'none'}"
        raise EcgError(f"no encoder {encoder!r}", file=folder, field="encoder", fix=fix)
    config, info = models.card(folder)
    leads, chain = info.get("leads"), info.get("profile", "study")
    if leads is None or len(leads) != config["n_leads"]:
        raise EcgError("does not say which leads it reads", file=folder, field="leads", fix="pretrain it again")
    probing.check_compatible(folder, cohort, leads, chain)
    if missing := [lead for lead in leads if lead not in cohort.leads]:
        fix = "pack the cohort with these leads, or take another encoder"
        raise EcgError(f"{cohort.name} lacks {', '.join(missing)}", file=folder, field="leads", fix=fix)
    network, objective = models.load(folder)[0], (info.get("objective") or {}).get("objective", "unknown objective")
    names, parts = info.get("cohorts", []), info.get("splits", [])
    on = [f"{name} ({', '.join(split)})" for name, split in zip(names, parts, strict=False)]
    words = f"{config['encoder']} {config['size']}, {models.n_parameters(network):,} parameters, pretrained by "
    start = _Start(objective, f"{words}{objective} on {', '.join(on) or 'what its card does not say'}", tuple(leads))
    start.profile, start.network, start.content = (
        chain and profile(chain),
        network,
        sha256(folder / "encoder.safetensors"),
    )
    start.pretrained_on = on
    for name, split in zip(names, parts, strict=False):
        if name == cohort.name and (both := sorted({"val", "test", "external"} & set(split))):
            start.notes.append(f"the encoder was pretrained on the {', '.join(both)} records too, which judge it here")
    return start


def _published(settings: Settings, cohort) -> _Start:
    network = zoo.load(settings.encoder, settings.weights, file=settings.file, accept=settings.accept)
    leads, chain = embeddings.model_input(network, cohort.leads, [cohort])
    card = network.card
    corpora = ", ".join((*card.corpora, *card.further_corpora))
    words = f"{card.title} ({card.paper}), {card.parameters:,} parameters, pretrained on {corpora}"
    start = _Start(settings.encoder, words, leads, chain, network, network.content, list(card.corpora), card.licence)
    note = zoo.contamination(network, cohort.info["dataset"].get("corpus"))
    start.notes += [NOTES[note]] if note else []
    if not settings.recordings and chain.fs > cohort.fs:
        start.notes.append(
            f"fed with signals packed at {cohort.fs:g} Hz: nothing above {cohort.fs / 2:g} Hz is in them"
        )
    return start


class _Fit:
    """One fit, whose pieces lie in the folder `part` as soon as they are done."""

    def __init__(self, labelled, start: _Start, settings: Settings, recipe, part: Path, progress):
        self.labelled, self.start, self.settings, self.recipe = labelled, start, settings, recipe
        self.part, self.progress, self.adapters = part, progress, None
        self.rows = [labelled.rows(split) for split in ("train", "val")]
        self.is_number = labelled.kind == "number"
        self.y = [labelled.standardised(r) if self.is_number else fitting.truth(labelled, r) for r in self.rows]

    def tensors(self) -> dict:
        """What model.safetensors is to hold."""
        how, n = self.settings.how, len(self.labelled.labels.columns)
        sizes = " and ".join(
            f"{len(rows):,} {split}" for rows, split in zip(self.rows, ("training", "validation"), strict=True)
        )
        self.progress(f"{how}: {self.start.in_words}; {n} labels, {sizes} rows of {self.labelled.name}")
        if how in TRAINED:
            return self._trained()
        z, z_val = self._features()
        (y, y_val), seed = self.y, self.settings.seed
        if how != "boosting":
            model = self._probe(z, z_val)
            return kept.tensors_of(self.start.network, model.weight.T, model.bias)
        if self.is_number:
            boosted = classifiers.Boosted([tuple(classifiers.boosting_number(z, y, z_val, y_val, seed))])
        else:
            boosted = classifiers.boosting(z, y, z_val, y_val, seed)
        return kept.tensors_of(None, forest=classifiers.forest(boosted))

    def _probe(self, z, z_val):
        """The linear model on features, weight (dim, label) and bias (label,): of a number by ridge regression."""
        if self.is_number:
            return classifiers.ridge(z, self.y[0], z_val, self.y[1])
        return classifiers.linear(z, self.y[0], z_val, self.y[1]).model

    def _features(self) -> list[np.ndarray]:
        """Features (row, dim) of training and validation rows; what a killed fit has computed is there already."""
        folder, told = self.part / "features", fitting.Told(sum(map(len, self.rows)), "record", self.progress)
        folder.mkdir(exist_ok=True)
        tables, done = [], 0
        for split, rows in zip(("train", "val"), self.rows, strict=True):
            parts = []
            for first in range(0, len(rows), CHUNK):
                file, some = folder / f"{split}-{first}.npy", rows[first : first + CHUNK]
                if not file.is_file():
                    payload = io.BytesIO()
                    np.save(payload, self._made(some))
                    write_atomic(file, payload.getvalue())
                    told(done + len(some), size=len(some))
                done += len(some)
                parts.append(np.load(file))
            tables.append(np.concatenate(parts))
        return tables

    def _made(self, rows) -> np.ndarray:
        start = self.start
        if start.network is None:
            return handmade.of_cohort(self.labelled, rows, start.leads)
        return embeddings.features(start.network, self.labelled, rows, start.leads, start.profile)

    def _trained(self) -> dict:
        start, labels, settings = self.start, list(self.labelled.labels.columns), self.settings
        network = copy.deepcopy(start.network)
        if settings.how == "lora":
            self.adapters = lora.Adapters(network, settings.rank, settings.alpha, settings.seed)
            self.progress(self.adapters.in_words())
        given = self.labelled, start.leads, start.profile
        if self.is_number:
            data, val = (fitting.NumberData(self.labelled, rows, *given[1:]) for rows in self.rows)
        else:
            data, val = (CohortData(self.labelled, rows, *given[1:], labels) for rows in self.rows)
        options = dict(seed=settings.seed, folder=self.part / "training", progress=self.progress)
        if settings.how == "lp-ft":
            options["start"] = lambda objective: self._start_as_probe(objective, data, val)
        objective = fitting.network(network, data, val, self.recipe, **options)
        if self.adapters:
            self.adapters.merge()
        head = objective.head
        weight, bias = (value.detach().cpu().numpy() for value in (head.weight, head.bias))
        return kept.tensors_of(objective.encoder, weight, bias)

    def _start_as_probe(self, objective, data, val) -> None:
        """Give an objective the head of the linear probe on what it reads: a random one would first bend the features.

        Source: Kumar et al. 2022, arXiv 2202.10054.
        """

        def features(*batch):
            return models.pooled(objective.encoder, *batch, pooling=objective.pooling)

        z, z_val = (run_inference(objective, features, some, kept.ROWS).numpy() for some in (data, val))
        probe = self._probe(z, z_val)
        with torch.no_grad():
            objective.head.weight.copy_(torch.from_numpy(probe.weight.T))
            objective.head.bias.copy_(torch.from_numpy(probe.bias))


def _versions() -> dict[str, str]:
    return {"ecglib": __version__, **{name: version(name) for name in PACKAGES}}


def _described(labelled, start: _Start, settings: Settings, recipe, name: str, adapters=None) -> dict:
    """model.json but for thresholds, calibration and scores."""
    config = None if start.network is None else start.network.config
    encoder = dict(name=start.name, config=config, in_words=start.in_words, content=start.content)
    encoder |= dict(pretrained_on=start.pretrained_on, licence=start.licence)
    whole = labelled.info
    signal = dict(fs=labelled.fs, seconds=whole["seconds"], windows=whole["windows"], leads=list(start.leads))
    if start.network is not None and models.reads_beats(start.network):
        signal |= dict(beat_leads=list(labelled.leads))
    signal |= dict(fs_tolerance=whole.get("fs_tolerance", 0.0), profile=kept.profile_facts(start.profile))
    probe = "Ridge regression" if labelled.kind == "number" else "Linear probe"
    words = {"linear": f"{probe} on frozen features.", "boosting": "Boosted trees on hand-made features."}
    told = words.get(settings.how)
    if told is None:
        what = adapters.in_words() if adapters else "The whole network is trained"
        what += ", from the head of its linear probe (arXiv 2202.10054)" if settings.how == "lp-ft" else ""
        told = f"{what}, recipe {settings.recipe}: {recipe.source}."
    info = dict(name=name, kind=labelled.kind, encoder=encoder, how=settings.how, how_in_words=told)
    info |= dict(recipe=recipe and {"name": settings.recipe, **asdict(recipe)}, seed=settings.seed, signal=signal)
    info |= dict(adapters=adapters.facts()) if adapters else {}
    info |= dict(task=dict(asdict(settings.task), definition=settings.task.definition)) if settings.task else {}
    info |= dict(
        labels=_label_facts(labelled), label_set=set_name(whole.get("label_set")), vocabulary=labelled.vocabulary
    )
    return info | dict(fitted_on=_fitted_on(labelled, start.leads), notes=list(start.notes), packages=_versions())


def _label_facts(labelled) -> list[dict]:
    """What is said of each label before it is judged; of a number its unit, and how the head's output is scaled."""
    of = {split: fitting.counts(labelled, split) for split in ("train", "val")}
    facts = []
    for label in labelled.labels.columns:
        said = dict(name=label, threshold=None, slope=None, intercept=None)
        counted = ("positives", "known")
        if labelled.kind == "number":
            task, counted = labelled.task, ("known",)
            said |= dict(unit=task.unit, log=task.log, centre=labelled.centre, spread=labelled.spread)
        facts.append(said | {f"{part}_{what}": int(of[part].loc[label, what]) for part in of for what in counted})
    return facts


def _fitted_on(labelled, leads) -> dict:
    """Where the records come from, how many there are, and what `Kept.out_of_profile` compares with."""
    info, records = labelled.info, labelled.records
    facts = dict(cohort=labelled.name, corpus=info["dataset"].get("corpus"), content=labelled.content)
    rows = labelled.rows("train")
    train = records.iloc[rows]
    splits, known = ["train", "val", "test", "external"], records
    if isinstance(labelled, fitting.OfTask):  # of the others nothing was learned
        splits, known = [*splits, *labelled.task.train], records[~np.isnan(labelled.truth).all(1)]
    facts["splits"] = {
        split: dict(records=int(part.record_id.nunique()), patients=int(part.patient_id.nunique()))
        for split, part in known[known.split.isin(splits)].groupby("split")
    }
    facts["fs_recorded"] = sorted(float(fs) for fs in train.fs_recorded.unique())
    there = unpack_bits(train.lead_mask.to_numpy(), len(labelled.leads))
    columns = labelled.lead_columns(leads)
    facts["missing_leads"] = [lead for lead, k in zip(leads, columns, strict=True) if k < 0 or not there[:, k].all()]
    n_times = round(info["seconds"] * info["fs"])
    facts["shorter"] = bool((train.n_valid < n_times).any())
    devices = train["device"].dropna().astype(str) if "device" in train else pd.Series(dtype=str)
    facts["devices"] = sorted(set(devices) - {""})
    return facts


def _judged(info: dict, tensors: dict, labelled, rule: str, progress) -> dict:
    """model.json with thresholds and calibration from the validation patients, and scores on them and on the test."""
    model = kept.Kept({**info, "sha256": {}}, tensors)
    answers = {"val": _answers(model, labelled, labelled.rows("val"))}
    info |= {"rule": "" if model.is_number else rule, "metrics": {}}
    if not model.is_number:
        _decided(info, answers["val"], rule, progress)
        model = kept.Kept({**info, "sha256": {}}, tensors)
    if len(rows := probing.open_test(labelled)):
        answers["test"] = _answers(model, labelled, rows)
    for split, known in answers.items():
        info["metrics"][split] = _scores(model, *known, info, split)
    return info


def _decided(info: dict, answers: tuple, rule: str, progress) -> None:
    """Put thresholds and calibration of the labels into model.json, from what it says of validation patients."""
    y, p, _ = answers
    cuts, (slope, intercept) = fitting.thresholds(y, p, rule), fitting.calibration(y, p)
    for label, *values in zip(info["labels"], cuts, slope, intercept, strict=True):
        known = [None if np.isnan(value) else float(value) for value in values]
        label["threshold"], label["slope"], label["intercept"] = known
    without = [label["name"] for label in info["labels"] if label["threshold"] is None]
    if without:
        info["notes"].append(f"no threshold, since validation has one class only: {', '.join(without)}")
        progress(info["notes"][-1])


def _answers(model, labelled, rows) -> tuple:
    """(truth, probability or number, patient) of the records of rows, windows averaged."""
    records = labelled.records.iloc[rows]
    ids, patients = records["record_id"].astype(str).to_numpy(), records.drop_duplicates("record_id")["patient_id"]
    truth = labelled.truth[rows] if model.is_number else fitting.truth(labelled, rows)
    y, p = per_record(ids, truth, model.of_rows(labelled, rows))
    if not model.is_number:
        return y.astype(np.int8), p, patients.astype(str).to_numpy()
    # the model gives the number in its unit, and a logarithm is judged as one
    return y, np.log(p) if labelled.task.log else p, patients.astype(str).to_numpy()


def _scores(model, y, p, patients, info: dict, split: str) -> list[dict]:
    """Rows of `scoring.summary`, rounded; none, and a note, where no label has both classes; `numbers` of a number."""
    if model.is_number:
        return _rounded(scoring.numbers(y, p, patients, model.labels))
    known = ((y == 1).any(0) & (y == 0).any(0)).any()
    if not known:
        info["notes"].append(f"no scores on the {split} patients: no label has both classes there")
        return []
    table = scoring.summary(y, p, patients, model.labels, call=model.calls(p), calibrated=model.calibrated(p))
    return _rounded(table)


def _rounded(table: pd.DataFrame) -> list[dict]:
    table[["value", "low", "high"]] = table[["value", "low", "high"]].round(6)
    return table.to_dict("records")
